// Pack and unpack in C.
#include "client/capi/arguments.h"
#include "client/capi/errors.h"
#include "client/capi/handles.h"
#include "client/capi/kv_memory.h"
#include "client/capi/quire_kv.h"
#include "client/capi/representation_info.h"
#include "client/reuse/encode.h"
#include "client/reuse/load.h"
#include "codecs/registry.h"

namespace quire::capi {
namespace {

constexpr uintptr_t kBufferAlignment = 4;

// A pack_spec with everything its ids and layout follow from.
struct PackRequest {
  ModelDescriptor model;
  RepresentationHeader header;
  reuse::EncodeOptions options;
};

Expected<CodecId> to_codec(const quire_pack_spec& spec) {
  if ((spec.codec == 0) == (spec.codec_name == nullptr))
    return Status(StatusCode::kInvalidArgument, "set either codec or codec_name");
  if (spec.codec > UINT16_MAX) return Status(StatusCode::kUnsupported, "unknown codec");
  QUIRE_ASSIGN_OR_RETURN(const CodecInfo* info, spec.codec_name != nullptr
                                                    ? find_codec(std::string_view(spec.codec_name))
                                                    : find_codec(static_cast<CodecId>(spec.codec)));
  return info->id;
}

Coverage to_coverage(const quire_coverage& source, const ModelDescriptor& model) {
  const Coverage wanted{source.layer_begin, source.layer_end, source.head_begin, source.head_end};
  if (wanted != Coverage{}) return wanted;
  Coverage all;
  all.layer_end = static_cast<uint32_t>(model.layers.size());
  for (const LayerDescriptor& layer : model.layers)
    all.head_end = std::max(all.head_end, layer.kv_heads);
  return all;
}

// session_salt: of the session that will store it; NULL: the spec's.
Expected<PackRequest> read_spec(const quire_pack_spec* spec, const TenantSalt* session_salt) {
  if (spec == nullptr) return null_argument("spec");
  quire_pack_spec known{};
  QUIRE_RETURN_IF_ERROR(read_struct(spec, known));
  PackRequest request;
  QUIRE_ASSIGN_OR_RETURN(request.model, to_model(known.model, known.model_bytes));
  QUIRE_RETURN_IF_ERROR(check_tokens(known.tokens, known.n_tokens));
  if (known.frame > 1 || known.key_before_rope > 1)
    return Status(StatusCode::kInvalidArgument, "unknown frame or key_before_rope");
  RepresentationHeader& header = request.header;
  QUIRE_ASSIGN_OR_RETURN(header.codec, to_codec(known));
  if (known.context != nullptr) {
    quire_context context{};
    QUIRE_RETURN_IF_ERROR(read_struct(known.context, context));
    QUIRE_ASSIGN_OR_RETURN(header.context, to_context(context));
  }
  header.frame = static_cast<PositionFrame>(known.frame);
  header.base_position = known.base_position;
  header.coverage = to_coverage(known.coverage, request.model);
  header.tokens.assign(known.tokens, known.tokens + known.n_tokens);
  header.model = model_id(request.model);
  request.options.key_is_rotated = known.key_before_rope == 0;
  if ((known.salient == nullptr) != (known.n_salient == 0))
    return Status(StatusCode::kInvalidArgument, "salient and n_salient go together");
  request.options.salient = std::span(known.salient, known.n_salient);
  if (session_salt != nullptr) {
    fill_ids(header, *session_salt);
  } else {
    QUIRE_ASSIGN_OR_RETURN(const ByteSpan salt, salt_span(known.salt, known.salt_bytes));
    fill_ids(header, salt);
  }
  return request;
}

// The planes that the request's coverage names.
Expected<KvMemory> read_source(const quire_kv_memory* source, const PackRequest& request) {
  if (source == nullptr) return null_argument("source");
  const Coverage& coverage = request.header.coverage;
  if (coverage.layer_begin > coverage.layer_end)
    return Status(StatusCode::kInvalidArgument, "coverage: layer_begin > layer_end");
  return KvMemory::read(*source, request.model, coverage);
}

Expected<RepresentationView> parse_bytes(const void* data, uint64_t bytes) {
  if (data == nullptr) return null_argument("data");
  if (reinterpret_cast<uintptr_t>(data) % kBufferAlignment != 0)
    return Status(StatusCode::kInvalidArgument, "data must be 4-byte aligned");
  return RepresentationView::parse({static_cast<const std::byte*>(data), bytes});
}

// Encodes into buffer; the bytes of it that are the representation's.
Expected<uint64_t> encode_into(PackRequest& request, const quire_kv_memory* source,
                               MutableByteSpan buffer) {
  if (reinterpret_cast<uintptr_t>(buffer.data()) % kBufferAlignment != 0)
    return Status(StatusCode::kInvalidArgument, "buffer must be 4-byte aligned");
  QUIRE_ASSIGN_OR_RETURN(const auto bound,
                         reuse::plan_representation(request.header, request.model));
  QUIRE_ASSIGN_OR_RETURN(const CodecInfo* codec, find_codec(request.header.codec));
  const bool fits = codec->variable_size ? buffer.size() >= bound.total_bytes()
                                         : buffer.size() == bound.total_bytes();
  if (!fits)
    return Status(StatusCode::kInvalidArgument,
                  "buffer_bytes is " + std::to_string(buffer.size()) + ", the representation " +
                      (codec->variable_size ? "may take " : "takes ") +
                      std::to_string(bound.total_bytes()));
  QUIRE_ASSIGN_OR_RETURN(const KvMemory memory, read_source(source, request));
  request.options.rows = memory.rows();
  request.options.angles = memory.angles();
  const reuse::EnginePlaneOf planes = memory.planes();
  QUIRE_ASSIGN_OR_RETURN(
      const auto pending,
      reuse::PendingRepresentation::make(request.header, request.model, planes, request.options));
  QUIRE_RETURN_IF_ERROR(pending.finish(buffer.first(pending.total_bytes())));
  return pending.total_bytes();
}

Status unpack(const RepresentationView& view, const quire_unpack_options& options,
              const quire_kv_memory& destination) {
  QUIRE_ASSIGN_OR_RETURN(const ModelDescriptor model, to_model(options.model, options.model_bytes));
  QUIRE_ASSIGN_OR_RETURN(const KvMemory memory,
                         KvMemory::read(destination, model, view.header().coverage));
  if ((options.row_mask == nullptr) != (options.n_row_mask == 0))
    return {StatusCode::kInvalidArgument, "row_mask and n_row_mask go together"};
  reuse::LoadOptions load;
  load.source_begin = options.source_begin;
  load.n_tokens = options.n_tokens;
  load.position = options.position;
  load.rows = memory.rows();
  load.row_mask = std::span(options.row_mask, options.n_row_mask);
  load.angles = memory.angles();
  load.verify_sections = options.skip_verify == 0;
  return reuse::load_representation(view, model, memory.planes(), load);
}

}  // namespace
}  // namespace quire::capi

