#include "tiers/rocks/rocks_store.h"

#include <rocksdb/utilities/checkpoint.h>
#include <rocksdb/write_batch.h>
#include <sys/random.h>

#include <chrono>
#include <cstring>
#include <exception>
#include <filesystem>
#include <map>
#include <utility>

#include "tiers/rocks/operation_gate.h"
#include "tiers/rocks/rocks_open.h"
#include "tiers/rocks/scan.h"

namespace quire::tiers {
namespace {

// Keys of the state column family.
constexpr std::string_view kUuidKey = "meta/uuid";
constexpr std::string_view kEpochKey = "meta/epoch";
constexpr std::string_view kCleanShutdownKey = "meta/clean_shutdown";
constexpr std::string_view kTenantPrefix = "tenant/";  // + number, big-endian
constexpr std::string_view kStatePrefix = "state/";    // + the caller's key

constexpr uint64_t kUuidBytes = 16;

rocksdb::Slice slice(ByteSpan bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
rocksdb::Slice slice(const Digest& id) {
  return slice(std::as_bytes(std::span(id.bytes)));
}
rocksdb::Slice slice(std::string_view text) {
  return {text.data(), text.size()};
}

ByteSpan bytes_of(const rocksdb::Slice& value) {
  return std::as_bytes(std::span(value.data(), value.size()));
}

std::string tenant_key(uint32_t tenant) {
  std::string key(kTenantPrefix);
  for (int shift = 24; shift >= 0; shift -= 8) key += static_cast<char>(tenant >> shift & 0xff);
  return key;
}

std::string state_key(std::string_view key) {
  return std::string(kStatePrefix).append(key);
}

bool digest_from_key(const rocksdb::Slice& key, Digest& id) {
  if (key.size() != sizeof(id.bytes)) return false;
  std::memcpy(id.bytes.data(), key.data(), key.size());
  return true;
}

bool tenant_from_key(const rocksdb::Slice& key, uint32_t& tenant) {
  if (key.size() != kTenantPrefix.size() + sizeof(tenant)) return false;
  tenant = 0;
  for (size_t i = kTenantPrefix.size(); i < key.size(); ++i)
    tenant = tenant << 8 | static_cast<uint8_t>(key[i]);
  return true;
}

rocksdb::ReadOptions verified_read() {
  rocksdb::ReadOptions options;
  options.verify_checksums = true;
  return options;
}

Expected<std::string> new_uuid() {
  uint8_t random[kUuidBytes];
  if (::getentropy(random, sizeof(random)) != 0)
    return Status(StatusCode::kInternal, "no random numbers from the kernel");
  Digest digest;
  std::memcpy(digest.bytes.data(), random, sizeof(random));
  return digest.to_hex().substr(0, 2 * kUuidBytes);
}

uint64_t wall_ms() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(now).count());
}

template <typename Value>
std::vector<std::byte> to_bytes(const Value& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  return {bytes.begin(), bytes.end()};
}

// RocksDB reports by status, but allocations and its thread start may throw.
template <typename Function>
auto guarded(const Function& function) -> decltype(function()) {
  try {
    return function();
  } catch (const std::exception& error) {
    return Status(StatusCode::kInternal, std::string("metadata store: ") + error.what());
  }
}

}  // namespace

struct RocksStore::State {
  State(StoreDirectory given_directory, Database given_database)
      : directory(std::move(given_directory)), database(std::move(given_database)) {}

  // Destroyed in reverse: the lock goes last.
  StoreDirectory directory;
  mutable OperationGate gate;
  Database database;
  StoreIdentity identity;

  rocksdb::DB* db() const { return database.db.get(); }
  rocksdb::ColumnFamilyHandle* family(Family which) const { return database.family(which); }
  Status map(const rocksdb::Status& status, const char* what) const {
    return map_status(status, what, directory.path());
  }
  Status closed() const { return {StatusCode::kUnavailable, "the metadata store is closed"}; }

