// The table of codecs: what a codec id means and how large its sections must be; and the
// typed-error front of the kernels for C++ callers. Bytes of each codec: docs/formats/codecs.md.
// All functions are pure (but for the memory they are told to fill) and thread safe.
#ifndef QUIRE_CODECS_REGISTRY_H_
#define QUIRE_CODECS_REGISTRY_H_

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/ids.h"
#include "base/status.h"
#include "codecs/codec_ids.h"
#include "codecs/representation.h"
#include "kernels/quire_kernels.h"

namespace quire {

// Stored element, or what a lossy codec's codes stand for.
enum class ElementType : uint8_t {
  kF16 = 1,
  kBf16 = 2,
  kF32 = 3,
  kInt8 = 4,
  kFp8 = 5,
  kInt4 = 6,
  kInt3 = 7,
  kInt2 = 8,
  kMixed = 9
};

struct CodecInfo {
  CodecId id;
  std::string_view name;  // "raw-f16"; stable: used in configuration, command lines and output
  ElementType element;
  // Every finite value of an engine that uses `element` is restored bit for bit.
  bool lossless;
  // Position frames that K may have under this codec.
  bool allows_pre_rope;
  bool allows_local;
  // Rotating and encoding again loses more each time: representations in this codec are made from
  // the engine's K, never from another representation of this codec in a new frame.
  bool recodes_with_loss;
  // A section's size depends on its values: known only once it is encoded.
  bool variable_size;
};

// All codecs of KV, by ascending id. CodecId::kStatistics is none of them: it has no elements, and
// every function here that is about elements refuses it (kUnsupported).
std::span<const CodecInfo> codecs();
// kUnsupported / kNotFound name the codecs there are.
Expected<const CodecInfo*> find_codec(CodecId id);
Expected<const CodecInfo*> find_codec(std::string_view name);
// For people: the stable name, also of kStatistics ("statistics"); empty where the id is unknown.
std::string_view codec_name(CodecId id);

// Bytes of one section, the most it can take where the size is variable; 0 for a plane without
// elements (heads or dims 0). kInvalidArgument beyond the limits of base/ids.h.
Expected<uint64_t> section_bytes(CodecId codec, Plane plane, uint32_t n_tokens, uint32_t n_heads,
                                 uint32_t head_dim);
// Of each section a representation must have (variable sizes: may have at most), in the order of
// RepresentationWriter::plan().
Expected<std::vector<uint64_t>> section_sizes(CodecId codec, const ModelDescriptor& model,
                                              const Coverage& coverage, uint32_t n_tokens);

// That the representation is one of this model and each section has exactly the size that codec,
// model shape and (variable sizes) its own header demand. kModelMismatch: another model id, layers
// or heads the model does not have; kUnsupported: unknown codec, or a frame the codec does not
// allow; kCorrupt: a wrong size. Statistics go by check_statistics().
Status check_sections(const RepresentationView& representation, const ModelDescriptor& model);

// A kernel's status code as Status; what goes into the message.
Status kernel_status(int code, std::string_view what);
// Around quire_load_batch, quire_store and quire_rope_table (contracts in kernels/quire_kernels.h).
// Codecs of codecs/wrapped.h go through scratch memory of one section.
Status decode_section(const quire_load_params& params);
Status decode_sections(std::span<const quire_load_params> params);
Status encode_section(const quire_store_params& params);
Status make_rope_table(const quire_rope_params& params);

}  // namespace quire

#endif  // QUIRE_CODECS_REGISTRY_H_
