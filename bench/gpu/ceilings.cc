// What the machine can do at best: device copy, copies over the bus by size, zero-copy by CTAs.
#include <algorithm>
#include <cstdio>

#include "bench/gpu/codecs.h"
#include "bench/gpu/gpu.h"

namespace quire_gpu {
namespace {

constexpr uint64_t kCopyBytes = 512ull << 20;

double copy_rate(const Buffer& to, const Buffer& from, uint64_t piece_bytes, uint64_t total_bytes,
                 Table* table, const char* what) {
  const uint64_t pieces = std::min(total_bytes / piece_bytes, uint64_t{4096});
  const double time = median_microseconds(
      [&](int) {
        for (uint64_t i = 0; i < pieces; ++i)
          check_cuda(cudaMemcpyAsync(to.data() + i * piece_bytes, from.data() + i * piece_bytes,
                                     piece_bytes, cudaMemcpyDefault, stream()),
                     what);
      },
      7);
  const double rate = static_cast<double>(pieces * piece_bytes) / time;
  char name[96];
  char note[64];
  snprintf(name, sizeof(name), "%s %llu x %llu KiB", what, static_cast<unsigned long long>(pieces),
           static_cast<unsigned long long>(piece_bytes >> 10));
  snprintf(note, sizeof(note), "%.1f GB/s", rate / 1000);
  table->add({"ceiling", name, time, 0, note});
  return rate;
}

void zero_copy(const Buffer& to, const Buffer& from, double best_rate, Table* table) {
  constexpr uint32_t kTokens = 4096;
  const SectionShape shape{QUIRE_CODEC_RAW_BF16, QUIRE_PLANE_VALUE, kTokens, 8, 128};
  const uint64_t sections = 8;
  Buffer status(4, Where::kDevice);
  status.fill(0);
  for (const NamedPath& path : load_paths(shape.codec))
    for (uint32_t ctas : {1u, 2u, 4u, 8u, 16u, 32u, 64u}) {
      std::vector<quire_load_params> loads;
      for (uint64_t i = 0; i < sections; ++i)
        loads.push_back(load_of(shape, from.data() + i * shape.section_bytes(),
                                to.data() + i * shape.section_bytes(), nullptr, kTokens, {}));
      const quire_cuda_launch launch =
          launch_of(stream(), reinterpret_cast<int32_t*>(status.data()), path.path, ctas);
      const double time = median_microseconds(
          [&](int) { quire_cuda_load_batch(loads.data(), loads.size(), &launch, nullptr); }, 7);
      const double bytes = static_cast<double>(sections * shape.section_bytes());
      char name[96];
      char note[64];
      snprintf(name, sizeof(name), "zero-copy %s, %u CTAs", path.name, ctas);
      snprintf(note, sizeof(note), "%.1f GB/s", bytes / time / 1000);
      table->add({"ceiling", name, time, bytes / best_rate, note});
    }
}

}  // namespace

Ceilings measure_ceilings(Table* table) {
  Ceilings ceilings;
  Buffer device(kCopyBytes, Where::kDevice);
  Buffer pinned(kCopyBytes / 2, Where::kPinned);
  {
    Buffer other(kCopyBytes, Where::kDevice);
    ceilings.device_copy = 2 * copy_rate(other, device, kCopyBytes, kCopyBytes, table, "D2D");
  }
  for (uint64_t bytes = 4 << 10; bytes <= 64 << 20; bytes *= 8) {
    ceilings.host_to_device = std::max(
        ceilings.host_to_device, copy_rate(device, pinned, bytes, kCopyBytes / 2, table, "H2D"));
    ceilings.device_to_host = std::max(
        ceilings.device_to_host, copy_rate(pinned, device, bytes, kCopyBytes / 2, table, "D2H"));
  }
  zero_copy(device, pinned, ceilings.host_to_device, table);
  return ceilings;
}

}  // namespace quire_gpu
