// Brings a store of an older format version to the present one, in place. Includes RocksDB: for
// rocks_store.cc only.
//
// Version 1 kept tokens once per object in the family `objects`; version 2 keeps them once per
// representation in `tokens`. Steps, each of which may be the last before a crash: tokens copied,
// synced, FORMAT rewritten, `objects` dropped. Before FORMAT is rewritten the next open starts
// over; after it only the drop is left.
#ifndef QUIRE_TIERS_ROCKS_ROCKS_UPGRADE_H_
#define QUIRE_TIERS_ROCKS_ROCKS_UPGRADE_H_

#include <cstdint>

#include "base/status.h"
#include "tiers/rocks/rocks_open.h"

namespace quire::tiers {

// The version it was upgraded from, 0 where there was nothing to do. A representation whose tokens
// were lost is deleted, as version 1 did at every start.
Expected<uint32_t> upgrade_database(StoreDirectory& directory, Database& database);

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_ROCKS_ROCKS_UPGRADE_H_
