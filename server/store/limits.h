// The limits of the store's queues, batches and retries.
#ifndef QUIRE_SERVER_STORE_LIMITS_H_
#define QUIRE_SERVER_STORE_LIMITS_H_

#include <cstddef>
#include <cstdint>

namespace quire::server {

inline constexpr uint32_t kModelsMax = 4096;
inline constexpr uint32_t kLoadWaitersMax = 4096;
// Of one text in one space; a variant more makes room (docs/decisions/012).
inline constexpr size_t kVariantsPerObjectMax = 8;
inline constexpr size_t kVerdictWarningsMax = 8;
// One room-making for a large object evicts at most this many small ones.
inline constexpr uint32_t kEvictionsPerAllocateMax = 4096;
inline constexpr uint32_t kNvmeWritesInFlightMax = 8;
// Objects and payload bytes that one synced metadata write carries.
inline constexpr size_t kFlushObjectsMax = 1024;
inline constexpr uint64_t kFlushBlobBytesMax = 8ull << 20;
// A write that the NVMe tier cannot place for this long stays in memory only.
inline constexpr uint64_t kPersistGiveUpNs = 10'000'000'000;
inline constexpr uint32_t kBusyRetryMs = 20;
// A prompt whose matches keep changing under it is answered with what is known after so many
// rounds.
inline constexpr uint32_t kResolveRoundsMax = 8;
// Rows looked at to find victims of a tenant that is at its hard limit; the coldest of those goes.
inline constexpr uint32_t kQuotaScanRowsMax = 4096;
inline constexpr uint32_t kQuotaEvictionsMax = 4096;
// Records read back at a time while an index is rebuilt or upgraded.
inline constexpr uint32_t kBackfillBatch = 512;
inline constexpr uint32_t kRebuildsInFlightMax = 4;
// Rows that a clear looks at before others get their turn, and changes of a start that are written
// at once.
inline constexpr uint32_t kClearRowsMax = 4096;
inline constexpr size_t kRecoveryChangesMax = 16'384;
// Objects whose use counts a drain writes down.
inline constexpr size_t kPatchesAtDrainMax = 65'536;

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_LIMITS_H_
