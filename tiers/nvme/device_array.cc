#include "tiers/nvme/device_array.h"

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "base/hash.h"
#include "tiers/nvme/array_device.h"
#include "tiers/nvme/array_member.h"
#include "tiers/nvme/stats_sum.h"

namespace quire {
namespace nvme {
namespace {

constexpr uint32_t kSegmentMask = (1u << kNvmeDeviceShift) - 1;

NvmeLocation to_array(uint32_t device, NvmeLocation location) {
  location.segment |= device << kNvmeDeviceShift;
  return location;
}

NvmeLocation to_member(NvmeLocation location) {
  location.segment &= kSegmentMask;
  return location;
}

// Answers once, when the last of several parts did.
struct Gather {
  uint32_t left = 0;
  uint32_t succeeded = 0;
  Status first_error;
  std::function<void(Status)> done;
};

class DeviceArray final : public NvmeTier {
 public:
  DeviceArray(std::vector<std::unique_ptr<NvmeTier>> members, std::vector<ArrayMember*> extras)
      : members_(std::move(members)),
        extras_(std::move(extras)),
        pending_bytes_(members_.size()),
        device_(members_) {}

  void recover(std::function<void(const RecoveredObject&)> on_object,
               std::function<void(Status)> done) override;
  void write(const Digest& key, ByteSpan payload, Hash128 checksum,
             std::function<void(Expected<Location>)> done) override;
  std::optional<Location> locate(uint32_t segment, uint64_t offset,
                                 uint64_t payload_bytes) const override;
  void read(const Digest& key, const Location& location, Hash128 expected, MutableByteSpan target,
            std::function<void(Status)> done) override;
  void sync(std::function<void(Status)> done) override;
  void remove(const Location& location) override;
  void set_reclaim_hooks(ReclaimHooks hooks) override;
  void seal(std::function<void(Status)> done) override;
  Status start_scrub(ScrubOptions options) override;
  void stop_scrub() override {
    for (const auto& member : members_) member->stop_scrub();
  }
  void tick() override {
    for (const auto& member : members_) member->tick();
  }
  uint64_t payload_bytes_max() const override;
  std::array<uint64_t, 2> store_uuid() const override;
  NvmeStats stats() const override;
  BlockDevice& device() override { return device_; }

 private:
  struct Write {
    Digest key;
    ByteSpan payload;
    Hash128 checksum;
    std::function<void(Expected<Location>)> done;
    uint32_t tried = 0;  // bit per device
    Status error;
  };
  NvmeTier* member_of(uint32_t segment) const {
    const uint32_t device = segment >> kNvmeDeviceShift;
    return device < members_.size() ? members_[device].get() : nullptr;
  }
  // Among those not tried yet; nullopt: none is left.
  std::optional<uint32_t> choose_device(uint32_t tried);
  void try_write(const std::shared_ptr<Write>& write);
  void finish_write(const std::shared_ptr<Write>& write, uint32_t device,
                    const Expected<Location>& result);
  std::shared_ptr<Gather> gather(std::function<void(Status)> done) const;
  void share_sequence();

