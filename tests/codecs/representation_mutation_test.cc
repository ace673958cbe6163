// Runs the fuzz entry over seeded mutations of valid representations; the manifest checksum is
// repaired in half of them, so that the mutation reaches what lies behind it.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "tests/codecs/representation_fixture.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace quire {
namespace {

constexpr uint64_t kSeed = 77;
constexpr int kRounds = 20'000;

void mutate(std::vector<std::byte>& bytes, std::mt19937_64& random) {
  static constexpr uint64_t kInteresting[] = {0,   1,          63,         64,   255,
                                              256, 0x7fffffff, 0xffffffff, ~0ull};
  const uint64_t count = 1 + random() % 4;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t offset = random() % bytes.size();
    const uint64_t width = std::min<uint64_t>(1ull << random() % 4, bytes.size() - offset);
    const uint64_t value =
        random() % 2 ? kInteresting[random() % std::size(kInteresting)] : random();
    std::memcpy(bytes.data() + offset, &value, width);
  }
  if (random() % 16 == 0) bytes.resize(random() % (bytes.size() + 64));
}

TEST(RepresentationMutation, NeverCrashesAndNeverLoadsNonFiniteValues) {
  RecordProperty("seed", static_cast<int>(kSeed));
  std::mt19937_64 random(kSeed);
  std::vector<std::vector<std::byte>> corpus;
  for (const CodecInfo& codec : codecs())
    corpus.push_back(testing::tiny_representation(testing::tiny_header(codec.id)));
  for (int round = 0; round < kRounds; ++round) {
    std::vector<std::byte> bytes = corpus[random() % corpus.size()];
    mutate(bytes, random);
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  }
}

}  // namespace
}  // namespace quire
