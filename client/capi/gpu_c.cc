// The GPU pool in C.
#include <algorithm>
#include <memory>
#include <string_view>

#include "base/gpu/cuda_driver.h"
#include "base/gpu/fake_driver.h"
#include "client/capi/errors.h"
#include "client/capi/handles.h"
#include "client/capi/quire_gpu.h"
#include "client/capi/representation_info.h"
#include "client/gpu_manifest.h"
#include "client/gpu_pool.h"

namespace quire::capi {
namespace {

// A pool with the session it stands on.
struct SharedPool {
  std::shared_ptr<Client> session;  // before pool: destroyed after it
  std::unique_ptr<GpuPool> pool;
};

}  // namespace
}  // namespace quire::capi

struct quire_gpu_pool {
  std::shared_ptr<quire::capi::SharedPool> shared;
};

struct quire_gpu_lease {
  std::shared_ptr<quire::capi::SharedPool> shared;  // before lease: destroyed after it
  quire::GpuLease lease;
};

namespace quire::capi {
namespace {

Expected<std::shared_ptr<gpu::Driver>> open_driver(const quire_gpu_options* source) {
  quire_gpu_options options{};
  if (source != nullptr) QUIRE_RETURN_IF_ERROR(read_struct(source, options));
  const std::string_view name = options.driver == nullptr ? "cuda" : options.driver;
  if (name == "fake") return std::shared_ptr<gpu::Driver>(std::make_shared<gpu::FakeDriver>());
  if (name != "cuda")
    return Status(StatusCode::kInvalidArgument, "driver must be \"cuda\" or \"fake\"");
  QUIRE_ASSIGN_OR_RETURN(auto driver, gpu::open_cuda_driver());
  return std::shared_ptr<gpu::Driver>(std::move(driver));
}

std::unique_ptr<quire_gpu_lease> new_lease(const quire_gpu_pool* pool, GpuLease lease) {
  auto handle = std::make_unique<quire_gpu_lease>();
  handle->shared = pool->shared;
  handle->lease = std::move(lease);
  return handle;
}

quire_gpu_section to_c_section(const SectionEntry& entry) {
  quire_gpu_section section{};
  section.struct_bytes = sizeof(section);
  section.layer = entry.layer;
  section.plane = static_cast<uint32_t>(entry.plane);
  section.offset = entry.offset;
  section.bytes = entry.bytes;
  return section;
}

}  // namespace
}  // namespace quire::capi

using quire::Status;
using quire::StatusCode;
using quire::capi::guarded;
using quire::capi::null_argument;
using quire::capi::to_digest;

quire_status quire_gpu_pool_open(quire_client* client, const quire_gpu_options* options,
                                 quire_gpu_pool** pool) {
  return guarded([&]() -> Status {
    if (pool == nullptr) return null_argument("pool");
    *pool = nullptr;
    if (client == nullptr) return null_argument("client");
    QUIRE_ASSIGN_OR_RETURN(auto driver, quire::capi::open_driver(options));
    auto shared = std::make_shared<quire::capi::SharedPool>();
    shared->session = client->session;
    QUIRE_ASSIGN_OR_RETURN(shared->pool, quire::GpuPool::open(*shared->session, std::move(driver)));
    *pool = new quire_gpu_pool{std::move(shared)};
    return Status::ok();
  });
}

void quire_gpu_pool_free(quire_gpu_pool* pool) {
  delete pool;
}

quire_status quire_gpu_pool_get_info(const quire_gpu_pool* pool, quire_gpu_pool_info* info) {
  return guarded([&]() -> Status {
    if (info == nullptr) return null_argument("info");
    if (pool == nullptr) return null_argument("pool");
    const quire::GpuPool& imported = *pool->shared->pool;
    quire_gpu_pool_info known{};
    known.read_only = imported.read_only() ? 1 : 0;
    known.capacity_bytes = imported.capacity_bytes();
    known.mapped_bytes = imported.mapped_bytes();
    return quire::capi::write_struct(known, info);
  });
}

quire_status quire_gpu_acquire(quire_gpu_pool* pool, const quire_id* representation,
                               quire_gpu_lease** lease) {
  return guarded([&]() -> Status {
    if (lease == nullptr) return null_argument("lease");
    *lease = nullptr;
    if (pool == nullptr) return null_argument("pool");
    if (representation == nullptr) return null_argument("representation");
    QUIRE_ASSIGN_OR_RETURN(auto taken, pool->shared->pool->acquire(to_digest(*representation)));
    *lease = quire::capi::new_lease(pool, std::move(taken)).release();
    return Status::ok();
  });
}

