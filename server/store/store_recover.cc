// Start: open the tiers, read the metadata back, join it with what the NVMe segments hold.
//
// The metadata says which objects exist; the segments say where they lie (reclaiming may have moved
// an object after its record was written). A record whose payload is not found is dropped; a
// payload without a record was never acknowledged as durable, or was removed, and is forgotten.
#include <spdlog/spdlog.h>
#include <sys/random.h>

#include <algorithm>
#include <cassert>
#include <unordered_set>

#include "server/store/store.h"
#include "tiers/io/file_device.h"
#include "tiers/rocks/rocks_store.h"

namespace quire::server {
namespace {

constexpr size_t kSaltBytes = 32;

Status with_context(const Status& status, const std::string& what) {
  return Status(status.code(), what + ": " + status.message(), status.retry_after_ms());
}

}  // namespace

Expected<std::unique_ptr<Store>> Store::open(const Config& config, EventLoop& loop, Clock& clock) {
  std::unique_ptr<Store> store(new Store(config, loop, clock));
  const uint64_t begin_ns = clock.now_ns();
  QUIRE_RETURN_IF_ERROR(store->open_tiers());
  const uint64_t opened_ns = clock.now_ns();
  QUIRE_RETURN_IF_ERROR(store->recover());
  store->recovery_ms_ = (clock.now_ns() - begin_ns) / 1'000'000;
  spdlog::info("tiers opened in {} ms, objects read back in {} ms",
               (opened_ns - begin_ns) / 1'000'000, (clock.now_ns() - opened_ns) / 1'000'000);
  return store;
}

Status Store::open_tiers() {
  tiers::SlabOptions slab_options;
  slab_options.capacity_bytes = config_.host_bytes;
  slab_options.prefault = config_.host_prefault;
  auto slab = tiers::HostSlab::create(slab_options);
  if (!slab) return with_context(slab.status(), "host tier");
  slab_ = std::move(*slab);
  tiers::EvictionOptions eviction;
  eviction.capacity_bytes = slab_->capacity_bytes();
  policy_ = tiers::make_eviction_policy(tiers::EvictionPolicyKind::kDecayedLfu, eviction);

  auto metadata = tiers::RocksStore::open(config_.data_directory + "/meta");
  if (!metadata) return with_context(metadata.status(), "metadata");
  metadata_ = std::move(*metadata);
  // Clients compare epochs for equality only. The wall time keeps it new when a data directory is
  // replaced by a fresh one.
  epoch_ = clock_.wall_ms() << 16 | (metadata_->identity().epoch & 0xffff);

  QUIRE_RETURN_IF_ERROR(open_nvme());
  const uint64_t host_max = slab_->capacity_bytes() / 2;
  object_bytes_max_ = std::min(host_max, kRepresentationBytesMax);
  if (nvme_ != nullptr) object_bytes_max_ = std::min(object_bytes_max_, nvme_->payload_bytes_max());
  if (const Status status = loop_.register_buffer({slab_->data(), slab_->capacity_bytes()});
      !status.is_ok()) {
    spdlog::debug("slab is not registered for I/O: {}", status.to_string());
  }
  measure_costs();
  return Status::ok();
}

Status Store::open_nvme() {
  if (config_.nvme_bytes == 0) {
    nvme_absent_because_ = "nvme.bytes is 0";
    return Status::ok();
  }
  NvmeOptions options;
  options.segment_bytes = config_.nvme_segment_bytes;
  options.capacity_bytes = config_.nvme_bytes;
  // A small tier gets small segments: reclaiming needs several of them.
  constexpr uint64_t kSegmentsWanted = 8;
  while (options.segment_bytes > kSegmentBytesMin &&
         config_.nvme_bytes / options.segment_bytes < kSegmentsWanted) {
    options.segment_bytes /= 2;
  }
  options.offload = [this](std::function<void()> task) {
    auto shared = std::make_shared<std::function<void()>>(std::move(task));
    if (!read_worker_->submit([shared] { (*shared)(); }, nullptr)) (*shared)();
  };
  options.post = [this](std::function<void()> task) { loop_.post(std::move(task)); };
  FileDeviceOptions device_options;
  device_options.path = config_.nvme_path;
  device_options.size_bytes = config_.nvme_bytes;
  auto device = open_file_device(loop_, device_options);
  if (!device) return with_context(device.status(), "nvme tier");
  auto tier = NvmeTier::open(options, std::move(*device), clock_);
  if (!tier) return with_context(tier.status(), "nvme tier");
  nvme_ = std::move(*tier);
  return Status::ok();
}

// One copy within the slab for the host tier. The tiers below start from careful guesses and are
// followed by their real loads: reading never-written blocks would measure nothing.
void Store::measure_costs() {
  constexpr uint64_t kProbeBytes = 4ull << 20;
  if (slab_->capacity_bytes() < 2 * kProbeBytes) return;
  for (int round = 0; round < 3; ++round) {
    const uint64_t begin_ns = clock_.now_ns();
    std::copy_n(slab_->data(), kProbeBytes, slab_->data() + kProbeBytes);
    host_cost_.observe(kProbeBytes, clock_.now_ns() - begin_ns);
  }
}

Status Store::recover() {
  QUIRE_RETURN_IF_ERROR(recover_tenants());
  QUIRE_RETURN_IF_ERROR(recover_models());
  QUIRE_RETURN_IF_ERROR(recover_objects());
  if (nvme_ != nullptr) install_reclaim_hooks();
  send_deletes(false, nullptr);
  return Status::ok();
}

Status Store::recover_tenants() {
  std::map<std::string, uint32_t> numbers;
  uint32_t next_number = 1;
  auto report = metadata_->scan_tenants([&](const uint32_t& number, tiers::TenantRecord&& record) {
    tenants_[number] = {record.name, std::make_shared<const TenantSalt>(record.salt)};
    numbers[record.name] = number;
    next_number = std::max(next_number, number + 1);
    return true;
  });
  if (!report) return with_context(report.status(), "tenants");
  if (report->corrupt != 0) {
    return Status(
        StatusCode::kCorrupt,
        "a tenant record is damaged; without its salt that tenant's objects cannot be told "
        "apart. Restore " +
            config_.data_directory + "/meta from a backup or move it away");
  }
  tenants_[0] = {"", std::make_shared<const TenantSalt>()};
  tiers::MetadataBatch batch;
  for (const TenantConfig& wanted : config_.tenants) {
    if (const auto known = numbers.find(wanted.name); known != numbers.end()) {
      if (!wanted.salt.empty() && wanted.salt != *tenants_[known->second].salt) {
        return Status(StatusCode::kFailedPrecondition,
                      "the salt of tenant \"" + wanted.name +
                          "\" is not the one its objects were stored with; remove salt_hex or use "
                          "another tenant name");
      }
      continue;
    }
    tiers::TenantRecord record;
    record.name = wanted.name;
    record.salt = wanted.salt;
    if (record.salt.empty()) {
      record.salt.resize(kSaltBytes);
      if (::getrandom(record.salt.data(), kSaltBytes, 0) != static_cast<ssize_t>(kSaltBytes)) {
        return Status(StatusCode::kIoError, "no random bytes for a tenant's salt");
      }
    }
    const uint32_t number = next_number++;
    tenants_[number] = {record.name, std::make_shared<const TenantSalt>(record.salt)};
    batch.put_tenants.emplace_back(number, std::move(record));
  }
  return batch.empty() ? Status::ok() : metadata_->write(batch, true);
}

Status Store::recover_models() {
  auto table = std::make_shared<ModelTable>();
  auto report = metadata_->scan_models([&](const Digest& id, tiers::ModelRecord&& record) {
    auto model = ModelDescriptor::parse(record.descriptor);
    if (!model || model_id(*model) != id) {
      spdlog::warn("model record {} is not usable and is ignored", id.to_hex());
      return true;
    }
    index_.set_model_movable(id, model->movable().is_ok());
    table->insert_or_assign(
        id, RegisteredModel{record.name, std::move(*model), record.registered_wall_ms});
    return true;
  });
  if (!report) return with_context(report.status(), "models");
  models_ = std::move(table);
  return Status::ok();
}

Status Store::recover_objects() {
  struct Found {
    tiers::RepresentationRecord record;
    std::optional<NvmeLocation> nvme;
  };
  std::unordered_map<Digest, Found, DigestHasher> records;
  std::unordered_map<Digest, std::shared_ptr<const tiers::TokenList>, DigestHasher> tokens;
  auto representations =
      metadata_->scan_representations([&](const Digest& id, tiers::RepresentationRecord&& record) {
        records[id].record = std::move(record);
        return true;
      });
  if (!representations) return with_context(representations.status(), "representations");
  deletes_.delete_representations = representations->corrupt_ids;
  auto objects = metadata_->scan_objects([&](const Digest& id, tiers::ObjectRecord&& record) {
    tokens[id] = std::make_shared<const tiers::TokenList>(std::move(record.tokens));
    return true;
  });
  if (!objects) return with_context(objects.status(), "objects");
  deletes_.delete_objects = objects->corrupt_ids;

  std::unordered_set<Digest, DigestHasher> blobs;
  auto blob_ids =
      metadata_->scan_blob_ids([&](const Digest& id) { return blobs.insert(id), true; });
  if (!blob_ids) return with_context(blob_ids.status(), "small objects");

  uint64_t unknown_payloads = 0;
  if (nvme_ != nullptr) {
    std::optional<Status> finished;
    nvme_->recover(
        [&](const RecoveredObject& object) {
          const auto found = records.find(object.key);
          const bool known = found != records.end() &&
                             found->second.record.location == tiers::PayloadLocation::kNvme &&
                             found->second.record.checksum == object.checksum &&
                             found->second.record.bytes == object.location.payload_bytes;
          if (!known) {
            ++unknown_payloads;
            nvme_->remove(object.location);
            return;
          }
          std::optional<NvmeLocation>& best = found->second.nvme;
          if (!best || best->sequence < object.location.sequence) {
            if (best) nvme_->remove(*best);
            best = object.location;
          } else {
            nvme_->remove(object.location);
          }
        },
        [&](Status status) { finished = std::move(status); });
    while (!finished) loop_.run_once(EventLoop::kForever);
    if (!finished->is_ok()) return with_context(*finished, "nvme tier");
  }

  uint64_t dropped = 0;
  for (auto& [id, found] : records) {
    const tiers::RepresentationRecord& record = found.record;
    const auto text = tokens.find(record.object);
    const bool in_rocks = record.location == tiers::PayloadLocation::kRocks && blobs.contains(id);
    const bool usable = (found.nvme || in_rocks) && text != tokens.end() &&
                        tenants_.contains(record.tenant) && models_->contains(record.model) &&
                        record.bytes <= object_bytes_max_ && !by_handle_.contains(handle_of(id));
    const tiers::IndexEntry* indexed = nullptr;
    if (usable) {
      tiers::IndexEntry entry;
      entry.representation = id;
      entry.variant = record.variant;
      entry.object = record.object;
      entry.model = record.model;
      entry.tenant = record.tenant;
      entry.context = record.context;
      entry.codec = record.codec;
      entry.frame = record.frame;
      entry.coverage = record.coverage;
      entry.base_position = record.base_position;
      entry.bytes = record.bytes;
      entry.tokens = text->second;
      if (auto added = index_.add(std::move(entry))) indexed = *added;
    }
    if (indexed == nullptr) {
      ++dropped;
      deletes_.delete_representations.push_back(id);
      if (found.nvme) nvme_->remove(*found.nvme);
      continue;
    }
    ObjectEntry& entry = create_entry(id, record.tenant, record.bytes);
    entry.state = ObjectState::kSealed;
    entry.persist = PersistState::kDurable;
    entry.checksum = record.checksum;
    entry.index = indexed;
    entry.nvme = found.nvme;
    entry.in_rocks = in_rocks;
    entry.has_record = true;
    entry.hits = record.hits;
    entry.hits_when_moved = record.hits;
    entry.created_wall_ms = record.created_wall_ms;
    entry.pinned_until_wall_ms = record.pinned_until_wall_ms;
    index_.set_cookie(id, reinterpret_cast<uint64_t>(&entry));
    counters_.rocks_objects += in_rocks;
    if (in_rocks) blobs.erase(id);
  }
  for (const auto& [id, list] : tokens) {
    if (list.use_count() == 1) deletes_.delete_objects.push_back(id);  // the index holds no copy
  }
  for (const Digest& id : blobs) deletes_.delete_blobs.push_back(id);
  spdlog::info(
      "recovered {} objects ({} records without payload dropped, {} payloads without record "
      "forgotten)",
      objects_.size(), dropped, unknown_payloads);
  return Status::ok();
}

}  // namespace quire::server
