// Losses of whole parts of the data directory: what comes back, what does not, what is said.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/server/store_fixture.h"
#include "tiers/rocks/registry_file.h"
#include "tiers/rocks/rocks_store.h"

namespace quire::server {
namespace {

namespace fs = std::filesystem;
constexpr uint32_t kDeadlineMs = kPatienceMs;

class LossTest : public ServerTest {
 protected:
  void put_all() {
    config_.tenants.push_back({"blue", {}, {}, {}});
    start();
    auto blue = TestClient::connect(config_.socket_path, "blue");
    const auto* first = reinterpret_cast<const std::byte*>(blue->hello_reply().salt.data());
    const TenantSalt salt(first, first + blue->hello_reply().salt_bytes);
    for (int i = 0; i < 6; ++i) {
      large_.push_back(make_object(model_, i, 1024));
      small_.push_back(make_object(model_, 100 + i, 64));
      of_blue_.push_back(make_object(model_, 200 + i, 1024, salt));
      ASSERT_TRUE(put_patiently(*client_, large_.back(), wire::AckLevel::kDurable).is_ok());
      ASSERT_TRUE(put_patiently(*client_, small_.back(), wire::AckLevel::kDurable).is_ok());
      ASSERT_TRUE(put_patiently(*blue, of_blue_.back(), wire::AckLevel::kDurable).is_ok());
    }
    blue.reset();
    crash();
  }
  // Without registering the model anew.
  void start_again() {
    server_ = std::make_unique<InProcessServer>(config_);
    ASSERT_TRUE(server_->status().is_ok()) << server_->status().to_string();
    client_ = TestClient::connect(config_.socket_path);
    ASSERT_NE(client_, nullptr);
    blue_ = TestClient::connect(config_.socket_path, "blue");
    ASSERT_NE(blue_, nullptr);
  }
  void expect_missing(const std::vector<TestObject>& objects) {
    for (const TestObject& object : objects) {
      EXPECT_EQ(client_->acquire(object.id).status().code(), StatusCode::kNotFound);
      EXPECT_TRUE(client_->resolve(model_id(model_), object.tokens)->empty());
    }
  }
  static Verdict no() {
    Verdict verdict;
    verdict.chunks = false;
    verdict.reason = "half of the answers";
    verdict.tool = "quire-eval 0.1";
    verdict.measured_wall_ms = 1'700'000'000'000;
    return verdict;
  }
  bool degraded_says(const std::string& word) {
    for (const std::string& line : stats().degraded) {
      if (line.find(word) != std::string::npos) return true;
    }
    return false;
  }
  void expect_all(TestClient& client, const std::vector<TestObject>& objects) {
    for (const TestObject& object : objects) {
      expect_stored(client, object);
      EXPECT_EQ(client.resolve(model_id(model_), object.tokens)->size(), 1u);
    }
  }
  void damage(const std::string& path, uint64_t offset, const std::string& bytes) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(offset));
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    ASSERT_TRUE(file.good());
  }
  std::string meta() const { return config_.data_directory + "/meta"; }
  // As a damaged record.
  void write_metadata(const tiers::MetadataBatch& batch) {
    const auto metadata = tiers::RocksStore::open(meta());
    ASSERT_TRUE(metadata.is_ok()) << metadata.status().to_string();
    ASSERT_TRUE((*metadata)->write(batch, true).is_ok());
  }
  void store_verdict(std::vector<std::byte> bytes) {
    tiers::MetadataBatch batch;
    batch.put_state.emplace_back(verdict_state_key(model_id(model_)), std::move(bytes));
    write_metadata(batch);
  }
  // With a verdict on the model, in the registry copy as well.
  void set_no_and_crash() {
    start_again();
    ASSERT_TRUE(server_->admin().set_verdict(model_id(model_), no(), kDeadlineMs).is_ok());
    const auto registry = tiers::read_registry(config_.data_directory + "/registry.quire");
    ASSERT_TRUE(registry.is_ok()) << registry.status().to_string();
    EXPECT_EQ(registry->states.size(), 1u);
    blue_.reset();
    crash();
  }

  std::vector<TestObject> large_, small_, of_blue_;
  std::unique_ptr<TestClient> blue_;
};

TEST_F(LossTest, LostMetadataIsRebuiltFromTheSegments) {
  put_all();
  fs::remove_all(meta());
  start_again();
  ASSERT_TRUE(eventually([&] { return stats().objects == 12 && stats().degraded.empty(); }))
      << stats().objects << " objects; " << testing::PrintToString(stats().degraded);
  expect_all(*client_, large_);
  expect_all(*blue_, of_blue_);
  expect_missing(small_);  // lay in RocksDB
  // Rebuilt records are as durable as the others.
  blue_.reset();
  crash();
  start_again();
  EXPECT_EQ(stats().objects, 12u);
  expect_all(*client_, large_);
  expect_all(*blue_, of_blue_);
}