  Expected<std::vector<std::byte>> read_meta(std::string_view key) const;
  Status write_meta(std::string_view key, ByteSpan value, bool sync) const;
  Status start();
  Expected<std::map<Digest, RepresentationRecord>> patched_records(
      const MetadataBatch& batch) const;
  void fill(const MetadataBatch& batch, const std::map<Digest, RepresentationRecord>& patched,
            rocksdb::WriteBatch& target) const;

  template <typename Parse>
  auto get(Family which, const rocksdb::Slice& key, const Parse& parse) const
      -> decltype(parse(ByteSpan{}));
  template <typename Key, typename Parse, typename Visit>
  Expected<ScanReport> scan(Family which, std::string_view prefix,
                            bool (*key_from)(const rocksdb::Slice&, Key&), const Parse& parse,
                            const Visit& visit) const;
};

template <typename Parse>
auto RocksStore::State::get(Family which, const rocksdb::Slice& key, const Parse& parse) const
    -> decltype(parse(ByteSpan{})) {
  return guarded([&]() -> decltype(parse(ByteSpan{})) {
    const OperationGate::Pass pass(gate);
    if (!pass) return closed();
    rocksdb::PinnableSlice value;
    const rocksdb::Status status = db()->Get(verified_read(), family(which), key, &value);
    if (!status.ok()) return map(status, "reading from");
    return parse(bytes_of(value));
  });
}

template <typename Key, typename Parse, typename Visit>
Expected<ScanReport> RocksStore::State::scan(Family which, std::string_view prefix,
                                             bool (*key_from)(const rocksdb::Slice&, Key&),
                                             const Parse& parse, const Visit& visit) const {
  return guarded([&]() -> Expected<ScanReport> {
    const OperationGate::Pass pass(gate);
    if (!pass) return closed();
    rocksdb::ReadOptions options = verified_read();
    options.fill_cache = false;
    const std::unique_ptr<rocksdb::Iterator> it(db()->NewIterator(options, family(which)));
    ScanReport report;
    for (it->Seek(slice(prefix)); it->Valid() && it->key().starts_with(slice(prefix)); it->Next()) {
      Key key{};
      if (!key_from(it->key(), key)) {
        ++report.corrupt;
        continue;
      }
      if (!visit_record(key, parse(key, bytes_of(it->value())), visit, report)) break;
    }
    if (!it->status().ok()) return map(it->status(), "reading from");
    return report;
  });
}

Expected<std::vector<std::byte>> RocksStore::State::read_meta(std::string_view key) const {
  return get(Family::kState, slice(key),
             [&](ByteSpan bytes) { return parse_state_record(key, bytes); });
}

Status RocksStore::State::write_meta(std::string_view key, ByteSpan value, bool sync) const {
  rocksdb::WriteOptions options;
  options.sync = sync;
  const std::vector<std::byte> record = encode_state_record(key, value);
  return map(db()->Put(options, family(Family::kState), slice(key), slice(record)), "writing to");
}

Status RocksStore::State::start() {
  Expected<std::vector<std::byte>> uuid = read_meta(kUuidKey);
  if (!uuid && uuid.status().code() != StatusCode::kNotFound) return uuid.status();
  identity.created = !uuid;
  if (identity.created) {
    QUIRE_ASSIGN_OR_RETURN(identity.uuid, new_uuid());
    identity.epoch = wall_ms();
  } else {
    identity.uuid.assign(reinterpret_cast<const char*>(uuid->data()), uuid->size());
    QUIRE_ASSIGN_OR_RETURN(const std::vector<std::byte> epoch, read_meta(kEpochKey));
    identity.epoch = ByteReader(epoch).read<uint64_t>() + 1;
    const auto clean = read_meta(kCleanShutdownKey);
    if (!clean && clean.status().code() != StatusCode::kNotFound) return clean.status();
    identity.clean_shutdown = clean.is_ok();
  }
  const std::vector<std::byte> uuid_record =
      encode_state_record(kUuidKey, std::as_bytes(std::span(identity.uuid)));
  const std::vector<std::byte> epoch_record =
      encode_state_record(kEpochKey, to_bytes(identity.epoch));
  rocksdb::ColumnFamilyHandle* state = family(Family::kState);
  rocksdb::WriteBatch batch;
  batch.Put(state, slice(kUuidKey), slice(uuid_record)).PermitUncheckedError();
  batch.Put(state, slice(kEpochKey), slice(epoch_record)).PermitUncheckedError();
  batch.Delete(state, slice(kCleanShutdownKey)).PermitUncheckedError();
  rocksdb::WriteOptions options;
  options.sync = true;
  return map(db()->Write(options, &batch), "writing to");
}

