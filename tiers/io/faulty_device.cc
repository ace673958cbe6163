#include "tiers/io/faulty_device.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "tiers/io/aligned_buffer.h"

namespace quire {
namespace {

Status injected(StatusCode code, const char* what) {
  return Status(code, std::string("injected fault: ") + what);
}

uint64_t flip_bit(MutableByteSpan bytes, SeededRandom& random) {
  const uint64_t position = random.below(bytes.size());
  bytes[position] ^= std::byte{1} << random.below(8);
  return position;
}

}  // namespace

std::string_view fault_name(Fault fault) {
  constexpr std::array<std::string_view, kFaultKinds> kNames = {
      "torn write",    "lost write",       "misdirected write", "write bit flip",
      "read bit flip", "misdirected read", "short read",        "read error",
      "write error",   "sync error",       "no space",          "delay",
      "stuck",         "blocking error"};
  return kNames[static_cast<size_t>(fault)];
}

void MediaDamage::set(uint64_t offset, uint64_t bytes, bool damaged) {
  const uint64_t end =
      std::min<uint64_t>((offset + bytes + kBlockBytes - 1) / kBlockBytes, damaged_.size());
  for (uint64_t block = offset / kBlockBytes; block < end; ++block) damaged_[block] = damaged;
}

bool MediaDamage::any(uint64_t offset, uint64_t bytes) const {
  const uint64_t end =
      std::min<uint64_t>((offset + bytes + kBlockBytes - 1) / kBlockBytes, damaged_.size());
  for (uint64_t block = offset / kBlockBytes; block < end; ++block) {
    if (damaged_[block]) return true;
  }
  return false;
}

FaultyDevice::FaultyDevice(std::unique_ptr<BlockDevice> device, FaultRates rates, uint64_t seed)
    : device_(std::move(device)), rates_(rates), random_(seed) {}

FaultyDevice::~FaultyDevice() {
  if (damage_ == nullptr) return;
  for (const auto& ranges : damaging_) {
    for (const auto& [offset, bytes] : ranges) damage_->set(offset, bytes, true);
  }
}

uint64_t FaultyDevice::faults_injected() const {
  return std::accumulate(counts_.begin(), counts_.end(), uint64_t{0});
}

bool FaultyDevice::strikes(Fault fault, double rate, uint64_t offset, uint64_t bytes) {
  if (rate <= 0 || !random_.chance(rate)) return false;
  ++counts_[static_cast<size_t>(fault)];
  if (listener_) listener_(fault, offset, bytes);
  return true;
}

uint64_t FaultyDevice::other_offset(uint64_t bytes) {
  return random_.below((size_bytes() - bytes) / kBlockBytes + 1) * kBlockBytes;
}

void FaultyDevice::hold(std::function<void()> run, uint32_t polls, uint64_t due_ns) {
  held_.push_back({polls, due_ns, std::move(run)});
}

void FaultyDevice::complete_later(Status status, DeviceCallback done) {
  hold([done = std::move(done), status = std::move(status)] { done(status); }, 0);
}

DeviceCallback FaultyDevice::maybe_delayed(DeviceCallback done, uint64_t offset, uint64_t bytes) {
  if (!strikes(Fault::kDelay, rates_.delay, offset, bytes)) return done;
  const auto polls = static_cast<uint32_t>(random_.below(rates_.delay_polls_max + 1ull));
  return [this, polls, done = std::move(done)](Status status) {
    hold([done, status = std::move(status)] { done(status); }, polls);
  };
}

void FaultyDevice::start_maybe_stuck(DeviceCallback done, uint64_t offset, uint64_t bytes,
                                     std::function<void(DeviceCallback)> start) {
  if (clock_ == nullptr || !strikes(Fault::kStuck, rates_.stuck, offset, bytes)) {
    start(std::move(done));
    return;
  }
  const uint64_t due_ns = clock_->now_ns() + 1 + random_.below(rates_.stuck_ns_max);
  if (random_.chance(0.5)) {
    hold([start = std::move(start), done = std::move(done)] { start(done); }, 0, due_ns);
    return;
  }
  start([this, due_ns, done = std::move(done)](Status status) {
    hold([done, status = std::move(status)] { done(status); }, 0, due_ns);
  });
}

void FaultyDevice::read(uint64_t offset, MutableByteSpan target, DeviceCallback done) {
  if (!check_device_range(*this, offset, target.data(), target.size()).is_ok()) {
    device_->read(offset, target, std::move(done));
    return;
  }
  start_maybe_stuck(maybe_delayed(std::move(done), offset, target.size()), offset, target.size(),
                    [this, offset, target](DeviceCallback go_on) {
                      start_read(offset, target, std::move(go_on));
                    });
}

void FaultyDevice::start_read(uint64_t offset, MutableByteSpan target, DeviceCallback done) {
  const uint64_t bytes = target.size();
  if (strikes(Fault::kReadError, rates_.read_error, offset, bytes)) {
    complete_later(injected(StatusCode::kIoError, "EIO"), std::move(done));
  } else if (strikes(Fault::kShortRead, rates_.short_read, offset, bytes)) {
    const uint64_t blocks = random_.below(bytes / kBlockBytes);
    const Status error = injected(StatusCode::kIoError, "short read");
    if (blocks == 0) {
      complete_later(error, std::move(done));
    } else {
      device_->read(offset, target.first(blocks * kBlockBytes),
                    [error, done = std::move(done)](const Status&) { done(error); });
    }
  } else if (strikes(Fault::kMisdirectedRead, rates_.misdirected_read, offset, bytes)) {
    device_->read(other_offset(bytes), target, std::move(done));
  } else if (strikes(Fault::kReadBitFlip, rates_.read_bit_flip, offset, bytes)) {
    device_->read(offset, target, [this, target, done = std::move(done)](const Status& status) {
      flip_bit(target, random_);
      done(status);
    });
  } else {
    device_->read(offset, target, std::move(done));
  }
}

void FaultyDevice::write(uint64_t offset, ByteSpan source, DeviceCallback done) {
  if (!check_device_range(*this, offset, source.data(), source.size()).is_ok()) {
    device_->write(offset, source, std::move(done));
    return;
  }
  start_maybe_stuck(maybe_delayed(std::move(done), offset, source.size()), offset, source.size(),
                    [this, offset, source](DeviceCallback go_on) {
                      start_write(offset, source, std::move(go_on));
                    });
}

DeviceCallback FaultyDevice::damaging(std::vector<Range> ranges, DeviceCallback done) {
  if (damage_ == nullptr) return done;
  const auto mark = [this](const std::vector<Range>& damaged) {
    for (const auto& [offset, bytes] : damaged) damage_->set(offset, bytes, true);
  };
  mark(ranges);
  const auto entry = damaging_.insert(damaging_.end(), std::move(ranges));
  return [this, mark, entry, done = std::move(done)](Status status) {
    mark(*entry);
    damaging_.erase(entry);
    done(std::move(status));
  };
}

void FaultyDevice::write_intact(uint64_t offset, ByteSpan source, DeviceCallback done) {
  if (damage_ == nullptr) {
    device_->write(offset, source, std::move(done));
    return;
  }
  const uint64_t bytes = source.size();
  device_->write(offset, source, [this, offset, bytes, done = std::move(done)](Status status) {
    if (status.is_ok()) damage_->set(offset, bytes, false);
    done(std::move(status));
  });
}

void FaultyDevice::write_flipped(uint64_t offset, ByteSpan source, DeviceCallback done) {
  // Shared: std::function wants copyable captures.
  auto copy = std::make_shared<AlignedBuffer>(source.size());
  std::memcpy(copy->data(), source.data(), source.size());
  const uint64_t position = flip_bit(copy->span(), random_);
  done = damaging({{offset + position, 1}}, std::move(done));
  write_intact(offset, copy->span(),
               [copy, done = std::move(done)](const Status& status) { done(status); });
}

void FaultyDevice::start_write(uint64_t offset, ByteSpan source, DeviceCallback done) {
  const uint64_t bytes = source.size();
  const ByteSpan head = source.first(random_.below(bytes / kBlockBytes) * kBlockBytes);
  Status reported;
  bool partly = false;
  if (strikes(Fault::kNoSpace, rates_.no_space, offset, bytes)) {
    partly = true;
    reported = injected(StatusCode::kNoSpace, "ENOSPC");
  } else if (strikes(Fault::kWriteError, rates_.write_error, offset, bytes)) {
    partly = true;
    reported = injected(StatusCode::kIoError, "EIO");
  } else if (strikes(Fault::kTornWrite, rates_.torn_write, offset, bytes)) {
    partly = true;
    done = damaging({{offset + head.size(), bytes - head.size()}}, std::move(done));
  }
  if (partly && !head.empty()) {
    device_->write(offset, head,
                   [reported, done = std::move(done)](const Status&) { done(reported); });
  } else if (partly) {
    complete_later(reported, std::move(done));
  } else if (strikes(Fault::kLostWrite, rates_.lost_write, offset, bytes)) {
    complete_later(Status::ok(), damaging({{offset, bytes}}, std::move(done)));
  } else if (strikes(Fault::kMisdirectedWrite, rates_.misdirected_write, offset, bytes)) {
    const uint64_t other = other_offset(bytes);
    device_->write(other, source, damaging({{offset, bytes}, {other, bytes}}, std::move(done)));
  } else if (strikes(Fault::kWriteBitFlip, rates_.write_bit_flip, offset, bytes)) {
    write_flipped(offset, source, std::move(done));
  } else {
    write_intact(offset, source, std::move(done));
  }
}

void FaultyDevice::sync(DeviceCallback done) {
  start_maybe_stuck(maybe_delayed(std::move(done), 0, 0), 0, 0, [this](DeviceCallback go_on) {
    if (strikes(Fault::kSyncError, rates_.sync_error)) {
      drops_data_ = true;
      complete_later(injected(StatusCode::kIoError, "fdatasync: EIO"), std::move(go_on));
    } else if (drops_data_) {
      complete_later(Status::ok(), std::move(go_on));
    } else {
      device_->sync(std::move(go_on));
    }
  });
}

uint64_t FaultyDevice::next_due_ns() const {
  uint64_t due_ns = UINT64_MAX;
  for (const Held& entry : held_) {
    if (entry.due_ns > 0) due_ns = std::min(due_ns, entry.due_ns);
  }
  return due_ns;
}

bool FaultyDevice::poll() {
  bool ran = device_->poll();
  std::list<Held> due;
  for (auto entry = held_.begin(); entry != held_.end();) {
    const auto next = std::next(entry);
    if (entry->due_ns > 0) {
      if (clock_->now_ns() >= entry->due_ns) due.splice(due.end(), held_, entry);
    } else if (entry->polls_left == 0) {
      due.splice(due.end(), held_, entry);
    } else {
      --entry->polls_left;
      ran = true;  // time passes: the caller polls on
    }
    entry = next;
  }
  for (const Held& entry : due) entry.run();
  return ran || !due.empty();
}

Status FaultyDevice::read_blocking(uint64_t offset, MutableByteSpan target) {
  if (strikes(Fault::kBlockingError, rates_.blocking_error, offset, target.size())) {
    return injected(StatusCode::kIoError, "EIO");
  }
  return device_->read_blocking(offset, target);
}

Status FaultyDevice::write_blocking(uint64_t offset, ByteSpan source) {
  if (strikes(Fault::kBlockingError, rates_.blocking_error, offset, source.size())) {
    return injected(StatusCode::kIoError, "EIO");
  }
  const Status status = device_->write_blocking(offset, source);
  if (status.is_ok() && damage_ != nullptr) damage_->set(offset, source.size(), false);
  return status;
}

Status FaultyDevice::sync_blocking() {
  if (strikes(Fault::kBlockingError, rates_.blocking_error)) {
    return injected(StatusCode::kIoError, "fdatasync: EIO");
  }
  return device_->sync_blocking();
}

}  // namespace quire