// What a model must not do is not forgotten with the metadata.
TEST_F(LossTest, VerdictsOutliveLostMetadata) {
  put_all();
  set_no_and_crash();
  fs::remove_all(meta());
  for (int round = 0; round < 2; ++round) {
    start_again();
    ASSERT_TRUE(eventually([&] { return stats().objects == 12; }));
    EXPECT_EQ(server_->admin().models(kDeadlineMs)->front().verdict, no());
    EXPECT_TRUE(client_->resolve(model_id(model_), large_[0].tokens)->empty());
    expect_stored(*client_, large_[0]);
    blue_.reset();
    crash();
  }
}

// The copy is not lost to the start that finds the damage.
TEST_F(LossTest, ADamagedVerdictIsTakenFromTheRegistryCopy) {
  put_all();
  set_no_and_crash();
  store_verdict(std::vector<std::byte>(7, std::byte{1}));
  for (int round = 0; round < 2; ++round) {
    start_again();
    EXPECT_EQ(server_->admin().models(kDeadlineMs)->front().verdict, no());
    EXPECT_TRUE(degraded_says("cannot be read"));
    blue_.reset();
    crash();
  }
}

TEST_F(LossTest, ADamagedModelComesFromTheRegistryCopy) {
  put_all();
  set_no_and_crash();
  tiers::MetadataBatch batch;
  batch.put_models.emplace_back(model_id(model_), tiers::ModelRecord{});
  write_metadata(batch);
  for (int round = 0; round < 2; ++round) {
    start_again();
    EXPECT_EQ(degraded_says("comes from the registry copy"), round == 0);
    const auto models = server_->admin().models(kDeadlineMs);
    ASSERT_EQ(models->size(), 1u);
    EXPECT_EQ(models->front().verdict, no());
    EXPECT_EQ(stats().objects, 18u);
    expect_stored(*client_, large_[0]);
    blue_.reset();
    crash();
  }
}

// Without a copy its clients register it anew.
TEST_F(LossTest, AVerdictOutlivesADamagedRecordOfItsModel) {
  put_all();
  set_no_and_crash();
  tiers::MetadataBatch batch;
  batch.put_models.emplace_back(model_id(model_), tiers::ModelRecord{});
  write_metadata(batch);
  fs::remove(config_.data_directory + "/registry.quire");
  start_again();
  EXPECT_TRUE(server_->admin().models(kDeadlineMs)->empty());
  ASSERT_TRUE(client_->register_model(model_).is_ok());
  EXPECT_EQ(server_->admin().models(kDeadlineMs)->front().verdict, no());
  ASSERT_TRUE(put_patiently(*client_, large_[0]).is_ok());
  EXPECT_TRUE(client_->resolve(model_id(model_), large_[0].tokens)->empty());
}

// The only salts there are may be in it: somebody may know how to read them.
TEST_F(LossTest, ARegistryCopyThatCannotBeReadIsKeptWhereTheMetadataIsLost) {
  put_all();
  fs::remove_all(meta());
  const std::string path = config_.data_directory + "/registry.quire";
  damage(path, 4, std::string(1, '\x63'));  // of a later version
  const auto bytes = fs::file_size(path);
  start_again();
  EXPECT_TRUE(degraded_says("it is kept as"));
  std::vector<fs::path> kept;
  for (const auto& entry : fs::directory_iterator(config_.data_directory))
    if (entry.path().filename().string().starts_with("registry.quire.unread-"))
      kept.push_back(entry.path());
  ASSERT_EQ(kept.size(), 1u);
  EXPECT_EQ(fs::file_size(kept[0]), bytes);
  EXPECT_TRUE(tiers::read_registry(path).is_ok());
}

TEST_F(LossTest, ARegistryCopyThatCannotBeWrittenIsSaid) {
  put_all();
  start_again();
  EXPECT_FALSE(degraded_says("registry copy is not up to date"));
  // Nothing can be renamed over a directory.
  const std::string path = config_.data_directory + "/registry.quire";
  fs::remove(path);
  fs::create_directory(path);
  ASSERT_TRUE(server_->admin().set_verdict(model_id(model_), no(), kDeadlineMs).is_ok());
  EXPECT_TRUE(degraded_says("registry copy is not up to date"));
  fs::remove(path);
  ASSERT_TRUE(server_->admin().set_verdict(model_id(model_), no(), kDeadlineMs).is_ok());
  EXPECT_FALSE(degraded_says("registry copy is not up to date"));
}

