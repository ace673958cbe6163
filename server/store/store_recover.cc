// Start: open the tiers, read the metadata back, join it with what the NVMe segments hold.
//
// The metadata says which objects exist; the segments say where they lie (reclaiming may have moved
// an object after its record was written). A record whose payload is not found is dropped; a
// payload without a record was never acknowledged as durable, or was removed, and is forgotten.
//
// When RocksDB is lost or damaged it is set aside, the salts come from the registry copy, and every
// payload in the segments gets a new record from its own manifest (store_rebuild.cc).
#include <spdlog/spdlog.h>
#include <sys/random.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <filesystem>

#include "server/quota.h"
#include "server/store/recovered_payloads.h"
#include "server/store/store.h"
#include "tiers/index/fingerprints.h"
#include "tiers/io/file_device.h"
#include "tiers/nvme/device_array.h"
#include "tiers/rocks/rocks_store.h"

namespace quire::server {
namespace {

constexpr size_t kSaltBytes = 32;
constexpr uint64_t kProbeMsMax = 300;
constexpr char kSeedKey[] = "fingerprint_seed";

Status with_context(const Status& status, const std::string& what) {
  return Status(status.code(), what + ": " + status.message(), status.retry_after_ms());
}

// A device that is there but cannot be used now must not keep the rest of the store from serving.
bool may_start_without(const Status& status) {
  return status.code() == StatusCode::kIoError || status.code() == StatusCode::kCorrupt;
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
  tenants_.configure(tiers::EvictionPolicyKind::kDecayedLfu, slab_->capacity_bytes());
  QUIRE_RETURN_IF_ERROR(open_metadata());
  QUIRE_RETURN_IF_ERROR(open_nvme());
  const uint64_t host_max = slab_->capacity_bytes() / 2;
  object_bytes_max_ = std::min(host_max, kRepresentationBytesMax);
  if (nvme_ != nullptr) object_bytes_max_ = std::min(object_bytes_max_, nvme_->payload_bytes_max());
  if (const Status status = loop_.register_buffer({slab_->data(), slab_->capacity_bytes()});
      !status.is_ok()) {
    spdlog::debug("slab is not registered for I/O: {}", status.to_string());
  }
  measure_costs();
  open_gpu();
  return Status::ok();
}

void Store::warn(const std::string& what) {
  spdlog::warn("{}", what);
  warnings_.push_back(what);
}

Status Store::open_metadata() {
  const std::string path = config_.data_directory + "/meta";
  auto metadata = tiers::RocksStore::open(path);
  if (!metadata && metadata.status().code() == StatusCode::kCorrupt) {
    std::string moved_to;
    if (const Status moved = tiers::RocksStore::set_aside(path, &moved_to); !moved.is_ok()) {
      return with_context(metadata.status(), "metadata");
    }
    warn("the metadata was damaged and is set aside in " + moved_to +
         "; the index is rebuilt from the NVMe segments (" + metadata.status().message() + ")");
    metadata = tiers::RocksStore::open(path);
  }
  if (!metadata) return with_context(metadata.status(), "metadata");
  metadata_ = std::move(*metadata);
  // Without a seed it is new, or no start got as far as recover_seed() since it was. A rebuild that
  // a crash interrupted goes on.
  const bool unseeded = metadata_->identity().upgraded_from == 0 &&
                        metadata_->get_state(kSeedKey).status().code() == StatusCode::kNotFound;
  rebuilding_ = unseeded || metadata_->get_state(kRebuildKey).is_ok();
  // Clients compare epochs for equality only. The wall time keeps it new when a data directory is
  // replaced by a fresh one.
  epoch_ = clock_.wall_ms() << 16 | (metadata_->identity().epoch & 0xffff);
  return Status::ok();
}

Expected<std::unique_ptr<NvmeTier>> Store::open_device(const std::string& path) {
  NvmeOptions options;
  options.name = path;
  options.segment_bytes = config_.nvme_segment_bytes;
  options.capacity_bytes = config_.nvme_bytes;
  options.write_bytes_per_day = config_.nvme_write_bytes_per_day;
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
  device_options.path = path;
  device_options.size_bytes = config_.nvme_bytes;
  device_options.probe_ms_max = kProbeMsMax;
  auto device = open_file_device(loop_, device_options);
  if (!device) return with_context(device.status(), "nvme tier");
  if (const std::string backend = (*device)->backend();
      backend.find("refused") != std::string::npos) {
    warn(path + ": " + backend);
  }
  auto tier = NvmeTier::open(options, std::move(*device), clock_);
  if (!tier) return with_context(tier.status(), "nvme tier");
  return tier;
}

Status Store::open_nvme() {
  if (loop_.backend() != "io_uring") {
    // The reactor has one line in the log for it.
    warnings_.push_back("io_uring is not available (" + loop_.backend_detail() +
                        "): files are served by " + loop_.backend() + ", which is slower");
  }
  if (config_.nvme_bytes == 0) {
    nvme_absent_because_ = "nvme.bytes is 0";
    return Status::ok();
  }
  std::vector<std::string> paths{config_.nvme_path};
  paths.insert(paths.end(), config_.nvme_more_paths.begin(), config_.nvme_more_paths.end());
  std::vector<std::unique_ptr<NvmeTier>> devices;
  for (const std::string& path : paths) {
    auto tier = open_device(path);
    if (tier) {
      devices.push_back(std::move(*tier));
      continue;
    }
    // The numbers of the segments follow the order of the devices: none may be left out.
    if (!may_start_without(tier.status())) return tier.status();
    nvme_broken_ = true;
    nvme_absent_because_ = tier.status().message();
    warn("serving without the NVMe tier: " + nvme_absent_because_ +
         "; its objects are kept for when it is back (docs/ops/recovery.md)");
    return Status::ok();
  }
  if (devices.size() == 1) {
    nvme_ = std::move(devices.front());
    return Status::ok();
  }
  QUIRE_ASSIGN_OR_RETURN(nvme_, make_nvme_array(std::move(devices)));
  return Status::ok();
}

// One copy within the slab for the host tier; NVMe was probed when it was opened. All of them are
// followed by their real loads.
void Store::measure_costs() {
  constexpr uint64_t kProbeBytes = 4ull << 20;
  if (slab_->capacity_bytes() >= 2 * kProbeBytes) {
    for (int round = 0; round < 3; ++round) {
      const uint64_t begin_ns = clock_.now_ns();
      std::copy_n(slab_->data(), kProbeBytes, slab_->data() + kProbeBytes);
      host_cost_.observe(kProbeBytes, clock_.now_ns() - begin_ns);
    }
  }
  if (nvme_ == nullptr) return;
  const TierCost probed = nvme_->stats().read_cost;
  if (probed.bytes_per_us > 0) nvme_cost_ = CostMeter{probed};
}

Status Store::recover() {
  QUIRE_ASSIGN_OR_RETURN(const tiers::Registry copy, read_registry_copy());
  QUIRE_RETURN_IF_ERROR(recover_seed(copy));
  QUIRE_RETURN_IF_ERROR(recover_tenants());
  QUIRE_RETURN_IF_ERROR(recover_models(copy));
  QUIRE_RETURN_IF_ERROR(recover_objects());
  registry_written(tiers::write_registry(registry_path(), make_registry()));
  if (nvme_ != nullptr) {
    install_reclaim_hooks();
    start_scrub();
  }
  send_changes(false, nullptr);
  return Status::ok();
}

std::string Store::registry_path() const {
  return config_.data_directory + "/registry.quire";
}

// Empty where there is none. One that cannot be read is about to be written anew: where the
// metadata is lost, too, it may be the last that is known of the tenants' salts, and is kept under
// another name.
Expected<tiers::Registry> Store::read_registry_copy() {
  auto copy = tiers::read_registry(registry_path());
  if (copy || copy.status().code() == StatusCode::kNotFound)
    return copy ? std::move(*copy) : tiers::Registry{};
  std::string kept;
  if (rebuilding_) {
    kept = registry_path() + ".unread-" + std::to_string(clock_.wall_ms());
    std::error_code failed;
    std::filesystem::rename(registry_path(), kept, failed);
    if (failed)
      return Status(StatusCode::kIoError,
                    "the metadata is lost, the registry copy cannot be read (" +
                        copy.status().message() + ") nor moved to " + kept + ": " +
                        failed.message());
    kept = "; it is kept as " + kept;
  }
  warn("the registry copy cannot be read: " + copy.status().message() + kept);
  return tiers::Registry{};
}

// What the registry copy knows and the metadata has lost, in batches the metadata takes.
Status Store::restore_registry(const tiers::Registry& copy) {
  tiers::MetadataBatch batch;
  uint64_t batch_bytes = 0;
  const auto make_room = [&](uint64_t record_bytes) {
    if (batch_bytes + record_bytes > tiers::kBatchBytesMax) {
      QUIRE_RETURN_IF_ERROR(metadata_->write(batch, false));
      batch = {};
      batch_bytes = 0;
    }
    batch_bytes += record_bytes;
    return Status::ok();
  };
  for (const auto& tenant : copy.tenants) {
    QUIRE_RETURN_IF_ERROR(make_room(tenant.second.name.size() + tenant.second.salt.size()));
    batch.put_tenants.push_back(tenant);
  }
  for (const auto& model : copy.models) {
    QUIRE_RETURN_IF_ERROR(make_room(model.second.name.size() + model.second.descriptor.size()));
    batch.put_models.push_back(model);
  }
  for (const auto& state : copy.states) {
    QUIRE_RETURN_IF_ERROR(make_room(state.first.size() + state.second.size()));
    batch.put_state.push_back(state);
  }
  QUIRE_RETURN_IF_ERROR(metadata_->write(batch, true));
  if (!copy.tenants.empty())
    spdlog::info("{} tenants, {} models and {} verdicts taken from the registry copy",
                 copy.tenants.size(), copy.models.size(), copy.states.size());
  return Status::ok();
}

// From the metadata; from the registry copy where that was lost; new in a new store. The seed is
// written behind what the copy knows, and with the mark of a rebuild: a start that finds none does
// all of it again, one that finds it goes on with the rebuild.
Status Store::recover_seed(const tiers::Registry& copy) {
  const auto stored = metadata_->get_state(kSeedKey);
  if (stored && stored->size() == sizeof(fingerprint_seed_)) {
    std::memcpy(&fingerprint_seed_, stored->data(), sizeof(fingerprint_seed_));
  } else if (!stored && stored.status().code() != StatusCode::kNotFound) {
    return with_context(stored.status(), "fingerprint seed");
  } else {
    fingerprint_seed_ = copy.fingerprint_seed;
    if (fingerprint_seed_ == 0 && ::getrandom(&fingerprint_seed_, sizeof(fingerprint_seed_), 0) !=
                                      static_cast<ssize_t>(sizeof(fingerprint_seed_))) {
      return Status(StatusCode::kIoError, "no random bytes for the fingerprint seed");
    }
    tiers::MetadataBatch batch;
    if (rebuilding_) {
      QUIRE_RETURN_IF_ERROR(restore_registry(copy));
      batch.put_state.emplace_back(kRebuildKey, std::vector<std::byte>(1, std::byte{1}));
    }
    const auto* first = reinterpret_cast<const std::byte*>(&fingerprint_seed_);
    batch.put_state.emplace_back(kSeedKey,
                                 std::vector<std::byte>(first, first + sizeof(fingerprint_seed_)));
    QUIRE_RETURN_IF_ERROR(metadata_->write(batch, true));
  }
  tiers::MatchIndexOptions options;
  options.fingerprint_seed = fingerprint_seed_;
  index_ = std::make_unique<tiers::MatchIndex>(options);
  return Status::ok();
}

Status Store::recover_tenants() {
  uint32_t next_number = 1;
  auto report = metadata_->scan_tenants([&](const uint32_t& number, tiers::TenantRecord&& record) {
    Tenant& tenant = tenants_.add(number, record.name, std::move(record.salt));
    tenant.soft_bytes = record.soft_bytes;
    tenant.hard_bytes = record.hard_bytes;
    next_number = std::max(next_number, number + 1);
    return true;
  });
  if (!report) return with_context(report.status(), "tenants");
  if (report->corrupt != 0) {
    return Status(
        StatusCode::kCorrupt,
        "a tenant record is damaged; without its salt that tenant's objects cannot be told "
        "apart. `quirectl fsck --repair` takes it from the registry copy; or restore " +
            config_.data_directory + "/meta from a backup, or move it away");
  }
  if (tenants_.find(0) == nullptr) tenants_.add(0, "", {});
  return apply_configured_tenants(next_number);
}

// Quotas that the configuration names are in force from this start on; others stay as they were
// set.
Status Store::apply_configured_tenants(uint32_t next_number) {
  tiers::MetadataBatch batch;
  for (const TenantConfig& wanted : config_.tenants) {
    Tenant* tenant = tenants_.find(wanted.name);
    const bool known = tenant != nullptr;
    if (known && !wanted.salt.empty() && wanted.salt != *tenant->salt) {
      return Status(StatusCode::kFailedPrecondition,
                    "the salt of tenant \"" + wanted.name +
                        "\" is not the one its objects were stored with; remove salt_hex or use "
                        "another tenant name");
    }
    if (!known) {
      TenantSalt salt = wanted.salt;
      if (salt.empty()) {
        salt.resize(kSaltBytes);
        if (::getrandom(salt.data(), kSaltBytes, 0) != static_cast<ssize_t>(kSaltBytes)) {
          return Status(StatusCode::kIoError, "no random bytes for a tenant's salt");
        }
      }
      tenant = &tenants_.add(next_number++, wanted.name, std::move(salt));
    }
    const uint64_t soft_bytes = wanted.soft_bytes.value_or(tenant->soft_bytes);
    const uint64_t hard_bytes = wanted.hard_bytes.value_or(tenant->hard_bytes);
    if (const Status status = check_quota(soft_bytes, hard_bytes); !status.is_ok()) {
      return with_context(status, "tenant \"" + wanted.name + "\"");
    }
    const bool changed =
        soft_bytes != tenant->soft_bytes || hard_bytes != tenant->hard_bytes || !known;
    tenant->soft_bytes = soft_bytes;
    tenant->hard_bytes = hard_bytes;
    if (changed) batch.put_tenants.emplace_back(tenant->number, tenant->record());
  }
  return batch.empty() ? Status::ok() : metadata_->write(batch, true);
}

// A model whose record is damaged or gone comes from the registry copy: the server takes none away.
Status Store::recover_models(const tiers::Registry& copy) {
  auto table = std::make_shared<ModelTable>();
  std::vector<Digest> ids;
  const auto take = [&](const Digest& id, tiers::ModelRecord&& record) {
    auto model = ModelDescriptor::parse(record.descriptor);
    if (!model || model_id(*model) != id) return false;
    table->insert_or_assign(
        id, RegisteredModel{record.name, std::move(*model), record.registered_wall_ms});
    return true;
  };
  auto report = metadata_->scan_models([&](const Digest& id, tiers::ModelRecord&& record) {
    ids.push_back(id);
    if (!take(id, std::move(record)))
      spdlog::warn("model record {} is not usable and is ignored", id.to_hex());
    return true;
  });
  if (!report) return with_context(report.status(), "models");
  ids.insert(ids.end(), report->corrupt_ids.begin(), report->corrupt_ids.end());
  tiers::MetadataBatch batch;
  for (const auto& [id, record] : copy.models) {
    if (table->contains(id) || !take(id, tiers::ModelRecord(record))) continue;
    warn("the record of model \"" + record.name +
         "\" is damaged or gone and comes from the registry copy");
    batch.put_models.emplace_back(id, record);
    ids.push_back(id);
  }
  if (!batch.empty()) QUIRE_RETURN_IF_ERROR(metadata_->write(batch, true));
  models_ = std::move(table);
  for (const auto& [id, model] : *models_) apply_verdict(id);
  return recover_verdicts(ids, copy);
}

tiers::Registry Store::make_registry() const {
  tiers::Registry out;
  out.fingerprint_seed = fingerprint_seed_;
  if (nvme_ != nullptr) out.store_id = nvme_->store_uuid();
  for (const auto& [number, tenant] : tenants_.all()) {
    out.tenants.emplace_back(number, tenant.record());
  }
  for (const auto& [id, model] : *models_) {
    tiers::ModelRecord record;
    record.name = model.name;
    record.registered_wall_ms = model.registered_wall_ms;
    record.descriptor = model.descriptor.encode();
    out.models.emplace_back(id, std::move(record));
  }
  for (const auto& [id, verdict] : verdicts_) {
    out.states.emplace_back(verdict_state_key(id), verdict.encode());
  }
  return out;
}

// The status says so until one was written.
void Store::registry_written(const Status& status) {
  registry_error_.clear();
  if (status.is_ok()) return;
  registry_error_ = "the registry copy is not up to date (" + status.message() +
                    "): if the metadata is lost, tenants' objects and verdicts are lost with it";
  spdlog::warn("{}", registry_error_);
}

void Store::write_registry_later(const std::function<void()>& then) {
  auto registry = std::make_shared<tiers::Registry>(make_registry());
  auto status = std::make_shared<Status>();
  auto run = [path = registry_path(), registry, status] {
    *status = tiers::write_registry(path, *registry);
  };
  auto finish = [this, status, then] {
    registry_written(*status);
    if (then) then();
  };
  if (!metadata_worker_->submit(std::move(run), std::move(finish))) {
    registry_written({StatusCode::kBusy, "the metadata queue is full"});
    if (then) then();
  }
}

}  // namespace quire::server
