// Wrapped codecs: what is packed comes back bit for bit whatever it holds, sizes keep their bounds,
// and no payload, however damaged, is taken for a section.
#include "codecs/wrapped.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "codecs/entropy/rans.h"
#include "codecs/registry.h"
#include "kernels/math/bits.h"
#include "kernels/math/layout.h"

namespace quire {
namespace {

using Bytes = std::vector<std::byte>;

constexpr CodecId kWrapped[] = {CodecId::kBf16ShuffleLz4, CodecId::kBf16SplitZstd,
                                CodecId::kInt4Rans};

uint64_t base_bytes(CodecId codec, const SectionShape& shape) {
  return quire_section_bytes(static_cast<int32_t>(*base_codec(codec)),
                             static_cast<int32_t>(shape.plane), shape.n_tokens, shape.n_heads,
                             shape.head_dim);
}

Bytes random_bytes(uint64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  Bytes bytes(n);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// bf16 of normal numbers at a level and spread of each channel.
Bytes bf16_section(const SectionShape& shape, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Bytes bytes(base_bytes(CodecId::kBf16SplitZstd, shape));
  uint64_t i = 0;
  for (uint32_t head = 0; head < shape.n_heads; ++head) {
    std::vector<float> level(shape.head_dim), spread(shape.head_dim);
    for (uint32_t d = 0; d < shape.head_dim; ++d) {
      level[d] = random() % 9 == 0 ? 60 * normal(random) : normal(random);
      spread[d] = 0.3f + std::abs(normal(random));
    }
    for (uint32_t token = 0; token < shape.n_tokens; ++token)
      for (uint32_t d = 0; d < shape.head_dim; ++d, i += 2) {
        const uint16_t element =
            quire_kernels::float_to_bf16(level[d] + spread[d] * normal(random));
        std::memcpy(bytes.data() + i, &element, 2);
      }
  }
  return bytes;
}

// An int4-channel64 section: any side data, codes around the middle, padding zero.
Bytes int4_section(const SectionShape& shape, uint32_t seed) {
  using namespace quire_kernels;
  std::mt19937 random(seed);
  Bytes bytes(base_bytes(CodecId::kInt4Rans, shape));
  const PlaneSpec spec = plane_spec(QUIRE_CODEC_INT4_CHANNEL64, static_cast<int32_t>(shape.plane));
  const bool runs = shape.plane == Plane::kKey;
  const uint64_t row = code_row_bytes(shape.head_dim, 4);
  for (uint32_t head = 0; head < shape.n_heads; ++head) {
    std::normal_distribution<float> normal(6 + static_cast<float>(random() % 3), 2.5f);
    for (uint32_t token = 0; token < shape.n_tokens; ++token) {
      std::vector<unsigned char> codes(shape.head_dim);
      for (unsigned char& code : codes)
        code = static_cast<unsigned char>(std::clamp(std::lround(normal(random)), 0l, 15l));
      const uint64_t offset =
          runs ? channel_run(spec, shape.n_tokens, shape.head_dim, head, token / 64).codes +
                     token % 64 * row
               : token_head(spec, shape.n_tokens, shape.head_dim, head).codes + token * row;
      pack_row(codes.data(), shape.head_dim, 4,
               reinterpret_cast<unsigned char*>(bytes.data()) + offset);
    }
    const uint64_t side = runs ? channel_run(spec, shape.n_tokens, shape.head_dim, head, 0).side
                               : token_head(spec, shape.n_tokens, shape.head_dim, head).side;
    for (uint64_t i = 0; i < 4; ++i) bytes[side + i] = static_cast<std::byte>(random());
  }
  return bytes;
}

Bytes section_of(CodecId codec, const SectionShape& shape, uint32_t seed) {
  return codec == CodecId::kInt4Rans ? int4_section(shape, seed) : bf16_section(shape, seed);
}

// Dirty memory of exactly the size promised.
Bytes wrap(CodecId codec, const SectionShape& shape, const Bytes& base) {
  Bytes packed(wrapped_bytes_max(base.size()), std::byte{0xa5});
  const auto bytes = wrap_section(codec, shape, base, packed);
  EXPECT_TRUE(bytes.is_ok()) << bytes.status().to_string();
  if (!bytes.is_ok()) return {};
  EXPECT_LE(*bytes, packed.size());
  packed.resize(*bytes);
  packed.shrink_to_fit();
  return packed;
}

void expect_round_trip(CodecId codec, const SectionShape& shape, const Bytes& base) {
  const Bytes packed = wrap(codec, shape, base);
  ASSERT_TRUE(check_wrapped(codec, shape, packed).is_ok());
  Bytes expanded(base.size(), std::byte{0x5a});
  const Status status = expand_section(codec, shape, packed, expanded);
  ASSERT_TRUE(status.is_ok()) << status.to_string();
  ASSERT_TRUE(expanded == base);
  EXPECT_TRUE(wrap(codec, shape, base) == packed) << "not deterministic";
}

uint32_t method_of(const Bytes& packed) {
  uint32_t method;
  std::memcpy(&method, packed.data(), 4);
  return method;
}

TEST(WrappedTest, WhatTheyExpandTo) {
  EXPECT_EQ(base_codec(CodecId::kBf16ShuffleLz4), CodecId::kRawBf16);
  EXPECT_EQ(base_codec(CodecId::kBf16SplitZstd), CodecId::kRawBf16);
  EXPECT_EQ(base_codec(CodecId::kInt4Rans), CodecId::kInt4Channel64);
  EXPECT_EQ(base_codec(CodecId::kRawBf16), std::nullopt);
  EXPECT_EQ(base_codec(CodecId::kInt4Channel64), std::nullopt);
  Bytes bytes(256);
  const SectionShape shape{Plane::kKey, 1, 1, 64};
  EXPECT_EQ(check_wrapped(CodecId::kRawF16, shape, bytes).code(), StatusCode::kUnsupported);
  EXPECT_EQ(expand_section(CodecId::kRawF16, shape, bytes, bytes).code(), StatusCode::kUnsupported);
}

TEST(WrappedTest, SectionsOfAnyShapeComeBack) {
  for (const CodecId codec : kWrapped)
    for (const Plane plane : {Plane::kKey, Plane::kValue}) {
      uint32_t seed = 0;
      for (const uint32_t n_tokens : {1u, 7u, 8u, 63u, 64u, 65u, 130u, 257u})
        for (const uint32_t head_dim : {1u, 8u, 20u, 64u, 80u, 128u, 260u}) {
          const SectionShape shape{plane, n_tokens, 1 + seed % 3, head_dim};
          expect_round_trip(codec, shape, section_of(codec, shape, ++seed));
        }
    }
}

TEST(WrappedTest, AnyBytesComeBack) {
  for (const CodecId codec : kWrapped)
    for (const Plane plane : {Plane::kKey, Plane::kValue}) {
      const SectionShape shape{plane, 100, 2, 72};
      const uint64_t bytes = base_bytes(codec, shape);
      expect_round_trip(codec, shape, random_bytes(bytes, 1));
      EXPECT_EQ(method_of(wrap(codec, shape, random_bytes(bytes, 1))), 0u);
      expect_round_trip(codec, shape, Bytes(bytes));
      expect_round_trip(codec, shape, Bytes(bytes, std::byte{0xff}));
    }
  // Every bf16.
  const SectionShape shape{Plane::kKey, 512, 2, 64};
  Bytes all(131072);
  for (uint32_t i = 0; i < 65536; ++i) std::memcpy(all.data() + 2 * i, &i, 2);
  expect_round_trip(CodecId::kBf16ShuffleLz4, shape, all);
  expect_round_trip(CodecId::kBf16SplitZstd, shape, all);
}

TEST(WrappedTest, SizesOfKvLikeData) {
  const SectionShape shape{Plane::kKey, 256, 4, 128};
  const auto share = [&](CodecId codec) {
    const Bytes base = section_of(codec, shape, 3);
    const Bytes packed = wrap(codec, shape, base);
    EXPECT_EQ(method_of(packed), 1u);
    return static_cast<double>(packed.size()) / static_cast<double>(base.size());
  };
  EXPECT_LE(share(CodecId::kBf16ShuffleLz4), 0.85);
  EXPECT_LE(share(CodecId::kBf16SplitZstd), 0.72);
  EXPECT_LE(share(CodecId::kInt4Rans), 0.90);  // normal codes of deviation 2.5: 3.36 bits of 4
}

TEST(WrappedTest, DamageIsCorrupt) {
  for (const CodecId codec : kWrapped)
    for (const bool stored : {false, true}) {
      const SectionShape shape{Plane::kKey, 64, 2, codec == CodecId::kInt4Rans ? 64u : 16u};
      const Bytes base =
          stored ? random_bytes(base_bytes(codec, shape), 5) : section_of(codec, shape, 5);
      const Bytes packed = wrap(codec, shape, base);
      ASSERT_EQ(method_of(packed), stored ? 0u : 1u) << static_cast<int>(codec);
      uint64_t payload_bytes;
      std::memcpy(&payload_bytes, packed.data() + 16, 8);
      Bytes expanded(base.size());
      for (uint64_t bytes = 0; bytes < packed.size(); bytes += bytes < 900 ? 1 : 7) {
        const Bytes cut(packed.begin(), packed.begin() + static_cast<ptrdiff_t>(bytes));
        ASSERT_EQ(check_wrapped(codec, shape, cut).code(), StatusCode::kCorrupt) << bytes;
        ASSERT_EQ(expand_section(codec, shape, cut, expanded).code(), StatusCode::kCorrupt);
      }
      for (uint64_t i = 0; i < 64 + payload_bytes; i += i < 900 ? 1 : 5)
        for (const int flip : {0x01, 0x80, 0xff}) {
          Bytes damaged = packed;
          damaged[i] ^= static_cast<std::byte>(flip);
          const Status status = expand_section(codec, shape, damaged, expanded);
          // zstd ignores some bits of its frames; what it gives is then still the section.
          if (status.is_ok())
            ASSERT_TRUE(expanded == base) << i;
          else
            ASSERT_EQ(status.code(), StatusCode::kCorrupt);
        }
      // Zeros and noise as payload under a header that fits.
      for (uint32_t seed = 0; seed < 200; ++seed) {
        Bytes damaged = packed;
        const Bytes noise = random_bytes(payload_bytes, 1000 + seed);
        std::copy(noise.begin(), noise.end(), damaged.begin() + 64);
        if (seed == 0) std::fill(damaged.begin() + 64, damaged.end(), std::byte{0});
        ASSERT_EQ(expand_section(codec, shape, damaged, expanded).code(), StatusCode::kCorrupt);
      }
    }
}

TEST(WrappedTest, WrongSizesAreRefused) {
  const SectionShape shape{Plane::kValue, 40, 2, 24};
  for (const CodecId codec : kWrapped) {
    const Bytes base = section_of(codec, shape, 7);
    const Bytes packed = wrap(codec, shape, base);
    Bytes room(wrapped_bytes_max(base.size()) + 64);
    EXPECT_EQ(wrap_section(codec, shape, base, room).status().code(), StatusCode::kInvalidArgument);
    Bytes longer(base.size() + 2);
    EXPECT_EQ(expand_section(codec, shape, packed, longer).code(), StatusCode::kInvalidArgument);
    SectionShape other = shape;
    other.n_tokens = 200;
    EXPECT_EQ(check_wrapped(codec, other, packed).code(), StatusCode::kCorrupt);
    other.n_tokens = 0;
    EXPECT_EQ(check_wrapped(codec, other, packed).code(), StatusCode::kCorrupt);
  }
}

// Through the front that clients use: what is loaded is what the base codec's section gives.
TEST(WrappedTest, StoreAndLoadThroughTheRegistry) {
  const SectionShape shape{Plane::kKey, 130, 2, 64};
  const Bytes engine = bf16_section(shape, 21);
  const auto store = [&](CodecId codec) {
    Bytes section(*section_bytes(codec, shape.plane, 130, 2, 64));
    uint64_t written = section.size();
    quire_store_params p{};
    p.struct_bytes = sizeof(p);
    p.codec = static_cast<int32_t>(codec);
    p.plane = QUIRE_PLANE_KEY;
    p.n_tokens = 130;
    p.n_heads = 2;
    p.head_dim = 64;
    p.src_dtype = QUIRE_DTYPE_BF16;
    p.src = engine.data();
    p.src_tokens = 130;
    p.src_token_stride = 256;
    p.src_head_stride = 128;
    p.src_dim_stride = 2;
    p.dst = section.data();
    p.dst_bytes = section.size();
    p.dst_written = &written;
    const Status status = encode_section(p);
    EXPECT_TRUE(status.is_ok()) << status.to_string();
    section.resize(written);
    return section;
  };
  const auto load = [&](CodecId codec, const Bytes& section) {
    Bytes loaded(engine.size(), std::byte{0x5a});
    quire_load_params p{};
    p.struct_bytes = sizeof(p);
    p.codec = static_cast<int32_t>(codec);
    p.plane = QUIRE_PLANE_KEY;
    p.n_tokens = p.token_end = 130;
    p.n_heads = 2;
    p.head_dim = 64;
    p.dst_dtype = QUIRE_DTYPE_BF16;
    p.src = section.data();
    p.src_bytes = section.size();
    p.dst = loaded.data();
    p.dst_tokens = 130;
    p.dst_token_stride = 256;
    p.dst_head_stride = 128;
    p.dst_dim_stride = 2;
    const Status status = decode_section(p);
    EXPECT_TRUE(status.is_ok()) << status.to_string();
    return loaded;
  };
  for (const CodecId codec : {CodecId::kBf16Exp4, CodecId::kBf16Window3, CodecId::kBf16ShuffleLz4,
                              CodecId::kBf16SplitZstd}) {
    const Bytes section = store(codec);
    EXPECT_LT(section.size(), engine.size()) << static_cast<int>(codec);
    EXPECT_TRUE(load(codec, section) == engine) << static_cast<int>(codec);
  }
  const Bytes base = store(CodecId::kInt4Channel64);
  const Bytes packed = store(CodecId::kInt4Rans);
  EXPECT_LT(packed.size(), base.size());
  EXPECT_TRUE(load(CodecId::kInt4Rans, packed) == load(CodecId::kInt4Channel64, base));
}

std::vector<RansDecode> rans_decoders() {
  std::vector<RansDecode> all = {rans_decode_scalar};
  if (rans_decode_avx512() != nullptr) all.push_back(rans_decode_avx512());
  return all;
}

RansDecodeState decode_state(const RansEncoder& encoder, const Bytes& words) {
  RansDecodeState state = {};
  std::copy(encoder.states().begin(), encoder.states().end(), state.states);
  state.words = words.data();
  state.n_words = words.size() / 2;
  return state;
}

double entropy_bits(const RansCounts& counts) {
  double total = 0, bits = 0;
  for (const uint64_t n : counts) total += static_cast<double>(n);
  for (const uint64_t n : counts)
    if (n != 0) bits += static_cast<double>(n) * std::log2(total / static_cast<double>(n));
  return bits;
}

TEST(RansTest, AnyDistributionComesBackNearItsEntropy) {
  std::mt19937 random(11);
  for (int round = 0; round < 300; ++round) {
    // From one symbol alone to all alike.
    std::array<double, 16> weights{};
    const uint32_t present = 1 + random() % 16;
    for (uint32_t i = 0; i < present; ++i)
      weights[random() % 16] = std::exp(static_cast<double>(random() % 12));
    std::discrete_distribution<uint32_t> codes_of(weights.begin(), weights.end());
    Bytes codes(1 + random() % 6000);
    for (std::byte& byte : codes)
      byte = static_cast<std::byte>(codes_of(random) | codes_of(random) << 4);
    RansCounts counts{};
    rans_count(codes, counts);
    const RansFrequencies frequencies = rans_frequencies(counts);
    ASSERT_TRUE(rans_valid(frequencies));
    for (uint32_t i = 0; i < 16; ++i) ASSERT_TRUE(counts[i] == 0 || frequencies[i] > 0);
    Bytes room(codes.size() + 1024);
    RansEncoder encoder(room);
    ASSERT_TRUE(encoder.encode(frequencies, codes));
    const Bytes words(encoder.words().begin(), encoder.words().end());
    const double symbols = 2.0 * static_cast<double>(codes.size());
    // Rounding to 1 of 256 for each symbol that is rarer, and the last block.
    EXPECT_LE(8.0 * static_cast<double>(words.size()),
              entropy_bits(counts) + symbols * 0.1 + 64 * 8);
    for (const RansDecode decode : rans_decoders()) {
      RansDecodeState state = decode_state(encoder, words);
      Bytes decoded(codes.size());
      decode(&state, frequencies.data(), decoded.data(), decoded.size());
      ASSERT_TRUE(decoded == codes) << "round " << round;
      ASSERT_FALSE(state.overrun);
      ASSERT_EQ(state.n_words, 0u);
      for (const uint32_t x : state.states) ASSERT_EQ(x, kRansStateMin);
    }
  }
}

TEST(RansTest, FrequenciesAreNearTheShares) {
  RansCounts counts{};
  for (uint64_t i = 0; i < 16; ++i) counts[i] = 1000 * (i + 1);
  const RansFrequencies frequencies = rans_frequencies(counts);
  for (uint64_t i = 0; i < 16; ++i)
    EXPECT_NEAR(frequencies[i], 256.0 * static_cast<double>(i + 1) / 136, 1.01) << i;
  EXPECT_TRUE(rans_valid(rans_frequencies(RansCounts{})));
  RansCounts one{};
  one[3] = UINT32_MAX;
  EXPECT_EQ(rans_frequencies(one)[3], 255);
  // Fifteen rare symbols get one of 256 each.
  RansCounts rare;
  rare.fill(1);
  rare[9] = 1 << 30;
  EXPECT_EQ(rans_frequencies(rare)[9], 241);
}

TEST(RansTest, HostileStatesAndWords) {
  std::mt19937 random(13);
  for (int round = 0; round < 400; ++round) {
    RansCounts counts{};
    for (uint64_t& n : counts) n = random() % 3 == 0 ? random() % 1000 : 0;
    const RansFrequencies frequencies = rans_frequencies(counts);
    const Bytes words = random_bytes(2 * (random() % 80), static_cast<uint32_t>(round));
    RansDecodeState start = {};
    for (uint32_t& x : start.states) x = random() % 2 == 0 ? random() : random() % 70000;
    start.words = words.data();
    start.n_words = words.size() / 2;
    const uint64_t n = random() % 300;
    Bytes expected(n);
    RansDecodeState reference = start;
    rans_decode_scalar(&reference, frequencies.data(), expected.data(), n);
    for (const RansDecode decode : rans_decoders()) {
      RansDecodeState state = start;
      Bytes decoded(n);
      decode(&state, frequencies.data(), decoded.data(), n);
      ASSERT_EQ(state.overrun, reference.overrun);
      if (reference.overrun) continue;  // junk from there on
      ASSERT_TRUE(decoded == expected);
      ASSERT_EQ(state.n_words, reference.n_words);
      ASSERT_TRUE(std::equal(std::begin(state.states), std::end(state.states), reference.states));
    }
  }
  EXPECT_FALSE(rans_valid(RansFrequencies{}));
  RansFrequencies most;
  most.fill(255);
  EXPECT_FALSE(rans_valid(most));
}

TEST(RansTest, TooLittleRoomIsSaid) {
  const Bytes codes = random_bytes(1000, 17);
  RansCounts counts{};
  rans_count(codes, counts);
  for (const uint64_t bytes : {0u, 10u, 500u, 900u}) {
    Bytes room(bytes);
    RansEncoder encoder(room);
    EXPECT_FALSE(encoder.encode(rans_frequencies(counts), codes));
  }
}

}  // namespace
}  // namespace quire