quire_status quire_gpu_acquire_many(quire_gpu_pool* pool, const quire_id* representations,
                                    size_t n_representations, quire_gpu_lease** leases,
                                    quire_status* statuses) {
  return guarded([&]() -> Status {
    if (n_representations == 0) return Status::ok();
    if (n_representations > quire::capi::kAcquireManyMax)
      return {StatusCode::kResourceExhausted, "at most 1,000,000 ids"};
    if (leases == nullptr) return null_argument("leases");
    if (statuses == nullptr) return null_argument("statuses");
    std::fill_n(leases, n_representations, nullptr);
    std::fill_n(statuses, n_representations, quire_status{QUIRE_UNAVAILABLE});
    if (pool == nullptr) return null_argument("pool");
    if (representations == nullptr) return null_argument("representations");
    std::vector<quire::Digest> ids(n_representations);
    std::transform(representations, representations + n_representations, ids.begin(), to_digest);
    QUIRE_ASSIGN_OR_RETURN(auto taken, pool->shared->pool->acquire(ids));
    std::vector<std::unique_ptr<quire_gpu_lease>> handles(n_representations);
    for (size_t i = 0; i < taken.size(); ++i)
      if (taken[i].is_ok()) handles[i] = quire::capi::new_lease(pool, std::move(*taken[i]));
    for (size_t i = 0; i < taken.size(); ++i) {
      statuses[i] = static_cast<quire_status>(taken[i].status().code());
      leases[i] = handles[i].release();
    }
    return Status::ok();
  });
}

quire_status quire_gpu_lease_get_info(const quire_gpu_lease* lease, quire_gpu_lease_info* info) {
  return guarded([&]() -> Status {
    if (info == nullptr) return null_argument("info");
    if (lease == nullptr) return null_argument("lease");
    const quire::GpuLease& held = lease->lease;
    quire_gpu_lease_info known{};
    known.on_device = held.on_device() ? 1 : 0;
    known.device_pointer = held.device().device_pointer;
    known.data = held.bytes().data();
    known.bytes = held.on_device() ? held.device().bytes : held.bytes().size();
    known.generation = held.generation();
    return quire::capi::write_struct(known, info);
  });
}

quire_status quire_gpu_lease_describe(const quire_gpu_lease* lease, quire_representation_info* info,
                                      quire_gpu_section** sections, size_t* n_sections,
                                      uint32_t** tokens) {
  return guarded([&]() -> Status {
    if (sections == nullptr) return null_argument("sections");
    if (n_sections == nullptr) return null_argument("n_sections");
    *sections = nullptr;
    *n_sections = 0;
    if (tokens != nullptr) *tokens = nullptr;
    if (info == nullptr) return null_argument("info");
    if (lease == nullptr) return null_argument("lease");
    QUIRE_ASSIGN_OR_RETURN(const auto manifest,
                           quire::read_manifest(*lease->shared->pool, lease->lease));
    const auto known = quire::capi::to_c_info(manifest.header, manifest.sections.size());
    QUIRE_RETURN_IF_ERROR(quire::capi::write_struct(known, info));
    using Array = std::unique_ptr<void, decltype(&quire_free)>;
    auto* const table = quire::capi::new_array<quire_gpu_section>(manifest.sections.size());
    Array table_owner(table, &quire_free);
    std::ranges::transform(manifest.sections, table, quire::capi::to_c_section);
    if (tokens != nullptr) {
      *tokens = quire::capi::new_array<uint32_t>(manifest.header.tokens.size());
      std::ranges::copy(manifest.header.tokens, *tokens);
    }
    *sections = table;
    *n_sections = manifest.sections.size();
    (void)table_owner.release();
    return Status::ok();
  });
}

quire_status quire_gpu_lease_check(const quire_gpu_lease* lease) {
  return guarded([&]() -> Status {
    if (lease == nullptr) return null_argument("lease");
    return lease->lease.check();
  });
}

quire_status quire_gpu_lease_renew(quire_gpu_lease* lease, uint32_t lease_ms) {
  return guarded([&]() -> Status {
    if (lease == nullptr) return null_argument("lease");
    return lease->lease.renew(lease_ms);
  });
}

void quire_gpu_lease_release(quire_gpu_lease* lease) {
  if (lease == nullptr) return;
  (void)guarded([&] {
    lease->lease.release();
    return Status::ok();
  });
}

void quire_gpu_lease_free(quire_gpu_lease* lease) {
  quire_gpu_lease_release(lease);
  delete lease;
}
