// Stores of variable size by the CUDA kernels: the CPU's bytes and sizes.
#include "tests/kernels/cuda/variable_fixture.h"

namespace quire_kernels::cuda_test {
namespace {

constexpr uint64_t kUnwritten = 0x5555;

struct Result {
  int status;
  uint64_t bytes;
};
Result store_by_cuda(quire_store_params params, uint32_t max_ctas = 0) {
  Result result{0, kUnwritten};
  params.dst_written = &result.bytes;
  int32_t status = 0;
  quire_cuda_launch launch = launch_on(&status);
  launch.max_ctas = max_ctas;
  result.status = quire_cuda_store_batch(&params, 1, &launch, nullptr);
  if (result.status == QUIRE_KERNEL_OK) result.status = status;
  return result;
}

void expect_cpus_bytes(const Case& c, const Fixture& fixture, Aligned* engine, uint32_t flags = 0) {
  SCOPED_TRACE(name_of(c));
  Aligned section(fixture.section_bytes(), kPoison);
  quire_store_params params = fixture.store_params(engine->data(), section.data());
  params.flags = flags;
  const Result cuda = store_by_cuda(params, c.max_ctas);
  ASSERT_EQ(cuda.status, QUIRE_KERNEL_OK);
  for (int32_t isa : {QUIRE_ISA_SCALAR, QUIRE_ISA_BEST}) {
    ASSERT_EQ(quire_kernel_select(isa), QUIRE_KERNEL_OK);
    Stored cpu(params);
    ASSERT_EQ(cuda.bytes, cpu.bytes);
    EXPECT_EQ(first_difference(section.data(), cpu.section.data(), cpu.bytes), cpu.bytes);
  }
  for (uint64_t i = fixture.section_bytes(); i < fixture.section_bytes() + 64; ++i)
    ASSERT_EQ(section.data()[i], kPoison);
}
void check_exponent_store(const Case& c, Data data) {
  Fixture fixture(c, 5);
  Aligned engine =
      c.dtype == QUIRE_DTYPE_BF16 ? engine_with(&fixture, data) : fixture.random_engine();
  expect_cpus_bytes(c, fixture, &engine);
}
void check_mixed_store(const Case& c) {
  Fixture fixture(c, 5);
  Aligned engine = fixture.random_engine();
  expect_cpus_bytes(c, fixture, &engine);
}

template <typename Body>
void for_every_mixed(Body body) {
  for (int32_t codec : kMixedCodecs)
    for (int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE}) {
      Case c;
      c.codec = codec;
      c.plane = plane;
      body(c);
    }
}

TEST(CudaStoreExponent, EveryKindOfDataAndDtype) {
  for (int32_t codec : kExponentCodecs)
    for (Data data : kAllData)
      for (int32_t dtype : {QUIRE_DTYPE_BF16, QUIRE_DTYPE_F16, QUIRE_DTYPE_F32}) {
        if (dtype != QUIRE_DTYPE_BF16 && data != Data::kKeyLike) continue;
        Case c;
        c.codec = codec;
        c.dtype = dtype;
        check_exponent_store(c, data);
        c.style = QUIRE_ROPE_STYLE_NEOX;
        c.rotary_dims = 64;
        c.table_per_token = dtype == QUIRE_DTYPE_F32;
        check_exponent_store(c, data);
      }
}

TEST(CudaStoreExponent, HeadDims) {
  for (int32_t codec : kExponentCodecs)
    for (uint32_t head_dim : {1u, 3u, 8u, 12u, 36u, 80u, 128u, 255u, 256u})
      for (Data data : {Data::kKeyLike, Data::kManyEscapes, Data::kAnyExponent}) {
        Case c;
        c.codec = codec;
        c.head_dim = head_dim;
        c.n_tokens = 45;
        check_exponent_store(c, data);
      }
}

// Heads that begin anywhere in a block of the index, and more than a run of window3.
TEST(CudaStoreExponent, TokenCounts) {
  for (int32_t codec : kExponentCodecs)
    for (uint32_t n_tokens : {1u, 5u, 63u, 64u, 65u, 200u, 257u, 513u})
      for (Data data : {Data::kManyEscapes, Data::kAnyExponent}) {
        Case c;
        c.codec = codec;
        c.n_tokens = n_tokens;
        c.n_heads = 3;
        c.head_dim = 16;
        check_exponent_store(c, data);
      }
}

TEST(CudaStoreExponent, EngineLayoutsAndRotations) {
  for (int32_t codec : kExponentCodecs)
    for (int layout = 0; layout < 3; ++layout)
      for (bool shuffled : {false, true})
        for (int32_t style : {QUIRE_ROPE_STYLE_NEOX, QUIRE_ROPE_STYLE_INTERLEAVED}) {
          Case c;
          c.codec = codec;
          c.heads_first = layout == 1;
          c.transposed = layout == 2;
          c.shuffled_rows = shuffled;
          c.style = style;
          c.rotary_dims = layout == 0 ? 20 : 64;
          c.table_per_token = shuffled;
          check_exponent_store(c, Data::kKeyLike);
        }
}

TEST(CudaStoreExponent, EverySchedule) {
  for (const auto& schedule : quire_executor::schedules()) {
    quire_executor::set_schedule(schedule);
    for (int32_t codec : kExponentCodecs)
      for (Data data : {Data::kManyEscapes, Data::kAnyExponent}) {
        Case c;
        c.codec = codec;
        c.style = QUIRE_ROPE_STYLE_NEOX;
        c.rotary_dims = 20;  // through shared memory
        c.n_tokens = 300;
        c.n_heads = 3;
        c.head_dim = 32;
        check_exponent_store(c, data);
      }
  }
  quire_executor::set_schedule({});
}

// Up to the last escape that still pays, and one more.
TEST(CudaStoreExponent, TheBorderToPlain) {
  for (int32_t codec : kExponentCodecs) {
    Case c;
    c.codec = codec;
    c.n_tokens = 64;
    c.n_heads = 1;
    c.head_dim = 64;
    c.shuffled_rows = false;
    bool coded = false;
    bool plain = false;
    const ExponentBlocks at = exponent_blocks(plane_spec(codec, 0), 64, 1, 64, 0);
    const uint64_t most = exponent_plain_bytes(64, 1, 64) - at.escapes - 64;
    for (uint64_t escapes : {most - 1, most, most + 1}) {
      Fixture fixture(c, 5);
      Aligned engine = fixture.random_engine();
      for (uint64_t i = 0; i < 64 * 64; ++i) {
        // No escape in sampled rows; a channel's top is in its row 0.
        const uint64_t row = i / 64;
        const uint64_t number = (row - row / 4 - 1) * 64 + i % 64;
        const auto bits =
            static_cast<uint16_t>((row % 4 != 0 && number < escapes ? 90 : 120) << 7 | (i & 0x7f));
        memcpy(engine.data() + 2 * i, &bits, 2);
      }
      expect_cpus_bytes(c, fixture, &engine);
      Stored stored(fixture.store_params(engine.data(), nullptr));
      (stored.plain() ? plain : coded) = true;
    }
    EXPECT_TRUE(plain && coded);
  }
}

TEST(CudaStoreExponent, NonFiniteElementsAreRefusedOrKept) {
  for (int32_t codec : kExponentCodecs)
    for (const auto& [bits, rotated, expected] :
         {std::tuple{0x7f80, false, QUIRE_KERNEL_NON_FINITE},
          std::tuple{0xffc1, true, QUIRE_KERNEL_NON_FINITE},
          std::tuple{0x7f7f, true, QUIRE_KERNEL_OUT_OF_RANGE}}) {
      Case c;
      c.codec = codec;
      c.head_dim = 32;
      c.shuffled_rows = false;
      if (rotated) {
        c.style = QUIRE_ROPE_STYLE_INTERLEAVED;
        c.rotary_dims = 32;
        c.table_per_token = true;
      }
      Fixture fixture(c);
      Aligned engine = fixture.random_engine();
      for (uint64_t i = 0; i < 32; ++i) {
        const auto value = static_cast<uint16_t>(bits);
        memcpy(engine.data() + 2 * (32 * 2 * 9 + i), &value, 2);
      }
      Aligned section(fixture.section_bytes(), kPoison);
      const quire_store_params params = fixture.store_params(engine.data(), section.data());
      EXPECT_EQ(store_by_cuda(params).status, expected);
      quire_store_params on_cpu = params;
      uint64_t bytes = 0;
      on_cpu.dst_written = &bytes;
      EXPECT_EQ(quire_store(&on_cpu), expected);
      EXPECT_EQ(section.data()[fixture.section_bytes()], kPoison);
      if (!rotated) expect_cpus_bytes(c, fixture, &engine, QUIRE_KERNEL_KEEP_NON_FINITE);
    }
}

TEST(CudaStoreMixed, EverySplitAndDtype) {
  for_every_mixed([](Case c) {
    for (Salient salient : kAllSalient)
      for (int32_t dtype : {QUIRE_DTYPE_BF16, QUIRE_DTYPE_F16, QUIRE_DTYPE_F32}) {
        c.dtype = dtype;
        c.salient = salient;
        c.style = QUIRE_ROPE_STYLE_NONE;
        check_mixed_store(c);
        if (c.plane != QUIRE_PLANE_KEY) continue;
        c.style = QUIRE_ROPE_STYLE_NEOX;
        c.rotary_dims = 64;
        c.table_per_token = true;
        check_mixed_store(c);
      }
  });
}

TEST(CudaStoreMixed, TokenCountsAndHeadDims) {
  for_every_mixed([](Case c) {
    for (uint32_t n_tokens : {1u, 5u, 33u, 64u, 200u, 257u, 900u})
      for (Salient salient : {Salient::kFew, Salient::kMost}) {
        c.n_tokens = n_tokens;
        c.salient = salient;
        c.n_heads = 2;
        c.head_dim = 16;
        check_mixed_store(c);
      }
    c.n_tokens = 45;
    for (uint32_t head_dim : {1u, 7u, 12u, 80u, 128u, 255u, 256u}) {
      c.head_dim = head_dim;
      check_mixed_store(c);
    }
  });
}

TEST(CudaStoreMixed, EveryScheduleAndLayout) {
  for (const auto& schedule : quire_executor::schedules()) {
    quire_executor::set_schedule(schedule);
    for_every_mixed([](Case c) {
      c.n_tokens = 400;
      c.n_heads = 3;
      c.head_dim = 32;
      c.max_ctas = 2;
      for (int layout = 0; layout < 3; ++layout) {
        c.heads_first = layout == 1;
        c.transposed = layout == 2;
        check_mixed_store(c);
      }
    });
  }
  quire_executor::set_schedule({});
}

TEST(CudaStoreVariable, ManySectionsOfAllCodecs) {
  constexpr int32_t kAll[] = {QUIRE_CODEC_BF16_EXP4, QUIRE_CODEC_MIXED_INT8_INT4,
                              QUIRE_CODEC_BF16_WINDOW3, QUIRE_CODEC_MIXED_INT8_INT2};
  std::vector<Fixture> fixtures;
  std::vector<Aligned> engines;
  std::vector<Aligned> sections;
  std::vector<uint64_t> bytes(60);
  std::vector<quire_store_params> stores;
  fixtures.reserve(bytes.size());  // parameters point into them
  for (uint32_t i = 0; i < bytes.size(); ++i) {
    Case c;
    c.codec = kAll[i % 4];
    c.plane = i % 3 == 0 ? QUIRE_PLANE_VALUE : QUIRE_PLANE_KEY;
    c.n_tokens = 1 + i * 2;
    c.n_heads = 1 + i % 3;
    c.head_dim = 16;
    fixtures.emplace_back(c, i);
    engines.push_back(fixtures.back().random_engine());
    sections.emplace_back(fixtures.back().section_bytes(), kPoison);
  }
  for (uint32_t i = 0; i < bytes.size(); ++i) {
    stores.push_back(fixtures[i].store_params(engines[i].data(), sections[i].data()));
    stores.back().dst_written = &bytes[i];
  }
  int32_t status = 0;
  const quire_cuda_launch launch = launch_on(&status);
  ASSERT_EQ(quire_cuda_store_batch(stores.data(), stores.size(), &launch, nullptr),
            QUIRE_KERNEL_OK);
  EXPECT_EQ(status, 0);
  for (uint32_t i = 0; i < bytes.size(); ++i) {
    Stored cpu(stores[i]);
    ASSERT_EQ(bytes[i], cpu.bytes) << i;
    EXPECT_EQ(first_difference(sections[i].data(), cpu.section.data(), cpu.bytes), cpu.bytes) << i;
  }
}

TEST(CudaStoreVariable, RefusesWhatTheHostSees) {
  for (int32_t codec : {QUIRE_CODEC_BF16_EXP4, QUIRE_CODEC_MIXED_INT8_INT2}) {
    Case c;
    c.codec = codec;
    Fixture fixture(c);
    Aligned engine = fixture.random_engine();
    Aligned section(fixture.section_bytes(), kPoison);
    const quire_store_params good = fixture.store_params(engine.data(), section.data());
    const uint64_t launches = quire_executor::launches();
    int32_t status = 0;
    const quire_cuda_launch launch = launch_on(&status);
    uint64_t written[2] = {};
    quire_store_params params = good;
    EXPECT_EQ(quire_cuda_store_batch(&params, 1, &launch, nullptr), QUIRE_KERNEL_INVALID_ARGUMENT);
    params.dst_written = reinterpret_cast<uint64_t*>(reinterpret_cast<char*>(written) + 4);
    EXPECT_EQ(quire_cuda_store_batch(&params, 1, &launch, nullptr), QUIRE_KERNEL_INVALID_ARGUMENT);
    params.dst_written = written;
    params.dst_bytes -= 64;
    EXPECT_EQ(quire_cuda_store_batch(&params, 1, &launch, nullptr), QUIRE_KERNEL_INVALID_ARGUMENT);
    params.dst_bytes += 64;
    params.n_tokens = 1u << 20;
    params.n_heads = 32;
    params.head_dim = 256;
    params.dst_bytes =
        quire_section_bytes_max(codec, c.plane, params.n_tokens, params.n_heads, params.head_dim);
    EXPECT_NE(quire_cuda_store_batch(&params, 1, &launch, nullptr), QUIRE_KERNEL_OK);
    EXPECT_EQ(quire_executor::launches(), launches);
  }
}

// Row numbers that only the kernel sees: a status, and nothing beyond the section.
TEST(CudaStoreVariable, WrongRowNumbers) {
  for (int32_t codec :
       {QUIRE_CODEC_BF16_EXP4, QUIRE_CODEC_BF16_WINDOW3, QUIRE_CODEC_MIXED_INT8_INT4})
    for (int64_t wrong : {int64_t{-1}, int64_t{83}, int64_t{1} << 40}) {
      Case c;
      c.codec = codec;
      Fixture fixture(c);
      Aligned engine = fixture.random_engine();
      Aligned section(fixture.section_bytes(), kPoison);
      fixture.rows()[33] = wrong;
      const quire_store_params params = fixture.store_params(engine.data(), section.data());
      EXPECT_EQ(store_by_cuda(params).status, QUIRE_KERNEL_INVALID_ARGUMENT);
      EXPECT_EQ(section.data()[fixture.section_bytes()], kPoison);
    }
}

}  // namespace
}  // namespace quire_kernels::cuda_test
