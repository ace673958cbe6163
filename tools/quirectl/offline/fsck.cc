#include "tools/quirectl/offline/fsck.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <unordered_map>

#include "base/ids.h"
#include "codecs/representation.h"
#include "tiers/rocks/registry_file.h"
#include "tools/quirectl/offline/metadata_snapshot.h"

namespace quire::ctl {
namespace {

using tiers::PayloadLocation;

constexpr size_t kDetailsBatch = 256;
constexpr uint64_t kProgressEvery = 1024;
constexpr char kVerdictPrefix[] = "verdict/";  // and the model's id; docs/formats/metadata.md

// Of each record, what the payloads are joined with.
struct Known {
  Hash128 checksum;
  uint64_t bytes = 0;
  uint64_t generation = 0;
  uint32_t segment = 0;
  PayloadLocation location = PayloadLocation::kNone;
  bool payload_good = false;
  bool tokens_good = false;
  bool dropped = false;  // found wrong already
};

// A payload that gives back what a damaged record or its tokens said.
struct Manifest {
  tiers::RepresentationRecord record;
  std::vector<TokenId> tokens;
};

class Fsck {
 public:
  Fsck(const FsckInput& input, const FsckProgress& progress) : input_(input), progress_(progress) {}
  FsckReport run();

 private:
  void unreadable(const Status& status) {
    metadata_complete_ = false;
    report_.add(FindingKind::kMetadataDamaged, status.message());
  }
  bool go_on(const std::string& step, uint64_t done, uint64_t all) {
    if (!report_.interrupted && progress_ && !progress_(step, done, all))
      report_.interrupted = true;
    return !report_.interrupted;
  }

  void open_metadata();
  void read_registry();
  void check_tenants_and_models();
  bool check_states();
  void read_records();
  void check_details();
  void check_identity(const Digest& id, const tiers::MetadataStore::Details& details);
  void check_blobs();
  void check_files();
  void on_payload(uint32_t file, uint32_t segment, const nvme::FooterEntry& entry,
                  ByteSpan payload);
  void keep_manifest(uint32_t segment, const nvme::FooterEntry& entry,
                     const RepresentationView& view);
  void join();
  void judge_missing_payload(const Digest& id, Known& known);
  void repair_damaged();
  void drop(const Digest& id, Known& known);

