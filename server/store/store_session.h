// What the reactor and the store know of a client together: its session, and what it is granted.
#ifndef QUIRE_SERVER_STORE_STORE_SESSION_H_
#define QUIRE_SERVER_STORE_STORE_SESSION_H_

#include <cstdint>
#include <memory>

#include "base/ids.h"
#include "proto/wire.h"
#include "server/store/staging_window.h"
#include "tiers/index/fingerprints.h"

namespace quire::server {

// What the store knows of one connected client. Owned by the reactor's session.
struct StoreSession {
  uint32_t id = 0;
  tiers::TenantId tenant = 0;
  std::shared_ptr<const TenantSalt> salt;
  Digest scope;  // zero: the tenant's own
  std::shared_ptr<StagingWindow> staging;
  uint32_t lease_head = UINT32_MAX;
  uint32_t leases = 0;
  uint32_t reservations = 0;
  bool reads_gpu = false;  // it has asked for the GPU pool's layout
};

struct Grant {
  uint64_t lease_id = 0;
  uint32_t lease_ms = 0;
  uint64_t generation = 0;
  uint64_t slab_offset = 0;
  uint64_t bytes = 0;
  // kGpu: generation and offset are of the GPU pool.
  wire::TierId tier = wire::TierId::kHost;
  uint64_t gpu_layout_version = 0;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_STORE_SESSION_H_