// It may have been a no.
TEST_F(LossTest, AVerdictThatCannotBeReadTakesChunksAway) {
  put_all();
  store_verdict(std::vector<std::byte>(7, std::byte{1}));
  start_again();
  EXPECT_TRUE(degraded_says("measure again"));
  EXPECT_TRUE(client_->resolve(model_id(model_), large_[0].tokens)->empty());
  Verdict yes = no();
  yes.chunks = true;
  ASSERT_TRUE(server_->admin().set_verdict(model_id(model_), yes, kDeadlineMs).is_ok());
  EXPECT_FALSE(degraded_says("measure again"));
  EXPECT_EQ(client_->resolve(model_id(model_), large_[0].tokens)->size(), 1u);
}

// A rebuild that is killed goes on at the next start: nothing is forgotten in between.
TEST_F(LossTest, InterruptedRebuildGoesOn) {
  put_all();
  fs::remove_all(meta());
  for (int round = 0; round < 3; ++round) {
    start_again();
    blue_.reset();
    crash();
  }
  start_again();
  ASSERT_TRUE(eventually([&] { return stats().objects == 12 && stats().degraded.empty(); }))
      << stats().objects << " objects; " << testing::PrintToString(stats().degraded);
  expect_all(*client_, large_);
  expect_all(*blue_, of_blue_);
}

// More than the metadata takes in one batch.
TEST_F(LossTest, ALargeRegistryCopyIsTakenInParts) {
  put_all();
  const std::string path = config_.data_directory + "/registry.quire";
  auto registry = tiers::read_registry(path);
  ASSERT_TRUE(registry.is_ok()) << registry.status().to_string();
  Verdict verdict = no();
  for (uint32_t i = 0; i < kVerdictFiguresMax; ++i)
    verdict.figures[std::to_string(100 + i) + std::string(kVerdictTextBytesMax - 3, 'f')] = i;
  const tiers::ModelRecord record = registry->models.at(0).second;
  uint64_t bytes = 0;
  for (uint32_t seed = 2; bytes <= tiers::kBatchBytesMax + (1 << 20); ++seed) {
    ModelDescriptor model = test_model(seed);
    model.weights.bytes[1] = static_cast<uint8_t>(seed >> 8);
    registry->models.emplace_back(model_id(model), record);
    registry->models.back().second.descriptor = model.encode();
    registry->states.emplace_back(verdict_state_key(model_id(model)), verdict.encode());
    bytes += registry->states.back().second.size();
  }
  ASSERT_TRUE(tiers::write_registry(path, *registry).is_ok());
  fs::remove_all(meta());
  start_again();
  const auto models = server_->admin().models(kDeadlineMs);
  ASSERT_TRUE(models.is_ok()) << models.status().to_string();
  EXPECT_EQ(models->size(), registry->models.size());
  for (const ModelInfo& model : *models)
    EXPECT_EQ(model.verdict.has_value(), model.model != model_id(model_));
  ASSERT_TRUE(eventually([&] { return stats().objects == 12; })) << stats().objects;
  expect_all(*blue_, of_blue_);
}

// Killed or refused before the rebuild began: the next start is not to take it for finished.
TEST_F(LossTest, AFirstStartThatEndsEarlyForgetsNothing) {
  put_all();
  set_no_and_crash();
  fs::remove_all(meta());
  write_metadata({});
  start_again();
  ASSERT_TRUE(eventually([&] { return stats().objects == 12; })) << stats().objects;
  EXPECT_EQ(server_->admin().models(kDeadlineMs)->front().verdict, no());
  for (const TestObject& object : large_) expect_stored(*client_, object);
  for (const TestObject& object : of_blue_) expect_stored(*blue_, object);
}

TEST_F(LossTest, DamagedMetadataIsSetAsideAndRebuilt) {
  put_all();
  for (const auto& file : fs::recursive_directory_iterator(meta() + "/db")) {
    if (file.path().filename() == "CURRENT") fs::resize_file(file.path(), 3);
    if (file.path().filename().string().starts_with("MANIFEST")) fs::resize_file(file.path(), 10);
  }
  start_again();
  ASSERT_TRUE(eventually([&] { return stats().objects == 12; }));
  EXPECT_TRUE(degraded_says("set aside"));
  int set_aside = 0;
  for (const auto& entry : fs::directory_iterator(config_.data_directory)) {
    set_aside += entry.path().filename().string().starts_with("meta.damaged");
  }
  EXPECT_EQ(set_aside, 1);
  expect_all(*client_, large_);
  expect_all(*blue_, of_blue_);
}

