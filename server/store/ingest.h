// Taking one object in from a client: its bytes are copied part by part while the client still
// writes the rest, and the copy is hashed, and its sections are checked, while they are in cache.
// The source may change while it is read; nothing but the copy is ever trusted.
#ifndef QUIRE_SERVER_STORE_INGEST_H_
#define QUIRE_SERVER_STORE_INGEST_H_

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/ids.h"
#include "base/status.h"
#include "codecs/representation.h"
#include "proto/wire.h"

namespace quire::server {

struct RegisteredModel {
  std::string name;
  ModelDescriptor descriptor;
  uint64_t registered_wall_ms = 0;
};
// Replaced as a whole when a model is registered, so that ingest threads read it without a lock.
using ModelTable = std::map<Digest, RegisteredModel>;

struct IngestRequest {
  ByteSpan source;                         // client-writable: the reserved window
  MutableByteSpan target;                  // same size, ours alone
  wire::FillProgress* progress = nullptr;  // client-writable
  Digest representation;                   // what was reserved
  std::shared_ptr<const TenantSalt> salt;
};

// What a commit says of the bytes, and what they are judged by.
struct IngestCommit {
  uint64_t bytes = 0;  // 1 to what was reserved, at least copied_bytes()
  Hash128 checksum;    // what the client says it is
  std::shared_ptr<const ModelTable> models;
};

// announce() is for any thread; everything else for one thread at a time (jobs of one Worker).
class Ingest {
 public:
  explicit Ingest(IngestRequest request);

  // A fill came: the first `bytes` of the source are there to be copied. Never less than before.
  void announce(uint64_t bytes) { announced_bytes_.store(bytes, std::memory_order_release); }
  // Copies what is there, and what the client adds for as long as it adds something every watch_ns
  // and others_wait() is false.
  void follow(uint64_t watch_ns, const std::function<bool()>& others_wait);
  uint64_t copied_bytes() const { return copied_bytes_; }

  // Copies the rest, then judges; once. The manifest of the verified copy, or: kCorrupt (checksum,
  // manifest or sections), kInvalidArgument (not the reserved id, fewer bytes than were
  // filled), kFailedPrecondition (model never registered), kModelMismatch, kUnsupported.
  Expected<RepresentationHeader> finish(const IngestCommit& commit);

 private:
  uint64_t available_bytes() const;
  bool watch(uint64_t watch_ns, const std::function<bool()>& others_wait) const;
  void copy_until(uint64_t end);
  void find_manifest();
  void check_sections();
  Status check_copy(const RepresentationView& view, bool sections_hold,
                    const IngestCommit& commit) const;

  const IngestRequest request_;
  std::atomic<uint64_t> announced_bytes_{0};
  uint64_t copied_bytes_ = 0;
  Xxh3Stream whole_;

  // The manifest comes first: once it is copied (and taken to cover all that was reserved), the
  // sections behind it are checked as they come. Bytes before checked_bytes_ are.
  bool manifest_tried_ = false;
  std::optional<RepresentationView> view_;
  uint64_t checked_bytes_ = 0;
  size_t sections_that_hold_ = 0;
  Xxh3Stream section_;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_INGEST_H_
