// From a plan and the bytes it names to the first token's logits: load, look (where the policy asks
// for the question's attention), select rows, recompute them with the fresh tokens in one pass.
#ifndef QUIRE_CLIENT_LLAMA_ANSWER_H_
#define QUIRE_CLIENT_LLAMA_ANSWER_H_

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/ids.h"
#include "base/status.h"
#include "client/llama/engine.h"
#include "client/reuse/plan.h"
#include "client/reuse/policy.h"

namespace quire {

// Microseconds of each phase; phases a policy does not have stay 0.
struct AnswerTimeline {
  uint64_t resolve_us = 0;
  uint64_t acquire_us = 0;
  uint64_t load_us = 0;       // verify, decode, rotate, hand over to libllama
  uint64_t question_us = 0;   // the question over the reused KV, for its attention
  uint64_t recompute_us = 0;  // selected rows, gaps and fresh tokens; all tokens in a full prefill
  uint64_t total_us = 0;      // resolve to first token
};

struct AnswerInput {
  std::span<const TokenId> tokens;  // the whole prompt
  const reuse::Plan* plan = nullptr;
  // One per segment of the plan: the representation's bytes, readable during the call; empty for
  // fresh segments.
  std::span<const ByteSpan> representations;
  const reuse::RowPolicy* policy = nullptr;
  // Where the question begins: only its attention guides a policy, not that of documents before it
  // which are fresh too. 0: the plan's trailing fresh tokens are the question.
  uint32_t question_begin = 0;
  // Asked once, behind the last read of the representations and before anything is computed: not OK
  // where they cannot be trusted. May be empty.
  std::function<Status()> check_bytes;
};

struct AnswerStart {
  std::vector<uint32_t> rows;      // recomputed tokens of reused segments
  std::vector<float> column_mass;  // per prompt token; empty unless the policy asked for it
  double charged_budget = 0;       // reuse::charged_budget of rows
  // What the question's first pass cost beyond that, as reuse::question_charge has it; 0: none ran.
  // More than the policy meant to pay where the engine cannot end a pass early: what was computed
  // counts.
  double question_charge = 0;
  uint32_t question_layers = 0;  // below which attention was looked at
  uint32_t loaded_tokens = 0;
  AnswerTimeline timeline;  // load_us, question_us, recompute_us
};

// Leaves the engine with the whole prompt as its live sequence and the last token's logits: ask
// engine.logits(), then generate() or force(). Errors: kInvalidArgument (plan, tokens and bytes
// that do not fit each other), and those of LlamaEngine, of the policy and of check_bytes; the
// engine is empty then.
Expected<AnswerStart> start_answer(LlamaEngine& engine, const AnswerInput& input);

// sum p ln(p / q) of the softmaxes of two logit rows, in nats; NaN where a logit is.
double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits);
TokenId top_token(std::span<const float> logits);

}  // namespace quire

#endif  // QUIRE_CLIENT_LLAMA_ANSWER_H_
