// The server's GPU pool, imported into this process: objects that the server keeps on the GPU are
// leased there, and a kernel loads from the device address without a copy through the host.
//
// Threads: as Client; a GpuLease belongs to one thread at a time and must not outlive its GpuPool,
// nor the GpuPool its Client. Importing calls the driver, acquire() only when the pool has changed
// its size. Trust: a process that imports the pool can read all of it, as it can the host slab, and
// a CUDA mapping may not be read-only by force: the server offers the pool to its own user only.
#ifndef QUIRE_CLIENT_GPU_POOL_H_
#define QUIRE_CLIENT_GPU_POOL_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/gpu/driver.h"
#include "base/ids.h"
#include "base/status.h"
#include "client/client.h"
#include "client/connection.h"
#include "proto/wire.h"

namespace quire {

// Layouts asked for until one holds what a lease needs; each is at most a few frames.
inline constexpr uint32_t kGpuLayoutTriesMax = 4;
// A server that says more is not believed.
inline constexpr uint32_t kGpuChunksMax = 4096;

// Device memory for a kernel: 16 KiB aligned; nothing at all where device_pointer is 0.
struct DeviceSpan {
  uint64_t device_pointer = 0;
  uint64_t bytes = 0;
};

class GpuPool;

// A pinned object, on the GPU or (not hot enough yet, no room there) in the host slab; released on
// destruction.
class GpuLease {
 public:
  GpuLease() = default;
  GpuLease(GpuLease&& other) noexcept;
  GpuLease& operator=(GpuLease&& other) noexcept;
  ~GpuLease();

  bool valid() const { return lease_.valid(); }
  bool on_device() const { return device_.device_pointer != 0; }
  // The representation (codecs/representation.h) in device memory. Readable until release or
  // expiry: wait for the kernels that read it before either.
  DeviceSpan device() const { return device_; }
  // The representation in host memory where it is not on the device, else nothing.
  ByteSpan bytes() const { return lease_.bytes(); }
  uint64_t id() const { return lease_.id(); }
  // Of the slot it lies in, there or here.
  uint64_t generation() const { return lease_.generation(); }
  // As Lease::check(): ask when the kernels are done; what was read under a stale lease must be
  // thrown away.
  Status check() const { return lease_.check(); }
  Status renew(uint32_t lease_ms) { return lease_.renew(lease_ms); }
  void release();

 private:
  friend class GpuPool;
  Lease lease_;
  GpuPool* pool_ = nullptr;  // where it is on the device
  DeviceSpan device_;
  uint64_t offset_ = 0;
};

class GpuPool {
 public:
  // Attaches to the server's pool; waits while the server opens it, within the client's timeout.
  // The driver must be of the server's kind and not used for anything yet
  // (gpu::open_cuda_driver()); the device is found by its uuid. kUnsupported: the server has no GPU
  // tier. kUnavailable: it has none now, and says why. kFailedPrecondition: another kind of driver.
  // kNotFound: the device is not among those that this process sees.
  static Expected<std::unique_ptr<GpuPool>> open(Client& client,
                                                 std::shared_ptr<gpu::Driver> driver);
  // Unmaps everything. No lease may be left, and no kernel at work.
  ~GpuPool();
  GpuPool(const GpuPool&) = delete;
  GpuPool& operator=(const GpuPool&) = delete;

  Expected<GpuLease> acquire(const Digest& representation);
  // Results in the order of the ids; each is a lease or its own error.
  Expected<std::vector<Expected<GpuLease>>> acquire(std::span<const Digest> representations);

  // Copies part of a leased object from the device into host memory and waits for it, within the
  // client's timeout: for manifests (client/gpu_manifest.h), the KV itself is what kernels read.
  // kInvalidArgument: a lease of another pool or not on the device, a range outside the object.
  // kUnavailable: an earlier copy never ended.
  Status read(const GpuLease& lease, uint64_t offset, MutableByteSpan target);

  uint64_t capacity_bytes() const { return capacity_bytes_; }
  // Imported now.
  uint64_t mapped_bytes() const;
  // False where the device cannot map read-only.
  bool read_only() const { return read_only_; }

 private:
  friend class GpuLease;
  struct Layout {
    wire::GpuLayoutReply head;
    std::vector<uint64_t> ids;
    std::vector<UniqueFd> fds;
  };
  struct Chunk {
    uint64_t id = 0;
    gpu::Memory memory = 0;
    uint32_t leases = 0;
  };
  struct Granted {  // a lease on the device whose chunks may not be mapped yet
    size_t index = 0;
    wire::AcquireGpuReply reply;
    Lease lease;
  };

  GpuPool(Client& client, std::shared_ptr<gpu::Driver> driver);
  Expected<Layout> ask_layout();
  Expected<Layout> ask_layout_page(uint32_t first_chunk);
  Status attach(const Layout& layout);
  Status refresh(uint64_t layout_version);
  Status import(const Layout& layout);
  Status import_chunk(uint64_t number, uint64_t id, int fd);
  Status unmap_from(size_t number);
  Status acquire_some(std::span<const Digest> ids, std::vector<Expected<GpuLease>>& leases);
  Expected<bool> take_reply(std::span<const Digest> ids, uint64_t asked_ns, ByteSpan body,
                            const Status& failure, std::vector<Expected<GpuLease>>& leases,
                            std::vector<Granted>& granted);
  Expected<GpuLease> place(Granted granted);
  void end_use(uint64_t offset, uint64_t bytes);
  Status wait_for_copy();

  Client& client_;
  const std::shared_ptr<gpu::Driver> driver_;
  uint64_t capacity_bytes_ = 0;
  uint64_t chunk_bytes_ = 0;
  gpu::Address range_ = 0;
  bool read_only_ = true;

  mutable std::mutex mutex_;  // of what follows
  uint64_t layout_version_ = 0;
  std::vector<Chunk> chunks_;  // chunk i lies at i * chunk_bytes_

  std::mutex read_mutex_;  // of what follows; never taken with mutex_
  gpu::Stream stream_ = 0;
  std::vector<std::byte> read_bytes_;  // where copies go: theirs even when nobody waits any more
  bool read_stuck_ = false;
};

}  // namespace quire

#endif  // QUIRE_CLIENT_GPU_POOL_H_
