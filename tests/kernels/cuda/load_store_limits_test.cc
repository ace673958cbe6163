// What load and store refuse, report and choose.
#include "kernels/cuda/transfer.h"
#include "tests/kernels/cuda/cuda_fixture.h"

namespace quire_kernels::cuda_test {
namespace {

TEST(CudaLoad, WrongRowNumbersAreLeftOut) {
  Case c;
  c.codec = QUIRE_CODEC_INT4_CHANNEL64;
  Fixture fixture(c);
  Aligned from = fixture.random_engine();
  Aligned section(fixture.section_bytes());
  make_section(&fixture, c, &from, &section);
  for (int64_t wrong : {int64_t{-1}, int64_t{83}, INT64_MIN, INT64_MAX}) {
    Aligned engine(fixture.engine_bytes(), kPoison);
    quire_load_params p = fixture.load_params(section.data(), engine.data());
    std::vector<int64_t> rows(p.dst_token, p.dst_token + c.n_tokens);
    const int64_t right = rows[40];
    rows[40] = wrong;
    p.dst_token = rows.data();
    int32_t status = 0;
    const quire_cuda_launch launch = launch_on(&status);
    ASSERT_EQ(quire_cuda_load_batch(&p, 1, &launch, nullptr), QUIRE_KERNEL_OK);
    EXPECT_EQ(status, QUIRE_KERNEL_INVALID_ARGUMENT);
    for (uint32_t i = 0; i < 256; ++i)
      ASSERT_EQ(engine.data()[right * p.dst_token_stride + i], kPoison);
  }
}

TEST(CudaLoad, EngineMemoryMayBeginRightBehindASection) {
  Case c;
  c.codec = QUIRE_CODEC_INT4_CHANNEL64;
  Fixture fixture(c);
  Aligned from = fixture.random_engine();
  Aligned section(fixture.section_bytes());
  make_section(&fixture, c, &from, &section);
  Aligned pool(fixture.section_bytes() + fixture.engine_bytes());
  memcpy(pool.data(), section.data(), fixture.section_bytes());
  int32_t status = 0;
  const quire_cuda_launch launch = launch_on(&status);
  const quire_load_params p =
      fixture.load_params(pool.data(), pool.data() + fixture.section_bytes());
  EXPECT_EQ(quire_cuda_load_batch(&p, 1, &launch, nullptr), QUIRE_KERNEL_OK);
  EXPECT_EQ(status, 0);
}

TEST(CudaLoad, BadPayloadsAreReported) {
  struct {
    int32_t codec, plane;
    uint64_t offset;  // in units of 2 bytes
    uint16_t bits;
    int expected;
  } const cases[] = {
      {QUIRE_CODEC_INT4_CHANNEL64, QUIRE_PLANE_KEY, 2, 0x7e00, QUIRE_KERNEL_NON_FINITE},
      {QUIRE_CODEC_INT4_CHANNEL64, QUIRE_PLANE_KEY, 3, 0x7bff, QUIRE_KERNEL_OUT_OF_RANGE},
      {QUIRE_CODEC_INT4_CHANNEL64, QUIRE_PLANE_VALUE, 4, 0x7c00, QUIRE_KERNEL_NON_FINITE},
      {QUIRE_CODEC_INT4_CHANNEL64, QUIRE_PLANE_VALUE, 5, 0x7e00, QUIRE_KERNEL_NON_FINITE},
      {QUIRE_CODEC_INT4_CHANNEL64, QUIRE_PLANE_KEY, 5, 0x7e00, QUIRE_KERNEL_NON_FINITE},
      {QUIRE_CODEC_INT8_CHANNEL, QUIRE_PLANE_KEY, 1, 0x7f80, QUIRE_KERNEL_NON_FINITE},
      {QUIRE_CODEC_FP8_TOKEN, QUIRE_PLANE_VALUE, 0, 0x7c00, QUIRE_KERNEL_NON_FINITE},
      {QUIRE_CODEC_FP8_TOKEN, QUIRE_PLANE_VALUE, 64 + 7, 0x7f00, QUIRE_KERNEL_NON_FINITE},
      {QUIRE_CODEC_RAW_F16, QUIRE_PLANE_KEY, 9, 0xfc00, QUIRE_KERNEL_NON_FINITE},
  };
  for (const auto& one : cases) {
    Case c;
    c.codec = one.codec;
    c.plane = one.plane;
    c.dtype = QUIRE_DTYPE_F16;
    c.n_tokens = 64;
    Fixture fixture(c);
    Aligned from = fixture.random_engine();
    Aligned section(fixture.section_bytes());
    make_section(&fixture, c, &from, &section);
    memcpy(section.data() + 2 * one.offset, &one.bits, 2);
    Aligned engine(fixture.engine_bytes(), kPoison);
    const quire_load_params p = fixture.load_params(section.data(), engine.data());
    for (int32_t path :
         {QUIRE_CUDA_PATH_DIRECT, QUIRE_CUDA_PATH_RING, QUIRE_CUDA_PATH_RING_ASYNC}) {
      int32_t status = 0;
      const quire_cuda_launch launch = launch_on(&status, path);
      ASSERT_EQ(quire_cuda_load_batch(&p, 1, &launch, nullptr), QUIRE_KERNEL_OK);
      EXPECT_EQ(status, one.expected) << name_of(c);
    }
    EXPECT_EQ(quire_load(&p), one.expected) << name_of(c);
  }
}

TEST(CudaStore, ValuesThatDoNotFitAreReported) {
  for (const auto& [value, codec, expected] :
       {std::tuple{NAN, QUIRE_CODEC_INT4_CHANNEL64, QUIRE_KERNEL_NON_FINITE},
        std::tuple{INFINITY, QUIRE_CODEC_RAW_F32, QUIRE_KERNEL_NON_FINITE},
        std::tuple{1e6f, QUIRE_CODEC_INT4_CHANNEL64, QUIRE_KERNEL_OUT_OF_RANGE},
        std::tuple{1e6f, QUIRE_CODEC_RAW_F16, QUIRE_KERNEL_OUT_OF_RANGE},
        std::tuple{1e8f, QUIRE_CODEC_FP8_TOKEN, QUIRE_KERNEL_OUT_OF_RANGE}})
    for (int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE}) {
      Case c;
      c.codec = codec;
      c.plane = plane;
      c.dtype = QUIRE_DTYPE_F32;
      Fixture fixture(c);
      Aligned engine = fixture.random_engine();
      Aligned section(fixture.section_bytes());
      quire_store_params p = fixture.store_params(engine.data(), section.data());
      const float bad = value;
      memcpy(engine.data() + p.src_token[40] * p.src_token_stride + 4 * 9, &bad, 4);
      for (int32_t path : {QUIRE_CUDA_STORE_PLAIN, QUIRE_CUDA_STORE_BULK}) {
        int32_t status = 0;
        quire_cuda_launch launch = launch_on(&status);
        launch.store_path = path;
        ASSERT_EQ(quire_cuda_store_batch(&p, 1, &launch, nullptr), QUIRE_KERNEL_OK);
        EXPECT_EQ(status, expected) << name_of(c);
      }
    }
}

TEST(CudaLoadAndStore, BadArgumentsLaunchNothing) {
  Case c;
  c.codec = QUIRE_CODEC_INT4_CHANNEL64;
  Fixture fixture(c);
  Aligned engine = fixture.random_engine();
  Aligned section(fixture.section_bytes());
  make_section(&fixture, c, &engine, &section);
  const quire_load_params good = fixture.load_params(section.data(), engine.data());
  const quire_store_params good_store = fixture.store_params(engine.data(), section.data());
  int32_t status = 0;
  const quire_cuda_launch launch = launch_on(&status);
  const uint64_t before = quire_executor::launches();
  const auto load = [&](auto change, int expected) {
    quire_load_params two[2] = {good, good};
    change(two[1]);
    size_t failed = 7;
    EXPECT_EQ(quire_cuda_load_batch(two, 2, &launch, &failed), expected);
    EXPECT_EQ(failed, 1u);
  };
  const auto store = [&](auto change, int expected) {
    quire_store_params two[2] = {good_store, good_store};
    change(two[1]);
    size_t failed = 7;
    EXPECT_EQ(quire_cuda_store_batch(two, 2, &launch, &failed), expected);
    EXPECT_EQ(failed, 1u);
  };
  const int invalid = QUIRE_KERNEL_INVALID_ARGUMENT;
  load([](auto& p) { p.src = nullptr; }, invalid);
  load([](auto& p) { p.dst = nullptr; }, invalid);
  load([](auto& p) { p.src_bytes += 64; }, invalid);
  load([](auto& p) { p.dst_token_stride = 0; }, invalid);
  load([](auto& p) { p.dst_token_stride += 1; }, invalid);
  load([](auto& p) { p.dst_head_stride = INT64_MAX; }, invalid);
  load([](auto& p) { p.dst = static_cast<unsigned char*>(p.dst) + 1; }, invalid);
  load([](auto& p) { p.src = static_cast<const unsigned char*>(p.src) + 2; }, invalid);
  load([](auto& p) { p.token_begin = 9, p.token_end = 8; }, invalid);
  load([](auto& p) { p.token_end = p.n_tokens + 1; }, invalid);
  load([](auto& p) { p.dst_tokens = 0; }, invalid);
  load([](auto& p) { p.dst_token = nullptr, p.dst_tokens = 69; }, invalid);
  load([](auto& p) { p.flags = QUIRE_KERNEL_KEEP_NON_FINITE; }, invalid);
  load([](auto& p) { p.flags = 64; }, QUIRE_KERNEL_UNSUPPORTED);
  load([](auto& p) { p.struct_bytes = 8; }, QUIRE_KERNEL_BAD_STRUCT);
  load([](auto& p) { p.codec = 99; }, QUIRE_KERNEL_UNSUPPORTED);
  load([](auto& p) { p.plane = 2; }, QUIRE_KERNEL_UNSUPPORTED);
  load([](auto& p) { p.dst_dtype = 9; }, QUIRE_KERNEL_UNSUPPORTED);
  load([](auto& p) { p.head_dim = 512; }, QUIRE_KERNEL_UNSUPPORTED);
  store([](auto& p) { p.src = nullptr; }, invalid);
  store([](auto& p) { p.dst_bytes -= 1; }, invalid);
  store([](auto& p) { p.src_token = nullptr, p.src_tokens = 3; }, invalid);
  store([](auto& p) { p.src_dim_stride = 1; }, invalid);
  store([](auto& p) { p.struct_bytes = 0; }, QUIRE_KERNEL_BAD_STRUCT);
  // Their size is another one.
  store([](auto& p) { p.codec = QUIRE_CODEC_BF16_EXP4; }, QUIRE_KERNEL_INVALID_ARGUMENT);
  store([](auto& p) { p.codec = QUIRE_CODEC_MIXED_INT8_INT4; }, QUIRE_KERNEL_INVALID_ARGUMENT);
  for (auto change : {+[](quire_cuda_launch& l) { l.struct_bytes = 1; },
                      +[](quire_cuda_launch& l) { l.device_status = nullptr; },
                      +[](quire_cuda_launch& l) { l.path = 17; },
                      +[](quire_cuda_launch& l) { l.store_path = 3; }}) {
    quire_cuda_launch bad = launch;
    change(bad);
    EXPECT_NE(quire_cuda_load_batch(&good, 1, &bad, nullptr), QUIRE_KERNEL_OK);
    EXPECT_NE(quire_cuda_store_batch(&good_store, 1, &bad, nullptr), QUIRE_KERNEL_OK);
  }
  EXPECT_NE(quire_cuda_load_batch(&good, 1, nullptr, nullptr), QUIRE_KERNEL_OK);
  EXPECT_NE(quire_cuda_load_batch(nullptr, 1, &launch, nullptr), QUIRE_KERNEL_OK);
  EXPECT_EQ(quire_cuda_load_batch(nullptr, 0, &launch, nullptr), QUIRE_KERNEL_OK);
  EXPECT_EQ(quire_executor::launches(), before);
}

TEST(CudaLoad, KeepsNonFiniteBitsWhenAsked) {
  Case c;
  Fixture fixture(c);
  Aligned section(fixture.section_bytes());
  for (uint64_t i = 0; i < fixture.section_bytes(); i += 2) {
    const auto bits = static_cast<uint16_t>(0x7f80 + i);
    memcpy(section.data() + i, &bits, 2);
  }
  Aligned engine(fixture.engine_bytes());
  quire_load_params p = fixture.load_params(section.data(), engine.data());
  p.flags = QUIRE_KERNEL_KEEP_NON_FINITE;
  int32_t status = 0;
  const quire_cuda_launch launch = launch_on(&status);
  ASSERT_EQ(quire_cuda_load_batch(&p, 1, &launch, nullptr), QUIRE_KERNEL_OK);
  EXPECT_EQ(status, 0);
  for (uint32_t token = 0; token < c.n_tokens; ++token)
    ASSERT_EQ(memcmp(engine.data() + p.dst_token[token] * p.dst_token_stride,
                     section.data() + token * 128, 128),
              0);
}

TEST(CudaTable, NearestCellDecides) {
  quire_cuda_table table = {};
  table.struct_bytes = sizeof(table);
  for (const bool from_host : {true, false})
    for (int32_t path = QUIRE_CUDA_PATH_DIRECT; path <= QUIRE_CUDA_PATH_RING_ASYNC; ++path)
      for (uint32_t row = 0; row < QUIRE_CUDA_TABLE_BYTES; ++row)
        for (uint32_t column = 0; column < QUIRE_CUDA_TABLE_RUNS; ++column)
          *quire_cuda::path_time(&table, from_host, path, row, column) =
              !from_host && path == QUIRE_CUDA_PATH_COPY ? 0.0f : 9.0f;
  // Kernels win where runs are short and many, copies where they are long; the last column of the
  // longest runs was not measured.
  table.microseconds[QUIRE_CUDA_PATH_RING - 1][0][3] = 2.0f;
  table.async_microseconds[1][3] = 3.0f;
  table.microseconds[QUIRE_CUDA_PATH_COPY - 1][5][2] = 1.0f;
  table.async_microseconds[5][2] = 4.0f;
  for (auto& path : table.microseconds) path[5][3] = 0.0f;
  table.async_microseconds[5][3] = 0.0f;
  table.device_microseconds[QUIRE_CUDA_PATH_RING_ASYNC - 1][5][2] = 5.0f;
  quire_cuda::choose_paths(&table);
  const auto from_host = [&](uint64_t run_bytes, uint64_t runs, bool copies = true) {
    return quire_cuda::path_from_table(table, {true, copies, copies, run_bytes, runs});
  };
  const auto from_device = [&](uint64_t run_bytes, uint64_t runs, bool raw = true) {
    return quire_cuda::path_from_table(table, {false, raw, raw, run_bytes, runs});
  };
  EXPECT_EQ(from_host(4096, 512), QUIRE_CUDA_PATH_RING);
  EXPECT_EQ(from_host(1, UINT64_MAX), QUIRE_CUDA_PATH_RING);
  EXPECT_EQ(from_host(8191, 512), QUIRE_CUDA_PATH_RING);
  EXPECT_EQ(from_host(8193, 512), QUIRE_CUDA_PATH_RING_ASYNC);
  EXPECT_EQ(from_host(65536, 512), QUIRE_CUDA_PATH_DIRECT);
  EXPECT_EQ(from_host(4 << 20, 64), QUIRE_CUDA_PATH_COPY);
  EXPECT_EQ(from_host(UINT64_MAX, 512), QUIRE_CUDA_PATH_COPY);
  EXPECT_EQ(from_host(0, 0), QUIRE_CUDA_PATH_DIRECT);
  EXPECT_EQ(from_host(4 << 20, 64, false), QUIRE_CUDA_PATH_RING_ASYNC);
  EXPECT_EQ(from_device(4 << 20, 64), QUIRE_CUDA_PATH_RING_ASYNC);
  EXPECT_EQ(from_device(4096, 512), QUIRE_CUDA_PATH_DIRECT);
  EXPECT_EQ(from_device(4 << 20, 64, false), QUIRE_CUDA_PATH_DIRECT);
}

// From device memory raw sections alone: what was measured.
TEST(CudaTable, AutoTakesTheRingForRawSectionsOfTheDevice) {
  quire_cuda_table table = {};
  table.struct_bytes = sizeof(table);
  for (auto& row : table.from_device)
    for (auto& path : row) path = QUIRE_CUDA_PATH_RING;
  quire_executor::Device device;
  device.host_memory = false;
  quire_executor::set_device(device);
  for (int32_t codec : fixed_codecs()) {
    const bool raw = codec == QUIRE_CODEC_RAW_BF16 || codec == QUIRE_CODEC_RAW_F16 ||
                     codec == QUIRE_CODEC_RAW_F32;
    for (int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE}) {
      Case c;
      c.codec = codec;
      c.plane = plane;
      Fixture fixture(c);
      Aligned from = fixture.random_engine();
      Aligned section(fixture.section_bytes() + 64);
      make_section(&fixture, c, &from, &section);
      Aligned engine(fixture.engine_bytes());
      const quire_load_params p = fixture.load_params(section.data(), engine.data());
      int32_t status = 0;
      quire_cuda_launch launch = launch_on(&status, QUIRE_CUDA_PATH_AUTO);
      launch.table = &table;
      ASSERT_EQ(quire_cuda_load_batch(&p, 1, &launch, nullptr), QUIRE_KERNEL_OK);
      EXPECT_STREQ(quire_executor::last_kernel(), raw ? "load_ring<F>" : "load_direct<F>")
          << name_of(c);
    }
  }
  quire_executor::set_device({});
}

