// What a codec does to a model's output: the whole context's KV is replaced by what a codec makes
// of it, slice by slice, and the tokens behind it are run again over that. Exact prefix: nothing
// else differs from full prefill.
#ifndef QUIRE_BENCH_CODEC_END_TO_END_H_
#define QUIRE_BENCH_CODEC_END_TO_END_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "client/llama/engine.h"
#include "client/reuse/salient.h"
#include "codecs/registry.h"

namespace quire::bench {

struct KlPrompt {
  std::string name;
  std::vector<TokenId> context;
  // Each is run behind the context; what is compared is the model's own greedy answer to it.
  std::vector<std::vector<TokenId>> questions;
  std::vector<TokenId> continuation;  // real text behind the context
};

struct KlOptions {
  std::vector<const CodecInfo*> codecs;
  PositionFrame frame = PositionFrame::kPreRope;
  uint32_t slice_tokens = 256;
  uint32_t answer_tokens_max = 8;
  // Of mixed codecs: the first tokens of a slice and those that the slice's own tokens attend to
  // most, as quire-warm chooses them.
  double salient_share = reuse::kSalientShareDefault;
};

// KL(full || codec) in nats over the compared positions of one prompt.
struct PromptDistance {
  double kl_sum = 0;
  uint32_t positions = 0;
  uint32_t agree = 0;     // positions whose best token is the same
  uint64_t bytes = 0;     // of all sections
  uint64_t elements = 0;  // of the context's KV
};

// One distance per codec of options.
Expected<std::vector<PromptDistance>> compare_prompt(LlamaEngine& engine, const KlPrompt& prompt,
                                                     const KlOptions& options);

struct KlSummary {
  double kl = 0;                   // mean over positions
  double kl_low = 0, kl_high = 0;  // 95 % bootstrap over prompts
  double top1 = 0;
  double bits_per_element = 0;
  uint32_t prompts = 0;
  uint32_t positions = 0;
};
// Draws whole prompts; the same seed gives the same interval.
KlSummary summarize(const std::vector<PromptDistance>& prompts, uint32_t seed);

}  // namespace quire::bench

#endif  // QUIRE_BENCH_CODEC_END_TO_END_H_
