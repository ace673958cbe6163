#include "tiers/rocks/rocks_open.h"

#include <rocksdb/convenience.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>

#include <algorithm>
#include <utility>

namespace quire::tiers {
namespace {

constexpr uint64_t kSyncEveryBytes = 1 << 20;
constexpr uint64_t kInfoLogBytes = 4 << 20;
constexpr uint64_t kInfoLogsKept = 3;
constexpr int kOpenFilesMax = 512;
// Bounds what a start replays after a crash.
constexpr uint64_t kWalBytesMax = 64ull << 20;
// Smaller payloads stay in the tree.
constexpr uint64_t kBlobFileValueBytesMin = 4 * 1024;
constexpr uint64_t kTokensBlobFileValueBytesMin = 1024;
// The tree below the blobs holds keys and references only.
constexpr uint64_t kBlobTreeFileBytes = 4 << 20;
constexpr uint64_t kBlobTreeLevelBytes = 32 << 20;
constexpr double kBlobGarbageShare = 0.5;
constexpr double kBloomBitsPerKey = 10;

rocksdb::DBOptions database_options(const RocksOptions& options) {
  rocksdb::DBOptions result;
  if (options.env != nullptr) result.env = options.env;
  result.create_if_missing = options.create_if_missing;
  // A first start that was killed may have left some of them out.
  result.create_missing_column_families = true;
  result.paranoid_checks = true;
  // What a crash tore off at the end of the log was never acknowledged as durable.
  result.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  result.recycle_log_file_num = 0;
  result.bytes_per_sync = kSyncEveryBytes;
  result.wal_bytes_per_sync = kSyncEveryBytes;
  result.max_background_jobs = static_cast<int>(std::max(2u, options.background_jobs_max));
  result.max_open_files = kOpenFilesMax;
  result.max_total_wal_size = kWalBytesMax;
  result.info_log_level = rocksdb::InfoLogLevel::WARN_LEVEL;
  result.max_log_file_size = kInfoLogBytes;
  result.keep_log_file_num = kInfoLogsKept;
  return result;
}

rocksdb::CompressionType fast_compression() {
  const auto supported = rocksdb::GetSupportedCompressions();
  const bool has_lz4 =
      std::find(supported.begin(), supported.end(), rocksdb::kLZ4Compression) != supported.end();
  return has_lz4 ? rocksdb::kLZ4Compression : rocksdb::kNoCompression;
}

// Values leave the tree, so that compaction moves keys and references only.
void keep_values_in_blob_files(rocksdb::ColumnFamilyOptions& options, uint64_t value_bytes_min) {
  options.enable_blob_files = true;
  options.min_blob_size = value_bytes_min;
  options.blob_file_size = options.write_buffer_size;
  // Payloads come encoded; general compression pays neither on them nor on token numbers.
  options.blob_compression_type = rocksdb::kNoCompression;
  options.enable_blob_garbage_collection = true;
  options.blob_garbage_collection_age_cutoff = kBlobGarbageShare;
  options.blob_garbage_collection_force_threshold = kBlobGarbageShare;
  options.target_file_size_base = kBlobTreeFileBytes;
  options.max_bytes_for_level_base = kBlobTreeLevelBytes;
}

rocksdb::ColumnFamilyOptions family_options(Family which, const RocksOptions& options,
                                            const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(kBloomBitsPerKey));
  table.cache_index_and_filter_blocks = true;
  rocksdb::ColumnFamilyOptions result;
  result.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  result.write_buffer_size = options.write_buffer_bytes;
  result.max_write_buffer_number = 2;
  result.compression = fast_compression();
  if (which == Family::kMeta) {
    // Mostly digests and checksums; a start reads all of it.
    result.compression = rocksdb::kNoCompression;
  }
  if (which == Family::kTokens) {
    result.write_buffer_size = options.tokens_write_buffer_bytes;
    result.compression = rocksdb::kNoCompression;
    keep_values_in_blob_files(result, kTokensBlobFileValueBytesMin);
  }
  if (which == Family::kBlobs) {
    result.write_buffer_size = options.blob_write_buffer_bytes;
    result.compression = rocksdb::kNoCompression;
    keep_values_in_blob_files(result, kBlobFileValueBytesMin);
  }
  return result;
}

// Where the manifest cannot be read, opening says so better.
bool has_objects_family(const rocksdb::DBOptions& options, const StoreDirectory& directory) {
  std::vector<std::string> names;
  if (!directory.has_database()) return false;
  rocksdb::DB::ListColumnFamilies(options, directory.database_path(), &names)
      .PermitUncheckedError();
  return std::find(names.begin(), names.end(), kObjectsFamilyName) != names.end();
}

}  // namespace