  const FsckInput& input_;
  const FsckProgress& progress_;
  FsckReport report_;
  std::optional<MetadataSnapshot> snapshot_;
  std::optional<tiers::Registry> registry_;
  std::map<uint32_t, TenantSalt> salts_;
  std::set<Digest> models_;
  std::unordered_map<Digest, Known, DigestHasher> records_;
  std::set<Digest> damaged_records_;
  std::set<Digest> damaged_tokens_;
  std::map<Digest, Manifest> manifests_;  // of the two above
  std::vector<uint64_t> generations_;     // of all segments, files in order
  uint32_t first_segment_ = 0;            // of the file that is read now
  bool files_complete_ = true;
  bool metadata_complete_ = true;
};

FsckReport Fsck::run() {
  read_registry();
  open_metadata();
  if (snapshot_) {
    check_tenants_and_models();
    read_records();
    if (go_on("records", 0, records_.size())) check_details();
  }
  if (!report_.interrupted) check_files();
  if (snapshot_ && !report_.interrupted) check_blobs();
  if (snapshot_ && !report_.interrupted) {
    join();
    repair_damaged();
  }
  // What was not read must not be taken for what is not there.
  if (report_.interrupted || !metadata_complete_) report_.plan = {};
  return std::move(report_);
}

void Fsck::read_registry() {
  auto registry = tiers::read_registry(input_.data_directory + "/registry.quire");
  if (registry)
    registry_ = std::move(*registry);
  else
    report_.add(registry.status().code() == StatusCode::kNotFound ? FindingKind::kRegistryMissing
                                                                  : FindingKind::kRegistryDamaged,
                registry.status().message());
}

void Fsck::open_metadata() {
  go_on("metadata", 0, 1);
  auto opened = MetadataSnapshot::open(input_.data_directory + "/meta");
  if (opened) {
    snapshot_.emplace(std::move(*opened));
    report_.metadata_opened = true;
    const uint32_t from = snapshot_->store().identity().upgraded_from;
    if (from != 0)
      report_.add(FindingKind::kUpgradePending, "format version " + std::to_string(from));
    return;
  }
  const Status& status = opened.status();
  const FindingKind kind = status.code() == StatusCode::kNotFound ? FindingKind::kMetadataMissing
                           : status.code() == StatusCode::kCorrupt
                               ? FindingKind::kMetadataDamaged
                               : FindingKind::kMetadataUnreadable;
  report_.add(kind, status.message());
}

void Fsck::check_tenants_and_models() {
  salts_[0] = {};
  std::map<uint32_t, tiers::TenantRecord> tenants;
  const auto scanned =
      snapshot_->store().scan_tenants([&](const uint32_t& number, tiers::TenantRecord&& record) {
        salts_[number] = record.salt;
        tenants[number] = std::move(record);
        return true;
      });
  std::map<Digest, tiers::ModelRecord> models;
  const auto models_scanned =
      snapshot_->store().scan_models([&](const Digest& id, tiers::ModelRecord&& record) {
        const auto model = ModelDescriptor::parse(record.descriptor);
        if (model && model_id(*model) == id) {
          models_.insert(id);
          models[id] = std::move(record);
        }
        return true;
      });
  if (!scanned || !models_scanned) {
    unreadable(scanned ? models_scanned.status() : scanned.status());
    return;
  }
  report_.tenants = tenants.size();
  report_.models = models.size();
  bool stale = false;
  uint64_t restored_tenants = 0;
  if (registry_) {
    for (const auto& [number, record] : registry_->tenants) {
      if (tenants.contains(number)) {
        stale = stale || tenants[number] != record;
      } else if (number != 0 || !record.salt.empty()) {
        ++restored_tenants;
        report_.add(FindingKind::kTenantLost,
                    "tenant \"" + record.name + "\" is in the registry copy");
        report_.plan.put_tenants.emplace_back(number, record);
        salts_[number] = record.salt;
      }
    }
    for (const auto& [id, record] : registry_->models) {
      if (models.contains(id)) continue;
      report_.add(FindingKind::kModelLost, "model \"" + record.name + "\" is in the registry copy");
      report_.plan.put_models.emplace_back(id, record);
      models_.insert(id);
    }
    stale = stale || registry_->tenants.size() < tenants.size() ||
            registry_->models.size() < models.size();
  }
  stale = check_states() || stale;
  if (scanned->corrupt > restored_tenants)
    report_.add(FindingKind::kTenantLost,
                std::to_string(scanned->corrupt - restored_tenants) +
                    " tenant records do not verify and the registry copy does not have them");
  if (stale) report_.add(FindingKind::kRegistryStale, "it differs from the metadata");
}

// True where the registry copy has others. A verdict that is only there was taken away.
bool Fsck::check_states() {
  std::map<std::string, const std::vector<std::byte>*> copies;
  for (const Digest& id : models_) copies[kVerdictPrefix + id.to_hex()] = nullptr;
  if (registry_)
    for (const auto& [key, value] : registry_->states) copies[key] = &value;
  bool stale = false;
  for (const auto& [key, copy] : copies) {
    const auto stored = snapshot_->store().get_state(key);
    if (!stored && stored.status().code() == StatusCode::kCorrupt) {
      report_.add(FindingKind::kVerdictDamaged,
                  key + (copy ? " is in the registry copy" : " is not in the registry copy"));
      if (copy) report_.plan.put_states.emplace_back(key, *copy);
    } else {
      stale = stale || (copy ? !stored || *stored != *copy : stored.is_ok());
    }
  }
  return stale && registry_;
}

void Fsck::read_records() {
  const auto scanned = snapshot_->store().scan_representations(
      [&](const Digest& id, tiers::RepresentationRecord&& record) {
        records_[id] = {record.checksum,
                        record.bytes,
                        record.nvme.generation,
                        record.nvme.segment,
                        record.location,
                        false,
                        false,
                        false};
        if (!salts_.contains(record.tenant))
          report_.add(FindingKind::kOwnerUnknown, "tenant " + std::to_string(record.tenant), id);
        else if (!models_.contains(record.model))
          report_.add(FindingKind::kOwnerUnknown, "model " + record.model.to_hex(), id);
        return go_on("records", records_.size(), 0) || records_.size() % kProgressEvery != 0;
      });
  if (!scanned) {
    unreadable(scanned.status());
    return;
  }
  report_.records = records_.size() + scanned->corrupt;
  damaged_records_.insert(scanned->corrupt_ids.begin(), scanned->corrupt_ids.end());
  for (const Digest& id : damaged_records_)
    report_.add(FindingKind::kRecordDamaged, "does not verify", id);
  if (scanned->corrupt > scanned->corrupt_ids.size())
    report_.add(FindingKind::kRecordDamaged,
                std::to_string(scanned->corrupt - scanned->corrupt_ids.size()) +
                    " more records do not verify: run it again after --repair");
}

void Fsck::check_details() {
  std::vector<Digest> ids;
  ids.reserve(records_.size());
  for (const auto& [id, known] : records_) ids.push_back(id);
  std::sort(ids.begin(), ids.end());
  for (size_t begin = 0; begin < ids.size(); begin += kDetailsBatch) {
    if (!go_on("tokens", begin, ids.size())) return;
    const auto part = std::span(ids).subspan(begin, std::min(kDetailsBatch, ids.size() - begin));
    const auto answers = snapshot_->store().get_details(part);
    for (size_t i = 0; i < part.size(); ++i) {
      if (answers[i]) {
        check_identity(part[i], *answers[i]);
      } else {
        damaged_tokens_.insert(part[i]);
        report_.add(FindingKind::kTokensDamaged, answers[i].status().message(), part[i]);
      }
    }
  }
}

void Fsck::check_identity(const Digest& id, const tiers::MetadataStore::Details& details) {
  const tiers::RepresentationRecord& record = details.record;
  const auto salt = salts_.find(record.tenant);
  if (salt == salts_.end()) return;  // its owner is unknown, which is reported
  std::string wrong;
  if (object_id(record.model, details.tokens, salt->second) != record.object)
    wrong = "its tokens give another object id";
  else if (variant_id(record.object, record.context) != record.variant)
    wrong = "its context gives another variant id";
  else if (representation_id(record.variant, record.codec, record.frame, record.coverage) != id)
    wrong = "its codec, frame and coverage give another representation id";
  Known& known = records_.at(id);
  if (wrong.empty()) {
    known.tokens_good = true;
    return;
  }
  report_.add(FindingKind::kIdentityWrong, wrong, id);
  drop(id, known);
}

void Fsck::drop(const Digest& id, Known& known) {
  if (known.dropped) return;
  known.dropped = true;
  report_.plan.drop_records.push_back(id);
  if (known.location == PayloadLocation::kRocks) report_.plan.drop_blobs.push_back(id);
}

void Fsck::check_files() {
  for (uint32_t file = 0; file < input_.segment_files.size(); ++file) {
    const std::string& path = input_.segment_files[file];
    VerifyReport verified;
    auto opened = SegmentFile::open(path);
    if (!opened) {
      files_complete_ = false;
      if (auto damage = damage_of_open(opened.status()))
        verified = std::move(*damage);
      else
        report_.add(FindingKind::kSegmentFile, opened.status().message());
    } else {
      verify_segments(
          **opened, verified,
          [&](uint64_t done, uint64_t all, uint64_t) {
            return go_on("segments of " + path, done, all);
          },
          [&](uint32_t segment, const nvme::FooterEntry& entry, ByteSpan payload) {
            if (snapshot_) on_payload(file, segment, entry, payload);
          });
      const uint64_t count = (*opened)->geometry().segment_count;
      if (verified.segments < count) files_complete_ = false;
      verified.generations.resize(count, 0);
      generations_.insert(generations_.end(), verified.generations.begin(),
                          verified.generations.end());
      first_segment_ += static_cast<uint32_t>(count);
    }
    if (verified.certain_damage() != 0)
      report_.add(FindingKind::kSegmentDamage,
                  path + ": " + std::to_string(verified.certain_damage()) + " findings");
    report_.files.emplace_back(path, std::move(verified));
    if (report_.interrupted) return;
  }
}

void Fsck::on_payload(uint32_t file, uint32_t segment, const nvme::FooterEntry& entry,
                      ByteSpan payload) {
  const auto found = records_.find(entry.key);
  const bool damaged = damaged_records_.contains(entry.key) || damaged_tokens_.contains(entry.key);
  const bool named = found != records_.end() && found->second.location == PayloadLocation::kNvme &&
                     found->second.checksum == entry.checksum &&
                     found->second.bytes == entry.payload_bytes;
  if (!named && !damaged) {
    report_.add(FindingKind::kPayloadOrphan,
                input_.segment_files[file] + " segment " + std::to_string(segment) + " offset " +
                    std::to_string(entry.offset),
                entry.key);
    return;
  }
  const auto view = RepresentationView::parse(payload);
  if (!view || view->header().representation != entry.key) {
    report_.add(FindingKind::kPayloadForeign,
                view ? "its manifest says " + view->header().representation.to_hex()
                     : view.status().message(),
                entry.key);
    if (found != records_.end()) drop(entry.key, found->second);
    return;
  }
  if (found != records_.end()) found->second.payload_good = found->second.payload_good || named;
  if (damaged) keep_manifest(first_segment_ + segment, entry, *view);
}

void Fsck::keep_manifest(uint32_t segment, const nvme::FooterEntry& entry,
                         const RepresentationView& view) {
  const RepresentationHeader& header = view.header();
  const auto known = manifests_.find(entry.key);
  if (known != manifests_.end() && known->second.record.nvme.sequence > entry.sequence) return;
  for (const auto& [number, salt] : salts_) {
    if (!view.verify_object(salt).is_ok()) continue;
    Manifest manifest;
    tiers::RepresentationRecord& record = manifest.record;
    record.variant = header.variant;
    record.object = header.object;
    record.model = header.model;
    record.tenant = number;
    record.n_tokens = static_cast<uint32_t>(header.tokens.size());
    record.context = header.context;
    record.codec = static_cast<uint16_t>(header.codec);
    record.frame = header.frame;
    record.location = PayloadLocation::kNvme;
    record.base_position = header.base_position;
    record.coverage = header.coverage;
    record.bytes = entry.payload_bytes;
    record.checksum = entry.checksum;
    record.nvme.segment = segment;
    record.nvme.offset = entry.offset;
    record.nvme.payload_bytes = entry.payload_bytes;
    record.nvme.sequence = entry.sequence;
    manifest.tokens = header.tokens;
    manifests_[entry.key] = std::move(manifest);
    return;
  }
}

void Fsck::check_blobs() {
  std::vector<std::byte> target;
  std::vector<Digest> ids;
  const auto scanned =
      snapshot_->store().scan_blob_ids([&](const Digest& id) { return ids.push_back(id), true; });
  if (!scanned) {
    unreadable(scanned.status());
    return;
  }
  report_.blobs = ids.size();
  for (size_t i = 0; i < ids.size(); ++i) {
    const Digest& id = ids[i];
    if (i % kProgressEvery == 0 && !go_on("small objects", i, ids.size())) return;
    const auto found = records_.find(id);
    if (found == records_.end() || found->second.location != PayloadLocation::kRocks) {
      if (damaged_records_.contains(id)) continue;  // goes with its record
      report_.add(FindingKind::kBlobOrphan, "", id);
      report_.plan.drop_blobs.push_back(id);
      continue;
    }
    Known& known = found->second;
    target.resize(std::min<uint64_t>(known.bytes, tiers::kBlobBytesMax));
    const Status status = snapshot_->store().get_blob(id, target, known.checksum);
    if (!status.is_ok()) {
      known.payload_good = true;  // said once
      report_.add(FindingKind::kBlobDamaged, status.message(), id);
      drop(id, known);
      continue;
    }
    const auto view = RepresentationView::parse(target);
    if (!view || view->header().representation != id) {
      known.payload_good = true;
      report_.add(FindingKind::kPayloadForeign, "in RocksDB", id);
      drop(id, known);
      continue;
    }
    known.payload_good = true;
    if (damaged_tokens_.erase(id) != 0)
      report_.plan.put_tokens.emplace_back(id, tiers::TokensRecord{view->header().tokens});
  }
}

void Fsck::join() {
  for (auto& [id, known] : records_) {
    if (!known.payload_good && !known.dropped) judge_missing_payload(id, known);
    if (known.payload_good && known.tokens_good && !known.dropped) ++report_.records_good;
  }
}

// Dropped only where it is certain that the payload is gone for good.
void Fsck::judge_missing_payload(const Digest& id, Known& known) {
  if (known.location != PayloadLocation::kNvme) {
    report_.add(FindingKind::kPayloadLost,
                known.location == PayloadLocation::kRocks ? "it is not in RocksDB"
                                                          : "it was in memory only",
                id);
    drop(id, known);
    return;
  }
  const bool in_files = input_.order_is_known && known.segment < generations_.size();
  if (!files_complete_ || !in_files) {
    report_.add(FindingKind::kSegmentFile,
                "names segment " + std::to_string(known.segment) + ", which was not read", id);
    return;
  }
  const uint64_t now = generations_[known.segment];
  if (now != 0 && now < known.generation) {
    report_.add(FindingKind::kPayloadUnknown,
                "names generation " + std::to_string(known.generation) + " of segment " +
                    std::to_string(known.segment) + ", which has " + std::to_string(now),
                id);
    return;
  }
  if (now > known.generation)
    report_.add(FindingKind::kPayloadOverwritten, "segment " + std::to_string(known.segment), id);
  else
    report_.add(FindingKind::kPayloadLost, "segment " + std::to_string(known.segment), id);
  drop(id, known);
}

void Fsck::repair_damaged() {
  RepairPlan& plan = report_.plan;
  for (const Digest& id : damaged_records_) {
    const auto manifest = manifests_.find(id);
    if (manifest == manifests_.end()) {
      plan.drop_records.push_back(id);
      plan.drop_blobs.push_back(id);
      continue;
    }
    tiers::RepresentationRecord record = manifest->second.record;
    record.nvme.generation =
        record.nvme.segment < generations_.size() ? generations_[record.nvme.segment] : 0;
    plan.put_records.emplace_back(id, std::move(record));
    plan.put_tokens.emplace_back(id, tiers::TokensRecord{manifest->second.tokens});
  }
  for (const Digest& id : damaged_tokens_) {
    Known& known = records_.at(id);
    if (known.dropped) continue;
    const auto manifest = manifests_.find(id);
    if (manifest != manifests_.end())
      plan.put_tokens.emplace_back(id, tiers::TokensRecord{manifest->second.tokens});
    else
      drop(id, known);
  }
}

}  // namespace

FsckReport check_store(const FsckInput& input, const FsckProgress& progress) {
  return Fsck(input, progress).run();
}

}  // namespace quire::ctl
