// What a representation is, for the C ABI.
#ifndef QUIRE_CLIENT_CAPI_REPRESENTATION_INFO_H_
#define QUIRE_CLIENT_CAPI_REPRESENTATION_INFO_H_

#include <cstddef>

#include "client/capi/errors.h"
#include "client/capi/quire_kv.h"
#include "codecs/representation.h"

namespace quire::capi {

inline quire_representation_info to_c_info(const RepresentationHeader& header, size_t n_sections) {
  quire_representation_info info{};
  info.codec = static_cast<uint32_t>(header.codec);
  info.frame = static_cast<uint32_t>(header.frame);
  info.n_tokens = static_cast<uint32_t>(header.tokens.size());
  info.base_position = header.base_position;
  info.coverage = {header.coverage.layer_begin, header.coverage.layer_end,
                   header.coverage.head_begin, header.coverage.head_end};
  info.model = to_id(header.model);
  info.object = to_id(header.object);
  info.variant = to_id(header.variant);
  info.representation = to_id(header.representation);
  // docs/formats/representation.md: the token ids follow the section table.
  info.tokens_offset = 256 + 32 * n_sections;
  info.context_kind = static_cast<uint32_t>(header.context.kind);
  info.phase = static_cast<uint32_t>(header.context.phase);
  return info;
}

}  // namespace quire::capi

#endif  // QUIRE_CLIENT_CAPI_REPRESENTATION_INFO_H_
