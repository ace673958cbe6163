#include "client/reuse/encode.h"

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "codecs/registry.h"

namespace quire::reuse {
namespace {

constexpr uint32_t kBusyWaitMsMax = 1000;
constexpr uint32_t kBusyWaitMsDefault = 20;

Status invalid(std::string message) {
  return {StatusCode::kInvalidArgument, std::move(message)};
}

Status check_source(const RepresentationHeader& header, const EncodeOptions& options) {
  if (!options.rows.rows.empty() && options.rows.rows.size() != header.tokens.size())
    return invalid("rows must have one entry per token");
  if (!options.key_is_rotated && header.frame != PositionFrame::kPreRope)
    return invalid("K taken before rope can only be stored in the pre_rope frame");
  return Status::ok();
}

quire_store_params section_params(const RepresentationHeader& header, Plane plane_kind,
                                  const LayerDescriptor& layer, const EnginePlane& plane,
                                  const RowMap& rows) {
  quire_store_params params{};
  params.struct_bytes = sizeof(params);
  params.codec = static_cast<int32_t>(header.codec);
  params.plane = static_cast<int32_t>(plane_kind);
  params.n_tokens = static_cast<uint32_t>(header.tokens.size());
  params.n_heads = header.coverage.head_end - header.coverage.head_begin;
  params.head_dim = plane_kind == Plane::kKey ? layer.key_dims : layer.value_dims;
  params.src_dtype = static_cast<int32_t>(plane.element);
  const int64_t first_row = rows.rows.empty() ? rows.first_row : 0;
  params.src = plane.data + first_row * plane.token_stride +
               static_cast<int64_t>(header.coverage.head_begin) * plane.head_stride;
  params.src_tokens = plane.n_rows - first_row;
  params.src_token_stride = plane.token_stride;
  params.src_head_stride = plane.head_stride;
  params.src_dim_stride = plane.dim_stride;
  params.src_token = rows.rows.empty() ? nullptr : rows.rows.data();
  params.rotation.style = QUIRE_ROPE_STYLE_NONE;
  return params;
}

Status encode_plane(const RepresentationWriter& writer, const RepresentationHeader& header,
                    const LayerDescriptor& layer, uint32_t layer_index, Plane plane_kind,
                    const EnginePlaneOf& source, const EncodeOptions& options, RopeTables& tables,
                    MutableByteSpan buffer) {
  const MutableByteSpan section = writer.section(buffer, layer_index, plane_kind);
  if (section.empty()) return Status::ok();
  const EnginePlane plane = source(layer_index, plane_kind);
  const std::string where = "layer " + std::to_string(layer_index);
  if (plane.data == nullptr) return invalid(where + ": the engine shows no memory for this plane");
  const int64_t first_row = options.rows.rows.empty() ? options.rows.first_row : 0;
  if (first_row < 0 || first_row > plane.n_rows)
    return invalid(where + ": first_row lies outside the engine's rows");
  quire_store_params params = section_params(header, plane_kind, layer, plane, options.rows);
  params.dst = section.data();
  params.dst_bytes = section.size();
  if (plane_kind == Plane::kKey) {
    QUIRE_ASSIGN_OR_RETURN(params.rotation, tables.rotation(layer_index, layer));
  }
  return encode_section(params);
}

uint32_t busy_wait_ms(const Status& status) {
  const uint32_t wanted =
      status.retry_after_ms() == 0 ? kBusyWaitMsDefault : status.retry_after_ms();
  return wanted < kBusyWaitMsMax ? wanted : kBusyWaitMsMax;
}

Expected<PutWindow> reserve_with_retries(Client& client, const Digest& representation,
                                         uint64_t bytes, uint32_t retries_max) {
  for (uint32_t attempt = 0;; ++attempt) {
    Expected<PutWindow> window = client.reserve(representation, bytes);
    if (window.is_ok() || window.status().code() != StatusCode::kBusy || attempt >= retries_max)
      return window;
    std::this_thread::sleep_for(std::chrono::milliseconds(busy_wait_ms(window.status())));
  }
}

}  // namespace

Expected<RepresentationWriter> plan_representation(const RepresentationHeader& header,
                                                   const ModelDescriptor& model) {
  if (header.model != model_id(model))
    return Status(StatusCode::kModelMismatch, "the representation names model " +
                                                  header.model.to_hex() + ", the engine runs " +
                                                  model_id(model).to_hex());
  QUIRE_ASSIGN_OR_RETURN(const std::vector<uint64_t> sizes,
                         section_sizes(header.codec, model, header.coverage,
                                       static_cast<uint32_t>(header.tokens.size())));
  return RepresentationWriter::plan(header, sizes);
}

Status encode_representation(const RepresentationWriter& writer, const RepresentationHeader& header,
                             const ModelDescriptor& model, const EnginePlaneOf& source,
                             const EncodeOptions& options, MutableByteSpan buffer) {
  QUIRE_RETURN_IF_ERROR(check_source(header, options));
  if (buffer.size() != writer.total_bytes())
    return invalid("the buffer has " + std::to_string(buffer.size()) + " bytes, the layout " +
                   std::to_string(writer.total_bytes()));
  if (header.coverage.layer_end > model.layers.size())
    return invalid("the coverage names layers the model does not have");
  const bool unrotate = header.frame == PositionFrame::kPreRope && options.key_is_rotated;
  const auto base = static_cast<int64_t>(header.base_position);
  RopeTables tables(unrotate ? static_cast<uint32_t>(QUIRE_ROPE_FROM_SRC) : 0, base, base,
                    static_cast<uint32_t>(header.tokens.size()), options.angles);
  for (uint32_t layer = header.coverage.layer_begin; layer < header.coverage.layer_end; ++layer)
    for (const Plane plane : {Plane::kKey, Plane::kValue})
      QUIRE_RETURN_IF_ERROR(encode_plane(writer, header, model.layers[layer], layer, plane, source,
                                         options, tables, buffer));
  writer.finish(buffer);
  return Status::ok();
}

Expected<PutResult> put_representation(Client& client, const RepresentationHeader& header,
                                       const ModelDescriptor& model, const EnginePlaneOf& source,
                                       const EncodeOptions& encode, const PutOptions& put) {
  QUIRE_ASSIGN_OR_RETURN(const RepresentationWriter writer, plan_representation(header, model));
  Expected<PutWindow> window = reserve_with_retries(client, header.representation,
                                                    writer.total_bytes(), put.busy_retries_max);
  if (!window.is_ok()) {
    if (window.status().code() == StatusCode::kAlreadyExists) return PutResult::kAlreadyStored;
    return window.status();
  }
  QUIRE_RETURN_IF_ERROR(
      encode_representation(writer, header, model, source, encode, window->bytes()));
  const Status committed = window->commit(put.ack, put.pin_ms);
  if (committed.code() == StatusCode::kAlreadyExists) return PutResult::kAlreadyStored;
  QUIRE_RETURN_IF_ERROR(committed);
  return PutResult::kStored;
}

}  // namespace quire::reuse
