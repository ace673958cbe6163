#include <algorithm>
#include <cstdio>
#include <tuple>
#include <utility>

#include "tests/sim/tier_simulation.h"
#include "tests/sim/tier_simulation_log.h"
#include "tiers/nvme/segment_format.h"

namespace quire::sim {
namespace {

constexpr uint32_t kOpenAttemptsMax = 1000;
constexpr uint64_t kRecoverStepsMax = 300'000;
constexpr double kPowerCutChance = 0.6;

auto place_and_contents(const RecoveredObject& object) {
  const NvmeLocation& location = object.location;
  return std::tuple(location.segment, location.offset, location.generation, location.sequence,
                    location.payload_bytes, object.key, object.checksum);
}

}  // namespace

void TierSimulation::note(std::string_view text) {
  digest_ = xxh3_64(std::as_bytes(std::span(text)), digest_);
  if (!options_.trace) return;
  std::printf("%8llu %.*s\n", static_cast<unsigned long long>(operation_),
              static_cast<int>(text.size()), text.data());
  std::fflush(stdout);
}

void TierSimulation::fail(const std::string& what) {
  log("FAILED: ", what);
  if (failure_.empty()) failure_ = what;
}

void TierSimulation::reset_store() {
  const uint64_t bytes = nvme::kFirstSegmentOffset + segments_ * kSegmentBytesMin;
  image_ = std::make_shared<MemoryImage>(bytes);
  damage_ = std::make_shared<MediaDamage>(bytes);
  for (auto& entry : index_) entry.reset();
  known_.clear();
  opens_ = 0;
}

// What reclaiming gave up without a word. Without a fault it must not.
void TierSimulation::drop_vanished() {
  for (uint32_t key = 0; key < keys_; ++key) {
    if (!index_[key]) continue;
    const NvmeLocation& location = index_[key]->location;
    const auto located = tier_->locate(location.segment, location.offset, location.payload_bytes);
    if (located && same_object(*located, location)) continue;
    if (!may_be_gone(location)) return fail("an object vanished from the tier without a fault");
    log("vanished: key ", key);
    forget(key);
  }
}

// The process dies; with a power cut the device forgets what was not synced.
void TierSimulation::crash(bool power_cut) {
  log(power_cut ? "power cut" : "kill");
  if (!passive_) drop_vanished();
  const NvmeStats stats = tier_->stats();
  totals_.reclaimed_segments += stats.reclaimed_segments;
  totals_.scrubbed_objects += stats.scrub.objects;
  totals_.stuck_lives += stats.state == NvmeState::kStuck;
  totals_.full_lives += stats.state == NvmeState::kReadOnlyNoSpace;
  totals_.read_only_lives += stats.state == NvmeState::kReadOnlyError;
  totals_.quarantined_lives += stats.state == NvmeState::kQuarantined;
  ++life_;
  device_ = nullptr;
  tier_.reset();
  while (!tasks_.empty()) {  // other threads end later; what they post must touch nothing
    const auto task = std::move(tasks_.back());
    tasks_.pop_back();
    task();
  }
  forget_life();
  ++(power_cut ? totals_.power_cuts : totals_.kills);
  if (power_cut) {
    const PowerCut cut = image_->cut_power(random_);
    totals_.unsynced_blocks += cut.unsynced_blocks;
    totals_.reverted_blocks += cut.reverted_blocks;
    totals_.torn_blocks += cut.torn_blocks;
    totals_.reordered_cuts += cut.reordered;
  }
  metadata_.crash(power_cut, random_);
}

void TierSimulation::forget_life() {
  for (auto& write : writes_) buffers_.give(std::move(write->buffer));
  for (auto& read : reads_) buffers_.give(std::move(read->buffer));
  writes_.clear();
  keys_being_written_.clear();
  reads_.clear();
  syncs_.clear();
  live_.clear();
  crash_in_steps_.reset();
  segments_misread_.clear();
  segments_hit_.clear();
  misdirected_ = false;
  deletes_ = {};
  read_faults_ = write_faults_ = stuck_ = false;
  next_tick_ns_ = 0;
  written_bytes_ = read_bytes_ = corrupt_reads_ = 0;
  kept_ = moves_ = evictions_ = 0;
}

NvmeOptions TierSimulation::make_options() {
  NvmeOptions options;
  options.segment_bytes = kSegmentBytesMin;
  options.free_segments_min = static_cast<uint32_t>(1 + random_.below(2));
  options.reinsert_fraction_max = random_.chance(0.2) ? 0 : 0.3 * (1 + random_.below(3));
  options.read_errors_per_minute_max = random_.chance(0.2) ? 16 : 1'000'000;
  if (random_.chance(0.1)) options.write_bytes_per_day = 100 << 20;
  if (random_.chance(0.3)) {
    options.offload_bytes_min = 8192;
    options.offload = [this](std::function<void()> task) {
      ++totals_.offloaded;
      tasks_.push_back(std::move(task));
    };
    options.post = [this](std::function<void()> task) { tasks_.push_back(std::move(task)); };
  }
  return options;
}

Status TierSimulation::try_open(const FaultRates& rates) {
  auto device = std::make_unique<MemoryDevice>(
      image_, MemoryDeviceOptions{.shuffle = true, .seed = random_.next()});
  auto faulty = std::make_unique<FaultyDevice>(std::move(device), rates, random_.next());
  faulty->set_clock(clock_);
  faulty->set_damage(damage_);
  faulty->set_listener(
      [this](Fault fault, uint64_t offset, uint64_t bytes) { on_fault(fault, offset, bytes); });
  FaultyDevice* opening = faulty.get();
  auto opened = NvmeTier::open(make_options(), std::move(faulty), clock_);
  if (!opened.is_ok()) return opened.status();
  tier_ = std::move(opened).value();
  device_ = opening;
  install_hooks();
  for (uint32_t segment = 0; segment < segments_; ++segment) {
    const uint64_t base = nvme::kFirstSegmentOffset + segment * kSegmentBytesMin;
    if (damage_->any(base, kSegmentBytesMin)) segments_hit_.insert(segment);
  }
  return Status::ok();
}

bool TierSimulation::open(const FaultRates& rates) {
  for (uint32_t attempt = 0; attempt < kOpenAttemptsMax; ++attempt) {
    const uint64_t blocked = totals_.faults[static_cast<size_t>(Fault::kBlockingError)];
    const bool damaged = damage_->any(0, nvme::kSuperblockSlots * kBlockBytes);
    const bool may_be_lost = damage_->any(0, kBlockBytes) && damage_->any(kBlockBytes, kBlockBytes);
    superblock_was_damaged_ = superblock_was_damaged_ || damaged;
    const Status status = try_open(rates);
    log("open: ", status);
    const bool excuse = may_be_lost || (damaged && opens_ < 2);
    if (status.is_ok()) {
      if (opens_++ > 0 && tier_->store_uuid() != uuid_) {
        if (!excuse) fail("a store that was there was made anew");
        for (auto& entry : index_) entry.reset();
        known_.clear();
      }
      uuid_ = tier_->store_uuid();
      return !failed();
    }
    if (blocked != totals_.faults[static_cast<size_t>(Fault::kBlockingError)]) {
      if (random_.chance(0.5)) image_->cut_power(random_);
    } else if (excuse) {
      ++totals_.stores_reset;
      reset_store();
    } else {
      fail("the store does not open: " + status.to_string());
      return false;
    }
  }
  fail("the store does not open, again and again");
  return false;
}

void TierSimulation::recover(const std::function<void()>& on_done) {
  ++totals_.recoveries;
  recovered_.clear();
  uint32_t calls = 0;
  tier_->recover([this](const RecoveredObject& object) { recovered_.push_back(object); },
                 [&](const Status& status) {
                   log("recovered ", recovered_.size(), " objects: ", status);
                   ++calls;
                   if (!status.is_ok() && tier_->stats().state != NvmeState::kQuarantined) {
                     fail("recovery failed: " + status.to_string());
                   }
                   on_done();
                 });
  if (calls != 0) return fail("recover() called back inside the call");
  for (uint64_t steps = 0; calls == 0; ++steps) {
    if (!step_device() || steps > kRecoverStepsMax) return fail("recovery never ends");
  }
  if (calls != 1) fail("recover() called back twice");
}

// A first look, which ends while the tier seals what the crash left open.
std::vector<RecoveredObject> TierSimulation::recover_and_crash(bool power_cut) {
  passive_ = true;
  if (open({})) recover([] {});
  std::vector<RecoveredObject> first = recovered_;
  for (uint64_t steps = random_.below(100); !failed() && steps > 0 && step_device(); --steps) {
  }
  if (tier_ != nullptr) crash(power_cut);
  passive_ = false;
  return first;
}

void TierSimulation::compare_recoveries(std::vector<RecoveredObject> first) {
  ++totals_.double_recoveries;
  std::vector<RecoveredObject> second = recovered_;
  const auto order = [](const RecoveredObject& left, const RecoveredObject& right) {
    return place_and_contents(left) < place_and_contents(right);
  };
  std::sort(first.begin(), first.end(), order);
  std::sort(second.begin(), second.end(), order);
  const auto equal = [](const RecoveredObject& left, const RecoveredObject& right) {
    return place_and_contents(left) == place_and_contents(right);
  };
  if (!std::equal(first.begin(), first.end(), second.begin(), second.end(), equal)) {
    fail("the second recovery found " + std::to_string(second.size()) +
         " objects, not the same as the " + std::to_string(first.size()) + " of the first");
  }
}

void TierSimulation::restart() {
  restart(random_.chance(kPowerCutChance));
}

void TierSimulation::restart(bool power_cut) {
  if (tier_ != nullptr) crash(power_cut);
  profile_ = pick_profile(random_);
  log("life ", life_, ": ", profile_.name);
  const bool twice = opens_ > 0 && random_.chance(0.25);
  const uint64_t resets = totals_.stores_reset;
  std::vector<RecoveredObject> first;
  // What a kill left in the page cache may go in a later power cut.
  if (twice) first = recover_and_crash(power_cut && random_.chance(0.7));
  if (failed() || !open(twice ? FaultRates{} : profile_.rates)) return;
  recover([this] { rebuild_index(); });
  if (failed()) return;
  if (twice && resets == totals_.stores_reset) compare_recoveries(std::move(first));
  device_->set_rates(profile_.rates);
  if (random_.chance(0.3)) start_scrub();
  if (random_.chance(0.25)) audit();
}

void TierSimulation::check_reported() {
  std::vector<uint64_t> sequences;
  for (const RecoveredObject& object : recovered_) {
    const uint32_t key = key_number(object.key);
    const auto known = version_by_checksum_.find(object.checksum.low);
    if (key >= keys_ || known == version_by_checksum_.end() || version(known->second).key != key ||
        version(known->second).checksum != object.checksum ||
        version(known->second).bytes != object.location.payload_bytes) {
      return fail("recovery reports an object that nobody wrote");
    }
    log("  reported: version ", known->second, " segment ", object.location.segment, " offset ",
        object.location.offset, " sequence ", object.location.sequence);
    know(known->second, object.location);
    sequences.push_back(object.location.sequence);
    last_sequence_ = std::max(last_sequence_, object.location.sequence);
  }
  std::sort(sequences.begin(), sequences.end());
  if (!superblock_was_damaged_ &&
      std::adjacent_find(sequences.begin(), sequences.end()) != sequences.end()) {
    fail("recovery reports two objects of one sequence");
  }
}

bool TierSimulation::excused(const NvmeLocation& location) const {
  const uint64_t base = nvme::kFirstSegmentOffset + location.segment * kSegmentBytesMin;
  const auto taint = tainted_.find(location.segment);
  return segments_misread_.contains(location.segment) ||
         (taint != tainted_.end() && location.generation <= taint->second) ||
         damage_->any(base, location.offset + stored_bytes(location));
}

void TierSimulation::check_durable(const std::vector<std::optional<Entry>>& before) {
  if (tier_->stats().state == NvmeState::kQuarantined) return;
  std::unordered_set<uint32_t> found;
  for (const RecoveredObject& object : recovered_) {
    found.insert(version_by_checksum_[object.checksum.low]);
  }
  for (const auto& entry : before) {
    if (!entry || !entry->durable) continue;
    ++totals_.durable_checked;
    if (found.contains(entry->version)) continue;
    if (!excused(entry->location) && !(entry->moved_from && excused(*entry->moved_from))) {
      return fail("a synced object is lost: version " + std::to_string(entry->version) +
                  " at segment " + std::to_string(entry->location.segment) + " offset " +
                  std::to_string(entry->location.offset));
    }
    ++totals_.durable_excused;
  }
}

// What a server does: the newest payload of each record. Sometimes its records are gone and it
// takes the newest of each key.
void TierSimulation::rebuild_index() {
  check_reported();
  if (failed()) return;
  const std::vector<std::optional<Entry>> before = std::exchange(index_, {});
  index_.resize(keys_);
  check_durable(before);
  uint64_t newest_generation = 0;
  for (const RecoveredObject& object : recovered_) {
    newest_generation = std::max(newest_generation, object.location.generation);
  }
  for (const uint32_t segment : segments_misread_) tainted_[segment] = newest_generation;
  const bool amnesia = random_.chance(0.3);
  totals_.amnesias += amnesia;
  const auto rows = metadata_.records();
  uint64_t unwanted = 0;
  for (const RecoveredObject& object : recovered_) {
    const uint32_t key = key_number(object.key);
    const auto row = rows.find(key);
    const bool recorded = row != rows.end() && row->second.checksum == object.checksum &&
                          row->second.bytes == object.location.payload_bytes;
    std::optional<Entry>& entry = index_[key];
    const bool newest = !entry || entry->location.sequence < object.location.sequence;
    if ((!amnesia && !recorded) || !newest) {
      ++unwanted;
      tier_->remove(object.location);
      continue;
    }
    if (entry) {
      ++unwanted;
      tier_->remove(entry->location);
    }
    entry = Entry{version_by_checksum_[object.checksum.low], object.location, std::nullopt, false};
    entry->durable = before[key] && before[key]->durable && before[key]->version == entry->version;
  }
  SimMetadata::Batch batch;
  records_.clear();
  for (uint32_t key = 0; key < keys_; ++key) {
    if (index_[key]) {
      const Entry& entry = *index_[key];
      live_.emplace(Place{entry.location.segment, entry.location.offset}, entry.location);
      records_[key] = entry.version;
      if (amnesia) batch.puts.emplace_back(version(entry.version), entry.location);
    } else if (rows.contains(key)) {
      batch.deletes.push_back(key);
    }
  }
  metadata_.write(batch, true);
  const NvmeStats stats = tier_->stats();
  if (stats.objects != recovered_.size() - unwanted) {
    fail("after recovery the tier counts " + std::to_string(stats.objects) + " objects, not " +
         std::to_string(recovered_.size() - unwanted));
  }
}

void TierSimulation::audit() {
  ++totals_.audits;
  log("audit");
  for (uint32_t key = 0; key < keys_ && !failed(); ++key) {
    if (index_[key]) read_key(key, false);
    for (uint32_t polls = 0; polls < 3; ++polls) step_device();
  }
  if (!failed()) settle();
}

}  // namespace quire::sim
