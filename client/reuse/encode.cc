#include "client/reuse/encode.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "codecs/coverage.h"
#include "codecs/registry.h"

namespace quire::reuse {
namespace {

constexpr uint32_t kBusyWaitMsMax = 1000;
constexpr uint32_t kBusyWaitMsDefault = 20;
// Of a reservation that only asks whether an id is stored.
constexpr uint64_t kProbeBytes = 64;

Status invalid(std::string message) {
  return {StatusCode::kInvalidArgument, std::move(message)};
}

Status check_source(const RepresentationHeader& header, const EncodeOptions& options) {
  if (!options.rows.rows.empty() && options.rows.rows.size() != header.tokens.size())
    return invalid("rows must have one entry per token");
  if (!options.key_is_rotated && header.frame != PositionFrame::kPreRope)
    return invalid("K taken before rope can only be stored in the pre_rope frame");
  if (!options.salient.empty() && options.salient.size() != header.tokens.size())
    return invalid("salient must have one entry per token");
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
  params.n_heads = covered_heads(layer, header.coverage);
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

// What all sections of one representation are encoded with.
struct SectionSource {
  const RepresentationHeader& header;
  const ModelDescriptor& model;
  const EnginePlaneOf& planes;
  const EncodeOptions& options;
  RopeTables tables;

  SectionSource(const RepresentationHeader& header_in, const ModelDescriptor& model_in,
                const EnginePlaneOf& planes_in, const EncodeOptions& options_in)
      : header(header_in),
        model(model_in),
        planes(planes_in),
        options(options_in),
        tables(header_in.frame == PositionFrame::kPreRope && options_in.key_is_rotated
                   ? static_cast<uint32_t>(QUIRE_ROPE_FROM_SRC)
                   : 0,
               static_cast<int64_t>(header_in.base_position),
               static_cast<int64_t>(header_in.base_position),
               static_cast<uint32_t>(header_in.tokens.size()), options_in.angles) {}

  // Encodes into section, which has the size that section_sizes() says; the bytes it takes.
  Expected<uint64_t> encode(uint32_t layer_index, Plane plane_kind, MutableByteSpan section) {
    if (section.empty()) return uint64_t{0};
    const LayerDescriptor& layer = model.layers[layer_index];
    const EnginePlane plane = planes(layer_index, plane_kind);
    const std::string where = "layer " + std::to_string(layer_index);
    if (plane.data == nullptr)
      return invalid(where + ": the engine shows no memory for this plane");
    const int64_t first_row = options.rows.rows.empty() ? options.rows.first_row : 0;
    if (first_row < 0 || first_row > plane.n_rows)
      return invalid(where + ": first_row lies outside the engine's rows");
    quire_store_params params = section_params(header, plane_kind, layer, plane, options.rows);
    uint64_t written = section.size();
    params.dst = section.data();
    params.dst_bytes = section.size();
    params.dst_written = &written;
    params.salient = options.salient.empty() ? nullptr : options.salient.data();
    if (plane_kind == Plane::kKey) {
      QUIRE_ASSIGN_OR_RETURN(params.rotation, tables.rotation(layer_index, layer));
    }
    QUIRE_RETURN_IF_ERROR(encode_section(params));
    if (written > section.size())
      return Status(StatusCode::kInternal, where + ": a section beyond its bound");
    return written;
  }
};

Expected<bool> has_variable_size(CodecId codec) {
  QUIRE_ASSIGN_OR_RETURN(const CodecInfo* info, find_codec(codec));
  return info->variable_size;
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
  QUIRE_ASSIGN_OR_RETURN(const bool variable, has_variable_size(header.codec));
  if (variable)
    return {StatusCode::kUnsupported,
            "this codec's size is known only after encoding: PendingRepresentation lays it out"};
  if (buffer.size() != writer.total_bytes())
    return invalid("the buffer has " + std::to_string(buffer.size()) + " bytes, the layout " +
                   std::to_string(writer.total_bytes()));
  if (header.coverage.layer_end > model.layers.size())
    return invalid("the coverage names layers the model does not have");
  SectionSource sections(header, model, source, options);
  for (uint32_t layer = header.coverage.layer_begin; layer < header.coverage.layer_end; ++layer)
    for (const Plane plane : {Plane::kKey, Plane::kValue})
      QUIRE_RETURN_IF_ERROR(
          sections.encode(layer, plane, writer.section(buffer, layer, plane)).status());
  writer.finish(buffer);
  return Status::ok();
}

Expected<PendingRepresentation> PendingRepresentation::make(const RepresentationHeader& header,
                                                            const ModelDescriptor& model,
                                                            const EnginePlaneOf& source,
                                                            const EncodeOptions& options) {
  QUIRE_RETURN_IF_ERROR(check_source(header, options));
  QUIRE_ASSIGN_OR_RETURN(RepresentationWriter writer, plan_representation(header, model));
  PendingRepresentation pending(std::move(writer), header, model, source, options);
  QUIRE_ASSIGN_OR_RETURN(const bool variable, has_variable_size(header.codec));
  if (!variable) return pending;
  QUIRE_ASSIGN_OR_RETURN(std::vector<uint64_t> sizes,
                         section_sizes(header.codec, model, header.coverage,
                                       static_cast<uint32_t>(header.tokens.size())));
  QUIRE_RETURN_IF_ERROR(pending.encode_sections(sizes));
  QUIRE_ASSIGN_OR_RETURN(pending.writer_, RepresentationWriter::plan(header, sizes));
  return pending;
}

// Section behind section, each encoded where the one before ended: a section's bound is address
// space that the next one uses again.
Status PendingRepresentation::encode_sections(std::vector<uint64_t>& section_bytes) {
  uint64_t bound = 0;
  for (const uint64_t bytes : section_bytes) bound += align_up(bytes, kSectionAlignment);
  memory_.reset(static_cast<std::byte*>(
      ::operator new(std::max<uint64_t>(bound, 1), kAlignment, std::nothrow)));
  if (memory_ == nullptr)
    return {StatusCode::kResourceExhausted,
            "no memory for sections of up to " + std::to_string(bound) + " bytes"};
  SectionSource sections(*header_, *model_, *source_, *options_);
  const Coverage& coverage = header_->coverage;
  uint64_t end = 0;
  for (size_t i = 0; i < section_bytes.size(); ++i) {
    const uint32_t layer = coverage.layer_begin + static_cast<uint32_t>(i / 2);
    const Plane plane = i % 2 == 0 ? Plane::kKey : Plane::kValue;
    std::byte* const begin = memory_.get() + end;
    QUIRE_ASSIGN_OR_RETURN(section_bytes[i],
                           sections.encode(layer, plane, {begin, section_bytes[i]}));
    sections_.emplace_back(begin, section_bytes[i]);
    end = align_up(end + section_bytes[i], kSectionAlignment);
  }
  encoded_ = true;
  return Status::ok();
}

Status PendingRepresentation::finish(MutableByteSpan buffer) const {
  if (!encoded_)
    return encode_representation(writer_, *header_, *model_, *source_, *options_, buffer);
  if (buffer.size() != writer_.total_bytes())
    return invalid("the buffer has " + std::to_string(buffer.size()) + " bytes, the layout " +
                   std::to_string(writer_.total_bytes()));
  const Coverage& coverage = header_->coverage;
  for (size_t i = 0; i < sections_.size(); ++i) {
    const MutableByteSpan section =
        writer_.section(buffer, coverage.layer_begin + static_cast<uint32_t>(i / 2),
                        i % 2 == 0 ? Plane::kKey : Plane::kValue);
    if (!section.empty()) std::memcpy(section.data(), sections_[i].data(), section.size());
  }
  writer_.finish(buffer);
  return Status::ok();
}

Expected<std::vector<std::byte>> encode_to_memory(const RepresentationHeader& header,
                                                  const ModelDescriptor& model,
                                                  const EnginePlaneOf& source,
                                                  const EncodeOptions& options) {
  QUIRE_ASSIGN_OR_RETURN(const PendingRepresentation pending,
                         PendingRepresentation::make(header, model, source, options));
  std::vector<std::byte> bytes(pending.total_bytes());
  QUIRE_RETURN_IF_ERROR(pending.finish(bytes));
  return bytes;
}

Expected<PutResult> put_representation(Client& client, const RepresentationHeader& header,
                                       const ModelDescriptor& model, const EnginePlaneOf& source,
                                       const EncodeOptions& encode, const PutOptions& put,
                                       uint64_t* bytes_stored) {
  QUIRE_ASSIGN_OR_RETURN(const bool variable, has_variable_size(header.codec));
  if (variable) {
    const auto probe = client.reserve(header.representation, kProbeBytes);
    if (probe.status().code() == StatusCode::kAlreadyExists) return PutResult::kAlreadyStored;
  }
  QUIRE_ASSIGN_OR_RETURN(const PendingRepresentation pending,
                         PendingRepresentation::make(header, model, source, encode));
  Expected<PutWindow> window = reserve_with_retries(client, header.representation,
                                                    pending.total_bytes(), put.busy_retries_max);
  if (!window.is_ok()) {
    if (window.status().code() == StatusCode::kAlreadyExists) return PutResult::kAlreadyStored;
    return window.status();
  }
  QUIRE_RETURN_IF_ERROR(pending.finish(window->bytes()));
  const Status committed = window->commit(put.ack, put.pin_ms);
  if (committed.code() == StatusCode::kAlreadyExists) return PutResult::kAlreadyStored;
  QUIRE_RETURN_IF_ERROR(committed);
  if (bytes_stored != nullptr) *bytes_stored = pending.total_bytes();
  return PutResult::kStored;
}

}  // namespace quire::reuse
