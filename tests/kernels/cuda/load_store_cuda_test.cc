// Load and store kernels of CUDA, run by the executor, against the element-by-element reference and
// against the CPU's kernels: equal bytes.
#include "tests/kernels/cuda/cuda_fixture.h"

namespace quire_kernels::cuda_test {
namespace {

TEST(CudaStore, EveryCodecPlaneAndDtype) {
  for_every_format([](Case c) {
    check_stores(c);
    c.style = QUIRE_ROPE_STYLE_NEOX;
    c.rotary_dims = 64;
    c.table_per_token = true;
    if (c.plane == QUIRE_PLANE_KEY) check_stores(c);
  });
}

TEST(CudaLoad, EveryCodecPlaneAndDtype) {
  for_every_format([](Case c) {
    check_load(c);
    if (c.plane != QUIRE_PLANE_KEY) return;
    c.style = QUIRE_ROPE_STYLE_NEOX;
    c.rotary_dims = 64;
    check_load(c);
  });
}

TEST(CudaLoad, RingGivesTheSameBytes) {
  for_every_format([](Case c) {
    if (c.dtype == QUIRE_DTYPE_F16) return;
    c.head_dim = 128;
    c.n_tokens = 300;
    c.n_heads = 1;
    c.max_ctas = 2;
    const Case whole = c;
    c.token_begin = 77;
    c.token_end = 201;
    for (int32_t path : {QUIRE_CUDA_PATH_RING, QUIRE_CUDA_PATH_RING_ASYNC})
      for (Case one : {whole, c}) {
        if (one.token_begin != 0 && one.dtype != QUIRE_DTYPE_BF16) continue;
        one.path = path;
        check_load(one);
      }
  });
}

// More turns of a CTA than the ring has stages, with units that end in the middle of a vector.
TEST(CudaLoad, RingGoesRoundUnderEverySchedule) {
  for (const auto& schedule : quire_executor::schedules()) {
    quire_executor::set_schedule(schedule);
    for (int32_t path : {QUIRE_CUDA_PATH_RING, QUIRE_CUDA_PATH_RING_ASYNC})
      for (int32_t codec : {QUIRE_CODEC_RAW_BF16, QUIRE_CODEC_INT8_CHANNEL,
                            QUIRE_CODEC_INT4_CHANNEL64, QUIRE_CODEC_INT3_CHANNEL64})
        for (int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE}) {
          Case c;
          c.codec = codec;
          c.plane = plane;
          c.path = path;
          c.n_tokens = 300;
          c.n_heads = 7;
          c.head_dim = codec == QUIRE_CODEC_INT3_CHANNEL64 ? 36 : 72;
          c.max_ctas = 1;
          check_load(c);
          EXPECT_STREQ(quire_executor::last_kernel(), "load_ring<F>");
        }
  }
  quire_executor::set_schedule({});
}

// The executor ends the process at a bulk copy on such a device.
TEST(CudaLoad, RingBeforeSm90IsFilledByCpAsync) {
  quire_executor::Device device;
  device.compute_capability = 80;
  device.shared_bytes_max = 163u << 10;
  quire_executor::set_device(device);
  for (int32_t path : {QUIRE_CUDA_PATH_RING, QUIRE_CUDA_PATH_RING_ASYNC})
    for (int32_t codec : fixed_codecs())
      for (int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE}) {
        Case c;
        c.codec = codec;
        c.plane = plane;
        c.path = path;
        c.head_dim = 128;
        check_load(c);
        const bool normalised = plane_spec(codec, plane).kind == SectionKind::kNormalised;
        EXPECT_STREQ(quire_executor::last_kernel(), normalised ? "load_direct<F>" : "load_ring<F>");
      }
  device.shared_bytes_max = 99u << 10;  // sm_86
  quire_executor::set_device(device);
  Case c;
  c.path = QUIRE_CUDA_PATH_RING;
  check_load(c);
  EXPECT_STREQ(quire_executor::last_kernel(), "load_direct<F>");
  quire_executor::set_device({});
}

TEST(CudaLoadAndStore, RotationStyles) {
  struct {
    uint32_t head_dim, rotary_dims;
  } const shapes[] = {{64, 64}, {128, 128}, {80, 32}, {96, 96}, {64, 20}, {256, 64}, {20, 12}};
  for (int32_t codec : {QUIRE_CODEC_RAW_F32, QUIRE_CODEC_INT4_CHANNEL64, QUIRE_CODEC_INT8_CHANNEL})
    for (int32_t style : {QUIRE_ROPE_STYLE_NEOX, QUIRE_ROPE_STYLE_INTERLEAVED})
      for (bool per_token : {false, true})
        for (const auto& shape : shapes) {
          Case c;
          c.codec = codec;
          c.style = style;
          c.table_per_token = per_token;
          c.head_dim = shape.head_dim;
          c.rotary_dims = shape.rotary_dims;
          c.n_tokens = 37;
          check_load(c);
          check_stores(c);
        }
}

