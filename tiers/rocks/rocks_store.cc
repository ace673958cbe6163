#include "tiers/rocks/rocks_store.h"

#include <rocksdb/snapshot.h>
#include <rocksdb/utilities/checkpoint.h>
#include <rocksdb/utilities/debug.h>

#include <filesystem>
#include <utility>

#include "tiers/io/kill_point.h"
#include "tiers/rocks/rocks_state.h"
#include "tiers/rocks/rocks_upgrade.h"
#include "tiers/rocks/scan.h"

namespace quire::tiers {
namespace {

// One lookup of many keys; bounds what their values hold in memory.
constexpr size_t kDetailsTogetherMax = 256;
// Larger reads of a scan, where it comes from the disk.
constexpr uint64_t kScanReadBytes = 2 << 20;
constexpr size_t kBlobIdsTogether = 4096;
// Kinds of versions of a key, as GetAllKeyVersions numbers them.
constexpr int kDeletedVersion = 0;
constexpr int kSingleDeletedVersion = 7;

rocksdb::ReadOptions scanning_read() {
  rocksdb::ReadOptions options = verified_read();
  options.fill_cache = false;
  options.readahead_size = kScanReadBytes;
  return options;
}

template <typename Key, typename State, typename Parse, typename Visit>
Expected<ScanReport> scan(const State& state, Family which, std::string_view prefix,
                          bool (*key_from)(const rocksdb::Slice&, Key&), const Parse& parse,
                          const Visit& visit) {
  return guarded([&]() -> Expected<ScanReport> {
    const OperationGate::Pass pass(state.gate);
    if (!pass) return state.closed();
    const std::unique_ptr<rocksdb::Iterator> it(
        state.db()->NewIterator(scanning_read(), state.family(which)));
    ScanReport report;
    const rocksdb::Slice start = prefix.empty() ? rocksdb::Slice() : slice(prefix);
    for (it->Seek(start); it->Valid() && it->key().starts_with(start); it->Next()) {
      Key key{};
      if (!key_from(it->key(), key)) {
        ++report.corrupt;
        continue;
      }
      if (!visit_record(key, parse(key, bytes_of(it->value())), visit, report)) break;
    }
    if (!it->status().ok()) return state.map(it->status(), "reading from");
    return report;
  });
}

}  // namespace

RocksStore::RocksStore(std::unique_ptr<State> state) : state_(std::move(state)) {}

RocksStore::~RocksStore() = default;

Expected<std::unique_ptr<RocksStore>> RocksStore::open(const std::string& directory,
                                                       const RocksOptions& options) {
  return guarded([&]() -> Expected<std::unique_ptr<RocksStore>> {
    QUIRE_ASSIGN_OR_RETURN(StoreDirectory locked,
                           StoreDirectory::open(directory, options.create_if_missing));
    QUIRE_ASSIGN_OR_RETURN(Database database, open_database(locked, options));
    QUIRE_ASSIGN_OR_RETURN(const uint32_t upgraded_from, upgrade_database(locked, database));
    auto state = std::make_unique<State>(std::move(locked), std::move(database));
    QUIRE_RETURN_IF_ERROR(state->start());
    state->identity.upgraded_from = upgraded_from;
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
    return state_->write(batch, sync);
  });
}

Status RocksStore::get_blob(const Digest& representation, MutableByteSpan target,
                            const Hash128& expected) const {
  return guarded([&]() -> Status {
    const OperationGate::Pass pass(state_->gate);
    if (!pass) return state_->closed();
    return state_->get(Family::kBlobs, slice(representation), [&](ByteSpan value) -> Status {
      if (value.size() != target.size())
        return {StatusCode::kCorrupt, "a payload of another size is stored"};
      if (copy_and_xxh3_128(target, value) != expected)
        return {StatusCode::kCorrupt, "the stored payload does not match its checksum"};
      return Status::ok();
    });
  });
}

Expected<RepresentationRecord> RocksStore::get_representation(const Digest& id) const {
  return guarded([&]() -> Expected<RepresentationRecord> {
    const OperationGate::Pass pass(state_->gate);
    if (!pass) return state_->closed();
    return state_->get(Family::kMeta, slice(id),
                       [&](ByteSpan bytes) { return parse_representation_record(id, bytes); });
  });
}

Status RocksStore::State::append_details(std::span<const Digest> ids,
                                         const rocksdb::Snapshot* snapshot,
                                         std::vector<Expected<Details>>& answers) const {
  rocksdb::ReadOptions options = verified_read();
  options.snapshot = snapshot;
  std::vector<rocksdb::Slice> keys;
  keys.reserve(ids.size());
  for (const Digest& id : ids) keys.push_back(slice(id));
  std::vector<rocksdb::PinnableSlice> records(ids.size());
  std::vector<rocksdb::PinnableSlice> tokens(ids.size());
  std::vector<rocksdb::Status> record_status(ids.size());
  std::vector<rocksdb::Status> tokens_status(ids.size());
  db()->MultiGet(options, family(Family::kMeta), ids.size(), keys.data(), records.data(),
                 record_status.data());
  db()->MultiGet(options, family(Family::kTokens), ids.size(), keys.data(), tokens.data(),
                 tokens_status.data());
  for (size_t i = 0; i < ids.size(); ++i) {
    if (record_status[i].IsNotFound()) {
      answers.emplace_back(Status(StatusCode::kNotFound, "no such record"));
    } else if (!record_status[i].ok()) {
      answers.emplace_back(map(record_status[i], "reading from"));
    } else if (!tokens_status[i].ok() && !tokens_status[i].IsNotFound()) {
      answers.emplace_back(map(tokens_status[i], "reading from"));
    } else {
      answers.push_back(join_details(ids[i], bytes_of(records[i]),
                                     tokens_status[i].ok() ? bytes_of(tokens[i]) : ByteSpan{}));
    }
  }
  return Status::ok();
}

std::vector<Expected<MetadataStore::Details>> RocksStore::get_details(
    std::span<const Digest> ids) const {
  std::vector<Expected<Details>> answers;
  answers.reserve(ids.size());
  const Status status = guarded([&]() -> Status {
    const OperationGate::Pass pass(state_->gate);
    if (!pass) return state_->closed();
    rocksdb::ManagedSnapshot snapshot(state_->db());
    for (size_t begin = 0; begin < ids.size(); begin += kDetailsTogetherMax) {
      const size_t count = std::min(kDetailsTogetherMax, ids.size() - begin);
      QUIRE_RETURN_IF_ERROR(
          state_->append_details(ids.subspan(begin, count), snapshot.snapshot(), answers));
    }
    return Status::ok();
  });
  while (answers.size() < ids.size()) answers.emplace_back(status);
  return answers;
}

Expected<std::vector<std::byte>> RocksStore::get_state(std::string_view key) const {
  return guarded([&]() -> Expected<std::vector<std::byte>> {
    const OperationGate::Pass pass(state_->gate);
    if (!pass) return state_->closed();
    return state_->get(Family::kState, slice(state_key(key)),
                       [&](ByteSpan bytes) { return parse_state_record(key, bytes); });
  });
}

Expected<ScanReport> RocksStore::scan_representations(
    const Visitor<Digest, RepresentationRecord>& visit) const {
  return scan<Digest>(*state_, Family::kMeta, {}, digest_from_key, parse_representation_record,
                      visit);
}

Expected<ScanReport> RocksStore::scan_models(const Visitor<Digest, ModelRecord>& visit) const {
  return scan<Digest>(*state_, Family::kModels, {}, digest_from_key, parse_model_record, visit);
}

Expected<ScanReport> RocksStore::scan_tenants(const Visitor<uint32_t, TenantRecord>& visit) const {
  return scan<uint32_t>(*state_, Family::kState, kTenantPrefix, tenant_from_key,
                        parse_tenant_record, visit);
}

// An iterator would read each payload; the list of versions has only the references to them.
Expected<uint64_t> RocksStore::scan_blob_ids(
    const std::function<bool(const Digest&)>& visit) const {
  return guarded([&]() -> Expected<uint64_t> {
    const OperationGate::Pass pass(state_->gate);
    if (!pass) return state_->closed();
    uint64_t visited = 0;
    std::string next;  // the first key that is not done
    for (size_t together = kBlobIdsTogether;;) {
      std::vector<rocksdb::KeyVersion> versions;
      const rocksdb::Status status = rocksdb::GetAllKeyVersions(
          state_->db(), state_->family(Family::kBlobs), next, {}, together, &versions);
      if (!status.ok()) return state_->map(status, "reading from");
      const bool last = versions.size() < together;
      std::string previous;
      for (const rocksdb::KeyVersion& version : versions) {
        if (version.user_key == previous) continue;  // the newest comes first
        previous = version.user_key;
        if (version.type == kDeletedVersion || version.type == kSingleDeletedVersion) continue;
        Digest id;
        if (!digest_from_key(version.user_key, id)) continue;
        ++visited;
        if (!visit(id)) return visited;
      }
      if (last) return visited;
      next = previous + '\0';
    }
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
    sizes.disk_bytes += property(which, Properties::kTotalBlobFileSize);
    sizes.memory_bytes += property(which, Properties::kCurSizeAllMemTables);
  }
  sizes.blob_bytes = property(Family::kBlobs, Properties::kTotalBlobFileSize);
  sizes.live_blob_bytes = property(Family::kBlobs, Properties::kLiveBlobFileSize);
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
    QUIRE_KILL_POINT("rocks_checkpoint_begin");
    rocksdb::Checkpoint* raw = nullptr;
    rocksdb::Status status = rocksdb::Checkpoint::Create(state_->db(), &raw);
    const std::unique_ptr<rocksdb::Checkpoint> checkpoint(raw);
    if (status.ok()) status = checkpoint->CreateCheckpoint(directory + "/db");
    if (!status.ok()) return state_->map(status, "copying");
    QUIRE_KILL_POINT("rocks_checkpoint_copied");
    // The marker comes last: half a copy is not a store.
    QUIRE_RETURN_IF_ERROR(write_store_marker(directory));
    QUIRE_KILL_POINT("rocks_checkpoint_end");
    return Status::ok();
  });
}

Status RocksStore::close() {
  return guarded([&]() -> Status {
    if (!state_->gate.close()) return Status::ok();
    QUIRE_KILL_POINT("rocks_close");
    const Status marked = state_->write_meta(kCleanShutdownKey, {});
    QUIRE_KILL_POINT("rocks_close_marked");
    const rocksdb::Status closed = state_->database.close();
    QUIRE_KILL_POINT("rocks_closed");
    QUIRE_RETURN_IF_ERROR(marked);
    return state_->map(closed, "closing");
  });
}

}  // namespace quire::tiers