TEST_F(LossTest, WithoutRegistryTenantsWithASecretSaltStayUnknown) {
  put_all();
  fs::remove_all(meta());
  fs::remove(config_.data_directory + "/registry.quire");
  start_again();
  // Not the model either: its objects wait for it.
  ASSERT_TRUE(eventually([&] { return degraded_says("model"); }));
  EXPECT_EQ(stats().objects, 0u);
  ASSERT_TRUE(client_->register_model(model_).is_ok());
  ASSERT_TRUE(eventually([&] { return stats().objects == 6; }));
  expect_all(*client_, large_);
  for (const TestObject& object : of_blue_) {
    EXPECT_EQ(blue_->acquire(object.id).status().code(), StatusCode::kNotFound);
  }
}

TEST_F(LossTest, LostSegmentFileCostsWhatLayInIt) {
  put_all();
  fs::remove(config_.nvme_path);
  start_again();
  expect_missing(large_);
  expect_all(*client_, small_);
  EXPECT_EQ(stats().objects, 6u);
  ASSERT_TRUE(put_patiently(*client_, large_[0], wire::AckLevel::kDurable).is_ok());
  expect_stored(*client_, large_[0]);
}

TEST_F(LossTest, DamagedSuperblocksStartWithoutTheTierAndLoseNothing) {
  put_all();
  std::string saved(8192, '\0');
  std::ifstream(config_.nvme_path, std::ios::binary).read(saved.data(), 8192);
  std::string damaged(8192, '\x5a');
  damaged.replace(0, 8, "QRSUPER1").replace(4096, 8, "QRSUPER1");
  damage(config_.nvme_path, 0, damaged);
  start_again();
  EXPECT_TRUE(degraded_says("without the NVMe tier"));
  EXPECT_TRUE(degraded_says("wait for the NVMe tier"));
  expect_missing(large_);
  expect_all(*client_, small_);
  blue_.reset();
  stop();
  damage(config_.nvme_path, 0, saved);
  start_again();
  EXPECT_TRUE(stats().degraded.empty());
  expect_all(*client_, large_);
  expect_all(*blue_, of_blue_);
}

TEST_F(LossTest, BothTornServesWhatVerifies) {
  put_all();
  fs::remove_all(meta());
  // Garbage over a part of the segments.
  const auto file_bytes = fs::file_size(config_.nvme_path);
  damage(config_.nvme_path, (1 << 20) + 3 * (1 << 20), std::string(2 << 20, '\x33'));
  ASSERT_EQ(fs::file_size(config_.nvme_path), file_bytes);
  start_again();
  ASSERT_TRUE(eventually([&] { return stats().degraded.empty(); }));
  int found = 0;
  for (const TestObject& object : large_) {
    auto lease = client_->acquire(object.id);
    if (!lease) continue;
    ++found;
    EXPECT_EQ(std::memcmp(client_->leased(*lease).data(), object.bytes.data(), lease->bytes), 0);
    EXPECT_TRUE(client_->release(lease->lease_id).is_ok());
  }
  EXPECT_GT(found, 0);
  EXPECT_LT(found, 6);
}

TEST_F(LossTest, TornTailsOfBoth) {
  put_all();
  // The log of RocksDB loses its tail; data synced before the tear stays.
  for (const auto& file : fs::recursive_directory_iterator(meta() + "/db")) {
    if (file.path().extension() == ".log" && file.file_size() > 100) {
      fs::resize_file(file.path(), file.file_size() - 37);
    }
  }
  start_again();
  EXPECT_GE(stats().objects, 15u);
  for (const TestObject& object : large_) {
    auto lease = client_->acquire(object.id);
    if (!lease) continue;
    EXPECT_EQ(std::memcmp(client_->leased(*lease).data(), object.bytes.data(), lease->bytes), 0);
  }
}

TEST_F(LossTest, ACheckpointOpensAsAStore) {
  put_all();
  start_again();
  const std::string copy = directory_.path() + "/copy";
  auto made = server_->admin().checkpoint(copy, kDeadlineMs);
  ASSERT_TRUE(made.is_ok()) << made.status().to_string();
  EXPECT_EQ(made->objects, 18u);
  ASSERT_EQ(made->nvme_paths.size(), 1u);
  fs::copy_file(made->nvme_paths[0], copy + "/nvme.quire");
  EXPECT_EQ(server_->admin().checkpoint(copy, kDeadlineMs).status().code(),
            StatusCode::kAlreadyExists);
  EXPECT_EQ(server_->admin().checkpoint("relative", kDeadlineMs).status().code(),
            StatusCode::kInvalidArgument);
  // Later changes of the original do not reach the copy.
  ASSERT_TRUE(server_->admin().remove(large_[0].id, false, kDeadlineMs).is_ok());
  blue_.reset();
  stop();
  config_.data_directory = copy;
  config_.nvme_path = copy + "/nvme.quire";
  start_again();
  EXPECT_EQ(stats().objects, 18u);
  expect_all(*client_, large_);
  expect_all(*client_, small_);
  expect_all(*blue_, of_blue_);
}

}  // namespace
}  // namespace quire::server
