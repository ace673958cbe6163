// Copies of hot objects on the GPU, as the store sees them: when they come and go is decided in
// gpu_placement.cc; here they are tied to leases, entries and sessions.
#include "base/gpu/cuda_driver.h"
#include "base/gpu/fake_driver.h"
#include "server/store/store.h"

namespace quire::server {
namespace {

Expected<std::unique_ptr<gpu::Driver>> open_driver(const Config& config) {
  if (config.gpu_driver == "cuda") return gpu::open_cuda_driver();
  gpu::FakeOptions options;
  options.total_bytes = config.gpu_pool_bytes;
  return std::unique_ptr<gpu::Driver>(std::make_unique<gpu::FakeDriver>(options));
}

}  // namespace

void Store::open_gpu() {
  if (!config_.gpu_enabled) return;
  if (config_.gpu_driver == "fake") warn("gpu.driver is \"fake\": host memory, for tests only");
  GpuPlacementOptions options;
  options.pool.device = config_.gpu_device;
  options.pool.capacity_bytes = config_.gpu_pool_bytes;
  options.verify_uploads = config_.gpu_verify_uploads;
  options.shrink_after_ns = uint64_t{config_.gpu_shrink_after_ms} * 1'000'000;
  GpuPlacement::Hooks hooks;
  hooks.settled = [this](ObjectEntry& entry) {
    if (entry.state == ObjectState::kRemoving) {
      destroy_if_removed(entry);
    } else {
      retire(entry);
    }
  };
  hooks.share_bytes = [this](uint32_t tenant, uint64_t tier_bytes) {
    return tenants_.share_bytes(tenants_.at(tenant), tier_bytes);
  };
  hooks.warn = [this](const std::string& what) { warn(what); };
  gpu_ = std::make_unique<GpuPlacement>([this] { return open_driver(config_); }, options, loop_,
                                        clock_, live_, slab_, std::move(hooks));
}

bool Store::has_gpu() const {
  return gpu_ != nullptr && gpu_->state() != GpuPlacement::State::kAbsent;
}

Expected<const tiers::DevicePool*> Store::attach_gpu(StoreSession& session) {
  if (gpu_ == nullptr) {
    return Status(StatusCode::kUnavailable, "the GPU tier is not configured (gpu.enabled)");
  }
  QUIRE_RETURN_IF_ERROR(gpu_->available());
  session.reads_gpu = true;
  return &gpu_->pool();
}

bool Store::in_gpu(const ObjectEntry& entry) const {
  return gpu_ != nullptr && gpu_->readable(entry);
}

void Store::drop_gpu_copy(ObjectEntry& entry) {
  if (gpu_ != nullptr) gpu_->drop(entry);
}

// Never above what the host tier takes, whose bytes have the same way behind them.
uint32_t Store::gpu_load_us(const tiers::IndexRow& row) const {
  return std::min(gpu_->cost().load_us(row.bytes), host_cost_.cost().load_us(row.bytes));
}

}  // namespace quire::server
