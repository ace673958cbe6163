#include "tiers/io/faulty_device.h"

#include <algorithm>
#include <cstring>

#include "tiers/io/aligned_buffer.h"

namespace quire {
namespace {

Status injected(StatusCode code, const char* what) {
  return Status(code, std::string("injected fault: ") + what);
}

void flip_bit(MutableByteSpan bytes, SeededRandom& random) {
  bytes[random.below(bytes.size())] ^= std::byte{1} << random.below(8);
}

}  // namespace

FaultyDevice::FaultyDevice(std::unique_ptr<BlockDevice> device, FaultRates rates, uint64_t seed)
    : device_(std::move(device)), rates_(rates), random_(seed) {}

bool FaultyDevice::strikes(double rate) {
  if (!random_.chance(rate)) return false;
  ++faults_;
  return true;
}

uint64_t FaultyDevice::other_offset(uint64_t bytes) {
  return random_.below((size_bytes() - bytes) / kBlockBytes + 1) * kBlockBytes;
}

void FaultyDevice::complete_later(Status status, DeviceCallback done, uint32_t polls) {
  delayed_.push_back({polls, std::move(status), std::move(done)});
}

DeviceCallback FaultyDevice::maybe_delayed(DeviceCallback done) {
  if (!strikes(rates_.delay)) return done;
  const auto polls = static_cast<uint32_t>(random_.below(rates_.delay_polls_max + 1ull));
  return [this, polls, done = std::move(done)](Status status) {
    complete_later(std::move(status), done, polls);
  };
}

void FaultyDevice::read(uint64_t offset, MutableByteSpan target, DeviceCallback done) {
  if (!check_device_range(*this, offset, target.data(), target.size()).is_ok()) {
    device_->read(offset, target, std::move(done));
    return;
  }
  if (strikes(rates_.read_error)) {
    complete_later(injected(StatusCode::kIoError, "EIO"), std::move(done));
    return;
  }
  done = maybe_delayed(std::move(done));
  if (strikes(rates_.short_read)) {
    const uint64_t blocks = random_.below(target.size() / kBlockBytes);
    const Status error = injected(StatusCode::kIoError, "short read");
    if (blocks == 0) {
      complete_later(error, std::move(done));
    } else {
      device_->read(offset, target.first(blocks * kBlockBytes),
                    [error, done = std::move(done)](const Status&) { done(error); });
    }
    return;
  }
  if (strikes(rates_.misdirected_read)) {
    device_->read(other_offset(target.size()), target, std::move(done));
    return;
  }
  if (strikes(rates_.read_bit_flip)) {
    device_->read(offset, target, [this, target, done = std::move(done)](const Status& status) {
      flip_bit(target, random_);
      done(status);
    });
    return;
  }
  device_->read(offset, target, std::move(done));
}

void FaultyDevice::write_damaged(uint64_t offset, ByteSpan source, DeviceCallback done) {
  // Shared: std::function wants copyable captures.
  auto copy = std::make_shared<AlignedBuffer>(source.size());
  std::memcpy(copy->data(), source.data(), source.size());
  flip_bit(copy->span(), random_);
  device_->write(offset, copy->span(),
                 [copy, done = std::move(done)](const Status& status) { done(status); });
}

void FaultyDevice::write(uint64_t offset, ByteSpan source, DeviceCallback done) {
  if (!check_device_range(*this, offset, source.data(), source.size()).is_ok()) {
    device_->write(offset, source, std::move(done));
    return;
  }
  done = maybe_delayed(std::move(done));
  const ByteSpan head = source.first(random_.below(source.size() / kBlockBytes) * kBlockBytes);
  Status reported;
  bool partly = false;
  if (strikes(rates_.no_space)) {
    partly = true;
    reported = injected(StatusCode::kNoSpace, "ENOSPC");
  } else if (strikes(rates_.write_error)) {
    partly = true;
    reported = injected(StatusCode::kIoError, "EIO");
  } else if (strikes(rates_.torn_write)) {
    partly = true;
  }
  if (partly && !head.empty()) {
    device_->write(offset, head,
                   [reported, done = std::move(done)](const Status&) { done(reported); });
  } else if (partly || strikes(rates_.lost_write)) {
    complete_later(reported, std::move(done));
  } else if (strikes(rates_.misdirected_write)) {
    device_->write(other_offset(source.size()), source, std::move(done));
  } else if (strikes(rates_.write_bit_flip)) {
    write_damaged(offset, source, std::move(done));
  } else {
    device_->write(offset, source, std::move(done));
  }
}

void FaultyDevice::sync(DeviceCallback done) {
  if (strikes(rates_.sync_error)) {
    complete_later(injected(StatusCode::kIoError, "fdatasync: EIO"), std::move(done));
    return;
  }
  device_->sync(maybe_delayed(std::move(done)));
}

bool FaultyDevice::poll() {
  bool ran = device_->poll();
  std::list<Delayed> due;
  for (auto entry = delayed_.begin(); entry != delayed_.end();) {
    const auto next = std::next(entry);
    if (entry->polls_left == 0) {
      due.splice(due.end(), delayed_, entry);
    } else {
      --entry->polls_left;
      ran = true;  // time passes: the caller polls on
    }
    entry = next;
  }
  for (const Delayed& entry : due) entry.done(entry.status);
  return ran || !due.empty();
}

Status FaultyDevice::read_blocking(uint64_t offset, MutableByteSpan target) {
  return device_->read_blocking(offset, target);
}

Status FaultyDevice::write_blocking(uint64_t offset, ByteSpan source) {
  return device_->write_blocking(offset, source);
}

Status FaultyDevice::sync_blocking() {
  return device_->sync_blocking();
}

}  // namespace quire
