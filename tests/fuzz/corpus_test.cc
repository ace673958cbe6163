// Every fuzz target over its corpus in tests/data/fuzz/<target>, and over seeded mutations of it,
// with whatever compiler and sanitizer this build has. Inputs that once broke something stay there
// as crash_*. QUIRE_UPDATE_CORPUS=1 writes the seeds anew; QUIRE_FUZZ_SEED and QUIRE_FUZZ_ROUNDS
// choose other mutations.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <random>

#include "tests/fuzz/fuzz_target.h"

namespace quire::fuzz {
namespace {

constexpr uint64_t kSeedDefault = 1;
constexpr uint64_t kRoundsDefault = 4000;
// The whole corpus stays small enough to be read in a review.
constexpr uint64_t kCorpusBytesMax = 200 << 10;
constexpr size_t kInputBytesMax = 64 << 10;

uint64_t environment_number(const char* name, uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::strtoull(value, nullptr, 10);
}

std::filesystem::path corpus_directory() {
  return std::filesystem::path(QUIRE_SOURCE_DIR) / "tests/data/fuzz";
}

std::vector<std::filesystem::path> corpus_files(const std::string& target) {
  std::vector<std::filesystem::path> files;
  std::error_code missing;
  for (const auto& file :
       std::filesystem::directory_iterator(corpus_directory() / target, missing)) {
    files.push_back(file.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<std::byte> mutated(std::vector<std::byte> bytes, const std::vector<std::byte>& other,
                               std::mt19937_64& random) {
  static constexpr uint64_t kInteresting[] = {0,    1,     63,         64,         255,  256,
                                              4096, 65535, 0x7fffffff, 0xffffffff, ~0ull};
  const uint64_t count = 1 + random() % 4;
  for (uint64_t i = 0; i < count; ++i) {
    if (bytes.empty() || random() % 8 == 0) {
      const size_t place = bytes.empty() ? 0 : random() % bytes.size();
      bytes.insert(bytes.begin() + static_cast<ptrdiff_t>(place), 1 + random() % 16,
                   static_cast<std::byte>(random()));
      continue;
    }
    const size_t offset = random() % bytes.size();
    const size_t width = std::min<size_t>(size_t{1} << random() % 4, bytes.size() - offset);
    const uint64_t value =
        random() % 2 ? kInteresting[random() % std::size(kInteresting)] : random();
    std::memcpy(bytes.data() + offset, &value, width);
  }
  if (random() % 8 == 0) bytes.resize(random() % (bytes.size() + 64));
  if (random() % 8 == 0 && !other.empty()) {
    const size_t from = random() % other.size();
    bytes.insert(bytes.end(), other.begin() + static_cast<ptrdiff_t>(from), other.end());
  }
  if (bytes.size() > kInputBytesMax) bytes.resize(kInputBytesMax);
  return bytes;
}

class CorpusTest : public testing::TestWithParam<Target> {};

TEST_P(CorpusTest, SeedsAreAcceptedAndInTheRepository) {
  const Target& target = GetParam();
  const auto directory = corpus_directory() / target.name;
  const bool update = std::getenv("QUIRE_UPDATE_CORPUS") != nullptr;
  if (update) std::filesystem::create_directories(directory);
  const Seeds seeds = target.seeds();
  ASSERT_FALSE(seeds.empty());
  for (const auto& [name, bytes] : seeds) {
    const auto path = directory / ("seed_" + name);
    if (update) {
      std::ofstream(path, std::ios::binary)
          .write(reinterpret_cast<const char*>(bytes.data()),
                 static_cast<std::streamsize>(bytes.size()));
    }
    EXPECT_TRUE(std::filesystem::exists(path)) << "QUIRE_UPDATE_CORPUS=1 writes " << path;
    EXPECT_TRUE(target.run(bytes)) << target.name << " does not accept its seed " << name;
  }
}

// A seed of an earlier format version must be accepted for as long as the format is.
TEST_P(CorpusTest, FilesAreReplayed) {
  const Target& target = GetParam();
  uint64_t accepted = 0;
  const auto files = corpus_files(target.name);
  for (const auto& path : files) {
    SCOPED_TRACE(path.string());
    const bool sound = target.run(bytes_of_file(path.string()));
    accepted += sound;
    if (path.filename().string().starts_with("seed_")) {
      EXPECT_TRUE(sound) << path;
    }
  }
  std::printf("%s: %zu files, %lu accepted\n", target.name.c_str(), files.size(), accepted);
}

TEST_P(CorpusTest, MutationsEndInAStatus) {
  const Target& target = GetParam();
  const uint64_t seed = environment_number("QUIRE_FUZZ_SEED", kSeedDefault);
  const uint64_t rounds = environment_number("QUIRE_FUZZ_ROUNDS", kRoundsDefault);
  std::printf("QUIRE_FUZZ_SEED=%lu QUIRE_FUZZ_ROUNDS=%lu fuzz_corpus_test --gtest_filter=*%s\n",
              seed, rounds, target.name.c_str());
  std::mt19937_64 random(seed);
  std::vector<std::vector<std::byte>> corpus;
  for (const auto& path : corpus_files(target.name)) corpus.push_back(bytes_of_file(path.string()));
  ASSERT_FALSE(corpus.empty());
  uint64_t accepted = 0;
  for (uint64_t round = 0; round < rounds; ++round) {
    const auto input =
        mutated(corpus[random() % corpus.size()], corpus[random() % corpus.size()], random);
    accepted += target.run(input);
  }
  std::printf("%lu of %lu mutations accepted\n", accepted, rounds);
}

TEST(Corpus, IsSmall) {
  uint64_t bytes = 0;
  for (const Target& target : targets()) {
    for (const auto& path : corpus_files(target.name)) bytes += std::filesystem::file_size(path);
  }
  EXPECT_LE(bytes, kCorpusBytesMax);
  EXPECT_GE(targets().size(), 1u);
}

std::string target_name(const testing::TestParamInfo<Target>& info) {
  return info.param.name;
}

// By the time main() asks for the tests, all targets have registered themselves.
INSTANTIATE_TEST_SUITE_P(Targets, CorpusTest, testing::ValuesIn(targets()), target_name);

}  // namespace
}  // namespace quire::fuzz
