// A whole damaged NVMe store: the real recovery over a memory device. An input is a list of patches
// of a small sound store (one sealed segment, one open); each may have the checksums around it put
// right. Whatever comes of it: opening and recovering end in a status, every object that is
// reported reads as bytes of its checksum or not at all, and a store that opened takes and returns
// a new object, also after the next start.
#include <algorithm>
#include <functional>
#include <memory>
#include <optional>

#include "base/clock.h"
#include "tests/fuzz/nvme_image.h"
#include "tiers/io/aligned_buffer.h"
#include "tiers/io/memory_device.h"
#include "tiers/nvme/nvme_tier.h"

namespace {

using quire::AlignedBuffer;
using quire::ByteSpan;
using quire::Digest;
using quire::NvmeLocation;
using quire::NvmeTier;
using quire::Status;
using quire::fuzz::base_store;
using quire::fuzz::expect;
using quire::fuzz::kImageBytes;
using quire::fuzz::kPayloadBytes;
using quire::fuzz::kSegmentBytes;

constexpr uint32_t kPollsMax = 100'000;

// Runs `start` (which takes a callback) until its result is there.
template <typename Result, typename Start>
Result wait_for(NvmeTier& tier, Start start) {
  std::optional<Result> result;
  start([&result](Result given) { result = std::move(given); });
  for (uint32_t polls = 0; !result && polls < kPollsMax; ++polls) tier.device().poll();
  expect(result.has_value(), "an operation ends");
  return std::move(*result);
}

struct OpenStore {
  quire::ManualClock clock;
  std::unique_ptr<NvmeTier> tier;
  std::vector<quire::RecoveredObject> objects;
};

bool open_store(const std::shared_ptr<quire::MemoryImage>& image, OpenStore& store) {
  quire::NvmeOptions options;
  options.segment_bytes = kSegmentBytes;
  options.create = false;
  options.read_errors_per_minute_max = 1000;
  auto opened = NvmeTier::open(options, std::make_unique<quire::MemoryDevice>(image), store.clock);
  if (!opened) {
    expect(!opened.status().message().empty(), "a refusal says why");
    return false;
  }
  store.tier = std::move(*opened);
  const auto recovered = wait_for<Status>(*store.tier, [&](auto done) {
    store.tier->recover(
        [&](const quire::RecoveredObject& found) { store.objects.push_back(found); }, done);
  });
  return recovered.is_ok();
}

void read_all(OpenStore& store) {
  for (const quire::RecoveredObject& object : store.objects) {
    const uint64_t bytes = object.location.payload_bytes;
    expect(bytes != 0 && bytes <= store.tier->payload_bytes_max(), "a reported size is possible");
    const AlignedBuffer target(bytes);
    const auto status = wait_for<Status>(*store.tier, [&](auto done) {
      store.tier->read(object.key, object.location, object.checksum, target.span(), done);
    });
    if (!status.is_ok()) continue;
    expect(quire::xxh3_128(target.span().first(bytes)) == object.checksum, "no wrong bytes");
  }
}

// True where the store could take it (a store without a free segment answers BUSY).
bool write_new_object(OpenStore& store, const Digest& key) {
  AlignedBuffer payload(kPayloadBytes);
  std::memset(payload.data(), 0x5a, payload.size());
  const ByteSpan bytes = payload.span().first(kPayloadBytes);
  using Written = quire::Expected<NvmeLocation>;
  const auto written = wait_for<Written>(
      *store.tier, [&](auto done) { store.tier->write(key, bytes, quire::xxh3_128(bytes), done); });
  if (!written) return false;
  return wait_for<Status>(*store.tier, [&](auto done) { store.tier->sync(done); }).is_ok();
}

}  // namespace

QUIRE_FUZZ_SEEDS(nvme_store) {
  return quire::fuzz::image_seeds();
}

QUIRE_FUZZ_TARGET(nvme_store) {
  // One image for all inputs: a fresh one costs more page faults than the rest of a run.
  static const auto image = std::make_shared<quire::MemoryImage>(kImageBytes);
  image->make_durable(image->writes());
  std::copy(base_store().image.begin(), base_store().image.end(), image->bytes().begin());
  quire::fuzz::apply_patches(input, image->bytes());
  OpenStore store;
  if (!open_store(image, store)) return false;
  read_all(store);
  const Digest key = quire::fuzz::key_of(200);
  if (!write_new_object(store, key)) return true;
  store.tier.reset();
  OpenStore again;
  expect(open_store(image, again), "a store that worked opens again");
  const bool there =
      std::ranges::any_of(again.objects, [&](const auto& o) { return o.key == key; });
  expect(there, "what was synced is found again");
  read_all(again);
  return true;
}
