// Engine memory into a representation: gather, bring K into the stored frame, encode; straight into
// a staging window of the server where one is given. Codecs of variable size are encoded into
// memory of this process first: a window is reserved for the bytes they really take.
#ifndef QUIRE_CLIENT_REUSE_ENCODE_H_
#define QUIRE_CLIENT_REUSE_ENCODE_H_

#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <utility>
#include <vector>

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
  // Mixed codecs: a byte per token of the header, not 0 = kept at 8 bits (client/reuse/salient.h);
  // empty = none. Other codecs ignore it.
  std::span<const uint8_t> salient;
};

// Section sizes and total for a header whose ids are filled in (fill_ids()); the header's model
// must be this model's id (kModelMismatch). Codecs of variable size: the most it can take.
Expected<RepresentationWriter> plan_representation(const RepresentationHeader& header,
                                                   const ModelDescriptor& model);

// Encodes every section into buffer (buffer.size() == writer.total_bytes()) and writes the
// manifest. Frame local stores K as the engine holds it; pre_rope turns it back by its position.
// Errors: kInvalidArgument, kUnsupported (codecs of variable size), kNonFinite; the buffer's
// content is then unspecified. A plane with data == nullptr is refused unless its section is empty.
Status encode_representation(const RepresentationWriter& writer, const RepresentationHeader& header,
                             const ModelDescriptor& model, const EnginePlaneOf& source,
                             const EncodeOptions& options, MutableByteSpan buffer);

// A representation of any codec, encoded but not yet laid out: its size is known and finish() can
// write it where it belongs. Holds the sections of codecs of variable size in memory of its own, at
// most plan_representation()'s total of address space and one section more than they take of
// memory. For codecs of fixed size nothing is encoded before finish(). What make() was given
// outlives the object.
class PendingRepresentation {
 public:
  // Errors: those of encode_representation().
  static Expected<PendingRepresentation> make(const RepresentationHeader& header,
                                              const ModelDescriptor& model,
                                              const EnginePlaneOf& source,
                                              const EncodeOptions& options);
  uint64_t total_bytes() const { return writer_.total_bytes(); }
  // buffer.size() == total_bytes().
  Status finish(MutableByteSpan buffer) const;

 private:
  PendingRepresentation(RepresentationWriter writer, const RepresentationHeader& header,
                        const ModelDescriptor& model, const EnginePlaneOf& source,
                        const EncodeOptions& options)
      : writer_(std::move(writer)),
        header_(&header),
        model_(&model),
        source_(&source),
        options_(&options) {}

  struct Free {
    void operator()(std::byte* data) const { ::operator delete(data, kAlignment); }
  };
  static constexpr std::align_val_t kAlignment{64};

  Status encode_sections(std::vector<uint64_t>& section_bytes);

  RepresentationWriter writer_;
  const RepresentationHeader* header_;
  const ModelDescriptor* model_;
  const EnginePlaneOf* source_;
  const EncodeOptions* options_;
  bool encoded_ = false;
  std::unique_ptr<std::byte, Free> memory_;
  std::vector<ByteSpan> sections_;  // [(layer - layer_begin) * 2 + plane] of memory_
};

// The bytes of a representation of any codec.
Expected<std::vector<std::byte>> encode_to_memory(const RepresentationHeader& header,
                                                  const ModelDescriptor& model,
                                                  const EnginePlaneOf& source,
                                                  const EncodeOptions& options);

enum class PutResult : uint8_t { kStored = 0, kAlreadyStored = 1 };

struct PutOptions {
  wire::AckLevel ack = wire::AckLevel::kMemory;
  uint32_t pin_ms = 0;
  uint32_t busy_retries_max = 8;  // each waits as long as the server advises
};

// reserve + encode into the window + commit. Nothing is encoded where the store has the id already.
// Codecs of variable size are encoded before their size can be reserved; a small reservation, given
// back at once, asks before that whether the store has the id. bytes_stored, where given: the bytes
// of what this call stored; untouched otherwise.
Expected<PutResult> put_representation(Client& client, const RepresentationHeader& header,
                                       const ModelDescriptor& model, const EnginePlaneOf& source,
                                       const EncodeOptions& encode, const PutOptions& put = {},
                                       uint64_t* bytes_stored = nullptr);

}  // namespace quire::reuse

#endif  // QUIRE_CLIENT_REUSE_ENCODE_H_
