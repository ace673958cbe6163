#include "bench/codec/kv_dump.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "bench/codec/safetensors.h"

namespace quire::bench {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr const char* kFormat = "quire-kv-dump-1";

Status corrupt(std::string text) {
  return {StatusCode::kCorrupt, "KV dump: " + std::move(text)};
}

std::string name_of(size_t layer, const char* what) {
  return "layers." + std::to_string(layer) + "." + what;
}

ordered_json shape_json(const DumpLayer& layer) {
  return {{"kv_heads", layer.shape.kv_heads},
          {"key_dims", layer.shape.key_dims},
          {"value_dims", layer.shape.value_dims},
          {"query_heads", layer.query_heads},
          {"attention_scale", layer.attention_scale},
          {"window_tokens", layer.shape.window_tokens},
          {"rope_style", static_cast<uint32_t>(layer.shape.rope_style)},
          {"rotary_dims", layer.shape.rotary_dims}};
}

Expected<uint32_t> number(const json& object, const char* key, uint32_t most) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number_unsigned() || found->get<uint64_t>() > most)
    return corrupt(std::string(key) + " is missing or out of range");
  return found->get<uint32_t>();
}

Expected<DumpLayer> parse_shape(const json& object) {
  if (!object.is_object()) return corrupt("a layer is no object");
  DumpLayer layer;
  QUIRE_ASSIGN_OR_RETURN(layer.shape.kv_heads, number(object, "kv_heads", kHeadsMax));
  QUIRE_ASSIGN_OR_RETURN(layer.shape.key_dims, number(object, "key_dims", kHeadDimMax));
  QUIRE_ASSIGN_OR_RETURN(layer.shape.value_dims, number(object, "value_dims", kHeadDimMax));
  QUIRE_ASSIGN_OR_RETURN(layer.query_heads, number(object, "query_heads", kHeadsMax));
  QUIRE_ASSIGN_OR_RETURN(layer.shape.window_tokens,
                         number(object, "window_tokens", kPromptTokensMax));
  QUIRE_ASSIGN_OR_RETURN(const uint32_t style, number(object, "rope_style", 2));
  QUIRE_ASSIGN_OR_RETURN(layer.shape.rotary_dims, number(object, "rotary_dims", kHeadDimMax));
  layer.shape.rope_style = static_cast<RopeStyle>(style);
  if (layer.shape.window_tokens != 0) layer.shape.attention = AttentionKind::kSlidingWindow;
  const auto scale = object.find("attention_scale");
  if (scale == object.end() || !scale->is_number()) return corrupt("attention_scale is missing");
  layer.attention_scale = scale->get<float>();
  return layer;
}

Status read_arrays(const SafetensorsView& view, size_t index, const KvDump& dump,
                   DumpLayer& layer) {
  const LayerDescriptor& shape = layer.shape;
  const uint64_t keys[] = {dump.n_tokens, shape.kv_heads, shape.key_dims};
  const uint64_t values[] = {dump.n_tokens, shape.kv_heads, shape.value_dims};
  const uint64_t queries[] = {dump.n_queries, layer.query_heads, shape.key_dims};
  const uint64_t pairs[] = {shape.rotary_dims / 2};
  QUIRE_ASSIGN_OR_RETURN(layer.keys, view.floats(name_of(index, "key"), keys));
  QUIRE_ASSIGN_OR_RETURN(layer.values, view.floats(name_of(index, "value"), values));
  QUIRE_ASSIGN_OR_RETURN(layer.queries, view.floats(name_of(index, "query"), queries));
  QUIRE_ASSIGN_OR_RETURN(layer.shape.inverse_frequencies,
                         view.floats(name_of(index, "inverse_frequencies"), pairs));
  return Status::ok();
}

bool all_finite(const std::vector<float>& values) {
  for (const float value : values)
    if (!std::isfinite(value)) return false;
  return true;
}

Expected<json> metadata_json(const SafetensorsView& view, const char* key) {
  const auto found = view.metadata().find(key);
  if (found == view.metadata().end()) return corrupt(std::string("no ") + key);
  json value = json::parse(found->second, nullptr, false);
  if (value.is_discarded()) return corrupt(std::string(key) + " is no JSON");
  return value;
}

}  // namespace

