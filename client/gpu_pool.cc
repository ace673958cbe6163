#include "client/gpu_pool.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "client/session.h"

namespace quire {
namespace {

constexpr uint32_t kOpeningWaitMs = 20;
constexpr std::chrono::microseconds kCopyPollInterval{20};
constexpr uint64_t kChunkBytesMin = 64ull << 10;
constexpr uint64_t kPoolBytesMax = 1ull << 46;

Status corrupt(std::string message) {
  return {StatusCode::kCorrupt, "the server sent " + std::move(message)};
}

}  // namespace

// ---- GpuLease ----

GpuLease::GpuLease(GpuLease&& other) noexcept {
  *this = std::move(other);
}

GpuLease& GpuLease::operator=(GpuLease&& other) noexcept {
  if (this == &other) return *this;
  release();
  lease_ = std::move(other.lease_);
  pool_ = std::exchange(other.pool_, nullptr);
  device_ = std::exchange(other.device_, {});
  offset_ = other.offset_;
  return *this;
}

GpuLease::~GpuLease() {
  release();
}

void GpuLease::release() {
  lease_.release();
  if (pool_ != nullptr) std::exchange(pool_, nullptr)->end_use(offset_, device_.bytes);
  device_ = {};
}

// ---- GpuPool ----

GpuPool::GpuPool(Client& client, std::shared_ptr<gpu::Driver> driver)
    : client_(client), driver_(std::move(driver)) {}

GpuPool::~GpuPool() {
  if (stream_ != 0) (void)driver_->destroy_stream(stream_);
  (void)unmap_from(0);
  if (range_ != 0) (void)driver_->release_range(range_, capacity_bytes_);
}

Expected<std::unique_ptr<GpuPool>> GpuPool::open(Client& client,
                                                 std::shared_ptr<gpu::Driver> driver) {
  Client::Session& session = *client.session_;
  if (!session.can(wire::kFeatureGpu))
    return Status(StatusCode::kUnsupported, "this server has no GPU tier");
  std::unique_ptr<GpuPool> pool(new GpuPool(client, std::move(driver)));
  const Deadline deadline = Deadline::after_ms(session.timeout_ms());
  Expected<Layout> layout = pool->ask_layout();
  while (layout.status().code() == StatusCode::kBusy && deadline.remaining_ms() > kOpeningWaitMs) {
    std::this_thread::sleep_for(std::chrono::milliseconds(kOpeningWaitMs));
    layout = pool->ask_layout();
  }
  if (!layout) return layout.status();
  QUIRE_RETURN_IF_ERROR(pool->attach(*layout));
  QUIRE_RETURN_IF_ERROR(pool->import(*layout));
  return pool;
}

Status GpuPool::attach(const Layout& layout) {
  const auto kind = static_cast<gpu::DriverKind>(layout.head.driver);
  if (kind != driver_->kind())
    return {StatusCode::kFailedPrecondition,
            std::string("the server's GPU pool is of the driver \"") + driver_kind_name(kind) +
                "\", ours is \"" + driver_kind_name(driver_->kind()) + "\""};
  QUIRE_ASSIGN_OR_RETURN(const uint32_t device,
                         gpu::find_device(*driver_, layout.head.device_uuid));
  QUIRE_ASSIGN_OR_RETURN(const gpu::DeviceInfo info, driver_->device_info(device));
  if (layout.head.chunk_bytes % info.granularity_bytes != 0)
    return corrupt("chunks that the device cannot map");
  QUIRE_RETURN_IF_ERROR(driver_->use_device(device));
  QUIRE_ASSIGN_OR_RETURN(range_, driver_->reserve_range(layout.head.capacity_bytes));
  capacity_bytes_ = layout.head.capacity_bytes;
  chunk_bytes_ = layout.head.chunk_bytes;
  return Status::ok();
}

Expected<GpuPool::Layout> GpuPool::ask_layout_page(uint32_t first_chunk) {
  QUIRE_ASSIGN_OR_RETURN(auto turn, client_.session_->turn());
  const wire::GpuLayoutRequest request{first_chunk, 0};
  Layout page;
  Status refused;
  const auto on_reply = [&](Frame& frame) -> Expected<bool> {
    if (frame.header.status != 0) {
      refused = reply_status(frame.header, frame.body);
      return false;
    }
    ByteReader reader(frame.body);
    page.head = reader.read<wire::GpuLayoutReply>();
    const wire::GpuLayoutReply& head = page.head;
    const uint32_t behind = head.n_chunks - std::min(head.n_chunks, first_chunk);
    const bool sound =
        reader.ok() && head.n_chunks <= kGpuChunksMax && head.first_chunk == first_chunk &&
        head.n_here == std::min(behind, wire::kGpuChunksPerReplyMax) &&
        reader.remaining() == head.n_here * sizeof(uint64_t) && frame.fds.size() == head.n_here &&
        head.chunk_bytes >= kChunkBytesMin && head.capacity_bytes <= kPoolBytesMax &&
        head.capacity_bytes % head.chunk_bytes == 0 &&
        head.n_chunks <= head.capacity_bytes / head.chunk_bytes;
    if (!sound) return corrupt("a layout of its GPU pool that is none");
    for (uint32_t i = 0; i < head.n_here; ++i) page.ids.push_back(reader.read<uint64_t>());
    page.fds = std::move(frame.fds);
    return false;
  };
  QUIRE_RETURN_IF_ERROR(
      turn.call(wire::Op::kGpuLayout, std::as_bytes(std::span(&request, 1)), on_reply));
  if (!refused.is_ok()) return refused;
  return page;
}

// All pages of one version. A pool that changes while it is asked about is asked about again.
Expected<GpuPool::Layout> GpuPool::ask_layout() {
  for (uint32_t tries = 0; tries < kGpuLayoutTriesMax; ++tries) {
    QUIRE_ASSIGN_OR_RETURN(Layout layout, ask_layout_page(0));
    bool changed = false;
    while (!changed && layout.ids.size() < layout.head.n_chunks) {
      auto page = ask_layout_page(static_cast<uint32_t>(layout.ids.size()));
      if (!page) return page.status();
      changed = page->head.layout_version != layout.head.layout_version;
      if (changed) break;
      layout.ids.insert(layout.ids.end(), page->ids.begin(), page->ids.end());
      std::ranges::move(page->fds, std::back_inserter(layout.fds));
    }
    if (!changed) return layout;
  }
  return Status(StatusCode::kBusy, "the GPU pool keeps changing its size", kOpeningWaitMs);
}

// From the end, as far as nothing that was leased lies there.
Status GpuPool::unmap_from(size_t number) {
  while (chunks_.size() > number) {
    const Chunk& chunk = chunks_.back();
    if (chunk.leases != 0)
      return {StatusCode::kBusy, "a lease that has ended for the server is still held here"};
    const gpu::Address at = range_ + (chunks_.size() - 1) * chunk_bytes_;
    QUIRE_RETURN_IF_ERROR(driver_->unmap(at, chunk_bytes_));
    const gpu::Memory memory = chunk.memory;
    chunks_.pop_back();
    QUIRE_RETURN_IF_ERROR(driver_->release(memory));
  }
  return Status::ok();
}

Status GpuPool::import_chunk(uint64_t number, uint64_t id, int fd) {
  const gpu::Address at = range_ + number * chunk_bytes_;
  QUIRE_ASSIGN_OR_RETURN(const gpu::Memory memory, driver_->import_fd(fd, chunk_bytes_));
  Status status = driver_->map(at, memory, chunk_bytes_);
  if (status.is_ok()) {
    status = driver_->set_access(at, chunk_bytes_, gpu::Access::kRead);
    if (status.code() == StatusCode::kUnsupported) {
      read_only_ = false;
      status = driver_->set_access(at, chunk_bytes_, gpu::Access::kReadWrite);
    }
    if (status.is_ok()) {
      chunks_.push_back({id, memory, 0});
      return status;
    }
    (void)driver_->unmap(at, chunk_bytes_);
  }
  (void)driver_->release(memory);
  return status;
}

// Chunks come and go at the end only: those that both layouts begin with stay as they are.
Status GpuPool::import(const Layout& layout) {
  if (layout.head.capacity_bytes != capacity_bytes_ || layout.head.chunk_bytes != chunk_bytes_)
    return client_.session_->fail(corrupt("a GPU pool that has changed its form"));
  const std::scoped_lock lock(mutex_);
  size_t same = 0;
  while (same < std::min(chunks_.size(), layout.ids.size()) && chunks_[same].id == layout.ids[same])
    ++same;
  QUIRE_RETURN_IF_ERROR(unmap_from(same));
  for (size_t number = same; number < layout.ids.size(); ++number)
    QUIRE_RETURN_IF_ERROR(import_chunk(number, layout.ids[number], layout.fds[number].get()));
  layout_version_ = layout.head.layout_version;
  return Status::ok();
}

Status GpuPool::refresh(uint64_t layout_version) {
  for (uint32_t tries = 0; tries < kGpuLayoutTriesMax; ++tries) {
    {
      const std::scoped_lock lock(mutex_);
      if (layout_version_ >= layout_version) return Status::ok();
    }
    QUIRE_ASSIGN_OR_RETURN(const Layout layout, ask_layout());
    QUIRE_RETURN_IF_ERROR(import(layout));
  }
  return client_.session_->fail(corrupt("leases of a layout that it does not tell"));
}

void GpuPool::end_use(uint64_t offset, uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  for (uint64_t i = offset / chunk_bytes_; i <= (offset + bytes - 1) / chunk_bytes_; ++i)
    --chunks_[i].leases;
}

uint64_t GpuPool::mapped_bytes() const {
  const std::scoped_lock lock(mutex_);
  return chunks_.size() * chunk_bytes_;
}

Expected<GpuLease> GpuPool::place(Granted granted) {
  const wire::AcquireReply& reply = granted.reply.lease;
  const std::scoped_lock lock(mutex_);
  const uint64_t mapped = chunks_.size() * chunk_bytes_;
  if (reply.bytes > mapped || reply.slab_offset > mapped - reply.bytes)
    return client_.session_->fail(corrupt("a lease outside the GPU pool"));
  GpuLease lease;
  lease.lease_ = std::move(granted.lease);
  lease.pool_ = this;
  lease.device_ = {range_ + reply.slab_offset, reply.bytes};
  lease.offset_ = reply.slab_offset;
  for (uint64_t i = reply.slab_offset / chunk_bytes_;
       i <= (reply.slab_offset + reply.bytes - 1) / chunk_bytes_; ++i)
    ++chunks_[i].leases;
  return lease;
}

// One reply of an acquire; whether it was well-formed, and a lease or its error in its place.
Expected<bool> GpuPool::take_reply(std::span<const Digest> ids, uint64_t asked_ns, ByteSpan body,
                                   const Status& failure, std::vector<Expected<GpuLease>>& leases,
                                   std::vector<Granted>& granted) {
  ByteReader reader(body);
  const auto reply = reader.read<wire::AcquireGpuReply>();
  if (!reader.ok() || (failure.is_ok() && !reader.at_end()))
    return corrupt("a lease of the wrong length");
  const uint32_t index = reply.lease.index;
  Expected<GpuLease>& slot = leases[leases.size() - ids.size() + index];
  if (!failure.is_ok()) {
    slot = failure;
  } else if (reply.tier == wire::TierId::kHost) {
    QUIRE_ASSIGN_OR_RETURN(Lease host, client_.accept_lease(reply.lease, asked_ns));
    GpuLease lease;
    lease.lease_ = std::move(host);
    slot = std::move(lease);
  } else if (reply.tier == wire::TierId::kGpu && reply.lease.bytes != 0 &&
             reply.lease.bytes <= capacity_bytes_ &&
             reply.lease.slab_offset <= capacity_bytes_ - reply.lease.bytes &&
             reply.lease.slab_offset % kSlabAlignment == 0) {
    Granted lease;
    lease.index = leases.size() - ids.size() + index;
    lease.reply = reply;
    lease.lease.client_ = &client_;
    lease.lease.id_ = reply.lease.lease_id;
    lease.lease.generation_ = reply.lease.generation;
    lease.lease.expires_ns_ = asked_ns + reply.lease.lease_ms * kNsPerMs;
    granted.push_back(std::move(lease));
  } else {
    return corrupt("a lease that lies nowhere");
  }
  return true;
}

Status GpuPool::acquire_some(std::span<const Digest> ids, std::vector<Expected<GpuLease>>& leases) {
  for (size_t i = 0; i < ids.size(); ++i)
    leases.emplace_back(Status(StatusCode::kInternal, "no answer for this id"));
  ByteWriter body;
  body.write(wire::AcquireRequest{.n_ids = static_cast<uint32_t>(ids.size()), .lease_ms = 0});
  for (const Digest& id : ids) body.write(id.bytes);
  std::vector<Granted> granted;
  Status refused;  // the request as a whole
  {
    QUIRE_ASSIGN_OR_RETURN(auto turn, client_.session_->turn());
    const uint64_t asked_ns = system_clock().now_ns();
    std::vector<bool> answered(ids.size());
    size_t n_answered = 0;
    const auto on_reply = [&](Frame& frame) -> Expected<bool> {
      ByteReader reader(frame.body);
      const auto reply = reader.read<wire::AcquireGpuReply>();
      Status failure;
      if (frame.header.status != 0) {
        // A refusal of the whole request is text alone; no text has these zeros.
        const wire::AcquireReply& lease = reply.lease;
        const bool of_one_id = reader.ok() && lease.lease_id == 0 && lease.generation == 0 &&
                               lease.slab_offset == 0 && lease.bytes == 0;
        if (!of_one_id) {
          refused = reply_status(frame.header, frame.body);
          return false;
        }
        failure = reply_status(frame.header, reader.read_bytes(reader.remaining()));
      }
      if (!reader.ok() || reply.lease.index >= ids.size() || answered[reply.lease.index])
        return corrupt("a lease for an id that was not asked for");
      answered[reply.lease.index] = true;
      QUIRE_RETURN_IF_ERROR(
          take_reply(ids, asked_ns, frame.body, failure, leases, granted).status());
      return ++n_answered < ids.size();
    };
    QUIRE_RETURN_IF_ERROR(turn.call(wire::Op::kAcquireGpu, body.bytes(), on_reply));
  }
  QUIRE_RETURN_IF_ERROR(refused);
  uint64_t newest = 0;
  for (const Granted& lease : granted) newest = std::max(newest, lease.reply.layout_version);
  const Status known = refresh(newest);
  for (Granted& lease : granted) {
    Expected<GpuLease>& slot = leases[lease.index];
    if (known.is_ok()) {
      slot = place(std::move(lease));
    } else {
      slot = known;  // the lease goes back to the server
    }
  }
  return Status::ok();
}

Expected<std::vector<Expected<GpuLease>>> GpuPool::acquire(
    std::span<const Digest> representations) {
  std::vector<Expected<GpuLease>> leases;
  leases.reserve(representations.size());
  for (size_t i = 0; i < representations.size(); i += wire::kAcquireIdsMax) {
    const size_t count = std::min<size_t>(wire::kAcquireIdsMax, representations.size() - i);
    QUIRE_RETURN_IF_ERROR(acquire_some(representations.subspan(i, count), leases));
  }
  return leases;
}

Status GpuPool::wait_for_copy() {
  QUIRE_ASSIGN_OR_RETURN(const gpu::Event event, driver_->record(stream_));
  const Deadline deadline = Deadline::after_ms(client_.session_->timeout_ms());
  Expected<bool> done = driver_->query(event);
  while (done.is_ok() && !*done && deadline.remaining_ms() > 0) {
    std::this_thread::sleep_for(kCopyPollInterval);
    done = driver_->query(event);
  }
  const Status destroyed = driver_->destroy_event(event);
  QUIRE_RETURN_IF_ERROR(done.status());
  if (!*done) return {StatusCode::kDeadlineExceeded, "the GPU did not finish a copy in time"};
  return destroyed;
}

Status GpuPool::read(const GpuLease& lease, uint64_t offset, MutableByteSpan target) {
  const DeviceSpan& object = lease.device_;
  if (lease.pool_ != this)
    return {StatusCode::kInvalidArgument, "the lease is not of this pool's device memory"};
  if (target.size() > object.bytes || offset > object.bytes - target.size())
    return {StatusCode::kInvalidArgument, "a range outside the object"};
  if (target.empty()) return Status::ok();
  const std::scoped_lock lock(read_mutex_);
  if (read_stuck_) return {StatusCode::kUnavailable, "an earlier copy from the GPU never ended"};
  if (stream_ == 0) {
    QUIRE_ASSIGN_OR_RETURN(stream_, driver_->create_stream());
  }
  read_bytes_.resize(target.size());
  QUIRE_RETURN_IF_ERROR(
      driver_->copy_to_host(read_bytes_, object.device_pointer + offset, stream_));
  const Status copied = wait_for_copy();
  read_stuck_ = !copied.is_ok();
  QUIRE_RETURN_IF_ERROR(copied);
  std::ranges::copy(read_bytes_, target.begin());
  return Status::ok();
}

Expected<GpuLease> GpuPool::acquire(const Digest& representation) {
  QUIRE_ASSIGN_OR_RETURN(auto leases, acquire(std::span(&representation, 1)));
  return std::move(leases.front());
}

}  // namespace quire
