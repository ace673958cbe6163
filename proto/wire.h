// Frames of the data plane: one SOCK_SEQPACKET message = FrameHeader + body, little-endian, over a
// unix socket. Rules, sequence diagrams and an example hexdump: docs/formats/wire.md. Only plain
// structs and limits live here; both ends validate every field of what they receive.
#ifndef QUIRE_PROTO_WIRE_H_
#define QUIRE_PROTO_WIRE_H_

#include <array>
#include <cstdint>
#include <type_traits>

namespace quire::wire {

inline constexpr uint32_t kFrameMagic = 0x31525751;  // "QWR1"
inline constexpr uint16_t kProtocolVersion = 1;

// A frame larger than this is refused; everything bulky travels in shared memory.
inline constexpr uint32_t kFrameBytesMax = 64 * 1024;
// First part of the staging window, for token ids of a resolve; reservations start behind it.
inline constexpr uint64_t kPromptScratchBytes = 4ull << 20;
inline constexpr uint32_t kAcquireIdsMax = 256;
inline constexpr uint32_t kReleaseIdsMax = 1024;
inline constexpr uint32_t kHintIdsMax = 1024;
inline constexpr uint32_t kFeedbackItemsMax = 1024;
inline constexpr uint32_t kScopeLabelBytesMax = 64;
// Descriptors that one reply to kGpuLayout carries.
inline constexpr uint32_t kGpuChunksPerReplyMax = 16;
inline constexpr uint32_t kResolveEntriesMax = 400;
inline constexpr uint32_t kMessageBytesMax = 512;
inline constexpr uint32_t kSaltBytesMax = 64;
inline constexpr uint32_t kNameBytesMax = 64;

enum class Op : uint16_t {
  kHello = 1,  // first frame of a session; the reply carries two file descriptors
  kResolve = 2,
  kAcquire = 3,  // one reply per id, as each becomes readable
  kRelease = 4,
  kRenew = 5,
  kReserve = 6,
  kCommit = 7,
  kAbort = 8,
  kPing = 9,
  kRegisterModel = 10,
  kFill = 11,        // how far the client has written a reserved window; the server starts to copy
  kHint = 12,        // what the client knows of the next use of objects
  kGpuLayout = 13,   // what backs the GPU pool now, with descriptors; the first one attaches
  kAcquireGpu = 14,  // as kAcquire; what lies in the GPU pool is leased there
  kScope = 15,       // the trust domain of what the session stores and finds from now on
  kFeedback = 16,    // what came of uses of variants
};
inline constexpr uint16_t kOpMax = 16;

enum FrameFlag : uint32_t {
  kFlagReply = 1u << 0,
  kFlagMore = 1u << 1,     // further replies to this request follow
  kFlagNoReply = 1u << 2,  // release and fill only: the client does not wait
};

// What a server can do beyond the first form of version 1; in the reply to hello.
enum Feature : uint32_t {
  kFeatureFill = 1u << 0,  // kFill and FillProgress
  kFeatureHint = 1u << 1,  // kHint
  kFeatureGpu = 1u << 2,  // kGpuLayout and kAcquireGpu: there is a GPU pool, or one is being opened
  kFeatureScope = 1u << 3,  // kScope, kFeedback and kResolveStatistics
};

struct FrameHeader {
  uint32_t magic = kFrameMagic;
  uint16_t version = kProtocolVersion;
  uint16_t op = 0;
  uint32_t flags = 0;
  uint32_t status = 0;      // StatusCode; replies only. Not OK: the body is a message (UTF-8 text)
  uint64_t request_id = 0;  // chosen by the client, echoed
  uint64_t server_epoch = 0;  // changes at every server start; a client sees a restart by it
  uint32_t body_bytes = 0;
  uint32_t deadline_ms = 0;     // requests: give up after this long. 0 is refused
  uint32_t retry_after_ms = 0;  // replies with BUSY
  uint32_t features = 0;        // reply to hello: Feature bits; else 0
  uint64_t body_xxh3 = 0;       // XXH3-64 of the body
  uint64_t header_xxh3 = 0;     // XXH3-64 of the 56 bytes before it
};
static_assert(sizeof(FrameHeader) == 64);

using Id = std::array<uint8_t, 32>;

enum HelloFlag : uint32_t {
  kHelloPrefault = 1u << 0,  // touch the start of the staging window now: a put comes soon
};

struct HelloRequest {
  uint32_t client_pid = 0;
  uint32_t flags = 0;                             // HelloFlag; unknown ones are ignored
  uint64_t staging_bytes = 0;                     // wanted; 0 = the server's default
  std::array<char, kNameBytesMax> client_name{};  // zero-terminated
  std::array<char, kNameBytesMax> tenant{};       // zero-terminated; empty = the default tenant
};
static_assert(sizeof(HelloRequest) == 144);

// With SCM_RIGHTS: [0] the host slab, read-only; [1] this session's staging window, read-write.
struct HelloReply {
  uint64_t slab_bytes = 0;
  uint64_t staging_bytes = 0;
  uint64_t object_bytes_max = 0;
  uint32_t lease_ms = 0;  // how long a lease lasts unless renewed
  uint32_t salt_bytes = 0;
  std::array<uint8_t, kSaltBytesMax> salt{};
};
static_assert(sizeof(HelloReply) == 96);

enum ResolveFlag : uint32_t {
  kResolvePrefix = 1u << 0,
  kResolveChunks = 1u << 1,
  kResolveStatistics = 1u << 2,  // list the statistics of the ranges found, too
};

// The token ids (u32) lie in the prompt scratch of the staging window, from its first byte.
struct ResolveRequest {
  Id model{};
  uint32_t n_tokens = 0;
  uint32_t flags = kResolvePrefix | kResolveChunks;
  uint32_t start_token = 0;          // look for chunks from here on (paging of long answers)
  float recompute_us_per_token = 0;  // the client's prefill speed; 0 = unknown
};
static_assert(sizeof(ResolveRequest) == 48);

struct ResolveReply {
  uint32_t n_entries = 0;
  uint32_t next_token = 0;  // n_tokens where the answer is complete, else ask again from here
};

enum class MatchKind : uint8_t { kPrefix = 0, kChunk = 1 };
enum class TierId : uint8_t { kGpu = 0, kHost = 1, kNvme = 2, kRocks = 3, kNone = 255 };

// One candidate for one token range. Entries of the same range are alternatives; ranges ascend and
// ranges of different chunks never overlap.
struct ResolveEntry {
  Id representation{};
  Id variant{};
  Id context_reference{};  // prefix digest for fixed_prefix and contextual, else zero
  uint32_t token_begin = 0;
  uint32_t n_tokens = 0;
  uint64_t base_position = 0;  // K of the first token is rotated for this position (frame local)
  uint64_t bytes = 0;
  uint32_t load_us = 0;       // estimate for the tier that holds it
  uint32_t recompute_us = 0;  // 0 where the client did not tell its speed
  uint16_t codec = 0;
  MatchKind kind = MatchKind::kChunk;
  uint8_t context_kind = 0;
  uint8_t phase = 0;
  uint8_t frame = 0;
  TierId tier = TierId::kNone;
  uint8_t strikes = 0;  // uses that were thrown away (kFeedback), saturating
  float deviation = 0;  // told last by feedback; 0 = never
  uint32_t hits = 0;    // saturating
};
static_assert(sizeof(ResolveEntry) == 144);
static_assert(sizeof(FrameHeader) + sizeof(ResolveReply) +
                  kResolveEntriesMax * sizeof(ResolveEntry) <=
              kFrameBytesMax);

struct AcquireRequest {  // followed by n_ids Ids
  uint32_t n_ids = 0;
  uint32_t lease_ms = 0;  // 0 = the server's default; longer than its maximum is cut
};

// A reply per id. header.status != OK: no lease for this index (body = AcquireReply, then the
// message).
struct AcquireReply {
  uint32_t index = 0;
  uint32_t lease_ms = 0;
  uint64_t lease_id = 0;
  uint64_t generation = 0;  // of the slot; must not change while the lease lives
  uint64_t slab_offset = 0;
  uint64_t bytes = 0;
};
static_assert(sizeof(AcquireReply) == 40);

// The whole pool is one range of capacity_bytes; chunk i lies at i * chunk_bytes. Asked for in
// pages of at most kGpuChunksPerReplyMax chunks; a page of another layout_version begins a new
// answer.
struct GpuLayoutRequest {
  uint32_t first_chunk = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(GpuLayoutRequest) == 8);

enum class GpuDriverKind : uint32_t { kCuda = 1, kFake = 2 };

// Followed by n_here u64 chunk ids, in order; with SCM_RIGHTS a descriptor for each, in the same
// order. A chunk's id never names another chunk in this server's life.
struct GpuLayoutReply {
  uint64_t layout_version = 0;
  uint64_t capacity_bytes = 0;
  uint64_t chunk_bytes = 0;
  uint32_t n_chunks = 0;  // of the pool now
  uint32_t first_chunk = 0;
  uint32_t n_here = 0;
  GpuDriverKind driver = GpuDriverKind::kCuda;
  std::array<uint8_t, 16> device_uuid{};
  uint64_t reserved = 0;
};
static_assert(sizeof(GpuLayoutReply) == 64);

// A reply per id of kAcquireGpu, whose request is an AcquireRequest and its ids. With tier kGpu,
// lease.slab_offset counts from the begin of the GPU pool, and lease.generation is of a slot there;
// with tier kHost the reply is as that of kAcquire.
struct AcquireGpuReply {
  AcquireReply lease;
  // The client knows the chunks below this object once it has a layout of this version or later.
  uint64_t layout_version = 0;
  TierId tier = TierId::kHost;
  std::array<uint8_t, 7> reserved{};
};
static_assert(sizeof(AcquireGpuReply) == 56);

struct ReleaseRequest {  // followed by n_ids u64 lease ids; also the body of kRenew
  uint32_t n_ids = 0;
  uint32_t lease_ms = 0;  // renew only
};

struct ReserveRequest {
  Id representation{};
  uint64_t bytes = 0;
  uint64_t reserved = 0;
};
static_assert(sizeof(ReserveRequest) == 48);

// Of the staging window behind the prompt scratch, with kHelloPrefault.
inline constexpr uint64_t kPrefaultBytes = 16ull << 20;

struct ReserveReply {
  uint64_t reservation_id = 0;
  uint64_t staging_offset = 0;  // 64-byte aligned, inside the session's staging window
};

enum class AckLevel : uint32_t { kMemory = 0, kDurable = 1 };

struct CommitRequest {
  uint64_t reservation_id = 0;
  uint64_t bytes = 0;         // at most what was reserved
  uint64_t checksum_low = 0;  // XXH3-128 of the bytes; the server refuses what does not match
  uint64_t checksum_high = 0;
  AckLevel ack = AckLevel::kMemory;
  uint32_t pin_ms = 0;  // keep at least this long; 0 = no pin
};
static_assert(sizeof(CommitRequest) == 40);

// Behind each window, at its offset + align_up(bytes, 64), with kFeatureFill: how far the client
// is, read by the server while it copies what is there already. Only a hint: commit takes in the
// rest.
struct FillProgress {
  // Written by the client: so many bytes of the window will not change any more. Never falls.
  uint64_t filled_bytes = 0;
  // Written by the server: 1 = nobody looks at filled_bytes. A client that takes it (exchange with
  // 0, after it has written filled_bytes) sends a kFill.
  uint32_t send_fill = 0;
  uint32_t reserved0 = 0;
  std::array<uint64_t, 6> reserved1{};
};
static_assert(sizeof(FillProgress) == 64);

// The first filled_bytes of the window will not change any more: the server may copy and hash them
// while the client writes the rest. Never falls, never above what was reserved.
struct FillRequest {
  uint64_t reservation_id = 0;
  uint64_t filled_bytes = 0;
};
static_assert(sizeof(FillRequest) == 16);

struct AbortRequest {
  uint64_t reservation_id = 0;
};

enum HintFlag : uint32_t {  // which fields of a HintRequest say something
  kHintSteps = 1u << 0,
  kHintNextUse = 1u << 1,
  kHintPriority = 1u << 2,
  kHintFinished = 1u << 3,  // nobody asks for these objects again; not with the others
};

struct HintRequest {  // followed by n_ids Ids
  uint32_t n_ids = 0;
  uint32_t flags = 0;              // at least one
  uint32_t steps_to_next_use = 0;  // of the client's workflow; 0 = the next step
  uint32_t priority = 128;         // 0 to 255, 128 as any other
  uint64_t next_use_ms = 0;        // from now
};
static_assert(sizeof(HintRequest) == 24);

struct HintReply {
  uint32_t applied = 0;
  uint32_t missing = 0;  // not stored, or not this tenant's
};

// The session enters the scope of this label; none: the tenant's own. Holds until the next one.
struct ScopeRequest {
  uint32_t label_bytes = 0;
  uint32_t reserved = 0;
  std::array<char, kScopeLabelBytesMax> label{};  // zeros behind label_bytes
};
static_assert(sizeof(ScopeRequest) == 72);

struct ScopeReply {
  Id scope{};  // docs/formats/ids.md
};

enum FeedbackFlag : uint32_t {
  kFeedbackStrike = 1u << 0,     // the reuse had to be thrown away
  kFeedbackDeviation = 1u << 1,  // deviation says something
};

struct FeedbackItem {
  Id representation{};  // any of the variant: it is told of all of them
  float deviation = 0;  // relative, finite, not negative
  uint32_t flags = 0;   // at least one
};
static_assert(sizeof(FeedbackItem) == 40);

struct FeedbackRequest {  // followed by n_items FeedbackItems
  uint32_t n_items = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(FrameHeader) + sizeof(FeedbackRequest) +
                  kFeedbackItemsMax * sizeof(FeedbackItem) <=
              kFrameBytesMax);

struct FeedbackReply {
  uint32_t applied = 0;
  uint32_t missing = 0;  // not stored, or not to be seen by this session
};

// The canonical model descriptor (docs/formats/ids.md) lies in the prompt scratch, from its first
// byte. Objects of a model that was never registered are refused. Registering again is a no-op.
struct RegisterModelRequest {
  Id model{};
  uint32_t descriptor_bytes = 0;
  uint32_t reserved = 0;
  std::array<char, kNameBytesMax> name{};  // for people; zero-terminated
};
static_assert(sizeof(RegisterModelRequest) == 104);

}  // namespace quire::wire

#endif  // QUIRE_PROTO_WIRE_H_
