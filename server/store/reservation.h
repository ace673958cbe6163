// Objects that clients are writing: a window each until commit, abort or expiry.
#ifndef QUIRE_SERVER_STORE_RESERVATION_H_
#define QUIRE_SERVER_STORE_RESERVATION_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/hash.h"
#include "server/store/ingest.h"
#include "server/store/object.h"

namespace quire::server {

struct Reservation {
  EntryRef entry;
  uint32_t session = 0;
  Digest scope;  // the session's, when it was made
  uint64_t bytes = 0;
  uint64_t staging_offset = 0;
  uint64_t deadline_ns = 0;
  uint64_t filled_bytes = 0;
  std::shared_ptr<Ingest> ingest;  // from the first fill (or the commit) on
  // The ingest worker copies a part: the slot must stay. Whoever wants to free the reservation
  // abandons it instead, and it goes when the part is done.
  bool copying = false;
  bool abandoned = false;
};

// A client stores this id. Per tenant and scope: an id of another one looks unknown.
struct PendingKey {
  uint32_t tenant = 0;
  Digest scope;
  Digest id;
  bool operator==(const PendingKey&) const = default;
};
struct PendingKeyHasher {
  size_t operator()(const PendingKey& key) const { return DigestHasher{}(key.id) ^ key.tenant; }
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_RESERVATION_H_
