#include "server/store/gpu_placement.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cassert>
#include <chrono>
#include <thread>
#include <utility>

#include "base/hash.h"

namespace quire::server {
namespace {

// What a device that was given up may still write into stays allocated for good.
void keep_for_good(std::shared_ptr<void> memory) {
  static auto* const kept = new std::vector<std::shared_ptr<void>>;
  kept->push_back(std::move(memory));
}

MutableByteSpan all_of(const tiers::HostSlab& slab) {
  return {slab.data(), slab.capacity_bytes()};
}

}  // namespace

GpuPlacement::GpuPlacement(OpenDriver open_driver, const GpuPlacementOptions& options,
                           EventLoop& loop, Clock& clock, LiveObjects& live,
                           std::shared_ptr<tiers::HostSlab> slab, Hooks hooks)
    : options_(options),
      loop_(loop),
      clock_(clock),
      live_(live),
      slab_(std::move(slab)),
      hooks_(std::move(hooks)),
      copies_(
          live, options.pool.capacity_bytes,
          hooks_.share_bytes ? hooks_.share_bytes
                             : [](uint32_t, uint64_t) { return uint64_t{0}; }) {
  worker_ = std::make_unique<Worker>("quire-gpu",
                                     [&loop](Worker::Task task) { loop.post(std::move(task)); });
  opening_ = std::make_shared<Expected<Opened>>(Status(StatusCode::kInternal, "not opened"));
  const bool queued =
      worker_->submit([opening = opening_, open_driver = std::move(open_driver), options,
                       memory = all_of(*slab_)] { *opening = open(open_driver, options, memory); },
                      [this] { finish_open(); });
  if (!queued) finish_open();
}

GpuPlacement::~GpuPlacement() {
  loop_.cancel_timer(poll_timer_);
  worker_->stop();
  if (state_ == State::kOpening) finish_open();
  if (driver_ == nullptr) return;
  const bool quiet = wait_for_copies();
  if (!quiet) {
    spdlog::warn("GPU tier: copies never ended; its memory is left to the driver");
    pool_->leak();
    for (SharedUpload& upload : in_flight_) keep_for_good(std::move(upload));
    for (SharedUpload& upload : abandoned_) keep_for_good(std::move(upload));
    keep_for_good(driver_);
  } else if (host_registered_) {
    (void)driver_->unregister_host(all_of(*slab_));
  }
}

Expected<GpuPlacement::Opened> GpuPlacement::open(const OpenDriver& open_driver,
                                                  const GpuPlacementOptions& options,
                                                  MutableByteSpan slab) {
  Opened opened;
  QUIRE_ASSIGN_OR_RETURN(opened.driver, open_driver());
  QUIRE_ASSIGN_OR_RETURN(opened.pool, tiers::DevicePool::create(opened.driver, options.pool));
  opened.registered = opened.driver->register_host(slab);
  return opened;
}

void GpuPlacement::finish_open() {
  const auto opening = std::exchange(opening_, nullptr);
  if (opening == nullptr) return;
  if (!opening->is_ok()) {
    state_ = State::kAbsent;
    reason_ = opening->status().message();
    hooks_.warn("serving without the GPU tier: " + reason_);
    return;
  }
  Opened opened = std::move(**opening);
  state_ = State::kOk;
  driver_ = std::move(opened.driver);
  pool_ = std::move(opened.pool);
  host_registered_ = opened.registered.is_ok();
  backend_ = pool_->device_info().name + ", " + driver_->describe();
  if (!host_registered_) {
    spdlog::warn("GPU tier: host memory cannot be registered, uploads are slower: {}",
                 opened.registered.message());
  }
  spdlog::info("GPU tier: {}, up to {} MiB in chunks of {} MiB", backend_,
               pool_->capacity_bytes() >> 20, pool_->chunk_bytes() >> 20);
}

Status GpuPlacement::available() const {
  switch (state_) {
    case State::kOk:
      return Status::ok();
    case State::kOpening:
      return Status(StatusCode::kBusy, "the GPU tier is being opened", kGpuOpeningRetryMs);
    case State::kAbsent:
      return Status(StatusCode::kUnavailable, "the GPU tier is absent: " + reason_);
    case State::kStopped:
      break;
  }
  return Status(StatusCode::kUnavailable, "the GPU tier has stopped: " + reason_);
}

void GpuPlacement::note_ask(ObjectEntry& entry) {
  if (state_ != State::kOk || entry.gpu.slot || entry.gpu.queued) return;
  if (++entry.gpu.asks < kGpuPromoteAfterAcquires) return;
  if (entry.bytes > pool_->capacity_bytes() || queue_.size() >= kGpuUploadsQueuedMax) return;
  entry.gpu.queued = true;
  queue_.push_back(entry.ref());
  pump();
}

void GpuPlacement::note_use(const ObjectEntry& entry) {
  assert(readable(entry));
  ++hits_;
  copies_.touch(entry);
}

void GpuPlacement::drop(ObjectEntry& entry) {
  assert(entry.gpu.leases == 0 && !entry.gpu.uploading);
  if (!entry.gpu.slot) return;
  copies_.free_slot(entry);
  pool_->free(*entry.gpu.slot);
  entry.gpu.slot.reset();
  entry.gpu.asks = 0;
}

void GpuPlacement::pump() {
  while (start_next()) {
  }
}

bool GpuPlacement::start_next() {
  if (state_ != State::kOk || queue_.empty() || in_flight_.size() >= kGpuUploadsInFlightMax) {
    return false;
  }
  ObjectEntry* entry = live_.find(queue_.front());
  if (entry == nullptr || !entry->in_host() || entry->gpu.slot) {
    if (entry != nullptr) entry->gpu.queued = false;
    queue_.pop_front();
    return true;
  }
  const uint64_t bytes = entry->slot->slot_bytes;
  if (!in_flight_.empty() && bytes_in_flight_ + bytes > kGpuUploadBytesInFlightMax) return false;
  auto slot = pool_->allocate(entry->bytes);
  if (!slot && (growing_ || start_growth(bytes))) return false;
  for (uint32_t n = 0; !slot && n < kGpuEvictionsPerUploadMax && evict_one(entry->tenant); ++n) {
    slot = pool_->allocate(entry->bytes);
  }
  queue_.pop_front();
  entry->gpu.queued = false;
  entry->gpu.asks = 0;
  // Without room (all is leased, or within the shares of others) it is asked for again by later
  // uses.
  if (slot) start_upload(*entry, *slot);
  return true;
}

bool GpuPlacement::start_growth(uint64_t bytes) {
  if (clock_.now_ns() < no_growth_before_ns_) return false;
  const auto plan = pool_->plan_growth(bytes);
  if (!plan) return false;
  auto built = std::make_shared<Expected<tiers::BuiltChunks>>(
      Status(StatusCode::kInternal, "the growth did not run"));
  growing_ =
      worker_->submit([pool = pool_.get(), built, plan = *plan] { *built = pool->build(plan); },
                      [this, built] { finish_growth(std::move(*built)); });
  if (!growing_) pool_->abandon();
  return growing_;
}

void GpuPlacement::finish_growth(Expected<tiers::BuiltChunks> built) {
  growing_ = false;
  if (built) {
    if (built->cost.bytes_per_us > 0) cost_ = built->cost;
    pool_->adopt(std::move(*built));
  } else {
    pool_->abandon();
    no_growth_before_ns_ = clock_.now_ns() + kGpuGrowthRetryNs;
    spdlog::warn("GPU tier: it stays at {} MiB for now: {}", pool_->stats().backed_bytes >> 20,
                 built.status().message());
  }
  pump();
}

// Nothing can be grown at the moment: what backs the pool is the tier that is shared out.
bool GpuPlacement::evict_one(uint32_t putter) {
  ObjectEntry* victim = copies_.evict(putter, pool_->stats().backed_bytes);
  if (victim == nullptr) return false;
  ++evictions_;
  drop(*victim);
  hooks_.settled(*victim);
  return true;
}

void GpuPlacement::start_upload(ObjectEntry& entry, const tiers::Slot& slot) {
  auto upload = std::make_shared<Upload>();
  upload->entry = entry.ref();
  upload->target = pool_->address(slot);
  // With what lies behind the payload, which is zero: no earlier object's bytes stay there.
  upload->source = slab_->whole(*entry.slot);
  upload->payload_bytes = entry.bytes;
  upload->checksum = entry.checksum;
  upload->started_ns = clock_.now_ns();
  upload->verify = options_.verify_uploads || driver_->kind() == gpu::DriverKind::kFake;
  entry.gpu.slot = slot;
  copies_.take_slot(entry);
  entry.gpu.uploading = true;
  bytes_in_flight_ += upload->source.size();
  in_flight_.push_back(upload);
  const auto begin_job = [driver = driver_, stream = pool_->stream(), upload] {
    begin(*driver, stream, *upload);
  };
  if (!worker_->submit(begin_job, nullptr)) {
    upload->status = Status(StatusCode::kBusy, "too many jobs wait for the GPU", 0);
    return finish_upload(upload);
  }
  poll_later();
}

void GpuPlacement::begin(gpu::Driver& driver, gpu::Stream stream, Upload& upload) {
  upload.finished = true;
  upload.status = driver.copy_to_device(upload.target, upload.source, stream);
  if (!upload.status.is_ok()) return;
  // Behind this the device may be at work whatever we are told.
  upload.fatal = true;
  if (upload.verify) {
    upload.readback.resize(upload.payload_bytes);
    upload.status = driver.copy_to_host(upload.readback, upload.target, stream);
    if (!upload.status.is_ok()) return;
  }
  const auto event = driver.record(stream);
  upload.status = event.status();
  if (!event) return;
  upload.event = *event;
  upload.finished = false;
}

void GpuPlacement::ask(gpu::Driver& driver, Upload& upload) {
  if (upload.finished) return;
  const auto happened = driver.query(upload.event);
  if (happened && !*happened) return;
  upload.finished = true;
  upload.status = happened.status();
  const Status destroyed = driver.destroy_event(upload.event);
  if (upload.status.is_ok()) upload.status = destroyed;
  if (!upload.status.is_ok()) return;
  upload.fatal = false;
  if (upload.verify && xxh3_128(upload.readback) != upload.checksum) {
    upload.status = Status(StatusCode::kCorrupt, "what was copied to the GPU does not verify");
  }
}

void GpuPlacement::poll_later() {
  if (polling_ || in_flight_.empty() || state_ != State::kOk) return;
  polling_ = true;
  poll_timer_ = loop_.add_timer(loop_.now_ns() + kGpuPollNs, [this] { poll(); });
}

// The list is its own: uploads whose copy starts meanwhile are asked about the next time.
void GpuPlacement::poll() {
  auto asked = std::make_shared<std::vector<SharedUpload>>(in_flight_);
  const bool queued = worker_->submit(
      [driver = driver_, asked] {
        for (const SharedUpload& upload : *asked) ask(*driver, *upload);
      },
      [this, asked] {
        polling_ = false;
        for (const SharedUpload& upload : *asked) {
          if (upload->finished) finish_upload(upload);
        }
        pump();
        poll_later();
      });
  if (queued) return;
  polling_ = false;
  poll_later();
}

void GpuPlacement::finish_upload(const SharedUpload& upload) {
  const auto found = std::ranges::find(in_flight_, upload);
  if (found == in_flight_.end()) return;  // given up meanwhile
  in_flight_.erase(found);
  bytes_in_flight_ -= upload->source.size();
  ObjectEntry* entry = live_.find(upload->entry);
  assert(entry != nullptr && entry->gpu.uploading && entry->gpu.slot);
  entry->gpu.uploading = false;
  const Status& status = upload->status;
  if (status.is_ok() && entry->state == ObjectState::kSealed) {
    copies_.publish(*entry);
  } else {
    drop(*entry);
  }
  if (status.is_ok()) {
    failures_in_a_row_ = 0;
    uploaded_bytes_ += upload->payload_bytes;
  } else {
    if (status.code() == StatusCode::kCorrupt) ++corruptions_;
    spdlog::warn("GPU tier: upload of {} failed: {}", entry->id.to_hex(), status.to_string());
    if (upload->fatal) abandoned_.push_back(upload);
    if (upload->fatal || ++failures_in_a_row_ >= kGpuFailuresMax) stop(status);
  }
  hooks_.settled(*entry);
}

// A device that failed once is not believed again. Leases on it end as they would have; nobody gets
// new ones.
void GpuPlacement::stop(const Status& reason) {
  if (state_ != State::kOk) return;
  state_ = State::kStopped;
  reason_ = reason.message();
  hooks_.warn("the GPU tier has stopped, objects are served from host memory: " + reason_);
  queue_.clear();
  std::vector<EntryRef> left;
  for (const SharedUpload& upload : std::exchange(in_flight_, {})) {
    ObjectEntry* entry = live_.find(upload->entry);
    entry->gpu.uploading = false;
    left.push_back(upload->entry);
    abandoned_.push_back(upload);
  }
  bytes_in_flight_ = 0;
  std::ranges::copy(copies_.all(), std::back_inserter(left));
  for (const EntryRef& ref : left) {
    ObjectEntry* entry = live_.find(ref);
    if (entry == nullptr || entry->gpu.leases != 0) continue;
    drop(*entry);
    hooks_.settled(*entry);
  }
}

void GpuPlacement::tick() {
  if (state_ != State::kOk) return;
  const uint64_t now_ns = clock_.now_ns();
  copies_.tick(now_ns);
  for (const SharedUpload& upload : in_flight_) {
    if (now_ns > upload->started_ns + kGpuUploadNsMax) {
      return stop(Status(StatusCode::kDeadlineExceeded, "a copy to the GPU does not end"));
    }
  }
  pump();
  shrink(now_ns);
}

void GpuPlacement::shrink(uint64_t now_ns) {
  const bool idle =
      !growing_ && queue_.empty() && !pool_->chunks().empty() && pool_->tail_is_free();
  if (!idle || options_.shrink_after_ns == 0) {
    tail_free_since_ns_ = 0;
    return;
  }
  if (tail_free_since_ns_ == 0) tail_free_since_ns_ = now_ns;
  if (now_ns - tail_free_since_ns_ < options_.shrink_after_ns) return;
  const auto chunk = pool_->detach_tail();
  if (!chunk) return;
  const auto dismantle = [pool = pool_.get(), chunk = *chunk] {
    if (const Status status = pool->dismantle(chunk); !status.is_ok()) {
      spdlog::warn("GPU tier: memory could not be given back: {}", status.to_string());
    }
  };
  if (!worker_->submit(dismantle, nullptr)) dismantle();
}

bool GpuPlacement::wait_for_copies() {
  const uint64_t until_ns = clock_.now_ns() + kGpuStopWaitNs;
  bool quiet = true;
  for (const auto* list : {&in_flight_, &abandoned_}) {
    for (const SharedUpload& upload : *list) {
      while (!upload->finished && clock_.now_ns() < until_ns) {
        ask(*driver_, *upload);
        if (!upload->finished) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      quiet = quiet && upload->finished && !upload->fatal;
    }
  }
  return quiet;
}

TierStats GpuPlacement::stats() const {
  TierStats out;
  out.tier = wire::TierId::kGpu;
  switch (state_) {
    case State::kOk:
      out.state = "ok";
      break;
    case State::kOpening:
      out.state = "opening";
      break;
    case State::kAbsent:
      out.state = "absent: " + reason_;
      break;
    case State::kStopped:
      out.state = "stopped: " + reason_;
      break;
  }
  out.backend = backend_;
  if (pool_ != nullptr) {
    const tiers::DevicePoolStats pool = pool_->stats();
    out.capacity_bytes = pool.capacity_bytes;
    out.used_bytes = pool.used_bytes;
  }
  out.objects = copies_.size();
  out.hits = hits_;
  out.evictions = evictions_;
  out.written_bytes = uploaded_bytes_;
  out.corruptions = corruptions_;
  out.read_bytes_per_us = cost_.bytes_per_us;
  out.latency_us = cost_.latency_us;
  return out;
}

}  // namespace quire::server
