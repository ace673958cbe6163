#include "tiers/io/device_probe.h"

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <system_error>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "tiers/io/aligned_buffer.h"

namespace quire {
namespace {

constexpr uint64_t kPartBytes = 1 << 20;
constexpr std::array<uint32_t, 4> kDepths = {2, 4, 8, 16};  // parts in flight
constexpr uint32_t kLatencySamples = 33;
// The least depth that comes this close to the best is enough.
constexpr double kEnough = 0.9;
constexpr uint64_t kFirstOffset = 1 << 20;
constexpr uint64_t kWrittenBytesMax = 256 << 20;
constexpr uint64_t kExtentsMax = 64;
constexpr uint64_t kMillisecondNs = 1'000'000;
constexpr double kNsPerUs = 1000;

// Offsets of parts that hold data.
std::vector<uint64_t> written_parts(int fd, uint64_t device_bytes) {
  std::vector<uint64_t> parts;
  off_t at = kFirstOffset;
  for (uint64_t i = 0; i < kExtentsMax; ++i) {
    const off_t begin = ::lseek(fd, at, SEEK_DATA);
    if (begin < 0) {
      // A raw device knows no holes.
      if (errno == EINVAL && parts.empty()) break;
      return parts;
    }
    const off_t end = std::min<off_t>(::lseek(fd, begin, SEEK_HOLE), device_bytes);
    if (end <= begin) break;
    for (uint64_t part = align_up(static_cast<uint64_t>(begin), kPartBytes);
         part + kPartBytes <= static_cast<uint64_t>(end); part += kPartBytes) {
      parts.push_back(part);
    }
    at = end;
  }
  if (!parts.empty()) return parts;
  for (uint64_t part = kFirstOffset; part + kPartBytes <= device_bytes; part += kPartBytes) {
    parts.push_back(part);
  }
  return parts;
}

class Probe {
 public:
  Probe(int fd, std::vector<uint64_t> parts, bool is_write)
      : fd_(fd), parts_(std::move(parts)), is_write_(is_write) {
    // Neighbours share what the device reads ahead: a stride that visits all parts far apart.
    stride_ = parts_.size() / 3 | 1;
  }

  // Microseconds of one block, the median; 0: it failed.
  double latency_us(uint64_t deadline_ns) {
    const AlignedBuffer block(kBlockBytes);
    std::vector<uint64_t> samples;
    while (samples.size() < kLatencySamples) {
      const uint64_t begin_ns = system_clock().now_ns();
      if (begin_ns >= deadline_ns) break;
      if (!transfer(next_part(), block.span())) return 0;
      samples.push_back(system_clock().now_ns() - begin_ns);
    }
    if (samples.empty()) return 0;
    std::nth_element(samples.begin(), samples.begin() + samples.size() / 2, samples.end());
    return static_cast<double>(samples[samples.size() / 2]) / kNsPerUs;
  }

  // With `depth` parts in flight for duration_ns; 0: it failed.
  double bytes_per_us(uint32_t depth, uint64_t duration_ns) {
    const uint64_t begin_ns = system_clock().now_ns();
    std::atomic<uint64_t> bytes{0};
    std::atomic<bool> failed{false};
    const auto work = [&] {
      const AlignedBuffer buffer(kPartBytes);
      do {
        if (!transfer(next_part(), buffer.span())) {
          failed = true;
          return;
        }
        bytes += kPartBytes;
      } while (system_clock().now_ns() - begin_ns < duration_ns);
    };
    std::vector<std::thread> threads;
    try {
      for (uint32_t i = 0; i < depth; ++i) threads.emplace_back(work);
    } catch (const std::system_error&) {
      failed = true;  // no more threads here
    }
    for (std::thread& thread : threads) thread.join();
    const uint64_t took_ns = system_clock().now_ns() - begin_ns;
    return failed ? 0 : static_cast<double>(bytes) / (static_cast<double>(took_ns) / kNsPerUs);
  }

 private:
  uint64_t next_part() { return parts_[next_.fetch_add(1) * stride_ % parts_.size()]; }
  bool transfer(uint64_t offset, MutableByteSpan memory) const {
    const auto at = static_cast<off_t>(offset);
    const ssize_t count = is_write_ ? ::pwrite(fd_, memory.data(), memory.size(), at)
                                    : ::pread(fd_, memory.data(), memory.size(), at);
    return count == static_cast<ssize_t>(memory.size());
  }

  int fd_;
  std::vector<uint64_t> parts_;
  bool is_write_;
  uint64_t stride_;
  std::atomic<uint64_t> next_{0};
};

void measure(Probe& probe, uint64_t duration_ns, double* latency_us, double* bytes_per_us,
             uint64_t* inflight_bytes_max) {
  const uint64_t step_ns = duration_ns / (kDepths.size() + 1);
  *latency_us = probe.latency_us(system_clock().now_ns() + step_ns);
  std::array<double, kDepths.size()> reached{};
  for (size_t i = 0; i < kDepths.size(); ++i) {
    reached[i] = probe.bytes_per_us(kDepths[i], step_ns);
    if (reached[i] == 0) return;
  }
  const double best = *std::max_element(reached.begin(), reached.end());
  const auto enough = std::find_if(reached.begin(), reached.end(),
                                   [&](double rate) { return rate >= kEnough * best; });
  *bytes_per_us = *enough;
  *inflight_bytes_max = kDepths[enough - reached.begin()] * kPartBytes;
}

}  // namespace

DeviceProfile probe_device(int fd, uint64_t device_bytes, bool may_write, uint32_t limit_ms) {
  DeviceProfile profile;
  if (device_bytes < kProbeDeviceBytesMin || limit_ms == 0) return profile;
  const uint64_t limit_ns = std::min(limit_ms, kProbeMsMax) * kMillisecondNs;
  uint64_t read_ns = limit_ns;
  if (may_write) {
    std::vector<uint64_t> parts;
    for (uint64_t part = kFirstOffset;
         part + kPartBytes <= std::min(device_bytes, kFirstOffset + kWrittenBytesMax);
         part += kPartBytes) {
      parts.push_back(part);
    }
    Probe probe(fd, std::move(parts), true);
    read_ns = limit_ns / 2;
    measure(probe, limit_ns - read_ns, &profile.write_latency_us, &profile.write_bytes_per_us,
            &profile.write_inflight_bytes_max);
  }
  std::vector<uint64_t> parts = written_parts(fd, device_bytes);
  if (parts.size() < kDepths.back()) return profile;
  Probe probe(fd, std::move(parts), false);
  measure(probe, read_ns, &profile.read_latency_us, &profile.read_bytes_per_us,
          &profile.read_inflight_bytes_max);
  return profile;
}

}  // namespace quire
