// libquire, C++ API: a session with a quired on this machine. Bytes never travel through the
// socket: reads map the server's slab read-only, writes go into this session's own staging window.
//
// Threads: a Client may be used from several threads; calls are serialised inside (one request in
// flight each). A Lease or PutWindow belongs to one thread at a time and must not outlive its
// Client. Every call ends by its deadline with a typed error. After kUnavailable (server gone)
// connect anew: leases of the old session are void and their bytes() must not be used any more.
#ifndef QUIRE_CLIENT_CLIENT_H_
#define QUIRE_CLIENT_CLIENT_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/ids.h"
#include "base/paths.h"
#include "base/status.h"
#include "proto/wire.h"

namespace quire {

struct ClientOptions {
  std::string socket_path;  // empty: default_socket_path()
  std::string client_name = "libquire";
  std::string tenant;  // empty: the default tenant
  std::string scope;   // label, at most 64 bytes; empty: the tenant's own. See enter_scope()
  uint64_t staging_bytes = 0;    // 0: the server's default
  uint32_t timeout_ms = 10'000;  // deadline of each call
  // Touch the first wire::kPrefaultBytes of the windows while connecting: some milliseconds then,
  // and the first put does not wait for page faults.
  bool prefault = true;
};

// One candidate from the store for a range of the prompt (see wire::ResolveEntry for the units).
struct Match {
  wire::MatchKind kind = wire::MatchKind::kChunk;
  uint32_t token_begin = 0;
  uint32_t n_tokens = 0;
  Digest representation;
  Digest variant;
  ContextKind context_kind = ContextKind::kIsolated;
  Digest context_reference;
  Phase phase = Phase::kPrefill;
  uint16_t codec = 0;
  PositionFrame frame = PositionFrame::kLocal;
  uint64_t base_position = 0;
  uint64_t bytes = 0;
  wire::TierId tier = wire::TierId::kNone;
  uint32_t load_us = 0;
  uint32_t recompute_us = 0;
  uint32_t hits = 0;     // uses so far
  uint32_t strikes = 0;  // of these thrown away, by feedback(), since it was stored
  float deviation = 0;   // told last by feedback(); 0: never
};

struct ResolveOptions {
  bool prefix = true;
  bool chunks = true;
  // List statistics (CodecId::kStatistics) of the ranges found, behind their matches: parse them by
  // codecs/statistics.h, never load them as KV.
  bool statistics = false;
  float recompute_us_per_token = 0;
};

class Client;
struct Deadline;

// A pinned, read-only object in the server's slab; released on destruction.
class Lease {
 public:
  Lease() = default;
  Lease(Lease&& other) noexcept;
  Lease& operator=(Lease&& other) noexcept;
  ~Lease();

  bool valid() const { return client_ != nullptr; }
  // The representation (see codecs/representation.h). Readable until release or expiry.
  ByteSpan bytes() const { return bytes_; }
  uint64_t id() const { return id_; }
  uint64_t generation() const { return generation_; }
  // OK while the lease has not expired and its session lives; ask after the last read of bytes()
  // that took long: what was read under a stale lease must be thrown away.
  Status check() const;
  Status renew(uint32_t lease_ms);
  void release();

 private:
  friend class Client;
  friend class GpuPool;
  Client* client_ = nullptr;
  ByteSpan bytes_;
  uint64_t id_ = 0;
  uint64_t generation_ = 0;
  uint64_t expires_ns_ = 0;  // monotonic clock of this process, taken before the request was sent
};

// A writable window for one object; aborted on destruction unless committed.
class PutWindow {
 public:
  PutWindow() = default;
  PutWindow(PutWindow&& other) noexcept;
  PutWindow& operator=(PutWindow&& other) noexcept;
  ~PutWindow();

  bool valid() const { return client_ != nullptr; }
  MutableByteSpan bytes() const { return bytes_; }
  // The first `bytes` of the window are final: the server may copy and check them while the rest is
  // written. Optional, never waits. kInvalidArgument: less than before, or above bytes().size().
  Status fill(uint64_t bytes);
  // Checksums the window, hands it to the server and waits for the acknowledgement.
  Status commit(wire::AckLevel ack = wire::AckLevel::kMemory, uint32_t pin_ms = 0);
  // The same where the caller knows the XXH3-128 of bytes() already.
  Status commit(const Hash128& checksum, wire::AckLevel ack, uint32_t pin_ms = 0);
  void abort();