TEST(CudaLoadAndStore, HeadDims) {
  for (uint32_t head_dim : {1u, 7u, 8u, 12u, 36u, 80u, 96u, 112u, 192u, 255u, 256u})
    for (int32_t codec : fixed_codecs())
      for (int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE}) {
        Case c;
        c.codec = codec;
        c.plane = plane;
        c.head_dim = head_dim;
        c.n_tokens = 33;
        check_load(c);
        check_stores(c);
      }
}

TEST(CudaLoadAndStore, TokenCounts) {
  for (uint32_t n_tokens : {1u, 2u, 31u, 32u, 63u, 64u, 65u, 127u, 129u, 255u, 256u, 257u})
    for (int32_t codec :
         {QUIRE_CODEC_INT8_CHANNEL, QUIRE_CODEC_INT4_CHANNEL128, QUIRE_CODEC_INT3_CHANNEL64,
          QUIRE_CODEC_INT2_KIVI, QUIRE_CODEC_FP8_TOKEN, QUIRE_CODEC_INT4_CENTRED})
      for (int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE}) {
        Case c;
        c.codec = codec;
        c.plane = plane;
        c.n_tokens = n_tokens;
        c.n_heads = 3;
        c.head_dim = 32;
        check_load(c);
        check_stores(c);
      }
}

TEST(CudaLoadAndStore, EngineLayouts) {
  for (int32_t codec : {QUIRE_CODEC_RAW_BF16, QUIRE_CODEC_INT4_CHANNEL64})
    for (int layout = 0; layout < 3; ++layout)
      for (bool shuffled : {false, true})
        for (bool masked : {false, true}) {
          Case c;
          c.codec = codec;
          c.plane = QUIRE_PLANE_VALUE;
          c.heads_first = layout == 1;
          c.transposed = layout == 2;
          c.shuffled_rows = shuffled;
          c.masked = masked;
          c.token_begin = masked ? 5 : 0;
          c.token_end = masked ? 50 : ~0u;
          check_load(c);
          check_stores(c);
        }
}

TEST(CudaLoadAndStore, EverySchedule) {
  for (const auto& schedule : quire_executor::schedules()) {
    quire_executor::set_schedule(schedule);
    for (int32_t codec : {QUIRE_CODEC_INT8_CHANNEL, QUIRE_CODEC_INT4_CHANNEL64})
      for (int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
        for (int32_t path :
             {QUIRE_CUDA_PATH_DIRECT, QUIRE_CUDA_PATH_RING, QUIRE_CUDA_PATH_RING_ASYNC}) {
          Case c;
          c.codec = codec;
          c.plane = plane;
          c.path = path;
          c.style = QUIRE_ROPE_STYLE_NEOX;
          c.rotary_dims = 20;  // through shared memory
          c.n_tokens = 300;
          c.n_heads = 3;
          c.max_ctas = 1;
          check_load(c);
          check_stores(c);
        }
  }
  quire_executor::set_schedule({});
}

// Several units of every warp or CTA, so that tiles are used again while their copies may be late.
TEST(CudaStore, BulkTilesAreUsedAgainUnderEverySchedule) {
  for (const auto& schedule : quire_executor::schedules()) {
    quire_executor::set_schedule(schedule);
    for (int32_t codec : fixed_codecs())
      for (int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE}) {
        Case c;
        c.codec = codec;
        c.plane = plane;
        c.store_path = QUIRE_CUDA_STORE_BULK;
        c.n_tokens = 150;
        c.n_heads = 5;
        c.head_dim = 40;
        c.max_ctas = 1;
        check_store(c);
        const bool runs = plane_spec(codec, plane).kind == SectionKind::kChannel;
        const bool normalised = plane_spec(codec, plane).kind == SectionKind::kNormalised;
        EXPECT_STREQ(quire_executor::last_kernel(), runs         ? "store_runs_bulk<F>"
                                                    : normalised ? "store_normalised_bulk"
                                                                 : "store_tokens_bulk<F>");
      }
  }
  quire_executor::set_schedule({});
}

