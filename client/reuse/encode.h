// Engine memory into a representation: gather, bring K into the stored frame, encode; straight into
// a staging window of the server where one is given.
#ifndef QUIRE_CLIENT_REUSE_ENCODE_H_
#define QUIRE_CLIENT_REUSE_ENCODE_H_

#include <cstdint>

#include "base/bytes.h"
#include "base/ids.h"
#include "base/status.h"
#include "client/client.h"
#include "client/reuse/engine_memory.h"
#include "codecs/representation.h"

namespace quire::reuse {

struct EncodeOptions {
  RowMap rows;  // one engine row per token of the header
  // The engine's K is rotated at header.base_position + i. False: it was taken before rope; then
  // the header's frame must be kPreRope.
  bool key_is_rotated = true;
  Angles angles;
};

// Section sizes and total for a header whose ids are filled in (fill_ids()); the header's model
// must be this model's id (kModelMismatch).
Expected<RepresentationWriter> plan_representation(const RepresentationHeader& header,
                                                   const ModelDescriptor& model);

// Encodes every section into buffer (buffer.size() == writer.total_bytes()) and writes the
// manifest. Frame local stores K as the engine holds it; pre_rope turns it back by its position.
// Errors: kInvalidArgument, kUnsupported, kNonFinite; the buffer's content is then unspecified. A
// plane with data == nullptr is refused unless its section is empty.
Status encode_representation(const RepresentationWriter& writer, const RepresentationHeader& header,
                             const ModelDescriptor& model, const EnginePlaneOf& source,
                             const EncodeOptions& options, MutableByteSpan buffer);

enum class PutResult : uint8_t { kStored = 0, kAlreadyStored = 1 };

struct PutOptions {
  wire::AckLevel ack = wire::AckLevel::kMemory;
  uint32_t pin_ms = 0;
  uint32_t busy_retries_max = 8;  // each waits as long as the server advises
};

// reserve + encode into the window + commit. Nothing is encoded where the store has the id already.
Expected<PutResult> put_representation(Client& client, const RepresentationHeader& header,
                                       const ModelDescriptor& model, const EnginePlaneOf& source,
                                       const EncodeOptions& encode, const PutOptions& put = {});

}  // namespace quire::reuse

#endif  // QUIRE_CLIENT_REUSE_ENCODE_H_