 private:
  friend class Client;
  Client* client_ = nullptr;
  // The window's checksum; each part is handed to the server while the next one is read. Copies
  // the parts from source first, unless that is empty.
  Hash128 hand_over(ByteSpan source);
  MutableByteSpan bytes_;
  uint64_t reservation_id_ = 0;
  uint64_t filled_bytes_ = 0;
  wire::FillProgress* progress_ = nullptr;  // null: an older server
};

// What a caller knows of the next use of objects; it overwrites the server's estimate until they
// are used or something else is said. At least one field is set; finished excludes the others.
struct UseHint {
  std::optional<uint32_t> steps_to_next_use;  // of the caller's workflow; 0 = the next step
  std::optional<uint64_t> next_use_ms;        // from now
  std::optional<uint8_t> priority;            // 128 as any other
  bool finished = false;                      // a session ended
};

// What came of using a variant, told of any of its representations.
struct UseFeedback {
  Digest representation;
  bool strike = false;             // the reuse had to be thrown away
  std::optional<float> deviation;  // relative; finite, not negative
};

class Client {
 public:
  static Expected<std::unique_ptr<Client>> connect(const ClientOptions& options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Tells the server what a model looks like; needed once before its first put. Returns the model
  // id.
  Expected<Digest> register_model(const std::string& name, const ModelDescriptor& model);
  // What the store has for this prompt; never pins. Ranges ascend; alternatives share a range.
  Expected<std::vector<Match>> resolve(const Digest& model, std::span<const TokenId> tokens,
                                       const ResolveOptions& options = {});
  Expected<Lease> acquire(const Digest& representation);
  // Results in the order of the ids; each is a lease or its own error, kDeadlineExceeded where only
  // others came in time.
  Expected<std::vector<Expected<Lease>>> acquire(std::span<const Digest> representations);
  // kAlreadyExists: somebody stored this id; nothing needs to be sent.
  Expected<PutWindow> reserve(const Digest& representation, uint64_t bytes);
  // reserve + copy + commit, the server's copy under way while ours is; with bounded retries while
  // the server is BUSY. kAlreadyExists counts as OK.
  Status put(const Digest& representation, ByteSpan bytes,
             wire::AckLevel ack = wire::AckLevel::kMemory);
  // How many of the ids are stored. Objects that are used soon are brought into memory; of an exact
  // chain name the tail first. kUnsupported: an older server.
  Expected<uint32_t> hint(std::span<const Digest> representations, const UseHint& hint);
  // The trust domain of what this session stores and finds from now on: synthetic, delta and decode
  // variants stay in theirs (docs/CONTRACT.md). Returns its id, which contexts of such variants
  // carry; zero for an empty label. kUnsupported: an older server.
  Expected<Digest> enter_scope(std::string_view label);
  // Of the scope that this session is in.
  Digest scope() const;
  // How many of them were noted; others are not stored. kUnsupported: an older server.
  Expected<uint32_t> feedback(std::span<const UseFeedback> uses);
  Status ping();

  const TenantSalt& tenant_salt() const;
  uint64_t server_epoch() const;
  uint64_t object_bytes_max() const;

 private:
  friend class GpuPool;
  friend class Lease;
  friend class PutWindow;
  class Session;
  friend class ClientTestPeer;
  explicit Client(std::unique_ptr<Session> session);
  Expected<Lease> accept_lease(const wire::AcquireReply& reply, uint64_t asked_ns);
  // At most wire::kAcquireIdsMax ids in one request; appends one entry per id.
  Status acquire_some(std::span<const Digest> ids, const Deadline& deadline,
                      std::vector<Expected<Lease>>& leases);
  std::unique_ptr<Session> session_;
};

}  // namespace quire

#endif  // QUIRE_CLIENT_CLIENT_H_