TEST(CudaTable, AutoTakesThePathOfTheTable) {
  quire_cuda_table table = {};
  table.struct_bytes = sizeof(table);
  for (auto& row : table.from_host)
    for (auto& path : row) path = QUIRE_CUDA_PATH_COPY;
  for (int32_t codec : {QUIRE_CODEC_RAW_BF16, QUIRE_CODEC_INT8_CHANNEL}) {
    Case c;
    c.codec = codec;
    c.n_heads = 1;
    c.shuffled_rows = false;
    Fixture fixture(c);
    Aligned from = fixture.random_engine();
    Aligned section(fixture.section_bytes());
    make_section(&fixture, c, &from, &section);
    Aligned engine(fixture.engine_bytes());
    Aligned expected(fixture.engine_bytes());
    quire_reference::load(fixture.load_params(section.data(), expected.data()));
    const quire_load_params p = fixture.load_params(section.data(), engine.data());
    int32_t status = 0;
    quire_cuda_launch launch = launch_on(&status, QUIRE_CUDA_PATH_AUTO);
    launch.table = &table;
    const uint64_t before = quire_executor::launches();
    ASSERT_EQ(quire_cuda_load_batch(&p, 1, &launch, nullptr), QUIRE_KERNEL_OK);
    EXPECT_EQ(quire_executor::launches() - before, codec == QUIRE_CODEC_RAW_BF16 ? 0u : 1u);
    EXPECT_TRUE(engine == expected);
  }
}

