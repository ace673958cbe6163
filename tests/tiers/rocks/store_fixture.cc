#include "tests/tiers/rocks/store_fixture.h"

#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace quire::tiers {
namespace {

namespace fs = std::filesystem;

std::vector<std::byte> numbered_blob(uint32_t number) {
  std::vector<std::byte> blob(10'000 + number % 977);
  for (size_t i = 0; i < blob.size(); ++i) blob[i] = std::byte((number * 31 + i * 7) & 0xff);
  return blob;
}

std::string hex(ByteSpan bytes) {
  return std::to_string(bytes.size()) + ":" + std::to_string(xxh3_64(bytes));
}

}  // namespace

void StoreDirectoryTest::SetUp() {
  // TMPDIR=/dev/shm where the disk is slow: nothing here needs a real one.
  root_ = (fs::temp_directory_path() / "quire-rocks-XXXXXX").string();
  ASSERT_NE(::mkdtemp(root_.data()), nullptr);
  directory_ = root_ + "/metadata";
}

void StoreDirectoryTest::TearDown() {
  fs::remove_all(root_);
}

std::unique_ptr<RocksStore> StoreDirectoryTest::open(const RocksOptions& options) {
  auto store = RocksStore::open(directory_, options);
  EXPECT_TRUE(store) << store.status().to_string();
  return store ? std::move(*store) : nullptr;
}

void StoreDirectoryTest::put_file(const std::string& name, const std::string& text) {
  fs::create_directories(directory_);
  std::ofstream(directory_ + "/" + name, std::ios::binary) << text;
}

Digest numbered(uint32_t number) {
  Digest digest;
  for (size_t i = 0; i < 4; ++i) digest.bytes[i] = static_cast<uint8_t>(number >> (24 - 8 * i));
  return digest;
}

Status write_numbered(MetadataStore& store, uint32_t number, bool sync) {
  const std::vector<std::byte> blob = numbered_blob(number);
  RepresentationRecord record = sample_representation();
  record.location = PayloadLocation::kRocks;
  record.nvme = {};
  record.bytes = blob.size();
  record.checksum = xxh3_128(blob);
  record.hits = number;
  record.n_tokens = 1 + number % 5;
  MetadataBatch batch;
  batch.put_representations = {{numbered(number), record}};
  batch.put_tokens = {{numbered(number), {std::vector<TokenId>(record.n_tokens, number)}}};
  batch.put_blobs = {{numbered(number), blob}};
  return store.write(batch, sync);
}

uint32_t count_whole(const MetadataStore& store) {
  uint32_t count = 0;
  const auto report =
      store.scan_representations([&](const Digest& id, RepresentationRecord&& record) {
        EXPECT_EQ(id, numbered(count)) << "a hole";
        EXPECT_EQ(record.hits, count);
        const auto details = store.get_details({&id, 1});
        EXPECT_TRUE(details[0]) << details[0].status().to_string();
        if (details[0]) {
          EXPECT_EQ(details[0]->tokens, std::vector<TokenId>(1 + count % 5, count));
        }
        std::vector<std::byte> blob(record.bytes);
        EXPECT_TRUE(store.get_blob(id, blob, record.checksum));
        EXPECT_EQ(blob, numbered_blob(count));
        ++count;
        return true;
      });
  EXPECT_TRUE(report) << report.status().to_string();
  if (report) {
    EXPECT_EQ(report->corrupt, 0u);
  }
  EXPECT_EQ(*store.scan_blob_ids([](const Digest&) { return true; }), count);
  return count;
}

std::vector<std::string> dump(const MetadataStore& store) {
  std::vector<std::string> lines;
  const auto add = [&](const std::string& key, ByteSpan bytes) {
    lines.push_back(key + " " + hex(bytes));
  };
  const auto representations =
      store.scan_representations([&](const Digest& id, RepresentationRecord&& record) {
        add("representation " + id.to_hex(), encode_record(id, record));
        const auto details = store.get_details({&id, 1});
        add("tokens " + id.to_hex() + details[0].status().to_string(),
            details[0] ? std::as_bytes(std::span(details[0]->tokens)) : ByteSpan{});
        if (record.location == PayloadLocation::kRocks) {
          std::vector<std::byte> blob(record.bytes);
          const Status status = store.get_blob(id, blob, record.checksum);
          add("blob " + id.to_hex() + status.to_string(), blob);
        }
        return true;
      });
  const auto models = store.scan_models([&](const Digest& id, ModelRecord&& record) {
    add("model " + id.to_hex(), encode_record(id, record));
    return true;
  });
  const auto tenants = store.scan_tenants([&](uint32_t number, TenantRecord&& record) {
    add("tenant " + std::to_string(number), encode_record(number, record));
    return true;
  });
  const auto blobs = store.scan_blob_ids([&](const Digest& id) {
    add("blob id " + id.to_hex(), {});
    return true;
  });
  EXPECT_TRUE(representations && models && tenants && blobs);
  return lines;
}

int run_in_child(const std::function<int()>& work) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(work());
  int status = 0;
  if (child < 0 || ::waitpid(child, &status, 0) != child) return -1000;
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace quire::tiers