// The records that the patches make.
Expected<std::map<Digest, RepresentationRecord>> RocksStore::State::patched_records(
    const MetadataBatch& batch) const {
  std::map<Digest, RepresentationRecord> patched;
  if (batch.patch_representations.empty()) return patched;
  std::map<Digest, const RepresentationRecord*> puts;
  for (const auto& [id, record] : batch.put_representations) puts[id] = &record;
  for (const auto& [id, patch] : batch.patch_representations) {
    auto found = patched.find(id);
    if (found == patched.end()) {
      const auto put = puts.find(id);
      Expected<RepresentationRecord> record =
          put != puts.end() ? Expected<RepresentationRecord>(*put->second)
                            : get(Family::kMeta, slice(id), [&id = id](ByteSpan bytes) {
                                return parse_representation_record(id, bytes);
                              });
      const StatusCode code = record.status().code();
      if (code == StatusCode::kNotFound || code == StatusCode::kCorrupt) continue;
      if (!record) return record.status();
      found = patched.emplace(id, std::move(*record)).first;
    }
    apply_patch(patch, found->second);
  }
  return patched;
}

// Filling a batch in memory cannot fail.
void RocksStore::State::fill(const MetadataBatch& batch,
                             const std::map<Digest, RepresentationRecord>& patched,
                             rocksdb::WriteBatch& target) const {
  const auto put = [&](Family which, const rocksdb::Slice& key, ByteSpan value) {
    target.Put(family(which), key, slice(value)).PermitUncheckedError();
  };
  const auto erase = [&](Family which, const rocksdb::Slice& key) {
    target.Delete(family(which), key).PermitUncheckedError();
  };
  for (const auto& [id, payload] : batch.put_blobs) put(Family::kBlobs, slice(id), payload);
  for (const auto& [id, record] : batch.put_tokens)
    put(Family::kTokens, slice(id), encode_record(id, record));
  for (const auto& [id, record] : batch.put_models)
    put(Family::kModels, slice(id), encode_record(id, record));
  for (const auto& [id, record] : batch.put_tenants)
    put(Family::kState, tenant_key(id), encode_record(id, record));
  for (const auto& [key, value] : batch.put_state)
    put(Family::kState, state_key(key), encode_state_record(key, value));
  for (const auto& [id, record] : batch.put_representations)
    put(Family::kMeta, slice(id), encode_record(id, record));
  for (const auto& [id, record] : patched) put(Family::kMeta, slice(id), encode_record(id, record));
  for (const Digest& id : batch.delete_representations) {
    erase(Family::kMeta, slice(id));
    erase(Family::kTokens, slice(id));
  }
  for (const Digest& id : batch.delete_models) erase(Family::kModels, slice(id));
  for (const uint32_t id : batch.delete_tenants) erase(Family::kState, tenant_key(id));
  for (const std::string& key : batch.delete_state) erase(Family::kState, state_key(key));
  for (const Digest& id : batch.delete_blobs) erase(Family::kBlobs, slice(id));
}

RocksStore::RocksStore(std::unique_ptr<State> state) : state_(std::move(state)) {}

RocksStore::~RocksStore() = default;

