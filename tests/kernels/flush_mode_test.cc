// Threads that flush denormals to zero get the bytes of threads that do not, and keep their mode.
#include "tests/kernels/section_fixture.h"

#if defined(__x86_64__)
#include <pmmintrin.h>

namespace quire_kernels_test {
namespace {

// Both modes on for as long as it lives.
class Flushing {
 public:
  explicit Flushing(bool on) : caller_(_mm_getcsr()) {
    if (!on) return;
    _MM_SET_FLUSH_ZERO_MODE(_MM_FLUSH_ZERO_ON);
    _MM_SET_DENORMALS_ZERO_MODE(_MM_DENORMALS_ZERO_ON);
  }
  ~Flushing() { _mm_setcsr(caller_); }
  Flushing(const Flushing&) = delete;
  Flushing& operator=(const Flushing&) = delete;

  static bool on() {
    return _MM_GET_FLUSH_ZERO_MODE() == _MM_FLUSH_ZERO_ON &&
           _MM_GET_DENORMALS_ZERO_MODE() == _MM_DENORMALS_ZERO_ON;
  }
  static bool off() {
    return _MM_GET_FLUSH_ZERO_MODE() == _MM_FLUSH_ZERO_OFF &&
           _MM_GET_DENORMALS_ZERO_MODE() == _MM_DENORMALS_ZERO_OFF;
  }

 private:
  const unsigned int caller_;
};

constexpr Shape kShape{70, 2, 128};

struct Format {
  int32_t codec;
  int32_t dtype;
};
constexpr Format kFormats[] = {{QUIRE_CODEC_RAW_BF16, QUIRE_DTYPE_BF16},
                               {QUIRE_CODEC_RAW_F16, QUIRE_DTYPE_F16},
                               {QUIRE_CODEC_RAW_F32, QUIRE_DTYPE_F32},
                               {QUIRE_CODEC_BF16_EXP4, QUIRE_DTYPE_BF16},
                               {QUIRE_CODEC_BF16_WINDOW3, QUIRE_DTYPE_BF16}};
constexpr uint32_t kRotaryDims[] = {64, 128};

// Keys with denormals, which fp32 has from 2^-127 down, in dims that are rotated and in others.
Engine denormal_keys(int32_t dtype, std::mt19937_64& random) {
  Engine engine(dtype, kShape, kShape.tokens, false);
  fill_like_keys(engine, random);
  for (uint32_t token = 0; token < kShape.tokens; ++token)
    for (uint32_t head = 0; head < kShape.heads; ++head)
      for (uint32_t dim = token % 3; dim < kShape.dims; dim += 11)
        engine.set(token, head, dim, (dim % 2 == 0 ? -0x1p-128f : 0x1p-127f));
  return engine;
}

class FlushMode : public BothImplementations {
 protected:
  // The section, and what a load of it by the same table leaves in engine memory.
  static std::vector<uint8_t> round_trip(const Format& format, int32_t style, uint32_t rotary_dims,
                                         Engine source, bool flushing) {
    const auto table = exact_table(rotary_dims, QUIRE_ROPE_FROM_SRC, 1000, 0, kShape.tokens);
    Section section(format.codec, QUIRE_PLANE_KEY, kShape);
    quire_store_params store = store_params(source, section);
    store.rotation = {style, rotary_dims, table.data(), int64_t{rotary_dims} * 4};
    Engine loaded(format.dtype, kShape, kShape.tokens, false);
    {
      const Flushing mode(flushing);
      EXPECT_EQ(quire_store(&store), QUIRE_KERNEL_OK);
      EXPECT_EQ(Flushing::on(), flushing);
      quire_load_params load = load_params(section, loaded);
      load.rotation = store.rotation;
      EXPECT_EQ(quire_load(&load), QUIRE_KERNEL_OK);
      EXPECT_EQ(Flushing::on(), flushing);
      EXPECT_EQ(quire_load_batch(&load, 1, nullptr), QUIRE_KERNEL_OK);
      EXPECT_EQ(Flushing::on(), flushing);
      EXPECT_EQ(Flushing::off(), !flushing);
    }
    std::vector<uint8_t> bytes = section.copy();
    bytes.insert(bytes.end(), loaded.bytes.begin(), loaded.bytes.end());
    return bytes;
  }
};
INSTANTIATE_TEST_SUITE_P(Isa, FlushMode,
                         testing::Values(QUIRE_ISA_SCALAR, QUIRE_ISA_AVX2, QUIRE_ISA_AVX512));

TEST_P(FlushMode, StoresAndLoadsKeepDenormals) {
  for (const Format& format : kFormats)
    for (const int32_t style : {QUIRE_ROPE_STYLE_NEOX, QUIRE_ROPE_STYLE_INTERLEAVED})
      for (const uint32_t rotary_dims : kRotaryDims) {
        const Engine source = denormal_keys(format.dtype, random_);
        EXPECT_TRUE(round_trip(format, style, rotary_dims, source, true) ==
                    round_trip(format, style, rotary_dims, source, false))
            << "codec " << format.codec << " style " << style << " rotary " << rotary_dims;
      }
}

// Dims that are not rotated come back bit for bit.
TEST_P(FlushMode, DimsThatPassThroughAreLossless) {
  for (const Format& format : kFormats) {
    Engine source = denormal_keys(format.dtype, random_);
    const uint32_t size = element_size(format.dtype);
    const auto bytes = round_trip(format, QUIRE_ROPE_STYLE_NEOX, kRotaryDims[0], source, true);
    const uint8_t* loaded = bytes.data() + bytes.size() - source.bytes.size() + Engine::kMargin;
    for (uint32_t token = 0; token < kShape.tokens; ++token)
      for (uint32_t head = 0; head < kShape.heads; ++head) {
        const int64_t row = token * source.token_stride + head * source.head_stride;
        const int64_t at = row + kRotaryDims[0] * int64_t{size};
        ASSERT_EQ(std::memcmp(loaded + at, source.data() + at, kRotaryDims[0] * size), 0)
            << "codec " << format.codec << " token " << token;
      }
  }
}

TEST_P(FlushMode, RefusedCallsKeepTheModeToo) {
  const Flushing mode(true);
  EXPECT_NE(quire_store(nullptr), QUIRE_KERNEL_OK);
  EXPECT_NE(quire_load(nullptr), QUIRE_KERNEL_OK);
  EXPECT_NE(quire_load_batch(nullptr, 1, nullptr), QUIRE_KERNEL_OK);
  EXPECT_TRUE(Flushing::on());
}

}  // namespace
}  // namespace quire_kernels_test
#endif
