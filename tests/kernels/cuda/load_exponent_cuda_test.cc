// Loads of bf16 without loss by the CUDA kernels: the CPU's bytes, and the CPU's answer to sections
// that are wrong.
#include <functional>

#include "tests/kernels/cuda/variable_fixture.h"

namespace quire_kernels::cuda_test {
namespace {

void check_exponent_load(const Case& c, Data data = Data::kKeyLike) {
  Stored stored = stored_exponents(c, data);
  expect_equal_load(c, &stored);
}

TEST(CudaLoadExponent, EveryKindOfDataAndDtype) {
  for (int32_t codec : kExponentCodecs)
    for (Data data : kAllData)
      for (int32_t dtype : {QUIRE_DTYPE_BF16, QUIRE_DTYPE_F16, QUIRE_DTYPE_F32}) {
        Case c;
        c.codec = codec;
        c.dtype = dtype;
        Stored stored = stored_exponents(c, data);
        const uint32_t elements = c.n_tokens * c.n_heads * c.head_dim;
        EXPECT_EQ(stored.plain(), data == Data::kAnyExponent);
        if (data == Data::kNoEscapes) {
          EXPECT_EQ(stored.escapes(), 0u);
        }
        if (data == Data::kManyEscapes) {
          EXPECT_GT(stored.escapes(), elements / 20);
        }
        expect_equal_load(c, &stored);
        c.style = QUIRE_ROPE_STYLE_NEOX;
        c.rotary_dims = 64;
        c.table_per_token = dtype == QUIRE_DTYPE_F32;
        expect_equal_load(c, &stored);
      }
}

TEST(CudaLoadExponent, HeadDims) {
  for (int32_t codec : kExponentCodecs)
    for (uint32_t head_dim : {1u, 3u, 7u, 8u, 12u, 36u, 80u, 96u, 112u, 128u, 255u, 256u})
      for (Data data : {Data::kKeyLike, Data::kManyEscapes, Data::kAnyExponent}) {
        Case c;
        c.codec = codec;
        c.head_dim = head_dim;
        c.n_tokens = 45;
        check_exponent_load(c, data);
      }
}

// Heads that begin anywhere in a block of the index, last blocks of every length, more than a run.
TEST(CudaLoadExponent, TokenCountsAndRanges) {
  for (int32_t codec : kExponentCodecs)
    for (uint32_t n_tokens : {1u, 5u, 31u, 63u, 64u, 65u, 128u, 200u, 257u, 513u}) {
      Case c;
      c.codec = codec;
      c.n_tokens = n_tokens;
      c.n_heads = 3;
      c.head_dim = 16;
      Stored stored = stored_exponents(c, Data::kManyEscapes);
      for (uint32_t begin : {0u, 1u, 33u, 64u, 130u, 256u})
        for (uint32_t length : {1u, 31u, 64u, 100u, 600u}) {
          if (begin >= n_tokens) continue;
          c.token_begin = begin;
          c.token_end = std::min(begin + length, n_tokens);
          expect_equal_load(c, &stored);
        }
    }
}

TEST(CudaLoadExponent, EngineLayoutsAndMasks) {
  for (int32_t codec : kExponentCodecs)
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
          c.token_end = masked ? 66 : ~0u;
          check_exponent_load(c);
        }
}

TEST(CudaLoadExponent, RotationStyles) {
  struct {
    uint32_t head_dim, rotary_dims;
  } const shapes[] = {{128, 128}, {80, 32}, {64, 20}, {256, 64}, {20, 12}};
  for (int32_t codec : kExponentCodecs)
    for (int32_t style : {QUIRE_ROPE_STYLE_NEOX, QUIRE_ROPE_STYLE_INTERLEAVED})
      for (bool per_token : {false, true})
        for (const auto& shape : shapes) {
          Case c;
          c.codec = codec;
          c.style = style;
          c.table_per_token = per_token;
          c.head_dim = shape.head_dim;
          c.rotary_dims = shape.rotary_dims;
          c.n_tokens = 70;
          check_exponent_load(c);
        }
}

TEST(CudaLoadExponent, EverySchedule) {
  for (const auto& schedule : quire_executor::schedules()) {
    quire_executor::set_schedule(schedule);
    for (int32_t codec : kExponentCodecs)
      for (int32_t path : {QUIRE_CUDA_PATH_DIRECT, QUIRE_CUDA_PATH_RING}) {
        Case c;
        c.codec = codec;
        c.path = path;
        c.style = QUIRE_ROPE_STYLE_NEOX;
        c.rotary_dims = 20;  // through shared memory
        c.n_tokens = 150;
        c.n_heads = 3;
        c.max_ctas = 1;
        check_exponent_load(c, Data::kManyEscapes);
      }
  }
  quire_executor::set_schedule({});
}

TEST(CudaLoadExponent, ManySectionsOfBothCodecs) {
  std::vector<Fixture> fixtures;
  std::vector<Stored> stored;
  std::vector<Aligned> engines;
  std::vector<quire_load_params> loads;
  std::vector<Case> cases;
  for (uint32_t i = 0; i < 70; ++i) {
    Case c;
    c.codec = kExponentCodecs[i % 2];
    c.n_tokens = 1 + i * 2;
    c.n_heads = 1 + i % 3;
    c.head_dim = 16;
    cases.push_back(c);
    fixtures.emplace_back(c, i);
    stored.push_back(stored_exponents(c, kAllData[i % 5]));
    engines.emplace_back(fixtures.back().engine_bytes(), kPoison);
  }
  for (size_t i = 0; i < cases.size(); ++i) {
    loads.push_back(fixtures[i].load_params(stored[i].section.data(), engines[i].data()));
    loads.back().src_bytes = stored[i].bytes;
  }
  int32_t status = 0;
  const quire_cuda_launch launch = launch_on(&status);
  ASSERT_EQ(quire_cuda_load_batch(loads.data(), loads.size(), &launch, nullptr), QUIRE_KERNEL_OK);
  EXPECT_EQ(status, 0);
  for (size_t i = 0; i < cases.size(); ++i) {
    Loaded cpu = load_by_cpu(fixtures[i], stored[i].section.data(), stored[i].bytes);
    EXPECT_TRUE(engines[i] == cpu.engine) << i;
  }
}

// The whole range is loaded: kernels and CPU refuse the same sections, and refused rows stay.
void expect_equal_answer(const Case& c, const Fixture& fixture, const Bytes& section) {
  Loaded cuda = load_by_cuda(c, fixture, section.data(), section.size());
  Loaded cpu = load_by_cpu(fixture, section.data(), section.size());
  ASSERT_EQ(cuda.status, cpu.status);
  if (cpu.status == QUIRE_KERNEL_OK) {
    EXPECT_TRUE(cuda.engine == cpu.engine);
  }
}

TEST(CudaLoadExponent, FlippedBytesGetTheCpusAnswer) {
  for (int32_t codec : kExponentCodecs)
    for (Data data : {Data::kKeyLike, Data::kAnyExponent}) {
      Case c;
      c.codec = codec;
      c.n_tokens = 50;
      c.n_heads = 3;
      c.head_dim = 20;
      Stored stored = stored_exponents(c, data);
      const Fixture fixture(c);
      const Bytes good = stored.exact();
      std::mt19937 random(17);
      const auto try_one = [&](uint64_t at, unsigned char bits) {
        SCOPED_TRACE("codec " + std::to_string(codec) + " byte " + std::to_string(at) + " ^ " +
                     std::to_string(bits));
        Bytes bad = good;
        bad[at] ^= bits;
        expect_equal_answer(c, fixture, bad);
      };
      for (uint64_t at = 0; at < sizeof(ExponentHeader); ++at)
        for (unsigned char bits : {0x01, 0x40, 0xff}) try_one(at, bits);
      const PlaneSpec spec = plane_spec(codec, c.plane);
      const ExponentBlocks blocks =
          exponent_blocks(spec, c.n_tokens, c.n_heads, c.head_dim, stored.escapes());
      if (!stored.plain()) {
        for (uint64_t at = blocks.escape_index; at < blocks.escape_index + 12; ++at)
          for (unsigned char bits : {0x01, 0x80, 0xff}) try_one(at, bits);
        for (uint64_t at = blocks.tops; at < blocks.sign_mantissa; ++at) try_one(at, good[at] ^ 5);
      }
      for (int i = 0; i < 300; ++i)
        try_one(random() % good.size(), static_cast<unsigned char>(1 + random() % 255));
    }
}

// Index and count agree with each other and the codes, but for escapes before the first row.
TEST(CudaLoadExponent, IndexBeginsAtZero) {
  for (int32_t codec : kExponentCodecs) {
    Case c;
    c.codec = codec;
    Stored stored = stored_exponents(c, Data::kManyEscapes);
    const Fixture fixture(c);
    ASSERT_NE(stored.escapes() % kBlockAlignment, 0u);
    Bytes bad = stored.exact();
    const auto add_one = [&](uint64_t at) {
      uint32_t value;
      memcpy(&value, &bad[at], 4);
      ++value;
      memcpy(&bad[at], &value, 4);
    };
    const ExponentBlocks blocks = exponent_blocks(plane_spec(codec, c.plane), c.n_tokens, c.n_heads,
                                                  c.head_dim, stored.escapes());
    add_one(offsetof(ExponentHeader, escape_count));
    for (uint32_t k = 0; k < 3; ++k) add_one(blocks.escape_index + 4 * k);
    expect_equal_answer(c, fixture, bad);
    EXPECT_EQ(load_by_cuda(c, fixture, bad.data(), bad.size()).status, QUIRE_KERNEL_CORRUPT);
  }
}

TEST(CudaLoadExponent, WrongSizesAreCorrupt) {
  for (int32_t codec : kExponentCodecs)
    for (Data data : {Data::kKeyLike, Data::kAnyExponent}) {
      Case c;
      c.codec = codec;
      Stored stored = stored_exponents(c, data);
      const Fixture fixture(c);
      for (uint64_t bytes = 0; bytes + 64 <= stored.bytes; bytes += 64 * 7) {
        const Bytes cut(stored.section.data(), stored.section.data() + bytes);
        std::vector<uint32_t> aligned((bytes + 4) / 4);
        if (bytes != 0) memcpy(aligned.data(), cut.data(), bytes);
        Loaded cuda =
            load_by_cuda(c, fixture, reinterpret_cast<unsigned char*>(aligned.data()), bytes);
        EXPECT_EQ(cuda.status, QUIRE_KERNEL_CORRUPT) << bytes;
        Aligned untouched(fixture.engine_bytes(), kPoison);
        EXPECT_TRUE(cuda.engine == untouched);
      }
      EXPECT_EQ(load_by_cuda(c, fixture, stored.section.data(), stored.bytes + 64).status,
                QUIRE_KERNEL_CORRUPT);
      EXPECT_EQ(load_by_cuda(c, fixture, stored.section.data(), stored.bytes - 1).status,
                QUIRE_KERNEL_CORRUPT);
    }
}

TEST(CudaLoadExponent, ValuesAreJudged) {
  for (int32_t codec : kExponentCodecs)
    for (const auto& [bits, dtype, expected] :
         {std::tuple{0x7f80, QUIRE_DTYPE_BF16, QUIRE_KERNEL_NON_FINITE},
          std::tuple{0xffc1, QUIRE_DTYPE_F32, QUIRE_KERNEL_NON_FINITE},
          std::tuple{0x4780, QUIRE_DTYPE_F16, QUIRE_KERNEL_OUT_OF_RANGE},
          std::tuple{0x477f, QUIRE_DTYPE_F16, QUIRE_KERNEL_OK}}) {
      Case c;
      c.codec = codec;
      c.dtype = dtype;
      c.head_dim = 32;
      Case source = c;
      source.dtype = QUIRE_DTYPE_BF16;
      Fixture from(source);
      Aligned engine = from.random_engine();
      const auto value = static_cast<uint16_t>(bits);
      memcpy(engine.data() + 2 * 77, &value, 2);
      Aligned section(from.section_bytes());
      uint64_t bytes = 0;
      quire_store_params params = from.store_params(engine.data(), section.data());
      params.src_token = nullptr;
      params.dst_written = &bytes;
      params.flags = QUIRE_KERNEL_KEEP_NON_FINITE;
      ASSERT_EQ(quire_store(&params), QUIRE_KERNEL_OK);
      const Fixture fixture(c);
      EXPECT_EQ(load_by_cuda(c, fixture, section.data(), bytes).status, expected);
      EXPECT_EQ(load_by_cpu(fixture, section.data(), bytes).status, expected);
      if (dtype != QUIRE_DTYPE_BF16) continue;
      const uint32_t keep = QUIRE_KERNEL_KEEP_NON_FINITE;
      Loaded cuda = load_by_cuda(c, fixture, section.data(), bytes, keep);
      Loaded cpu = load_by_cpu(fixture, section.data(), bytes, keep);
      EXPECT_EQ(cuda.status, QUIRE_KERNEL_OK);
      EXPECT_TRUE(cuda.engine == cpu.engine);
    }
}

}  // namespace
}  // namespace quire_kernels::cuda_test
