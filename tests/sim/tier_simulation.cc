#include "tests/sim/tier_simulation.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "tests/sim/tier_simulation_log.h"
#include "tiers/nvme/segment_format.h"

namespace quire::sim {
namespace {

constexpr uint64_t kSettleStepsMax = 300'000;
constexpr uint64_t kMillisecondNs = 1'000'000;
// The longest that anything may wait for the time alone.
constexpr uint64_t kPatienceTicks = 1000;
constexpr size_t kWritesInFlightMax = 200;
constexpr size_t kPendingMax = 20'000;

const PayloadBank& shared_bank() {
  static const PayloadBank bank;
  return bank;
}

}  // namespace

TierSimulation::TierSimulation(const SimulationOptions& options, Totals& totals)
    : options_(options), totals_(totals), random_(options.seed), bank_(shared_bank()) {
  segments_ = 4 + random_.below(6);
  payload_bytes_max_ = random_.chance(0.2) ? 250'000 : 8'000 + random_.below(24'000);
  keys_ = 100 + random_.below(300);
  index_.resize(keys_);
}

TierSimulation::~TierSimulation() = default;

bool TierSimulation::run() {
  ++totals_.seeds;
  reset_store();
  restart();
  for (operation_ = 0; operation_ < options_.operations && !failed(); ++operation_) step();
  if (!failed()) settle();
  if (!failed()) restart();
  if (!failed()) audit();
  totals_.operations += operation_;
  return !failed();
}

void TierSimulation::step() {
  const uint64_t dice = random_.below(1000);
  if (tier_->stats().state != NvmeState::kOk && random_.chance(0.03)) {
    restart();
  } else if (dice < 330) {
    start_write();
  } else if (dice < 600) {
    start_read();
  } else if (dice < 660) {
    start_sync(false);
  } else if (dice < 700) {
    remove_one();
  } else if (dice < 705) {
    start_sync(true);
  } else if (dice < 708) {
    for (uint64_t burst = random_.below(200); burst > 0; --burst) start_write();
  } else if (dice < 712) {
    if (random_.chance(0.5)) settle();
    if (!failed()) restart();
  } else {
    if (random_.chance(profile_.bit_rot)) rot_one();
    for (uint64_t polls = random_.below(40); polls > 0 && step_device(); --polls) {
      if (crash_in_steps_ && (*crash_in_steps_)-- == 0) return restart(true);
    }
  }
}

void TierSimulation::maybe_crash_soon() {
  if (!passive_ && !crash_in_steps_ && random_.chance(0.01)) crash_in_steps_ = random_.below(60);
}

void TierSimulation::know(uint32_t number, const NvmeLocation& location) {
  const auto [known, added] = known_.try_emplace(location.sequence, number, location);
  if (added || superblock_was_damaged_) return;
  if (known->second.first != number || known->second.second != location) {
    fail("one sequence names two objects or places");
  }
}

bool TierSimulation::step_device() {
  ++totals_.steps;
  clock_.advance_ns(1 + random_.below(20'000));
  if (clock_.now_ns() >= next_tick_ns_) {
    next_tick_ns_ = clock_.now_ns() + kNvmeTickMs * kMillisecondNs;
    tier_->tick();
  }
  if (!tasks_.empty() && random_.chance(0.5)) {
    const size_t index = random_.below(tasks_.size());
    const auto task = std::move(tasks_[index]);
    tasks_.erase(tasks_.begin() + static_cast<ptrdiff_t>(index));
    task();
    return true;
  }
  if (tier_->device().poll()) return true;
  const uint64_t due_ns = device_->next_due_ns();
  if (due_ns != UINT64_MAX) {
    if (due_ns > clock_.now_ns()) clock_.advance_ns(due_ns - clock_.now_ns());
    return true;
  }
  return !tasks_.empty();
}

void TierSimulation::add_live(const NvmeLocation& location) {
  const auto [entry, added] = live_.emplace(Place{location.segment, location.offset}, location);
  if (added) return;
  if (entry->second.generation == location.generation || !may_be_gone(location)) {
    return fail("two live objects at one place");
  }
  entry->second = location;
}

std::optional<uint32_t> TierSimulation::any_key() {
  for (uint32_t tries = 0; tries < 8; ++tries) {
    const auto key = static_cast<uint32_t>(random_.below(keys_));
    if (index_[key]) return key;
  }
  return std::nullopt;
}

void TierSimulation::forget(uint32_t key) {
  live_.erase({index_[key]->location.segment, index_[key]->location.offset});
  index_[key].reset();
  deletes_.deletes.push_back(key);
}

void TierSimulation::start_write() {
  const auto key = static_cast<uint32_t>(random_.below(keys_));
  if (keys_being_written_.size() >= kWritesInFlightMax || !keys_being_written_.insert(key).second) {
    return;
  }
  ++totals_.writes;
  Version fresh;
  fresh.key = key;
  fresh.number = static_cast<uint32_t>(versions_.size());
  fresh.bytes = 1 + random_.below(payload_bytes_max_);
  if (random_.chance(0.2)) fresh.bytes = align_up(fresh.bytes, kBlockBytes);
  auto write = std::make_unique<PendingWrite>();
  write->version = fresh.number;
  write->buffer = buffers_.take(fresh.bytes);
  bank_.fill(fresh, write->buffer.span().first(align_up(fresh.bytes, kBlockBytes)));
  const ByteSpan payload = write->buffer.span().first(fresh.bytes);
  fresh.checksum = xxh3_128(payload);
  version_by_checksum_[fresh.checksum.low] = fresh.number;
  versions_.push_back(fresh);
  log("write key ", key, " version ", fresh.number, " bytes ", fresh.bytes);
  writes_.push_back(std::move(write));
  tier_->write(
      make_key(key), payload, fresh.checksum,
      [this, life = life_, write = writes_.back().get()](const Expected<NvmeLocation>& result) {
        if (life != life_) return fail("a write of an earlier life called back");
        on_write(*write, result);
      });
}

void TierSimulation::on_write(PendingWrite& write, const Expected<NvmeLocation>& result) {
  const Version& written = version(write.version);
  if (std::exchange(write.done, true)) return fail("a write called back twice");
  keys_being_written_.erase(written.key);
  buffers_.give(std::exchange(write.buffer, AlignedBuffer()));
  log("  version ", written.number, " written: ", result);
  if (!result.is_ok()) {
    const StatusCode code = result.status().code();
    if (code == StatusCode::kBusy) {
      ++totals_.writes_busy;
      return;
    }
    ++totals_.writes_failed;
    const bool quarantined = tier_->stats().state == NvmeState::kQuarantined;
    if (!quarantined && !write_faults_) fail("a write failed without a fault");
    return;
  }
  if (write.sealed_before) return fail("a seal did not wait for a write before it");
  ++totals_.writes_ok;
  written_bytes_ += written.bytes;
  if (result->payload_bytes != written.bytes || result->segment >= segments_) {
    return fail("a write was given an impossible location");
  }
  if (result->sequence <= last_sequence_ && !superblock_was_damaged_) {
    // Callbacks come in order of offset, sequences are given in that order.
    return fail("a write was given an old sequence");
  }
  know(written.number, *result);
  add_live(*result);
  std::optional<Entry>& entry = index_[written.key];
  if (entry) {
    tier_->remove(entry->location);
    live_.erase({entry->location.segment, entry->location.offset});
  }
  entry = Entry{written.number, *result, std::nullopt, false};
}

void TierSimulation::ask_wrongly(PendingRead& read, Digest* key, Hash128* expected) {
  read.wrong_question = true;
  ++totals_.wrong_questions;
  switch (random_.below(4)) {
    case 0:
      *key = make_key(static_cast<uint32_t>(keys_ + 1));
      break;
    case 1:
      expected->high ^= 1;
      break;
    case 2:
      read.location.sequence += 1;
      break;
    default:
      read.location.generation += 1;
  }
}

void TierSimulation::start_read() {
  const auto key = any_key();
  if (key && reads_.size() < kPendingMax) read_key(*key, random_.chance(0.02));
}

void TierSimulation::read_key(uint32_t key, bool wrongly) {
  ++totals_.reads;
  const Entry& entry = *index_[key];
  const Version wanted = version(entry.version);
  reads_.push_back(std::make_unique<PendingRead>());
  PendingRead* read = reads_.back().get();
  read->version = entry.version;
  read->location = entry.location;
  Digest digest = make_key(key);
  Hash128 expected = wanted.checksum;
  if (wrongly) {
    ask_wrongly(*read, &digest, &expected);
  } else if (random_.chance(0.3)) {
    ++totals_.located;
    const auto located = tier_->locate(entry.location.segment, entry.location.offset, wanted.bytes);
    if (located && same_object(*located, entry.location)) {
      read->location = *located;
    } else if (!may_be_gone(entry.location)) {
      return fail("locate() does not find an indexed object");
    }
  }
  read->buffer = buffers_.take(wanted.bytes);
  log("read key ", key, " version ", entry.version, wrongly ? " wrongly" : "");
  const MutableByteSpan target = read->buffer.span().first(align_up(wanted.bytes, kBlockBytes));
  tier_->read(digest, read->location, expected, target,
              [this, life = life_, read](const Status& status) {
                if (life != life_) return fail("a read of an earlier life called back");
                on_read(*read, status);
              });
}

void TierSimulation::on_read(PendingRead& read, const Status& status) {
  if (std::exchange(read.done, true)) return fail("a read called back twice");
  const Version& wanted = version(read.version);
  log("  version ", wanted.number, " read: ", status);
  AlignedBuffer buffer = std::exchange(read.buffer, AlignedBuffer());
  const bool right = status.is_ok() && bank_.holds(wanted, buffer.span().first(wanted.bytes));
  buffers_.give(std::move(buffer));
  const std::optional<Entry>& entry = index_[wanted.key];
  const bool indexed = entry && same_object(entry->location, read.location);
  if (status.is_ok()) {
    ++totals_.hits;
    read_bytes_ += wanted.bytes;
    if (read.wrong_question) return fail("a read of the wrong thing succeeded");
    if (!right) return fail("WRONG BYTES: version " + std::to_string(wanted.number));
  } else if (status.code() == StatusCode::kUnavailable || status.code() == StatusCode::kBusy) {
    ++totals_.failed_reads;
    const bool quarantined = tier_->stats().state == NvmeState::kQuarantined;
    const bool explained = status.code() == StatusCode::kBusy ? stuck_ : quarantined;
    if (!explained) fail("a read was refused without cause: " + status.to_string());
  } else {
    const bool corrupt = status.code() == StatusCode::kCorrupt;
    const bool known = corrupt || status.code() == StatusCode::kIoError;
    corrupt_reads_ += corrupt;
    totals_.corrupt_reads += corrupt;
    totals_.failed_reads += !corrupt && known;
    totals_.misses += status.code() == StatusCode::kNotFound;
    if (read.wrong_question) return;
    // A lost segment header shows the objects of an older generation over newer bytes.
    const bool damaged =
        damage_->any(device_offset(read.location), stored_bytes(read.location)) ||
        damage_->any(device_offset(read.location) - read.location.offset, kBlockBytes);
    const bool explained = known ? read.excused || damaged : may_be_gone(read.location);
    // One that is not indexed any more is a miss, but not a corruption.
    if ((indexed || known) && !explained) {
      return fail("an object cannot be read, and no fault explains it: " + status.to_string());
    }
    if (indexed) {  // as a server does
      tier_->remove(entry->location);
      forget(wanted.key);
    }
  }
}

void TierSimulation::start_sync(bool seal) {
  if (syncs_.size() >= kPendingMax) return;
  ++(seal ? totals_.seals : totals_.syncs);
  auto sync = std::make_unique<PendingSync>();
  for (uint32_t key = 0; key < keys_; ++key) {
    if (index_[key]) sync->covered.emplace_back(key, index_[key]->version);
  }
  sync->flush = random_.chance(0.6);
  sync->seal = seal;
  sync->writes_before = writes_.size();
  if (seal) maybe_crash_soon();
  PendingSync* pending = sync.get();
  syncs_.push_back(std::move(sync));
  log(seal ? "seal" : "sync");
  const auto done = [this, life = life_, pending](const Status& status) {
    if (life != life_) return fail("a sync of an earlier life called back");
    on_sync(*pending, status);
  };
  if (seal) {
    tier_->seal(done);
  } else {
    tier_->sync(done);
  }
}

// Data first, metadata second.
void TierSimulation::on_sync(PendingSync& sync, const Status& status) {
  if (std::exchange(sync.done, true)) return fail("a sync called back twice");
  log("  synced: ", status);
  const auto covered = std::exchange(sync.covered, {});
  if (!status.is_ok()) {
    ++totals_.syncs_failed;
    const bool busy = status.code() == StatusCode::kBusy;
    const bool quarantined = tier_->stats().state == NvmeState::kQuarantined;
    if (!quarantined && !(busy ? stuck_ : write_faults_)) fail("a sync failed without a fault");
    return;
  }
  for (size_t i = 0; sync.seal && i < sync.writes_before; ++i) {
    writes_[i]->sealed_before = true;  // it may still be refused
  }
  maybe_crash_soon();
  SimMetadata::Batch batch;
  for (const auto& [key, number] : covered) {
    std::optional<Entry>& entry = index_[key];
    if (!entry || entry->version != number) continue;
    if (!entry->durable || records_[key] != number) {
      batch.puts.emplace_back(version(number), entry->location);
    }
    entry->durable = true;
  }
  if (!sync.flush) return;
  metadata_.write(std::exchange(deletes_, {}), false);
  metadata_.write(batch, true);
  for (const auto& [put, location] : batch.puts) records_[put.key] = put.number;
}

void TierSimulation::remove_one() {
  const auto key = any_key();
  if (!key) return;
  ++totals_.removes;
  log("remove key ", *key);
  tier_->remove(index_[*key]->location);
  forget(*key);
  if (random_.chance(0.3)) metadata_.write(std::exchange(deletes_, {}), false);
}

// Most flips hit an object that somebody may ask for, some hit anything.
void TierSimulation::rot_one() {
  uint64_t offset = random_.below(image_->size_bytes());
  const auto key = any_key();
  if (key && random_.chance(0.8)) {
    const NvmeLocation& location = index_[*key]->location;
    offset = device_offset(location) + random_.below(stored_bytes(location));
  }
  ++totals_.bit_rots;
  log("bit rot at ", offset);
  image_->bytes()[offset] ^= std::byte{1} << random_.below(8);
  damage_->set(offset, 1, true);
  if (offset >= nvme::kFirstSegmentOffset) {
    segments_hit_.insert(
        static_cast<uint32_t>((offset - nvme::kFirstSegmentOffset) / kSegmentBytesMin));
  }
}

// Reclaiming gives up without a word what it cannot find in a segment.
bool TierSimulation::may_be_gone(const NvmeLocation& location) const {
  return misdirected_ || segments_hit_.contains(location.segment);
}

void TierSimulation::on_fault(Fault fault, uint64_t offset, uint64_t bytes) {
  ++totals_.faults[static_cast<size_t>(fault)];
  log("  fault: ", fault_name(fault), " at ", offset, " bytes ", bytes);
  stuck_ = stuck_ || fault == Fault::kStuck;
  write_faults_ = write_faults_ || fault == Fault::kWriteError || fault == Fault::kNoSpace ||
                  fault == Fault::kSyncError;
  if (fault == Fault::kDelay || fault == Fault::kStuck) return;
  const bool misread = fault == Fault::kReadBitFlip || fault == Fault::kMisdirectedRead ||
                       fault == Fault::kShortRead || fault == Fault::kReadError;
  if (offset >= nvme::kFirstSegmentOffset) {
    const auto segment =
        static_cast<uint32_t>((offset - nvme::kFirstSegmentOffset) / kSegmentBytesMin);
    segments_hit_.insert(segment);
    if (misread) segments_misread_.insert(segment);
  }
  misdirected_ = misdirected_ || fault == Fault::kMisdirectedWrite;
  if (!misread) return;
  read_faults_ = true;
  for (const auto& read : reads_) {
    if (read->done) continue;
    const uint64_t begin = device_offset(read->location);
    if (offset < begin + stored_bytes(read->location) && begin < offset + bytes) {
      read->excused = true;
    }
  }
}

void TierSimulation::install_hooks() {
  const auto entry_of = [this](const Digest& key, const NvmeLocation& location) -> Entry* {
    const uint32_t number = key_number(key);
    if (number >= keys_ || !index_[number]) return nullptr;
    Entry& entry = *index_[number];
    return entry.location == location ? &entry : nullptr;
  };
  NvmeTier::ReclaimHooks hooks;
  hooks.keep = [=, this](const Digest& key, const NvmeLocation& location) {
    const Entry* entry = entry_of(key, location);
    const bool keep = !passive_ && entry != nullptr && entry->version % 3 == 0;
    kept_ += keep;
    return keep;
  };
  hooks.keep_over_budget = hooks.keep;
  hooks.on_move = [=, this](const Digest& key, const NvmeLocation& from, const NvmeLocation& to) {
    ++moves_;
    ++totals_.moved_objects;
    log("  moved ", from.segment, "/", from.offset, " to ", to.segment, "/", to.offset);
    Entry* entry = entry_of(key, from);
    if (entry == nullptr) return fail("an object was moved that is not in the index");
    live_.erase({from.segment, from.offset});
    know(entry->version, to);
    add_live(to);
    maybe_crash_soon();
    entry->moved_from = from;
    entry->location = to;
  };
  hooks.on_evict = [=, this](const Digest& key, const NvmeLocation& location) {
    if (passive_) return;
    ++evictions_;
    ++totals_.evicted_objects;
    log("  evicted ", location.segment, "/", location.offset);
    live_.erase({location.segment, location.offset});
    maybe_crash_soon();
    if (entry_of(key, location) != nullptr) forget(key_number(key));
  };
  tier_->set_reclaim_hooks(hooks);
}

void TierSimulation::start_scrub() {
  ScrubOptions scrub;
  scrub.bytes_per_second = 1ull << (20 + random_.below(12));
  scrub.round_pause_ms = random_.below(100);
  scrub.on_corrupt = [this](const Digest& key, const NvmeLocation& location) {
    ++totals_.scrub_finds;
    log("  scrub: ", location.segment, "/", location.offset, " does not hold");
    live_.erase({location.segment, location.offset});
    if (!may_be_gone(location)) return fail("scrub removed an object without a fault");
    const uint32_t number = key_number(key);
    if (number >= keys_ || !index_[number]) return;
    if (index_[number]->location == location) forget(number);
  };
  const Status status = tier_->start_scrub(scrub);
  if (!status.is_ok()) fail("the scrub does not start: " + status.to_string());
}

void TierSimulation::settle() {
  log("settle");
  tier_->stop_scrub();
  const auto waits = [](const auto& pending) {
    return std::any_of(pending.begin(), pending.end(),
                       [](const auto& each) { return !each->done; });
  };
  uint64_t steps = 0;
  uint64_t ticks = 0;
  while (!failed()) {
    if (step_device()) {
      if (++steps > kSettleStepsMax) return fail("something goes on for ever");
    } else if (waits(writes_) || waits(reads_) || waits(syncs_)) {
      clock_.advance_ns(kNvmeTickMs * kMillisecondNs);
      if (++ticks > kPatienceTicks) break;
    } else {
      break;
    }
  }
  if (failed()) return;
  if (waits(writes_)) return fail("a write never called back");
  if (waits(reads_)) return fail("a read never called back");
  if (waits(syncs_)) return fail("a sync or seal never called back");
  writes_.clear();
  reads_.clear();
  syncs_.clear();
  check_counters();
}

void TierSimulation::check_counters() {
  const NvmeStats stats = tier_->stats();
  const auto expect = [this](bool holds, const char* what, uint64_t counted, uint64_t seen) {
    if (holds) return;
    fail(std::string("counter ") + what + ": " + std::to_string(counted) + ", seen " +
         std::to_string(seen));
  };
  expect(stats.writes_inflight == 0, "writes_inflight", stats.writes_inflight, 0);
  expect(stats.reads_inflight == 0, "reads_inflight", stats.reads_inflight, 0);
  expect(stats.device_inflight_bytes == 0, "device_inflight_bytes", stats.device_inflight_bytes, 0);
  expect(stats.written_bytes == written_bytes_, "written_bytes", stats.written_bytes,
         written_bytes_);
  expect(stats.device_written_bytes >= written_bytes_, "device_written_bytes",
         stats.device_written_bytes, written_bytes_);
  // Reclaiming reads, too.
  expect(kept_ > 0 ? stats.read_bytes >= read_bytes_ : stats.read_bytes == read_bytes_,
         "read_bytes", stats.read_bytes, read_bytes_);
  expect(stats.evicted_objects == evictions_, "evicted_objects", stats.evicted_objects, evictions_);
  expect(
      stats.corruptions >= corrupt_reads_ && stats.corruptions <= corrupt_reads_ + (kept_ - moves_),
      "corruptions", stats.corruptions, corrupt_reads_);
  // A segment that was misread was given up without a word for each object; a round of reclaiming
  // that a stuck device cut short leaves originals beside their copies.
  const bool exact = stats.state == NvmeState::kOk && !read_faults_ && !write_faults_ && !stuck_ &&
                     !damage_->any(0, image_->size_bytes());
  if (!exact) return;
  uint64_t used_bytes = 0;
  for (const auto& [place, location] : live_) used_bytes += stored_bytes(location);
  expect(stats.objects == live_.size(), "objects", stats.objects, live_.size());
  expect(stats.used_bytes == used_bytes, "used_bytes", stats.used_bytes, used_bytes);
}

uint64_t TierSimulation::device_offset(const NvmeLocation& location) const {
  return nvme::kFirstSegmentOffset + location.segment * kSegmentBytesMin + location.offset;
}

uint64_t TierSimulation::stored_bytes(const NvmeLocation& location) {
  return nvme::object_bytes(location.payload_bytes);
}

}  // namespace quire::sim
