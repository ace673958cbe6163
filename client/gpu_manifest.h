// What lies where in an object that was leased on the GPU: its manifest, copied to the host, so
// that a caller can give kernels the device address of each section.
#ifndef QUIRE_CLIENT_GPU_MANIFEST_H_
#define QUIRE_CLIENT_GPU_MANIFEST_H_

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "client/gpu_pool.h"
#include "codecs/representation.h"

namespace quire {

// More than any sound manifest has (representation.h: layers, tokens and contexts have limits).
inline constexpr uint64_t kGpuManifestBytesMax = 4ull << 20;

struct GpuManifest {
  RepresentationHeader header;
  // Section s lies at the object's address + s.offset, 64-byte aligned.
  std::vector<SectionEntry> sections;
};

// Reads and checks the manifest (RepresentationView::parse()), not the sections' checksums: kernels
// refuse what is not finite. A lease in host memory will do, too. Ask lease.check() afterwards.
// Errors: those of parse(), GpuPool::read() and kStaleLease (released).
Expected<GpuManifest> read_manifest(GpuPool& pool, const GpuLease& lease);

}  // namespace quire

#endif  // QUIRE_CLIENT_GPU_MANIFEST_H_