using quire::Status;
using quire::StatusCode;
using quire::capi::guarded;
using quire::capi::null_argument;
using quire::capi::to_id;

quire_status quire_pack(const quire_pack_spec* spec, const quire_kv_memory* source, void* buffer,
                        uint64_t buffer_bytes, uint64_t* bytes, quire_id* representation) {
  if (bytes != nullptr) *bytes = 0;
  if (representation != nullptr) *representation = {};
  return guarded([&]() -> Status {
    QUIRE_ASSIGN_OR_RETURN(auto request, quire::capi::read_spec(spec, nullptr));
    QUIRE_ASSIGN_OR_RETURN(const auto* codec, quire::find_codec(request.header.codec));
    uint64_t size = 0;
    if (buffer == nullptr) {
      QUIRE_ASSIGN_OR_RETURN(const auto writer,
                             quire::reuse::plan_representation(request.header, request.model));
      size = writer.total_bytes();
    } else {
      if (codec->variable_size && bytes == nullptr) return null_argument("bytes");
      QUIRE_ASSIGN_OR_RETURN(
          size, quire::capi::encode_into(request, source,
                                         {static_cast<std::byte*>(buffer), buffer_bytes}));
    }
    if (bytes != nullptr) *bytes = size;
    if (representation != nullptr) *representation = to_id(request.header.representation);
    return Status::ok();
  });
}

quire_status quire_pack_put(quire_client* client, const quire_pack_spec* spec,
                            const quire_kv_memory* source, uint32_t ack, uint32_t pin_ms,
                            quire_id* representation, uint32_t* stored) {
  if (representation != nullptr) *representation = {};
  if (stored != nullptr) *stored = 0;
  return guarded([&]() -> Status {
    if (client == nullptr) return null_argument("client");
    quire::reuse::PutOptions put;
    QUIRE_ASSIGN_OR_RETURN(put.ack, quire::capi::to_ack(ack));
    put.pin_ms = pin_ms;
    QUIRE_ASSIGN_OR_RETURN(auto request,
                           quire::capi::read_spec(spec, &client->session->tenant_salt()));
    QUIRE_ASSIGN_OR_RETURN(const auto memory, quire::capi::read_source(source, request));
    request.options.rows = memory.rows();
    request.options.angles = memory.angles();
    QUIRE_ASSIGN_OR_RETURN(const auto result, quire::reuse::put_representation(
                                                  *client->session, request.header, request.model,
                                                  memory.planes(), request.options, put));
    if (representation != nullptr) *representation = to_id(request.header.representation);
    if (stored != nullptr) *stored = result == quire::reuse::PutResult::kStored ? 1 : 0;
    return Status::ok();
  });
}

quire_status quire_describe(const void* data, uint64_t bytes, quire_representation_info* info) {
  return guarded([&]() -> Status {
    if (info == nullptr) return null_argument("info");
    QUIRE_ASSIGN_OR_RETURN(const auto view, quire::capi::parse_bytes(data, bytes));
    return quire::capi::write_struct(quire::capi::to_c_info(view.header(), view.sections().size()),
                                     info);
  });
}

quire_status quire_unpack(const void* data, uint64_t bytes, const quire_unpack_options* options,
                          const quire_kv_memory* destination) {
  return guarded([&]() -> Status {
    if (options == nullptr) return null_argument("options");
    if (destination == nullptr) return null_argument("destination");
    quire_unpack_options known{};
    QUIRE_RETURN_IF_ERROR(quire::capi::read_struct(options, known));
    QUIRE_ASSIGN_OR_RETURN(const auto view, quire::capi::parse_bytes(data, bytes));
    return quire::capi::unpack(view, known, *destination);
  });
}