Database::Database(Database&& other) noexcept
    : db(std::move(other.db)),
      block_cache(std::move(other.block_cache)),
      families(std::exchange(other.families, {})),
      objects(std::exchange(other.objects, nullptr)) {}

Database::~Database() {
  close().PermitUncheckedError();
}

rocksdb::Status Database::close() {
  if (!db) return rocksdb::Status::OK();
  const auto release = [this](rocksdb::ColumnFamilyHandle*& handle) {
    if (handle != nullptr) db->DestroyColumnFamilyHandle(handle).PermitUncheckedError();
    handle = nullptr;
  };
  for (rocksdb::ColumnFamilyHandle*& handle : families) release(handle);
  release(objects);
  const rocksdb::Status status = db->Close();
  db.reset();
  return status;
}

rocksdb::Status Database::drop_objects() {
  rocksdb::Status status = db->DropColumnFamily(objects);
  if (status.ok()) status = db->DestroyColumnFamilyHandle(std::exchange(objects, nullptr));
  return status;
}

Status map_status(const rocksdb::Status& status, const std::string& what,
                  const std::string& directory) {
  if (status.ok()) return Status::ok();
  const std::string message =
      what + " the metadata store in '" + directory + "': " + status.ToString();
  if (status.IsNotFound()) return {StatusCode::kNotFound, message};
  if (status.IsNoSpace() || status.subcode() == rocksdb::Status::SubCode::kSpaceLimit)
    return {StatusCode::kNoSpace, message + "; free disk space"};
  if (status.IsCorruption())
    return {StatusCode::kCorrupt,
            message +
                "; nothing was changed. Move the directory away to start empty, or restore a "
                "checkpoint"};
  if (status.IsBusy() || status.IsTimedOut() || status.IsTryAgain() || status.IsIncomplete())
    return {StatusCode::kBusy, message};
  if (status.IsShutdownInProgress() || status.IsAborted())
    return {StatusCode::kUnavailable, message};
  if (status.IsIOError()) return {StatusCode::kIoError, message};
  return {StatusCode::kInternal, message};
}

Expected<Database> open_database(const StoreDirectory& directory, const RocksOptions& options) {
  const std::string& path = directory.path();
  RocksOptions effective = options;
  effective.create_if_missing = !directory.has_database();
  if (effective.create_if_missing && directory.has_database_files())
    return Status(
        StatusCode::kCorrupt,
        "the metadata store in '" + path +
            "' has lost its CURRENT file; nothing was changed. Move the directory away to "
            "start empty, or restore a checkpoint");

  Database database;
  database.block_cache = rocksdb::NewLRUCache(options.block_cache_bytes);
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
  for (size_t i = 0; i < kFamilyNames.size(); ++i)
    descriptors.emplace_back(
        kFamilyNames[i], family_options(static_cast<Family>(i), effective, database.block_cache));
  const rocksdb::DBOptions database_wide = database_options(effective);
  if (has_objects_family(database_wide, directory))
    descriptors.emplace_back(kObjectsFamilyName,
                             family_options(Family::kMeta, effective, database.block_cache));
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status =
      rocksdb::DB::Open(database_wide, directory.database_path(), descriptors, &handles, &db);
  if (!status.ok()) {
    // Missing files and unknown column families come as other codes: on open all of it is damage.
    if (status.IsInvalidArgument() || (status.IsIOError() && status.IsPathNotFound()))
      return map_status(rocksdb::Status::Corruption(status.ToString()), "opening", path);
    return map_status(status, "opening", path);
  }
  database.db.reset(db);
  std::copy_n(handles.begin(), database.families.size(), database.families.begin());
  if (handles.size() > database.families.size()) database.objects = handles.back();
  return database;
}

}  // namespace quire::tiers