TEST(CudaTable, StoresTakeTheFasterWay) {
  quire_cuda_table table = {};
  table.struct_bytes = sizeof(table);
  // Bulk copies win to the host; to the device runs were not measured with them.
  for (auto& plain : table.store_microseconds[QUIRE_CUDA_STORE_PLAIN - 1])
    for (float& time : plain) time = 9.0f;
  auto& bulk = table.store_microseconds[QUIRE_CUDA_STORE_BULK - 1];
  bulk[0][0] = 10.0f;
  bulk[1][0] = 8.0f;
  bulk[1][1] = 7.0f;
  quire_cuda::choose_paths(&table);
  EXPECT_EQ(quire_cuda::store_path_from_table(table, false, false), QUIRE_CUDA_STORE_PLAIN);
  EXPECT_EQ(quire_cuda::store_path_from_table(table, false, true), QUIRE_CUDA_STORE_PLAIN);
  EXPECT_EQ(quire_cuda::store_path_from_table(table, true, false), QUIRE_CUDA_STORE_BULK);
  EXPECT_EQ(quire_cuda::store_path_from_table(table, true, true), QUIRE_CUDA_STORE_BULK);
  // Host memory is what the executor has.
  for (int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE}) {
    Case c;
    c.codec = QUIRE_CODEC_INT4_CHANNEL64;
    c.plane = plane;
    Fixture fixture(c);
    Aligned engine = fixture.random_engine();
    Aligned section(fixture.section_bytes());
    const quire_store_params p = fixture.store_params(engine.data(), section.data());
    int32_t status = 0;
    quire_cuda_launch launch = launch_on(&status);
    ASSERT_EQ(quire_cuda_store_batch(&p, 1, &launch, nullptr), QUIRE_KERNEL_OK);
    const bool runs = plane == QUIRE_PLANE_KEY;
    EXPECT_STREQ(quire_executor::last_kernel(), runs ? "store_runs<F>" : "store_tokens<F>");
    launch.table = &table;
    ASSERT_EQ(quire_cuda_store_batch(&p, 1, &launch, nullptr), QUIRE_KERNEL_OK);
    EXPECT_STREQ(quire_executor::last_kernel(),
                 runs ? "store_runs_bulk<F>" : "store_tokens_bulk<F>");
  }
}

}  // namespace
}  // namespace quire_kernels::cuda_test
