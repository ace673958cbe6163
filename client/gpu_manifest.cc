#include "client/gpu_manifest.h"

#include <algorithm>
#include <optional>
#include <span>

namespace quire {
namespace {

// Of the first copy; most manifests of a few hundred tokens are in it whole.
constexpr uint64_t kFirstReadBytes = 8192;

GpuManifest manifest_of(const RepresentationView& view) {
  return {view.header(), {view.sections().begin(), view.sections().end()}};
}

Status corrupt(const char* what) {
  return {StatusCode::kCorrupt, what};
}

}  // namespace

Expected<GpuManifest> read_manifest(GpuPool& pool, const GpuLease& lease) {
  if (!lease.valid()) return Status(StatusCode::kStaleLease, "the lease was released");
  if (!lease.on_device()) {
    QUIRE_ASSIGN_OR_RETURN(const RepresentationView view, RepresentationView::parse(lease.bytes()));
    return manifest_of(view);
  }
  const uint64_t object_bytes = lease.device().bytes;
  std::vector<std::byte> manifest(std::min(kFirstReadBytes, object_bytes));
  QUIRE_RETURN_IF_ERROR(pool.read(lease, 0, manifest));
  const std::optional<uint64_t> bytes = RepresentationView::manifest_bytes(manifest);
  if (!bytes) return corrupt("no manifest at the object's begin");
  if (*bytes > std::min(object_bytes, kGpuManifestBytesMax)) return corrupt("a manifest too long");
  if (*bytes > manifest.size()) {
    manifest.resize(*bytes);
    QUIRE_RETURN_IF_ERROR(pool.read(lease, 0, manifest));
    // Of a lease that ended meanwhile this may be another object.
    if (RepresentationView::manifest_bytes(manifest) != bytes)
      return corrupt("a manifest that changes");
  }
  // parse() reads nothing behind the manifest: the sections stay on the device.
  QUIRE_ASSIGN_OR_RETURN(const RepresentationView view,
                         RepresentationView::parse({manifest.data(), object_bytes}));
  return manifest_of(view);
}

}  // namespace quire