Status KvDump::validate() const {
  if (n_tokens == 0 || n_tokens > kDumpTokensMax || n_queries == 0 || n_queries > n_tokens ||
      first_query > n_tokens - n_queries)
    return corrupt("tokens and queries out of range");
  if (layers.empty() || layers.size() > kLayersMax) return corrupt("number of layers");
  for (const DumpLayer& layer : layers) {
    const LayerDescriptor& shape = layer.shape;
    if (shape.kv_heads == 0 || shape.kv_heads > kHeadsMax || shape.key_dims == 0 ||
        shape.key_dims > kHeadDimMax || shape.value_dims == 0 || shape.value_dims > kHeadDimMax ||
        layer.query_heads == 0 || layer.query_heads > kHeadsMax ||
        layer.query_heads % shape.kv_heads != 0)
      return corrupt("heads or dims out of range");
    if (shape.rotary_dims > shape.key_dims || shape.rotary_dims % 2 != 0 ||
        (shape.rope_style == RopeStyle::kNone) != (shape.rotary_dims == 0) ||
        shape.inverse_frequencies.size() != shape.rotary_dims / 2)
      return corrupt("rope does not fit the dims");
    const size_t tokens = size_t{n_tokens} * shape.kv_heads;
    if (layer.keys.size() != tokens * shape.key_dims ||
        layer.values.size() != tokens * shape.value_dims ||
        layer.queries.size() != size_t{n_queries} * layer.query_heads * shape.key_dims)
      return corrupt("arrays do not fit the shape");
    if (!std::isfinite(layer.attention_scale) || !all_finite(layer.keys) ||
        !all_finite(layer.values) || !all_finite(layer.queries) ||
        !all_finite(shape.inverse_frequencies))
      return {StatusCode::kNonFinite, "KV dump: NaN or infinity"};
  }
  return Status::ok();
}

std::vector<std::byte> encode_dump(const KvDump& dump) {
  SafetensorsWriter writer;
  ordered_json shapes = ordered_json::array();
  for (size_t i = 0; i < dump.layers.size(); ++i) {
    const DumpLayer& layer = dump.layers[i];
    const LayerDescriptor& shape = layer.shape;
    shapes.push_back(shape_json(layer));
    writer.add(name_of(i, "key"), {dump.n_tokens, shape.kv_heads, shape.key_dims}, layer.keys);
    writer.add(name_of(i, "value"), {dump.n_tokens, shape.kv_heads, shape.value_dims},
               layer.values);
    writer.add(name_of(i, "query"), {dump.n_queries, layer.query_heads, shape.key_dims},
               layer.queries);
    writer.add(name_of(i, "inverse_frequencies"), {shape.inverse_frequencies.size()},
               shape.inverse_frequencies);
  }
  const ordered_json about = {{"n_tokens", dump.n_tokens},
                              {"first_query", dump.first_query},
                              {"n_queries", dump.n_queries}};
  writer.set_metadata("format", kFormat);
  writer.set_metadata("model", dump.model);
  writer.set_metadata("about", about.dump());
  writer.set_metadata("layers", shapes.dump());
  return writer.encode();
}

Expected<KvDump> parse_dump(ByteSpan bytes) {
  QUIRE_ASSIGN_OR_RETURN(const SafetensorsView view, SafetensorsView::parse(bytes));
  const auto format = view.metadata().find("format");
  if (format == view.metadata().end() || format->second != kFormat)
    return corrupt("not made by quire-kv-dump");
  KvDump dump;
  if (const auto model = view.metadata().find("model"); model != view.metadata().end())
    dump.model = model->second;
  QUIRE_ASSIGN_OR_RETURN(const json about, metadata_json(view, "about"));
  QUIRE_ASSIGN_OR_RETURN(const json shapes, metadata_json(view, "layers"));
  if (!about.is_object() || !shapes.is_array() || shapes.size() > kLayersMax)
    return corrupt("metadata of another kind");
  QUIRE_ASSIGN_OR_RETURN(dump.n_tokens, number(about, "n_tokens", kDumpTokensMax));
  QUIRE_ASSIGN_OR_RETURN(dump.first_query, number(about, "first_query", kDumpTokensMax));
  QUIRE_ASSIGN_OR_RETURN(dump.n_queries, number(about, "n_queries", kDumpTokensMax));
  for (const json& shape : shapes) {
    QUIRE_ASSIGN_OR_RETURN(DumpLayer layer, parse_shape(shape));
    QUIRE_RETURN_IF_ERROR(read_arrays(view, dump.layers.size(), dump, layer));
    dump.layers.push_back(std::move(layer));
  }
  QUIRE_RETURN_IF_ERROR(dump.validate());
  return dump;
}

}  // namespace quire::bench
