// Placing stored KV and recomputing rows of it.
#include <algorithm>
#include <system_error>
#include <thread>

#include "base/clock.h"
#include "client/llama/engine_impl.h"
#include "client/llama/runtime.h"
#include "client/reuse/load.h"
#include "codecs/registry.h"
#include "codecs/representation.h"
#include "llama.h"

namespace quire {

namespace {

uint64_t elapsed_us(uint64_t since_ns) {
  return (system_clock().now_ns() - since_ns) / 1000;
}

Status invalid(std::string text) {
  return Status(StatusCode::kInvalidArgument, std::move(text));
}

}  // namespace

Status LlamaEngine::Impl::check_piece(const KvPiece& piece, uint32_t n_tokens) const {
  QUIRE_ASSIGN_OR_RETURN(const RepresentationView view,
                         RepresentationView::parse(piece.representation));
  QUIRE_RETURN_IF_ERROR(check_sections(view, descriptor));
  const RepresentationHeader& header = view.header();
  const auto stored = static_cast<uint32_t>(header.tokens.size());
  if (piece.n_tokens == 0 || piece.source_begin > stored ||
      piece.n_tokens > stored - piece.source_begin || piece.position > n_tokens ||
      piece.n_tokens > n_tokens - piece.position) {
    return invalid("a piece reaches outside its representation or the prompt");
  }
  const Coverage& coverage = header.coverage;
  if (coverage.layer_begin != 0 || coverage.layer_end != descriptor.layers.size()) {
    return Status(StatusCode::kUnsupported, "a representation must cover all layers");
  }
  const bool moves = header.frame != PositionFrame::kLocal ||
                     header.base_position + piece.source_begin != piece.position;
  if (moves) {
    QUIRE_RETURN_IF_ERROR(descriptor.movable());
    if (!ropes_hold) {
      return Status(StatusCode::kUnsupported,
                    "moving K of this model failed the engine's self test; only exact prefixes "
                    "can be used");
    }
  }
  return Status::ok();
}

Status LlamaEngine::Impl::load_piece(const KvPiece& piece, std::span<const uint32_t> skip_rows) {
  QUIRE_ASSIGN_OR_RETURN(const RepresentationView view,
                         RepresentationView::parse(piece.representation));
  reuse::LoadOptions load;
  load.source_begin = piece.source_begin;
  load.n_tokens = piece.n_tokens;
  load.position = piece.position;
  load.rows.first_row = piece.position;
  load.angles.mode = angle_mode;
  load.angles.engine_rope = [this](uint32_t layer) {
    const LayerGraph& graph = hooks.layers()[layer];
    return reuse::EngineRope{graph.rope_base, graph.rope_scale, graph.rope_factors};
  };
  std::vector<uint8_t> mask;
  if (!skip_rows.empty()) {
    mask.assign(piece.n_tokens, 1);
    for (const uint32_t row : skip_rows) {
      if (row >= piece.position && row - piece.position < piece.n_tokens) {
        mask[row - piece.position] = 0;
      }
    }
    load.row_mask = mask;
  }
  return reuse::load_representation(
      view, descriptor, [this](uint32_t layer, Plane plane) { return blob->plane(layer, plane); },
      load);
}

Status LlamaEngine::Impl::load_pieces(std::span<const KvPiece> pieces,
                                      std::span<const uint32_t> skip_rows) {
  const size_t n_workers = std::min<size_t>(n_threads, pieces.size());
  if (n_workers <= 1) {
    for (const KvPiece& piece : pieces) QUIRE_RETURN_IF_ERROR(load_piece(piece, skip_rows));
    return Status::ok();
  }
  std::atomic<size_t> next{0};
  std::vector<Status> results(n_workers);
  const auto work = [&](size_t worker) {
    for (size_t i = next++; i < pieces.size() && results[worker].is_ok(); i = next++) {
      results[worker] = load_piece(pieces[i], skip_rows);
    }
  };
  std::vector<std::thread> threads;
  try {
    for (size_t worker = 1; worker < n_workers; ++worker) threads.emplace_back(work, worker);
  } catch (const std::system_error&) {
    // Those that were started, and this one, do it all.
  }
  work(0);
  for (std::thread& thread : threads) thread.join();
  for (const Status& status : results) QUIRE_RETURN_IF_ERROR(status);
  return Status::ok();
}

Status LlamaEngine::Impl::place(uint32_t n_tokens, std::span<const KvPiece> pieces,
                                std::span<const uint32_t> skip_rows, PlaceTimes* times) {
  const uint64_t start_ns = system_clock().now_ns();
  clear(false);
  if (n_tokens > n_ctx) {
    return Status(StatusCode::kResourceExhausted,
                  "the prompt does not fit the context of " + std::to_string(n_ctx));
  }
  if (n_tokens == 0) return Status::ok();
  std::vector<bool> covered(n_tokens, false);
  for (const KvPiece& piece : pieces) {
    QUIRE_RETURN_IF_ERROR(check_piece(piece, n_tokens));
    for (uint32_t i = 0; i < piece.n_tokens; ++i) {
      if (covered[piece.position + i]) return invalid("two pieces cover one position");
      covered[piece.position + i] = true;
    }
  }
  for (const uint32_t row : skip_rows) {
    if (row >= n_tokens) return invalid("a row to skip lies behind the prompt");
    covered[row] = false;
  }
  blob->prepare(n_tokens);
  for (uint32_t i = 0; i < n_tokens; ++i) {
    if (!covered[i]) blob->zero_cell(i);
  }
  const uint64_t check_us = elapsed_us(start_ns);
  const uint64_t load_ns = system_clock().now_ns();
  QUIRE_RETURN_IF_ERROR(load_pieces(pieces, skip_rows));
  const uint64_t load_us = elapsed_us(load_ns);
  const uint64_t state_ns = system_clock().now_ns();
  const ByteSpan bytes = blob->bytes();
  llama_log_reset();
  const size_t taken = llama_state_seq_set_data(
      context, reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), kLiveSequence);
  if (taken != bytes.size()) {
    return fail(
        Status(StatusCode::kInternal, "libllama refused the composed state: " + llama_log_text()));
  }
  size = n_tokens;
  if (times != nullptr) *times = {check_us, load_us, elapsed_us(state_ns)};
  return Status::ok();
}

