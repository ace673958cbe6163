// The store side: chunks computed and shown where they lie in the cache.
#include <algorithm>
#include <numeric>

#include "client/llama/attention_gathering.h"
#include "client/llama/engine_impl.h"
#include "client/reuse/salient.h"
#include "ggml.h"

namespace quire {

reuse::EnginePlane LlamaEngine::Impl::cache_plane(uint32_t layer, Plane plane) const {
  const LayerGraph& graph = const_cast<GraphHooks&>(hooks).layers()[layer];
  const LayerDescriptor& shape = descriptor.layers[layer];
  const ggml_tensor* tensor = plane == Plane::kKey ? graph.cache_key : graph.cache_value;
  reuse::EnginePlane result;
  result.data = static_cast<std::byte*>(tensor->data);
  result.n_rows = tensor->ne[1];
  const bool wide = options.kv_type == LlamaKvType::kF32;
  result.element = wide ? ElementType::kF32 : ElementType::kF16;
  const int64_t element_bytes = wide ? 4 : 2;
  if (plane == Plane::kKey) {
    result.dim_stride = element_bytes;
    result.head_stride = element_bytes * shape.key_dims;
    result.token_stride = static_cast<int64_t>(tensor->nb[1]);
  } else {  // without flash attention V is kept transposed
    result.token_stride = element_bytes;
    result.dim_stride = element_bytes * tensor->ne[1];
    result.head_stride = result.dim_stride * shape.value_dims;
  }
  return result;
}

// Brings the engine to the end of the prefix.
Status LlamaEngine::start_capture(std::span<const TokenId> prefix, std::span<const TokenId> chunk) {
  if (chunk.empty()) return Status(StatusCode::kInvalidArgument, "an empty chunk");
  QUIRE_RETURN_IF_ERROR(impl_->check_tokens(prefix));
  QUIRE_RETURN_IF_ERROR(impl_->check_tokens(chunk));
  const std::vector<TokenId>& exact = impl_->exact_tokens;
  const auto differs = std::mismatch(prefix.begin(), prefix.end(), exact.begin(), exact.end());
  const auto n_common = static_cast<size_t>(differs.first - prefix.begin());
  if (n_common == 0) {
    impl_->clear(false);
  } else {
    QUIRE_RETURN_IF_ERROR(truncate(static_cast<uint32_t>(n_common)));
  }
  return append(prefix.subspan(n_common), false);
}

Expected<KvCapture> LlamaEngine::capture(std::span<const TokenId> prefix,
                                         std::span<const TokenId> chunk) {
  QUIRE_RETURN_IF_ERROR(start_capture(prefix, chunk));
  QUIRE_RETURN_IF_ERROR(append(chunk, false));
  return view(static_cast<uint32_t>(prefix.size()), static_cast<uint32_t>(chunk.size()));
}

Expected<KvCapture> LlamaEngine::capture_salient(std::span<const TokenId> prefix,
                                                 std::span<const TokenId> chunk, double share) {
  QUIRE_RETURN_IF_ERROR(start_capture(prefix, chunk));
  std::vector<float> mass;
  QUIRE_RETURN_IF_ERROR(append_with_mass(chunk, false, &mass));
  const size_t n_tokens = chunk.size();
  const std::span<float> of_chunk = std::span(mass).last(n_tokens);
  for (size_t i = 0; i < n_tokens; ++i) of_chunk[i] /= static_cast<float>(n_tokens - i);
  QUIRE_ASSIGN_OR_RETURN(KvCapture capture, view(static_cast<uint32_t>(prefix.size()),
                                                 static_cast<uint32_t>(n_tokens)));
  capture.salient = reuse::salient_tokens(of_chunk, share);
  return capture;
}

Expected<KvCapture> LlamaEngine::capture_with_shares(std::span<const TokenId> prefix,
                                                     std::span<const TokenId> chunk,
                                                     std::span<const uint32_t> runs,
                                                     reuse::AttentionShares* shares) {
  if (std::accumulate(runs.begin(), runs.end(), uint64_t{0}) != prefix.size())
    return Status(StatusCode::kInvalidArgument, "the runs are not the prefix");
  QUIRE_RETURN_IF_ERROR(start_capture(prefix, chunk));
  ShareGathering gathering(full_layers(), runs, static_cast<uint32_t>(chunk.size()));
  impl_->hooks.start_gathering(gathering);
  const Status ran = append(chunk, false);
  const Status seen = impl_->hooks.stop();
  QUIRE_RETURN_IF_ERROR(ran);
  if (!seen.is_ok()) return impl_->fail(seen);
  *shares = gathering.take();
  return view(static_cast<uint32_t>(prefix.size()), static_cast<uint32_t>(chunk.size()));
}

Expected<KvCapture> LlamaEngine::view(uint32_t token_begin, uint32_t n_tokens) const {
  if (n_tokens == 0 || token_begin > impl_->size || n_tokens > impl_->size - token_begin) {
    return Status(StatusCode::kInvalidArgument, "the live sequence does not hold these tokens");
  }
  KvCapture capture;
  capture.n_tokens = n_tokens;
  capture.first_row = token_begin;
  capture.base_position = token_begin;
  capture.plane_of = [impl = impl_.get()](uint32_t layer, Plane plane) {
    return impl->cache_plane(layer, plane);
  };
  return capture;
}

}  // namespace quire