Expected<std::unique_ptr<RocksStore>> RocksStore::open(const std::string& directory,
                                                       const RocksOptions& options) {
  return guarded([&]() -> Expected<std::unique_ptr<RocksStore>> {
    QUIRE_ASSIGN_OR_RETURN(StoreDirectory locked,
                           StoreDirectory::open(directory, options.create_if_missing));
    QUIRE_ASSIGN_OR_RETURN(Database database, open_database(locked, options));
    auto state = std::make_unique<State>(std::move(locked), std::move(database));
    QUIRE_RETURN_IF_ERROR(state->start());
    return std::unique_ptr<RocksStore>(new RocksStore(std::move(state)));
  });
}

Status RocksStore::set_aside(const std::string& directory, std::string* moved_to) {
  return guarded([&] { return set_aside_store(directory, moved_to); });
}

StoreIdentity RocksStore::identity() const {
  return state_->identity;
}

Status RocksStore::write(const MetadataBatch& batch, bool sync) {
  QUIRE_RETURN_IF_ERROR(validate_batch(batch));
  return guarded([&]() -> Status {
    const OperationGate::Pass pass(state_->gate);
    if (!pass) return state_->closed();
    QUIRE_ASSIGN_OR_RETURN(const auto patched, state_->patched_records(batch));
    rocksdb::WriteBatch target;
    state_->fill(batch, patched, target);
    rocksdb::WriteOptions options;
    options.sync = sync;
    return state_->map(state_->db()->Write(options, &target), "writing to");
  });
}

Status RocksStore::get_blob(const Digest& representation, MutableByteSpan target,
                            const Hash128& expected) const {
  return guarded([&]() -> Status {
    const OperationGate::Pass pass(state_->gate);
    if (!pass) return state_->closed();
    rocksdb::PinnableSlice value;
    const rocksdb::Status status = state_->db()->Get(
        verified_read(), state_->family(Family::kBlobs), slice(representation), &value);
    if (!status.ok()) return state_->map(status, "reading from");
    if (value.size() != target.size())
      return {StatusCode::kCorrupt, "a payload of another size is stored"};
    if (copy_and_xxh3_128(target, bytes_of(value)) != expected)
      return {StatusCode::kCorrupt, "the stored payload does not match its checksum"};
    return Status::ok();
  });
}

Expected<RepresentationRecord> RocksStore::get_representation(const Digest& id) const {
  return state_->get(Family::kMeta, slice(id),
                     [&](ByteSpan bytes) { return parse_representation_record(id, bytes); });
}

std::vector<Expected<MetadataStore::Details>> RocksStore::get_details(
    std::span<const Digest> ids) const {
  std::vector<Expected<Details>> answers;
  answers.reserve(ids.size());
  for (const Digest& id : ids) {
    std::vector<std::byte> record;
    std::vector<std::byte> tokens;
    const auto copy_to = [](std::vector<std::byte>& target) {
      return [&target](ByteSpan bytes) -> Expected<bool> {
        target.assign(bytes.begin(), bytes.end());
        return true;
      };
    };
    const Status found = state_->get(Family::kMeta, slice(id), copy_to(record)).status();
    if (!found) {
      answers.emplace_back(found);
      continue;
    }
    const Status text = state_->get(Family::kTokens, slice(id), copy_to(tokens)).status();
    if (!text && text.code() != StatusCode::kNotFound) {
      answers.emplace_back(text);
      continue;
    }
    answers.push_back(join_details(id, record, tokens));
  }
  return answers;
}

Expected<std::vector<std::byte>> RocksStore::get_state(std::string_view key) const {
  const std::string full_key = state_key(key);
  return state_->get(Family::kState, slice(full_key),
                     [&](ByteSpan bytes) { return parse_state_record(key, bytes); });
}

Expected<ScanReport> RocksStore::scan_representations(
    const Visitor<Digest, RepresentationRecord>& visit) const {
  return state_->scan<Digest>(Family::kMeta, {}, digest_from_key, parse_representation_record,
                              visit);
}