// Sections that begin inside a vector, and raw rows whose heads do: what is over at the ends of a
// piece.
TEST(CudaStore, BulkPiecesNeedNotBeAligned) {
  for (int32_t codec : fixed_codecs())
    for (int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
      for (uint32_t offset : {0u, 4u, 12u, 48u})
        for (uint32_t head_dim : {1u, 5u, 7u, 24u}) {
          Case c;
          c.codec = codec;
          c.plane = plane;
          c.store_path = QUIRE_CUDA_STORE_BULK;
          c.section_offset = offset;
          c.head_dim = head_dim;
          c.n_heads = 3;
          for (uint32_t n_tokens : {1u, 3u, 65u}) {
            c.n_tokens = n_tokens;
            check_store(c);
          }
        }
}

// As quire_cuda.h says.
TEST(CudaStore, BulkIsTakenWhereItCanBe) {
  const auto takes_bulk = [](Case c, uint32_t head_dim) {
    c.store_path = QUIRE_CUDA_STORE_BULK;
    c.head_dim = head_dim;
    c.n_tokens = 257;
    c.n_heads = 1;
    check_store(c);
    return strstr(quire_executor::last_kernel(), "_bulk") != nullptr;
  };
  Case c;
  for (int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE}) {
    c.plane = plane;
    for (int32_t codec : fixed_codecs()) {
      c.codec = codec;
      EXPECT_EQ(takes_bulk(c, 128), codec != QUIRE_CODEC_RAW_F32) << name_of(c);
    }
    c.codec = QUIRE_CODEC_RAW_F32;
    EXPECT_TRUE(takes_bulk(c, 96));
  }
  c.plane = QUIRE_PLANE_KEY;
  c.codec = QUIRE_CODEC_INT8_CHANNEL;
  EXPECT_FALSE(takes_bulk(c, 256));
  // As sm_120: what the tiles would leave is less than the kernels' own shared memory.
  quire_executor::Device device;
  device.compute_capability = 120;
  device.shared_bytes_max = 99u << 10;
  quire_executor::set_device(device);
  EXPECT_TRUE(takes_bulk(c, 128));
  EXPECT_FALSE(takes_bulk(c, 172));
  c.codec = QUIRE_CODEC_RAW_F32;
  EXPECT_TRUE(takes_bulk(c, 80));
  EXPECT_FALSE(takes_bulk(c, 96));
  c.codec = QUIRE_CODEC_INT8_CHANNEL;
  device = {};
  device.compute_capability = 80;
  quire_executor::set_device(device);
  EXPECT_FALSE(takes_bulk(c, 128));
  quire_executor::set_device({});
}

TEST(CudaLoad, CopyPathMovesRawRuns) {
  for (bool heads_first : {false, true})
    for (uint32_t n_heads : {1u, 3u}) {
      Case c;
      c.n_heads = n_heads;
      c.heads_first = heads_first;
      c.shuffled_rows = false;
      c.path = QUIRE_CUDA_PATH_COPY;
      c.token_begin = 3;
      const uint64_t before = quire_executor::launches();
      check_load(c);
      const bool contiguous = heads_first || n_heads == 1;
      EXPECT_EQ(quire_executor::launches() - before, contiguous ? 0u : 1u);
    }
}

// More sections than a pack holds, of two formats and both planes, in one call.
TEST(CudaLoadAndStore, BatchesOfManySections) {
  std::vector<Fixture> fixtures;
  std::vector<Aligned> engines, sections, expected, loaded;
  for (uint32_t i = 0; i < 70; ++i) {
    Case c;
    c.codec = i % 3 == 0 ? QUIRE_CODEC_INT8_CHANNEL : QUIRE_CODEC_INT4_CHANNEL64;
    c.plane = static_cast<int32_t>(i % 2);
    c.n_tokens = 1 + i * 3;
    c.n_heads = 1 + i % 2;
    c.head_dim = 16;
    fixtures.emplace_back(c, i);
    engines.push_back(fixtures.back().random_engine());
    sections.emplace_back(fixtures.back().section_bytes());
    expected.emplace_back(fixtures.back().section_bytes());
    loaded.emplace_back(fixtures.back().engine_bytes());
  }
  std::vector<quire_store_params> stores;
  std::vector<quire_load_params> loads;
  std::vector<Aligned> in_bulk;
  for (size_t i = 0; i < fixtures.size(); ++i) in_bulk.emplace_back(fixtures[i].section_bytes());
  for (size_t i = 0; i < fixtures.size(); ++i) {
    quire_reference::store(fixtures[i].store_params(engines[i].data(), expected[i].data()));
    stores.push_back(fixtures[i].store_params(engines[i].data(), sections[i].data()));
    loads.push_back(fixtures[i].load_params(expected[i].data(), loaded[i].data()));
  }
  int32_t status = 0;
  const quire_cuda_launch launch = launch_on(&status);
  const uint64_t before = quire_executor::launches();
  ASSERT_EQ(quire_cuda_store_batch(stores.data(), stores.size(), &launch, nullptr),
            QUIRE_KERNEL_OK);
  ASSERT_EQ(quire_cuda_load_batch(loads.data(), loads.size(), &launch, nullptr), QUIRE_KERNEL_OK);
  EXPECT_LE(quire_executor::launches() - before, 12u);
  for (size_t i = 0; i < stores.size(); ++i) stores[i].dst = in_bulk[i].data();
  quire_cuda_launch bulk = launch;
  bulk.store_path = QUIRE_CUDA_STORE_BULK;
  ASSERT_EQ(quire_cuda_store_batch(stores.data(), stores.size(), &bulk, nullptr), QUIRE_KERNEL_OK);
  EXPECT_EQ(status, 0);
  for (size_t i = 0; i < fixtures.size(); ++i) {
    EXPECT_EQ(first_difference(sections[i].data(), expected[i].data(), fixtures[i].section_bytes()),
              fixtures[i].section_bytes())
        << i;
    EXPECT_TRUE(in_bulk[i] == sections[i]) << i;
    Aligned reference(fixtures[i].engine_bytes());
    quire_reference::load(fixtures[i].load_params(expected[i].data(), reference.data()));
    EXPECT_TRUE(loaded[i] == reference) << i;
  }
}

}  // namespace
}  // namespace quire_kernels::cuda_test
