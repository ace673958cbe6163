// Taking bytes in from a client: copy and hash in one pass, then verify the copy. The source may
// change while it is read; nothing but the copy is ever trusted. Pure but for the target; any
// thread.
#ifndef QUIRE_SERVER_STORE_INGEST_H_
#define QUIRE_SERVER_STORE_INGEST_H_

#include <map>
#include <memory>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/ids.h"
#include "base/status.h"
#include "codecs/representation.h"

namespace quire::server {

struct RegisteredModel {
  std::string name;
  ModelDescriptor descriptor;
  uint64_t registered_wall_ms = 0;
};
// Replaced as a whole when a model is registered, so that ingest threads read it without a lock.
using ModelTable = std::map<Digest, RegisteredModel>;

struct IngestRequest {
  ByteSpan source;         // client-writable
  MutableByteSpan target;  // same size, ours alone
  Hash128 checksum;        // what the client says it is
  Digest representation;   // what was reserved
  std::shared_ptr<const TenantSalt> salt;
  std::shared_ptr<const ModelTable> models;
};

// The manifest of the verified copy, or: kCorrupt (checksum, manifest or sections),
// kInvalidArgument (not the reserved id, or ids that do not fit the bytes), kFailedPrecondition
// (model never registered), kModelMismatch, kUnsupported.
Expected<RepresentationHeader> ingest(const IngestRequest& request);

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_INGEST_H_