Status LlamaEngine::Impl::check_rows(std::span<const uint32_t> rows, size_t n_row_tokens) const {
  if (rows.size() != n_row_tokens) return invalid("one token id per row is needed");
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] >= size) return invalid("a row lies behind what was placed or prefilled");
    if (i > 0 && rows[i] <= rows[i - 1]) return invalid("rows must ascend");
  }
  return Status::ok();
}

Status LlamaEngine::Impl::recompute_one_pass(std::span<const uint32_t> rows,
                                             std::span<const TokenId> row_tokens, bool want_logits,
                                             uint32_t end) {
  // The batch shows the rows as a sequence of their own; the hooks put them where they belong.
  std::vector<DecodeToken> batch;
  batch.reserve(rows.size());
  for (uint32_t i = 0; i < rows.size(); ++i) {
    batch.push_back(
        {row_tokens[i], i, kScratchSequence, want_logits && size_t{i} + 1 == rows.size()});
  }
  hooks.end_behind(end);
  hooks.start_rows(rows, size);
  const Status ran = decode(batch);
  Status patched = hooks.stop();
  llama_memory_seq_rm(llama_get_memory(context), kScratchSequence, -1, -1);
  QUIRE_RETURN_IF_ERROR(ran);
  return patched;
}

Status LlamaEngine::Impl::recompute_in_sequence(std::span<const uint32_t> rows,
                                                std::span<const TokenId> row_tokens,
                                                bool want_logits, uint32_t end_layers) {
  llama_memory_t memory = llama_get_memory(context);
  std::vector<DecodeToken> batch;
  for (size_t begin = 0; begin < rows.size();) {
    size_t end = begin + 1;
    while (end < rows.size() && rows[end] == rows[end - 1] + 1) ++end;
    const auto first = static_cast<llama_pos>(rows[begin]);
    const auto last = static_cast<llama_pos>(rows[end - 1]) + 1;
    batch.clear();
    for (size_t i = begin; i < end; ++i) {
      batch.push_back(
          {row_tokens[i], rows[i], kScratchSequence, want_logits && i + 1 == rows.size()});
    }
    // The freed cells are the first free ones, so cell and position stay equal.
    llama_memory_seq_cp(memory, kLiveSequence, kScratchSequence, 0, first);
    llama_memory_seq_rm(memory, kLiveSequence, first, last);
    if (end_layers != 0) {
      hooks.end_behind(end_layers);
      hooks.start_plain();
    }
    const Status status = decode(batch);
    const Status ended = end_layers != 0 ? hooks.stop() : Status::ok();
    llama_memory_seq_cp(memory, kScratchSequence, kLiveSequence, first, last);
    llama_memory_seq_rm(memory, kScratchSequence, -1, -1);
    QUIRE_RETURN_IF_ERROR(status);
    QUIRE_RETURN_IF_ERROR(ended);
    begin = end;
  }
  return Status::ok();
}

Status LlamaEngine::place(uint32_t n_tokens, std::span<const KvPiece> pieces,
                          std::span<const uint32_t> skip_rows, PlaceTimes* times) {
  Status status = impl_->place(n_tokens, pieces, skip_rows, times);
  if (!status.is_ok()) impl_->clear(false);
  return status;
}

Status LlamaEngine::Impl::try_recompute(std::span<const uint32_t> rows,
                                        std::span<const TokenId> row_tokens, bool want_logits,
                                        uint32_t end) {
  Status status = sequential ? recompute_in_sequence(rows, row_tokens, want_logits, end)
                             : recompute_one_pass(rows, row_tokens, want_logits, end);
  if (!status.is_ok()) zero_cells(rows);
  return status;
}

Status LlamaEngine::Impl::recompute(std::span<const uint32_t> rows,
                                    std::span<const TokenId> row_tokens, bool want_logits,
                                    uint32_t n_layers, uint32_t* layers_run) {
  if (layers_run != nullptr) *layers_run = 0;
  QUIRE_RETURN_IF_ERROR(check_rows(rows, row_tokens.size()));
  QUIRE_RETURN_IF_ERROR(check_tokens(row_tokens));
  if (rows.empty()) return Status::ok();
  if (!sequential) QUIRE_RETURN_IF_ERROR(check_room(rows.size()));
  QUIRE_RETURN_IF_ERROR(run_to_depth(n_layers, layers_run, [&](uint32_t end) {
    return try_recompute(rows, row_tokens, want_logits, end);
  }));
  exact_tokens.clear();
  return Status::ok();
}

Status LlamaEngine::recompute(std::span<const uint32_t> rows, std::span<const TokenId> row_tokens,
                              bool want_logits) {
  return impl_->recompute(rows, row_tokens, want_logits, 0, nullptr);
}

}  // namespace quire
