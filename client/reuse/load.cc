#include "client/reuse/load.h"

#include <string>
#include <vector>

#include "codecs/coverage.h"
#include "codecs/registry.h"

namespace quire::reuse {
namespace {

Status invalid(std::string message) {
  return {StatusCode::kInvalidArgument, std::move(message)};
}

// The kernels index rows and masks by the section's tokens, callers by the tokens they load.
struct TokenRange {
  uint32_t section_tokens = 0;
  uint32_t begin = 0;
  uint32_t end = 0;
  std::vector<int64_t> rows;      // per section token; empty: identity behind first_row
  std::vector<uint8_t> row_mask;  // per section token; empty: the caller's own serves
  const uint8_t* mask = nullptr;
  int64_t first_row = 0;
};

Expected<TokenRange> token_range(uint32_t section_tokens, const LoadOptions& options) {
  TokenRange range;
  range.section_tokens = section_tokens;
  if (options.source_begin >= section_tokens)
    return invalid("source_begin lies behind the representation's " +
                   std::to_string(section_tokens) + " tokens");
  const uint32_t available = section_tokens - options.source_begin;
  const uint32_t n_tokens = options.n_tokens == 0 ? available : options.n_tokens;
  if (n_tokens > available)
    return invalid("the representation has " + std::to_string(available) +
                   " tokens from source_begin on, not " + std::to_string(n_tokens));
  range.begin = options.source_begin;
  range.end = options.source_begin + n_tokens;

  if (!options.rows.rows.empty() && options.rows.rows.size() != n_tokens)
    return invalid("rows must have one entry per token");
  if (!options.row_mask.empty() && options.row_mask.size() != n_tokens)
    return invalid("row_mask must have one entry per token");
  const bool whole = n_tokens == section_tokens;
  range.first_row = options.rows.first_row;
  if (!options.rows.rows.empty() || !whole) {
    range.first_row = 0;
    range.rows.resize(section_tokens, 0);
    for (uint32_t i = 0; i < n_tokens; ++i)
      range.rows[range.begin + i] =
          options.rows.rows.empty() ? options.rows.first_row + i : options.rows.rows[i];
  }
  if (options.row_mask.empty()) return range;
  if (whole) {
    range.mask = options.row_mask.data();
    return range;
  }
  range.row_mask.resize(section_tokens, 0);
  for (uint32_t i = 0; i < n_tokens; ++i) range.row_mask[range.begin + i] = options.row_mask[i];
  range.mask = range.row_mask.data();
  return range;
}

RopeTables move_tables(const RepresentationHeader& header, const LoadOptions& options) {
  const auto n_tokens = static_cast<uint32_t>(header.tokens.size());
  // Of the representation's first token, which may lie before the prompt where its head is not
  // used.
  const int64_t target = options.position - options.source_begin;
  const uint32_t flags = header.frame == PositionFrame::kLocal
                             ? QUIRE_ROPE_FROM_SRC | QUIRE_ROPE_TO_DST
                             : static_cast<uint32_t>(QUIRE_ROPE_TO_DST);
  return {flags, static_cast<int64_t>(header.base_position), target, n_tokens, options.angles};
}

quire_load_params section_params(const RepresentationHeader& header, const TokenRange& range,
                                 const SectionEntry& section, const LayerDescriptor& layer,
                                 const EnginePlane& plane) {
  quire_load_params params{};
  params.struct_bytes = sizeof(params);
  params.codec = static_cast<int32_t>(header.codec);
  params.plane = static_cast<int32_t>(section.plane);
  params.n_tokens = range.section_tokens;
  params.n_heads = covered_heads(layer, header.coverage);
  params.head_dim = section.plane == Plane::kKey ? layer.key_dims : layer.value_dims;
  params.token_begin = range.begin;
  params.token_end = range.end;
  params.dst_dtype = static_cast<int32_t>(plane.element);
  params.dst = plane.data + range.first_row * plane.token_stride +
               static_cast<int64_t>(header.coverage.head_begin) * plane.head_stride;
  params.dst_tokens = plane.n_rows - range.first_row;
  params.dst_token_stride = plane.token_stride;
  params.dst_head_stride = plane.head_stride;
  params.dst_dim_stride = plane.dim_stride;
  params.dst_token = range.rows.empty() ? nullptr : range.rows.data();
  params.row_mask = range.mask;
  params.rotation.style = QUIRE_ROPE_STYLE_NONE;
  return params;
}

}  // namespace

Status load_representation(const RepresentationView& representation, const ModelDescriptor& model,
                           const EnginePlaneOf& destination, const LoadOptions& options) {
  QUIRE_RETURN_IF_ERROR(check_sections(representation, model));
  const RepresentationHeader& header = representation.header();
  QUIRE_ASSIGN_OR_RETURN(const TokenRange range,
                         token_range(static_cast<uint32_t>(header.tokens.size()), options));
  if (options.position < 0 || options.position > kPromptTokensMax)
    return invalid("position out of range");
  if (options.verify_sections) QUIRE_RETURN_IF_ERROR(representation.verify_sections());

  RopeTables tables = move_tables(header, options);
  std::vector<quire_load_params> batch;
  batch.reserve(representation.sections().size());
  for (const SectionEntry& section : representation.sections()) {
    if (section.bytes == 0) continue;
    const LayerDescriptor& layer = model.layers[section.layer];
    const EnginePlane plane = destination(section.layer, section.plane);
    if (plane.data == nullptr) continue;
    if (range.first_row < 0 || range.first_row > plane.n_rows)
      return invalid("first_row lies outside the engine's rows");
    quire_load_params params = section_params(header, range, section, layer, plane);
    QUIRE_ASSIGN_OR_RETURN(const ByteSpan bytes,
                           representation.section(section.layer, section.plane));
    params.src = bytes.data();
    params.src_bytes = bytes.size();
    if (section.plane == Plane::kKey) {
      QUIRE_ASSIGN_OR_RETURN(params.rotation, tables.rotation(section.layer, layer));
    }
    batch.push_back(params);
  }
  return decode_sections(batch);
}

}  // namespace quire::reuse
