// Passes that gather attention on the way, and their early end: behind the last attention that is
// wanted the rest of the graph need not be computed. Where libllama does not end there (an engine's
// self test or a pass itself shows it), passes run whole, which is right too, only dearer.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <utility>

#include "client/llama/attention_gathering.h"
#include "client/llama/engine_impl.h"
#include "client/llama/value_norms.h"
#include "ggml-backend.h"

namespace quire {

namespace {

Status check_depth(uint32_t n_layers, uint32_t n_all) {
  if (n_layers <= n_all) return Status::ok();
  return Status(StatusCode::kInvalidArgument, "the model has " + std::to_string(n_all) + " layers");
}

}  // namespace

void LlamaEngine::Impl::give_up_early_end(const std::string& reason) {
  ends_early = false;
  report.early_end = false;
  if (std::exchange(early_end_reported, true)) return;
  const std::string line =
      "this libllama does not end a pass early (" + reason +
      "): passes that look at the question's attention run through all layers and are charged so";
  if (options.log) {
    options.log(line);
  } else {
    std::fprintf(stderr, "quire: %s\n", line.c_str());
  }
}

void LlamaEngine::Impl::check_early_end_is_safe() {
  // Of a graph that goes on in another split nothing is right, which indices must be at least.
  if (hooks.has_experts() && ggml_backend_dev_count() > 1)
    give_up_early_end("a mixture of experts on several devices");
}

Status LlamaEngine::Impl::run_to_depth(uint32_t n_layers, uint32_t* layers_run,
                                       const std::function<Status(uint32_t end)>& run) {
  const auto n_all = static_cast<uint32_t>(descriptor.layers.size());
  const bool early = n_layers != 0 && ends_early;
  const uint32_t n_before = size;
  Status status = run(early ? n_layers : 0);
  uint32_t n_run = early ? n_layers : n_all;
  // Where the attempt could not be undone there is nothing to repeat it behind.
  if (early && status.code() == StatusCode::kInternal && size == n_before) {
    const std::string reason = status.message();
    status = run(0);
    // How far the first one went is not known.
    n_run = 2 * n_all;
    if (status.is_ok()) give_up_early_end(reason);
  }
  if (layers_run != nullptr) *layers_run = n_run;
  return status.is_ok() ? status : fail(std::move(status));
}

void LlamaEngine::Impl::zero_cells(std::span<const uint32_t> cells) {
  for (uint32_t layer = 0; layer < descriptor.layers.size(); ++layer) {
    const LayerDescriptor& shape = descriptor.layers[layer];
    for (const Plane plane : {Plane::kKey, Plane::kValue}) {
      const reuse::EnginePlane cache = cache_plane(layer, plane);
      const uint32_t dims = plane == Plane::kKey ? shape.key_dims : shape.value_dims;
      const size_t element_bytes = cache.element == ElementType::kF32 ? 4 : 2;
      for (uint32_t i = 0; i < shape.kv_heads * dims; ++i) {
        std::byte* const first =
            cache.data + i / dims * cache.head_stride + i % dims * cache.dim_stride;
        for (const uint32_t cell : cells)
          std::memset(first + cell * cache.token_stride, 0, element_bytes);
      }
    }
  }
}

// The layers whose softmax counts in the column mass, and how much.
std::vector<MassGathering::Layer> LlamaEngine::Impl::mass_layers(const MassOptions& wanted) const {
  const std::vector<uint32_t> full = full_layers(wanted.n_layers);
  const auto is_full = [&](uint32_t layer) {
    return std::binary_search(full.begin(), full.end(), layer);
  };
  std::vector<MassGathering::Layer> layers;
  if (full.empty()) return layers;
  const size_t n_windows = full.back() + 1 - full.size();
  for (uint32_t layer = 0; layer <= full.back(); ++layer) {
    if (is_full(layer))
      layers.push_back({layer, 1.0 / static_cast<double>(full.size())});
    else if (wanted.window_weight > 0)
      layers.push_back({layer, wanted.window_weight / static_cast<double>(n_windows)});
  }
  return layers;
}

Status LlamaEngine::Impl::try_mass(std::span<const TokenId> tokens, const MassOptions& wanted,
                                   bool want_logits, uint32_t end, std::vector<float>* mass) {
  const uint32_t n_before = size;
  MassGathering::NormsOf norms_of;
  if (wanted.by_values) {
    norms_of = [this, n_before](uint32_t layer) {
      const LayerDescriptor& shape = descriptor.layers[layer];
      return value_norms(cache_plane(layer, Plane::kValue), shape.kv_heads, shape.value_dims,
                         n_before);
    };
  }
  attention = {};
  MassGathering gathering(mass_layers(wanted), std::move(norms_of),
                          keep_attention ? &attention : nullptr);
  hooks.end_behind(end);
  hooks.start_gathering(gathering);
  Status status = extend(tokens, want_logits, false);
  const Status seen = hooks.stop();
  if (status.is_ok()) status = seen;
  if (!status.is_ok()) {
    QUIRE_RETURN_IF_ERROR(forget_from(n_before));
    std::vector<uint32_t> cells(tokens.size());
    std::iota(cells.begin(), cells.end(), n_before);
    zero_cells(cells);
    return status;
  }
  if (end != 0 && exact_tokens.size() > n_before) exact_tokens.resize(n_before);
  *mass = gathering.take(size);
  return Status::ok();
}

Status LlamaEngine::Impl::append_with_mass(std::span<const TokenId> tokens,
                                           const MassOptions& wanted, bool want_logits,
                                           std::vector<float>* mass, uint32_t* layers_run) {
  QUIRE_RETURN_IF_ERROR(
      check_depth(wanted.n_layers, static_cast<uint32_t>(descriptor.layers.size())));
  if (full_layers(wanted.n_layers).empty())
    return Status(StatusCode::kInvalidArgument, "no layer below that sees the whole prompt");
  if (tokens.empty())
    return Status(StatusCode::kInvalidArgument, "no tokens whose attention to see");
  QUIRE_RETURN_IF_ERROR(check_tokens(tokens));
  QUIRE_RETURN_IF_ERROR(check_room(tokens.size()));
  return run_to_depth(wanted.n_layers, layers_run, [&](uint32_t end) {
    return try_mass(tokens, wanted, want_logits, end, mass);
  });
}

bool LlamaEngine::ends_early() const {
  return impl_->ends_early;
}

Status LlamaEngine::append_with_mass(std::span<const TokenId> tokens, bool want_logits,
                                     std::vector<float>* column_mass) {
  return impl_->append_with_mass(tokens, {}, want_logits, column_mass, nullptr);
}

Status LlamaEngine::append_with_mass(std::span<const TokenId> tokens, const MassOptions& wanted,
                                     std::vector<float>* column_mass, uint32_t* layers_run) {
  return impl_->append_with_mass(tokens, wanted, false, column_mass, layers_run);
}

Status LlamaEngine::recompute_below(uint32_t n_layers, std::span<const uint32_t> rows,
                                    std::span<const TokenId> row_tokens, uint32_t* layers_run) {
  QUIRE_RETURN_IF_ERROR(check_depth(n_layers, this->n_layers()));
  return impl_->recompute(rows, row_tokens, false, n_layers, layers_run);
}

Status LlamaEngine::append_with_queries(std::span<const TokenId> tokens, Queries* queries) {
  if (tokens.empty() || tokens.size() > impl_->options.n_ubatch)
    return Status(StatusCode::kInvalidArgument, "queries are kept of one graph of tokens");
  QueryGathering gathering(n_layers());
  impl_->hooks.start_gathering(gathering);
  const Status ran = impl_->run_behind(tokens, false, false);
  const Status seen = impl_->hooks.stop();
  QUIRE_RETURN_IF_ERROR(ran);
  if (!seen.is_ok()) return impl_->fail(Status(StatusCode::kUnsupported, seen.message()));
  *queries = gathering.take();
  return Status::ok();
}

}  // namespace quire
