// Sections of variable size: data that makes every kind of them, and loads and stores of them by
// both sides.
#ifndef QUIRE_TESTS_KERNELS_CUDA_VARIABLE_FIXTURE_H_
#define QUIRE_TESTS_KERNELS_CUDA_VARIABLE_FIXTURE_H_

#include "tests/kernels/cuda/cuda_fixture.h"

namespace quire_kernels::cuda_test {

inline constexpr int32_t kExponentCodecs[] = {QUIRE_CODEC_BF16_EXP4, QUIRE_CODEC_BF16_WINDOW3};

enum class Data { kKeyLike, kNoEscapes, kManyEscapes, kAnyExponent, kZeros };
inline constexpr Data kAllData[] = {Data::kKeyLike, Data::kNoEscapes, Data::kManyEscapes,
                                    Data::kAnyExponent, Data::kZeros};

inline uint32_t random_exponent(Data data, std::mt19937* random) {
  switch (data) {
    case Data::kNoEscapes:
      return 124 + (*random)() % 6;
    case Data::kManyEscapes:  // more than a block's staging; coded all the same
      return (*random)() % 3 != 0 ? 120 + (*random)() % 6 : 100 + (*random)() % 20;
    case Data::kAnyExponent:
      return (*random)() % 142;
    default:
      return 0;
  }
}

inline constexpr int32_t kMixedCodecs[] = {QUIRE_CODEC_MIXED_INT8_INT4,
                                           QUIRE_CODEC_MIXED_INT8_INT2};

// Engine memory of bf16 elements, with exponents as `data` says.
inline Aligned engine_with(Fixture* fixture, Data data) {
  Aligned engine = fixture->random_engine();
  std::mt19937 random(6);
  for (uint64_t i = 0; data != Data::kKeyLike && i + 1 < fixture->engine_bytes(); i += 2) {
    const auto bits = static_cast<uint16_t>(random_exponent(data, &random) << 7 |
                                            (data == Data::kZeros ? 0 : random() & 0x807f));
    memcpy(engine.data() + i, &bits, 2);
  }
  return engine;
}

// A section that the CPU stored.
struct Stored {
  explicit Stored(const quire_store_params& from) : section(from.dst_bytes) {
    quire_store_params params = from;
    params.dst = section.data();
    params.dst_written = &bytes;
    EXPECT_EQ(quire_store(&params), QUIRE_KERNEL_OK);
  }
  bool plain() { return section.data()[0] == kExponentPlain; }
  uint32_t escapes() {
    uint32_t n;
    memcpy(&n, section.data() + offsetof(ExponentHeader, escape_count), 4);
    return n;
  }
  // The section alone in its memory, so that ASan sees what is read beyond it.
  Bytes exact() { return {section.data(), section.data() + bytes}; }
  Aligned section;
  uint64_t bytes = 0;
};
// From bf16 elements without rotation, whatever the case's own dtype is.
inline Stored stored_exponents(const Case& c, Data data) {
  Case bf16;
  bf16.codec = c.codec;
  bf16.plane = c.plane;
  bf16.n_tokens = c.n_tokens;
  bf16.n_heads = c.n_heads;
  bf16.head_dim = c.head_dim;
  Fixture fixture(bf16, 5);
  Aligned engine = engine_with(&fixture, data);
  return Stored(fixture.store_params(engine.data(), nullptr));
}
inline Stored stored_mixed(const Case& c, Salient salient) {
  Case source = c;
  source.style = QUIRE_ROPE_STYLE_NONE;
  source.salient = salient;
  Fixture fixture(source, 5);
  Aligned engine = fixture.random_engine();
  return Stored(fixture.store_params(engine.data(), nullptr));
}

struct Loaded {
  int status;
  Aligned engine;
};
inline Loaded load_by_cuda(const Case& c, const Fixture& fixture, const unsigned char* section,
                           uint64_t bytes, uint32_t flags = 0) {
  Loaded loaded{0, Aligned(fixture.engine_bytes(), kPoison)};
  quire_load_params params = fixture.load_params(section, loaded.engine.data());
  params.src_bytes = bytes;
  params.flags = flags;
  int32_t status = 0;
  quire_cuda_launch launch = launch_on(&status, c.path);
  launch.max_ctas = c.max_ctas;
  loaded.status = quire_cuda_load_batch(&params, 1, &launch, nullptr);
  if (loaded.status == QUIRE_KERNEL_OK) loaded.status = status;
  return loaded;
}
inline Loaded load_by_cpu(const Fixture& fixture, const unsigned char* section, uint64_t bytes,
                          uint32_t flags = 0) {
  Loaded loaded{0, Aligned(fixture.engine_bytes(), kPoison)};
  quire_load_params params = fixture.load_params(section, loaded.engine.data());
  params.src_bytes = bytes;
  params.flags = flags;
  loaded.status = quire_load(&params);
  return loaded;
}

inline void expect_equal_load(const Case& c, Stored* stored) {
  SCOPED_TRACE(name_of(c));
  const Fixture fixture(c);
  Loaded cuda = load_by_cuda(c, fixture, stored->section.data(), stored->bytes);
  Loaded cpu = load_by_cpu(fixture, stored->section.data(), stored->bytes);
  ASSERT_EQ(cpu.status, QUIRE_KERNEL_OK);
  EXPECT_EQ(cuda.status, QUIRE_KERNEL_OK);
  EXPECT_TRUE(cuda.engine == cpu.engine)
      << first_difference(cuda.engine.data(), cpu.engine.data(), fixture.engine_bytes());
}
}  // namespace quire_kernels::cuda_test

#endif  // QUIRE_TESTS_KERNELS_CUDA_VARIABLE_FIXTURE_H_
