#include "bench/codec/capture_dump.h"

#include <cstring>

#include "client/llama/kv_source.h"
#include "client/reuse/encode.h"
#include "tools/corpus/reader.h"

namespace quire::bench {
namespace {

// A section of raw-f32, [head][token][dim], as [token][head][dim].
std::vector<float> by_token(ByteSpan section, uint32_t n_tokens, uint32_t heads, uint32_t dims) {
  std::vector<float> values(size_t{n_tokens} * heads * dims);
  for (uint32_t head = 0; head < heads; ++head)
    for (uint32_t token = 0; token < n_tokens; ++token)
      std::memcpy(values.data() + (size_t{token} * heads + head) * dims,
                  section.data() + (size_t{head} * n_tokens + token) * dims * sizeof(float),
                  dims * sizeof(float));
  return values;
}

// The live sequence as raw-f32 before rope.
Expected<std::vector<std::byte>> pre_rope_bytes(const LlamaEngine& engine,
                                                std::span<const TokenId> tokens) {
  QUIRE_ASSIGN_OR_RETURN(const KvCapture capture,
                         engine.view(0, static_cast<uint32_t>(tokens.size())));
  RepresentationHeader header =
      capture_header(engine, capture, tokens, VariantContext::isolated(), CodecId::kRawF32, {});
  header.frame = PositionFrame::kPreRope;
  fill_ids(header, {});
  QUIRE_ASSIGN_OR_RETURN(const RepresentationWriter writer,
                         reuse::plan_representation(header, engine.descriptor()));
  std::vector<std::byte> bytes(writer.total_bytes());
  QUIRE_RETURN_IF_ERROR(reuse::encode_representation(writer, header, engine.descriptor(),
                                                     capture.plane_of, {}, bytes));
  return bytes;
}

}  // namespace

Expected<KvDump> capture_dump(LlamaEngine& engine, std::span<const TokenId> tokens,
                              uint32_t n_queries) {
  const auto n_tokens = static_cast<uint32_t>(tokens.size());
  if (n_queries == 0 || n_queries > n_tokens || n_tokens > kDumpTokensMax)
    return Status(StatusCode::kInvalidArgument, "tokens and queries out of range");
  engine.clear();
  KvDump dump;
  dump.model = engine.model_name();
  dump.n_tokens = n_tokens;
  dump.n_queries = n_queries;
  dump.first_query = n_tokens - n_queries;
  QUIRE_RETURN_IF_ERROR(engine.append(tokens.first(dump.first_query), false));
  LlamaEngine::Queries queries;
  QUIRE_RETURN_IF_ERROR(engine.append_with_queries(tokens.last(n_queries), &queries));
  QUIRE_ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, pre_rope_bytes(engine, tokens));
  QUIRE_ASSIGN_OR_RETURN(const RepresentationView view, RepresentationView::parse(bytes));
  for (uint32_t i = 0; i < engine.n_layers(); ++i) {
    DumpLayer layer;
    layer.shape = engine.descriptor().layers[i];
    layer.query_heads = queries.layers[i].heads;
    layer.attention_scale = queries.layers[i].scale;
    layer.queries = std::move(queries.layers[i].values);
    const LayerDescriptor& shape = layer.shape;
    QUIRE_ASSIGN_OR_RETURN(const ByteSpan keys, view.section(i, Plane::kKey));
    QUIRE_ASSIGN_OR_RETURN(const ByteSpan values, view.section(i, Plane::kValue));
    layer.keys = by_token(keys, n_tokens, shape.kv_heads, shape.key_dims);
    layer.values = by_token(values, n_tokens, shape.kv_heads, shape.value_dims);
    dump.layers.push_back(std::move(layer));
  }
  QUIRE_RETURN_IF_ERROR(dump.validate());
  return dump;
}

Expected<std::vector<TokenId>> text_tokens(const LlamaEngine& engine,
                                           const std::vector<std::string>& paths,
                                           uint32_t n_tokens) {
  const corpus::FileList list = corpus::list_files(paths);
  if (list.files.empty())
    return Status(StatusCode::kNotFound,
                  "no documents; the default ones come with the package debian-handbook");
  QUIRE_ASSIGN_OR_RETURN(std::vector<TokenId> tokens, engine.tokenize("", true, false));
  Status status;
  for (const corpus::SourceFile& file : list.files) {
    const auto on_document = [&](const corpus::Document& document) {
      const auto more = engine.tokenize(document.text, false, false);
      if (!more) {
        status = more.status();
        return false;
      }
      tokens.insert(tokens.end(), more->begin(), more->end());
      return tokens.size() < n_tokens;
    };
    corpus::read_documents(file, on_document,
                           [&](const corpus::SourceError& error) { status = error.status; });
    QUIRE_RETURN_IF_ERROR(status);
    if (tokens.size() >= n_tokens) break;
  }
  if (tokens.size() < n_tokens)
    return Status(StatusCode::kInvalidArgument,
                  "the documents have " + std::to_string(tokens.size()) + " tokens");
  tokens.resize(n_tokens);
  return tokens;
}

}  // namespace quire::bench
