#include "bench/codec/end_to_end.h"

#include <algorithm>
#include <random>

#include "client/llama/answer.h"
#include "client/llama/kv_source.h"
#include "client/reuse/encode.h"

namespace quire::bench {
namespace {

constexpr uint32_t kBootstrapDraws = 10'000;
constexpr double kBootstrapTail = 0.025;

using LogitRows = std::vector<std::vector<float>>;

// Tokens behind the context; rows are compared from first_row on.
struct Tail {
  std::vector<TokenId> tokens;
  uint32_t first_row = 0;
  LogitRows full;
};

// The context's KV in every codec, encoded while the exact one lies in the engine.
struct Encoded {
  std::vector<std::vector<std::byte>> slices;
  std::vector<KvPiece> pieces;
  uint64_t section_bytes = 0;
};

Expected<LogitRows> tail_logits(LlamaEngine& engine, const Tail& tail, uint32_t n_context) {
  QUIRE_RETURN_IF_ERROR(engine.truncate(n_context));
  const std::span<const TokenId> tokens = tail.tokens;
  if (tail.first_row > 0) QUIRE_RETURN_IF_ERROR(engine.append(tokens.first(tail.first_row), false));
  return engine.force(tokens.subspan(tail.first_row));
}

// The question and the model's own answer to it; the answer's last token predicts nothing.
Expected<Tail> question_tail(LlamaEngine& engine, std::span<const TokenId> question,
                             const KlOptions& options, uint32_t n_context) {
  QUIRE_RETURN_IF_ERROR(engine.truncate(n_context));
  QUIRE_RETURN_IF_ERROR(engine.append(question, true));
  QUIRE_ASSIGN_OR_RETURN(const std::vector<TokenId> answer,
                         engine.generate(options.answer_tokens_max));
  Tail tail;
  tail.tokens.assign(question.begin(), question.end());
  if (answer.size() > 1) tail.tokens.insert(tail.tokens.end(), answer.begin(), answer.end() - 1);
  tail.first_row = static_cast<uint32_t>(question.size()) - 1;
  QUIRE_ASSIGN_OR_RETURN(tail.full, tail_logits(engine, tail, n_context));
  return tail;
}

Expected<std::vector<Tail>> full_tails(LlamaEngine& engine, const KlPrompt& prompt,
                                       const KlOptions& options) {
  const auto n_context = static_cast<uint32_t>(prompt.context.size());
  std::vector<Tail> tails;
  for (const std::vector<TokenId>& question : prompt.questions) {
    if (question.empty()) return Status(StatusCode::kInvalidArgument, "an empty question");
    QUIRE_ASSIGN_OR_RETURN(Tail tail, question_tail(engine, question, options, n_context));
    tails.push_back(std::move(tail));
  }
  if (prompt.continuation.empty()) return tails;
  Tail tail;
  tail.tokens = prompt.continuation;
  QUIRE_ASSIGN_OR_RETURN(tail.full, tail_logits(engine, tail, n_context));
  tails.push_back(std::move(tail));
  return tails;
}

// Runs the context slice by slice; with salient marks where a codec wants them.
Expected<std::vector<std::vector<uint8_t>>> run_context(LlamaEngine& engine,
                                                        std::span<const TokenId> context,
                                                        const KlOptions& options) {
  const bool mixed =
      std::any_of(options.codecs.begin(), options.codecs.end(),
                  [](const CodecInfo* codec) { return codec->element == ElementType::kMixed; });
  std::vector<std::vector<uint8_t>> salient;
  engine.clear();
  for (size_t begin = 0; begin < context.size(); begin += options.slice_tokens) {
    const size_t count = std::min<size_t>(options.slice_tokens, context.size() - begin);
    salient.emplace_back();
    if (!mixed) {
      QUIRE_RETURN_IF_ERROR(engine.append(context.subspan(begin, count), false));
      continue;
    }
    QUIRE_ASSIGN_OR_RETURN(
        const KvCapture capture,
        engine.capture_salient(context.first(begin), context.subspan(begin, count),
                               options.salient_share));
    salient.back() = capture.salient;
  }
  return salient;
}

Expected<Encoded> encode_context(LlamaEngine& engine, std::span<const TokenId> context,
                                 const std::vector<std::vector<uint8_t>>& salient,
                                 const CodecInfo& codec, const KlOptions& options) {
  Encoded encoded;
  const auto n_context = static_cast<uint32_t>(context.size());
  for (uint32_t begin = 0; begin < n_context; begin += options.slice_tokens) {
    const uint32_t count = std::min(options.slice_tokens, n_context - begin);
    QUIRE_ASSIGN_OR_RETURN(KvCapture capture, engine.view(begin, count));
    capture.salient = salient[begin / options.slice_tokens];
    RepresentationHeader header = capture_header(engine, capture, context.subspan(begin, count),
                                                 VariantContext::isolated(), codec.id, {});
    header.frame = options.frame;
    fill_ids(header, {});
    QUIRE_ASSIGN_OR_RETURN(std::vector<std::byte> bytes,
                           reuse::encode_to_memory(header, engine.descriptor(), capture.plane_of,
                                                   encode_options(capture)));
    QUIRE_ASSIGN_OR_RETURN(const RepresentationView view, RepresentationView::parse(bytes));
    for (const SectionEntry& section : view.sections()) encoded.section_bytes += section.bytes;
    encoded.slices.push_back(std::move(bytes));
    encoded.pieces.push_back({encoded.slices.back(), 0, count, begin});
  }
  return encoded;
}

uint64_t context_elements(const LlamaEngine& engine, uint64_t n_tokens) {
  uint64_t elements = 0;
  for (const LayerDescriptor& layer : engine.descriptor().layers)
    elements += uint64_t{layer.kv_heads} * (layer.key_dims + layer.value_dims);
  return elements * n_tokens;
}

double mean_of(const std::vector<PromptDistance>& prompts, const std::vector<size_t>& chosen) {
  double sum = 0;
  double positions = 0;
  for (const size_t i : chosen) {
    sum += prompts[i].kl_sum;
    positions += prompts[i].positions;
  }
  return positions > 0 ? sum / positions : 0;
}

}  // namespace

Expected<std::vector<PromptDistance>> compare_prompt(LlamaEngine& engine, const KlPrompt& prompt,
                                                     const KlOptions& options) {
  if (prompt.context.empty() || options.slice_tokens == 0)
    return Status(StatusCode::kInvalidArgument, "an empty context or slice");
  const auto n_context = static_cast<uint32_t>(prompt.context.size());
  QUIRE_ASSIGN_OR_RETURN(const auto salient, run_context(engine, prompt.context, options));
  std::vector<Encoded> encoded;
  for (const CodecInfo* codec : options.codecs) {
    QUIRE_ASSIGN_OR_RETURN(Encoded one,
                           encode_context(engine, prompt.context, salient, *codec, options));
    encoded.push_back(std::move(one));
  }
  QUIRE_ASSIGN_OR_RETURN(const std::vector<Tail> tails, full_tails(engine, prompt, options));
  std::vector<PromptDistance> distances;
  for (const Encoded& codec : encoded) {
    QUIRE_RETURN_IF_ERROR(engine.place(n_context, codec.pieces));
    PromptDistance distance;
    distance.bytes = codec.section_bytes;
    distance.elements = context_elements(engine, n_context);
    for (const Tail& tail : tails) {
      QUIRE_ASSIGN_OR_RETURN(const LogitRows rows, tail_logits(engine, tail, n_context));
      for (size_t i = 0; i < rows.size(); ++i) {
        distance.kl_sum += kl_divergence(tail.full[i], rows[i]);
        distance.agree += top_token(tail.full[i]) == top_token(rows[i]) ? 1 : 0;
        ++distance.positions;
      }
    }
    distances.push_back(distance);
  }
  return distances;
}

KlSummary summarize(const std::vector<PromptDistance>& prompts, uint32_t seed) {
  KlSummary summary;
  if (prompts.empty()) return summary;
  uint64_t bytes = 0;
  uint64_t elements = 0;
  double agree = 0;
  std::vector<size_t> chosen(prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i) {
    chosen[i] = i;
    summary.positions += prompts[i].positions;
    agree += prompts[i].agree;
    bytes += prompts[i].bytes;
    elements += prompts[i].elements;
  }
  summary.prompts = static_cast<uint32_t>(prompts.size());
  summary.kl = mean_of(prompts, chosen);
  summary.top1 = summary.positions > 0 ? agree / summary.positions : 0;
  summary.bits_per_element =
      elements > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(elements) : 0;
  std::mt19937 random(seed);
  std::vector<double> means(kBootstrapDraws);
  for (double& mean : means) {
    for (size_t& i : chosen) i = random() % prompts.size();
    mean = mean_of(prompts, chosen);
  }
  std::sort(means.begin(), means.end());
  const auto tail = static_cast<size_t>(kBootstrapTail * kBootstrapDraws);
  summary.kl_low = means[tail];
  summary.kl_high = means[kBootstrapDraws - 1 - tail];
  return summary;
}

}  // namespace quire::bench
