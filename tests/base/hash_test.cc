#include "base/hash.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <vector>

#include "base/xxh3_kernels.h"

namespace quire {
namespace {

ByteSpan bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

TEST(Sha256, MatchesFips180Example) {
  Sha256 stream;
  stream.update("abc");
  EXPECT_EQ(stream.digest().to_hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Sha256, CopyContinuesIndependently) {
  Sha256 stream;
  stream.update("ab");
  Sha256 copy(stream);
  stream.update("x");
  copy.update("c");
  EXPECT_EQ(copy.digest().to_hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Sha256, KeyedMatchesRfc4231) {
  Sha256 case2(bytes_of("Jefe"));
  case2.update("what do ya want for nothing?");
  EXPECT_EQ(case2.digest().to_hex(),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  const std::string long_key(131, '\xaa');
  Sha256 case6(bytes_of(long_key));
  case6.update("Test Using Larger Than Block-Size Key - Hash Key First");
  EXPECT_EQ(case6.digest().to_hex(),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

TEST(Digest, HexRoundTripAndRefusal) {
  Sha256 stream;
  stream.update("quire");
  const Digest digest = stream.digest();
  EXPECT_EQ(*Digest::from_hex(digest.to_hex()), digest);
  EXPECT_FALSE(Digest::from_hex("12").is_ok());
  EXPECT_FALSE(Digest::from_hex(std::string(64, 'g')).is_ok());
}

TEST(CopyAndHash, EqualsCopyThenHashAtEverySize) {
  for (const size_t size : {0u, 1u, 63u, 65535u, 65536u, 65537u, 300001u}) {
    std::vector<std::byte> source(size);
    for (size_t i = 0; i < size; ++i) source[i] = static_cast<std::byte>(i * 31 + i / 251);
    std::vector<std::byte> target(size);
    EXPECT_EQ(copy_and_xxh3_128(target, source), xxh3_128(source)) << size;
    EXPECT_EQ(target, source) << size;
  }
}

TEST(Xxh3Stream, PartsOfAnySizeEqualOneCall) {
  const uint64_t seed = 20;
  SCOPED_TRACE("seed " + std::to_string(seed) +
               ", replay: hash_test --gtest_filter=Xxh3Stream.PartsOfAnySizeEqualOneCall");
  std::mt19937_64 random(seed);
  std::vector<std::byte> source(200'000);
  for (std::byte& value : source) value = static_cast<std::byte>(random());
  for (int round = 0; round < 300; ++round) {
    // Short inputs have code of their own in XXH3.
    const size_t limit = round % 2 == 0 ? 600 : source.size();
    const ByteSpan all = ByteSpan(source).first(random() % (limit + 1));
    std::vector<std::byte> target(all.size());
    Xxh3Stream stream;
    for (size_t at = 0; at < all.size();) {
      const size_t bytes = std::min<size_t>(all.size() - at, 1 + random() % (limit / 3));
      if (random() % 2 == 0) {
        stream.update(all.subspan(at, bytes));
        std::memcpy(target.data() + at, all.data() + at, bytes);
      } else {
        stream.copy_and_update(MutableByteSpan(target).subspan(at, bytes), all.subspan(at, bytes));
      }
      at += bytes;
      ASSERT_EQ(stream.hash_64(), xxh3_64(all.first(at)));
    }
    ASSERT_EQ(stream.hash_128(), xxh3_128(all)) << all.size();
    ASSERT_EQ(stream.hash_64(), xxh3_64(all)) << all.size();
    ASSERT_TRUE(std::equal(target.begin(), target.end(), all.begin()));
    stream.reset();
    ASSERT_EQ(stream.hash_128(), xxh3_128({}));
  }
}

TEST(Xxh3, KnownValue) {
  EXPECT_EQ(xxh3_64({}),
            0x2d06800538d394c2ULL);  // of the empty input, from the algorithm's description
}

TEST(Xxh3, InstructionSetsAgree) {
#if defined(__x86_64__)
  std::vector<std::byte> bytes(100'000);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * i + 7 * i);
  std::vector<const internal::Xxh3Kernels*> kernels;
  if (__builtin_cpu_supports("avx2")) kernels.push_back(&internal::kXxh3Avx2);
  for (const auto* other : kernels) {
    for (size_t size = 0; size < bytes.size(); size = size * 5 / 4 + 1) {
      EXPECT_EQ(other->hash_64(bytes.data(), size, 5),
                internal::kXxh3Baseline.hash_64(bytes.data(), size, 5));
      std::array<uint64_t, 2> expected{};
      std::array<uint64_t, 2> actual{};
      internal::kXxh3Baseline.hash_128(bytes.data(), size, expected.data());
      other->hash_128(bytes.data(), size, actual.data());
      EXPECT_EQ(actual, expected) << size;
      alignas(64) std::array<std::byte, internal::kXxh3StateBytes> state;
      other->reset(state.data());
      other->update(state.data(), bytes.data(), size / 3);
      other->update(state.data(), bytes.data() + size / 3, size - size / 3);
      other->digest_128(state.data(), actual.data());
      EXPECT_EQ(actual, expected) << size;
      EXPECT_EQ(other->digest_64(state.data()),
                internal::kXxh3Baseline.hash_64(bytes.data(), size, 0));
    }
  }
#endif
}

}  // namespace
}  // namespace quire
