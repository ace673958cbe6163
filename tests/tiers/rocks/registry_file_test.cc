#include "tiers/rocks/registry_file.h"

#include <sys/stat.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "tests/tiers/rocks/kill_child.h"
#include "tests/tiers/rocks/store_fixture.h"

namespace quire::tiers {
namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<std::byte>;

// The golden files hold exactly these: do not change them.
Registry sample_registry_v1() {
  Registry registry;
  registry.tenants = {{0, TenantRecord{}}, {7, sample_tenant()}};
  registry.models = {{sample_digest(0x80), sample_model()}};
  registry.fingerprint_seed = 0x0123456789abcdef;
  registry.store_id = {0x1111222233334444, 0x5555666677778888};
  return registry;
}

Registry sample_registry() {
  Registry registry = sample_registry_v1();
  registry.states = {{"verdict/80", {std::byte{4}, std::byte{5}}}, {"x", {}}};
  return registry;
}

class RegistryFileTest : public StoreDirectoryTest {
 protected:
  void SetUp() override {
    StoreDirectoryTest::SetUp();
    path_ = root_ + "/registry";
  }
  void put(const Bytes& bytes) {
    std::ofstream(path_, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }
  std::string path_;
};

void reseal(Bytes& file) {
  const uint64_t sum = xxh3_64(ByteSpan(file).first(file.size() - 8));
  std::memcpy(file.data() + file.size() - 8, &sum, 8);
}

TEST_F(RegistryFileTest, RoundTripAndMode) {
  EXPECT_EQ(read_registry(path_).status().code(), StatusCode::kNotFound);
  ASSERT_TRUE(write_registry(path_, sample_registry()));
  const auto read = read_registry(path_);
  ASSERT_TRUE(read) << read.status().to_string();
  EXPECT_EQ(*read, sample_registry());
  struct stat info;
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u) << "salts are secret";
  EXPECT_FALSE(fs::exists(path_ + ".tmp"));
  ASSERT_TRUE(write_registry(path_, Registry{}));
  EXPECT_EQ(*read_registry(path_), Registry{});
}

TEST_F(RegistryFileTest, ALeftTemporaryFileOfOtherModeIsReplaced) {
  std::ofstream(path_ + ".tmp") << "half a registry";
  fs::permissions(path_ + ".tmp", fs::perms::all);
  ASSERT_TRUE(write_registry(path_, sample_registry()));
  struct stat info;
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(RegistryFileTest, WritesThatFailKeepTheOldOne) {
  ASSERT_TRUE(write_registry(path_, sample_registry()));
  Registry twice = sample_registry();
  twice.tenants.push_back(twice.tenants.back());
  EXPECT_EQ(write_registry(path_, twice).code(), StatusCode::kInvalidArgument);
  Registry long_name = sample_registry();
  long_name.models[0].second.name.assign(kModelNameBytesMax + 1, 'x');
  EXPECT_EQ(write_registry(path_, long_name).code(), StatusCode::kInvalidArgument);
  Registry many;
  for (uint32_t i = 0; i <= kRegistryModelsMax; ++i)
    many.models.emplace_back(numbered(i), sample_model());
  EXPECT_EQ(write_registry(path_, many).code(), StatusCode::kInvalidArgument);
  for (const std::string& key : {std::string(), std::string(kStateKeyBytesMax + 1, 'k'),
                                 sample_registry().states[0].first}) {
    Registry wrong = sample_registry();
    wrong.states.emplace_back(key, Bytes());
    EXPECT_EQ(write_registry(path_, wrong).code(), StatusCode::kInvalidArgument) << key;
  }
  EXPECT_EQ(write_registry(root_ + "/no/such/registry", sample_registry()).code(),
            StatusCode::kNotFound);
  EXPECT_EQ(*read_registry(path_), sample_registry());
}

TEST_F(RegistryFileTest, EveryTruncationAndEveryBitFlipIsRefused) {
  const Bytes good = *encode_registry(sample_registry());
  ASSERT_TRUE(parse_registry(good));
  for (size_t size = 0; size < good.size(); ++size)
    ASSERT_EQ(parse_registry(ByteSpan(good).first(size)).status().code(), StatusCode::kCorrupt)
        << "cut to " << size;
  Bytes longer = good;
  longer.push_back(std::byte{0});
  EXPECT_EQ(parse_registry(longer).status().code(), StatusCode::kCorrupt);
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    Bytes flipped = good;
    flipped[bit / 8] ^= std::byte(1u << bit % 8);
    const StatusCode code = parse_registry(flipped).status().code();
    const bool in_version = bit / 8 == 4 || bit / 8 == 5;
    ASSERT_TRUE(code == StatusCode::kCorrupt ||
                (in_version && code == StatusCode::kVersionMismatch))
        << "bit " << bit;
  }
  // Through the file as well.
  put({good.begin(), good.begin() + 60});
  EXPECT_EQ(read_registry(path_).status().code(), StatusCode::kCorrupt);
  put({});
  EXPECT_EQ(read_registry(path_).status().code(), StatusCode::kCorrupt);
  Bytes later = good;
  later[4] = std::byte{3};
  put(later);
  const Status status = read_registry(path_).status();
  EXPECT_EQ(status.code(), StatusCode::kVersionMismatch);
  EXPECT_NE(status.message().find(path_), std::string::npos);
  fs::remove(path_);
  fs::create_directory(path_);
  EXPECT_EQ(read_registry(path_).status().code(), StatusCode::kCorrupt);
}

TEST_F(RegistryFileTest, HostileBytesBehindAGoodChecksumAreRefused) {
  const Bytes good = *encode_registry(sample_registry());
  const auto change = [&](size_t offset, uint32_t value) {
    Bytes bad = good;
    std::memcpy(bad.data() + offset, &value, sizeof(value));
    reseal(bad);
    return parse_registry(bad).status().code();
  };
  EXPECT_EQ(change(40, 0xffffffff), StatusCode::kCorrupt) << "tenant count";
  EXPECT_EQ(change(40, 1), StatusCode::kCorrupt) << "a tenant left over";
  EXPECT_EQ(change(40, 3), StatusCode::kCorrupt) << "a model read as a tenant";
  EXPECT_EQ(change(44, 0xffffffff), StatusCode::kCorrupt) << "model count";
  EXPECT_EQ(change(48, 0xffffffff), StatusCode::kCorrupt) << "state count";
  EXPECT_EQ(change(48, 1), StatusCode::kCorrupt) << "a state left over";
  EXPECT_EQ(change(52, 1), StatusCode::kCorrupt) << "reserved";
  EXPECT_EQ(change(56, 1), StatusCode::kCorrupt) << "a tenant's record under another number";
  EXPECT_EQ(change(60, 0xffffffff), StatusCode::kCorrupt) << "record bytes";
  EXPECT_EQ(change(60, 0), StatusCode::kCorrupt) << "an empty record";

  constexpr uint64_t kSeed = 11;
  std::mt19937_64 random(kSeed);
  for (int round = 0; round < 20'000; ++round) {
    Bytes bad = good;
    for (uint64_t changes = 1 + random() % 8; changes > 0; --changes)
      bad[random() % bad.size()] = std::byte(random());
    if (random() % 2 == 0) bad.resize(random() % (bad.size() + 1));
    if (bad.size() >= 56) {
      const uint64_t file_bytes = bad.size();
      std::memcpy(bad.data() + 8, &file_bytes, 8);
      reseal(bad);
    }
    const auto parsed = parse_registry(bad);
    // What still parses, parses the same when written again.
    if (parsed) {
      ASSERT_EQ(*parse_registry(*encode_registry(*parsed)), *parsed)
          << "seed " << kSeed << ", round " << round;
    }
  }
}

// Set QUIRE_WRITE_GOLDEN=1 to write it anew, after a deliberate change of version.
TEST_F(RegistryFileTest, GoldenFiles) {
  const std::string data = std::string(QUIRE_SOURCE_DIR) + "/tests/data/";
  const std::string golden = data + "metadata_registry_v2.bin";
  if (std::getenv("QUIRE_WRITE_GOLDEN") != nullptr) {
    ASSERT_TRUE(write_registry(golden, sample_registry()));
  }
  const auto read = read_registry(golden);
  ASSERT_TRUE(read) << read.status().to_string();
  EXPECT_EQ(*read, sample_registry());
  ASSERT_TRUE(write_registry(path_, sample_registry()));
  const auto bytes_of_file = [](const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  EXPECT_EQ(bytes_of_file(path_), bytes_of_file(golden)) << "the format changed";

  const auto first_version = read_registry(data + "metadata_registry.bin");
  ASSERT_TRUE(first_version) << first_version.status().to_string();
  EXPECT_EQ(*first_version, sample_registry_v1());
}

TEST_F(RegistryFileTest, AWriteThatWasKilledLeavesTheOldOrTheNew) {
  Registry old = sample_registry();
  old.fingerprint_seed = 1;
  for (const auto& [point, expected] : {std::pair("rocks_registry_written", old),
                                        std::pair("rocks_registry_renamed", sample_registry())}) {
    ASSERT_TRUE(write_registry(path_, old));
    ASSERT_EQ(run_kill_child("KillPointScenario.WriteRegistry", root_, point), -SIGKILL) << point;
    const auto read = read_registry(path_);
    ASSERT_TRUE(read) << read.status().to_string();
    EXPECT_EQ(*read, expected) << point;
    EXPECT_TRUE(write_registry(path_, sample_registry()));
  }
}

TEST(KillPointScenario, WriteRegistry) {
  const std::string directory = kill_child_directory();
  if (directory.empty()) GTEST_SKIP() << "runs as the child of other tests";
  ASSERT_TRUE(write_registry(directory + "/registry", sample_registry()));
}

}  // namespace
}  // namespace quire::tiers