  std::vector<std::unique_ptr<NvmeTier>> members_;
  std::vector<ArrayMember*> extras_;  // the same objects
  std::vector<uint64_t> pending_bytes_;
  uint32_t last_device_ = 0;
  ArrayDevice device_;
};

std::shared_ptr<Gather> DeviceArray::gather(std::function<void(Status)> done) const {
  auto all = std::make_shared<Gather>();
  all->left = static_cast<uint32_t>(members_.size());
  all->done = std::move(done);
  return all;
}

void DeviceArray::share_sequence() {
  auto sequence = std::make_shared<uint64_t>(0);
  for (const ArrayMember* extra : extras_) {
    *sequence = std::max(*sequence, extra->last_sequence());
  }
  for (ArrayMember* extra : extras_) extra->share_sequence(sequence);
}

void DeviceArray::recover(std::function<void(const RecoveredObject&)> on_object,
                          std::function<void(Status)> done) {
  for (ArrayMember* extra : extras_) extra->hold_reclaiming(true);
  auto all = gather(std::move(done));
  const auto shared =
      std::make_shared<const std::function<void(const RecoveredObject&)>>(std::move(on_object));
  for (uint32_t i = 0; i < members_.size(); ++i) {
    members_[i]->recover(
        [shared, i](const RecoveredObject& object) {
          RecoveredObject translated = object;
          translated.location = to_array(i, object.location);
          if (*shared) (*shared)(translated);
        },
        [this, all](const Status& status) {
          all->succeeded += status.is_ok();
          if (!status.is_ok() && all->first_error.is_ok()) all->first_error = status;
          if (--all->left > 0) return;
          share_sequence();
          all->done(all->succeeded > 0 ? Status::ok() : all->first_error);
          for (ArrayMember* extra : extras_) extra->hold_reclaiming(false);
        });
  }
}

std::optional<uint32_t> DeviceArray::choose_device(uint32_t tried) {
  std::optional<uint32_t> best;
  bool best_ok = false;
  uint32_t best_free = 0;
  const auto count = static_cast<uint32_t>(members_.size());
  // From the one after the last: equals take turns.
  for (uint32_t step = 1; step <= count; ++step) {
    const uint32_t i = (last_device_ + step) % count;
    if ((tried >> i & 1) != 0) continue;
    const uint32_t free = extras_[i]->segments_free();
    const bool is_ok = extras_[i]->state() == NvmeState::kOk;
    const bool better =
        !best || is_ok > best_ok ||
        (is_ok == best_ok && (pending_bytes_[i] < pending_bytes_[*best] ||
                              (pending_bytes_[i] == pending_bytes_[*best] && free > best_free)));
    if (!better) continue;
    best = i;
    best_ok = is_ok;
    best_free = free;
  }
  if (best) last_device_ = *best;
  return best;
}

void DeviceArray::write(const Digest& key, ByteSpan payload, Hash128 checksum,
                        std::function<void(Expected<Location>)> done) {
  auto write = std::make_shared<Write>();
  write->key = key;
  write->payload = payload;
  write->checksum = checksum;
  write->done = std::move(done);
  try_write(write);
}

void DeviceArray::try_write(const std::shared_ptr<Write>& write) {
  const auto device = choose_device(write->tried);
  if (!device) {
    write->done(write->error);
    return;
  }
  write->tried |= 1u << *device;
  pending_bytes_[*device] += write->payload.size();
  members_[*device]->write(write->key, write->payload, write->checksum,
                           [this, write, device = *device](const Expected<Location>& result) {
                             finish_write(write, device, result);
                           });
}

void DeviceArray::finish_write(const std::shared_ptr<Write>& write, uint32_t device,
                               const Expected<Location>& result) {
  pending_bytes_[device] -= write->payload.size();
  if (result.is_ok()) {
    write->done(to_array(device, *result));
    return;
  }
  const StatusCode code = result.status().code();
  // kBusy wins: the caller may try again, whatever ails the others.
  if (write->error.is_ok() || code == StatusCode::kBusy) write->error = result.status();
  const bool hopeless =
      code == StatusCode::kInvalidArgument || code == StatusCode::kFailedPrecondition;
  if (hopeless) {
    write->done(write->error);
  } else {
    try_write(write);
  }
}

std::optional<NvmeLocation> DeviceArray::locate(uint32_t segment, uint64_t offset,
                                                uint64_t payload_bytes) const {
  const NvmeTier* member = member_of(segment);
  if (member == nullptr) return std::nullopt;
  auto found = member->locate(segment & kSegmentMask, offset, payload_bytes);
  if (found) found = to_array(segment >> kNvmeDeviceShift, *found);
  return found;
}

void DeviceArray::read(const Digest& key, const Location& location, Hash128 expected,
                       MutableByteSpan target, std::function<void(Status)> done) {
  NvmeTier* member = member_of(location.segment);
  if (member == nullptr) {
    device_.defer([done = std::move(done)] {
      done(Status(StatusCode::kInvalidArgument, "not a location of this store"));
    });
    return;
  }
  member->read(key, to_member(location), expected, target, std::move(done));
}

void DeviceArray::sync(std::function<void(Status)> done) {
  auto all = gather(std::move(done));
  for (const auto& member : members_) {
    member->sync([all](const Status& status) {
      if (!status.is_ok() && all->first_error.is_ok()) all->first_error = status;
      if (--all->left == 0) all->done(all->first_error);
    });
  }
}

void DeviceArray::seal(std::function<void(Status)> done) {
  auto all = gather(std::move(done));
  for (const auto& member : members_) {
    member->seal([all](const Status& status) {
      if (!status.is_ok() && all->first_error.is_ok()) all->first_error = status;
      if (--all->left == 0) all->done(all->first_error);
    });
  }
}

void DeviceArray::remove(const Location& location) {
  if (NvmeTier* member = member_of(location.segment)) member->remove(to_member(location));
}

void DeviceArray::set_reclaim_hooks(ReclaimHooks hooks) {
  const auto shared = std::make_shared<const ReclaimHooks>(std::move(hooks));
  for (uint32_t i = 0; i < members_.size(); ++i) {
    ReclaimHooks translated;
    if (shared->keep) {
      translated.keep = [shared, i](const Digest& key, const Location& at) {
        return shared->keep(key, to_array(i, at));
      };
    }
    if (shared->keep_over_budget) {
      translated.keep_over_budget = [shared, i](const Digest& key, const Location& at) {
        return shared->keep_over_budget(key, to_array(i, at));
      };
    }
    if (shared->on_move) {
      translated.on_move = [shared, i](const Digest& key, const Location& from,
                                       const Location& to) {
        shared->on_move(key, to_array(i, from), to_array(i, to));
      };
    }
    if (shared->on_evict) {
      translated.on_evict = [shared, i](const Digest& key, const Location& at) {
        shared->on_evict(key, to_array(i, at));
      };
    }
    members_[i]->set_reclaim_hooks(std::move(translated));
  }
}

Status DeviceArray::start_scrub(ScrubOptions options) {
  for (uint32_t i = 0; i < members_.size(); ++i) {
    ScrubOptions part = options;
    if (options.bytes_per_second > 0) {
      part.bytes_per_second = std::max<uint64_t>(options.bytes_per_second / members_.size(), 1);
    }
    if (options.on_corrupt) {
      part.on_corrupt = [i, hook = options.on_corrupt](const Digest& key, const Location& at) {
        hook(key, to_array(i, at));
      };
    }
    QUIRE_RETURN_IF_ERROR(members_[i]->start_scrub(std::move(part)));
  }
  return Status::ok();
}

uint64_t DeviceArray::payload_bytes_max() const {
  uint64_t bytes = members_.front()->payload_bytes_max();
  for (const auto& member : members_) bytes = std::min(bytes, member->payload_bytes_max());
  return bytes;
}

std::array<uint64_t, 2> DeviceArray::store_uuid() const {
  std::vector<uint64_t> words;
  for (const auto& member : members_) {
    for (const uint64_t word : member->store_uuid()) words.push_back(word);
  }
  const Hash128 hash = xxh3_128(std::as_bytes(std::span(words)));
  return {hash.low, hash.high};
}

NvmeStats DeviceArray::stats() const {
  std::vector<NvmeStats> devices;
  for (const auto& member : members_) devices.push_back(member->stats());
  return sum_of(std::move(devices));
}

}  // namespace
}  // namespace nvme

Expected<std::unique_ptr<NvmeTier>> make_nvme_array(
    std::vector<std::unique_ptr<NvmeTier>> devices) {
  if (devices.empty() || devices.size() > kNvmeDevicesMax) {
    return Status(StatusCode::kInvalidArgument,
                  "an array has 1 to " + std::to_string(kNvmeDevicesMax) + " devices");
  }
  if (devices.size() == 1 && devices[0] != nullptr) return std::move(devices[0]);
  std::vector<nvme::ArrayMember*> members;
  uint64_t epoch = 0;
  for (const auto& device : devices) {
    members.push_back(dynamic_cast<nvme::ArrayMember*>(device.get()));
    if (members.back() == nullptr) {
      return Status(StatusCode::kInvalidArgument, "a device is not from NvmeTier::open()");
    }
    epoch = std::max(epoch, members.back()->epoch());
  }
  for (nvme::ArrayMember* member : members) {
    QUIRE_RETURN_IF_ERROR(member->raise_epoch(epoch + 1));
  }
  return std::unique_ptr<NvmeTier>(
      std::make_unique<nvme::DeviceArray>(std::move(devices), std::move(members)));
}

}  // namespace quire