Expected<ScanReport> RocksStore::scan_models(const Visitor<Digest, ModelRecord>& visit) const {
  return state_->scan<Digest>(Family::kModels, {}, digest_from_key, parse_model_record, visit);
}

Expected<ScanReport> RocksStore::scan_tenants(const Visitor<uint32_t, TenantRecord>& visit) const {
  return state_->scan<uint32_t>(Family::kState, kTenantPrefix, tenant_from_key, parse_tenant_record,
                                visit);
}

Expected<uint64_t> RocksStore::scan_blob_ids(
    const std::function<bool(const Digest&)>& visit) const {
  return guarded([&]() -> Expected<uint64_t> {
    const OperationGate::Pass pass(state_->gate);
    if (!pass) return state_->closed();
    rocksdb::ReadOptions options = verified_read();
    options.fill_cache = false;
    const std::unique_ptr<rocksdb::Iterator> it(
        state_->db()->NewIterator(options, state_->family(Family::kBlobs)));
    uint64_t visited = 0;
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      Digest id;
      if (!digest_from_key(it->key(), id)) continue;
      ++visited;
      if (!visit(id)) break;
    }
    if (!it->status().ok()) return state_->map(it->status(), "reading from");
    return visited;
  });
}

MetadataSizes RocksStore::approximate_sizes() const {
  using Properties = rocksdb::DB::Properties;
  MetadataSizes sizes;
  const OperationGate::Pass pass(state_->gate);
  if (!pass) return sizes;
  const auto property = [&](Family which, const std::string& name) {
    uint64_t value = 0;
    return state_->db()->GetIntProperty(state_->family(which), name, &value) ? value : 0;
  };
  for (size_t i = 0; i < kFamilyNames.size(); ++i) {
    const auto which = static_cast<Family>(i);
    sizes.disk_bytes += property(which, Properties::kTotalSstFilesSize);
    sizes.memory_bytes += property(which, Properties::kCurSizeAllMemTables);
  }
  sizes.blob_bytes = property(Family::kBlobs, Properties::kTotalBlobFileSize);
  sizes.live_blob_bytes = property(Family::kBlobs, Properties::kLiveBlobFileSize);
  sizes.disk_bytes += sizes.blob_bytes;
  sizes.memory_bytes += state_->database.block_cache->GetUsage();
  sizes.representations = property(Family::kMeta, Properties::kEstimateNumKeys);
  return sizes;
}

Status RocksStore::checkpoint(const std::string& directory) const {
  return guarded([&]() -> Status {
    const OperationGate::Pass pass(state_->gate);
    if (!pass) return state_->closed();
    std::error_code error;
    if (std::filesystem::exists(directory, error))
      return {StatusCode::kAlreadyExists,
              "'" + directory + "' exists; name a new directory for the checkpoint"};
    std::filesystem::create_directories(directory, error);
    if (error)
      return {StatusCode::kIoError, "cannot create '" + directory + "': " + error.message()};
    rocksdb::Checkpoint* raw = nullptr;
    rocksdb::Status status = rocksdb::Checkpoint::Create(state_->db(), &raw);
    const std::unique_ptr<rocksdb::Checkpoint> checkpoint(raw);
    if (status.ok()) status = checkpoint->CreateCheckpoint(directory + "/db");
    if (!status.ok()) return state_->map(status, "copying");
    // The marker comes last: half a copy is not a store.
    return write_store_marker(directory);
  });
}

Status RocksStore::close() {
  return guarded([&]() -> Status {
    if (!state_->gate.close()) return Status::ok();
    const Status marked = state_->write_meta(kCleanShutdownKey, {}, true);
    const rocksdb::Status closed = state_->database.close();
    QUIRE_RETURN_IF_ERROR(marked);
    return state_->map(closed, "closing");
  });
}

}  // namespace quire::tiers
