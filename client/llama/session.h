// Asking questions over chunks of text: the connector's whole path in one object. Chunks that are
// not stored are computed and stored on the way; then a question is answered under any row policy,
// and policies can be compared on one prompt.
#ifndef QUIRE_CLIENT_LLAMA_SESSION_H_
#define QUIRE_CLIENT_LLAMA_SESSION_H_

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "client/llama/answer.h"
#include "client/llama/engine.h"
#include "client/llama/kv_source.h"
#include "client/llama/prompt.h"
#include "client/reuse/policy.h"

namespace quire {

struct SessionOptions {
  std::string system_text = std::string(kDefaultSystemText);
  CodecId codec = CodecId::kInt8Channel;  // of chunks stored on the way; the prefix is always exact
  uint32_t answer_tokens_max = 48;
};

struct StoreSummary {
  uint32_t found = 0;      // chunks the store had
  uint32_t computed = 0;   // chunks captured and stored now
  uint32_t too_short = 0;  // below kMatchTokensMin: always computed with the prompt
  uint64_t computed_tokens = 0;
  uint64_t elapsed_us = 0;
};

// One answer under one policy.
struct PolicyRun {
  std::string policy;
  std::string answer;
  std::vector<TokenId> answer_tokens;
  std::vector<float> first_logits;
  AnswerStart start;
  uint32_t prompt_tokens = 0;
  uint32_t prefix_tokens = 0;  // loaded exactly
  uint32_t chunk_tokens = 0;   // loaded from elsewhere
  // Found in the store, but not to be had or not usable, so computed: how many could not be had,
  // and the first reason (or why the store could not look). kUnavailable: the server is gone;
  // answers go on without it, connect again.
  uint32_t lost_representations = 0;
  Status lost;
  double ttft_ms() const { return static_cast<double>(start.timeline.total_us) / 1000.0; }
};

// How far the rows of q are from p, position by position.
struct LogitDistance {
  double kl_first = 0;  // KL(p || q) of the first row, nats
  double kl_mean = 0;   // over all rows
  double top1 = 1;      // share of rows whose best token agrees
};
LogitDistance logit_distance(const std::vector<std::vector<float>>& p,
                             const std::vector<std::vector<float>>& q);

// Against full prefill of the same prompt.
struct Comparison {
  PolicyRun run;
  double speedup = 1;      // full prefill's time to first token / this one's
  LogitDistance distance;  // KL(full || policy) in nats, both forced along full prefill's answer
};

class LlamaSession {
 public:
  // Both outlive the session, which uses them from the calling thread.
  static Expected<LlamaSession> make(LlamaEngine& engine, KvSource& source,
                                     const SessionOptions& options);

  const std::vector<TokenId>& system_prefix() const { return system_; }
  Expected<std::vector<TokenId>> chunk(std::string_view text) const;
  // opening: first words of the answer, put into the assistant's mouth.
  Expected<ChunkedPrompt> prompt(const std::vector<std::vector<TokenId>>& chunks,
                                 std::string_view question, std::string_view opening = {}) const;

  // Sees to it that the system prefix and these chunks are stored: behind the system prefix, and
  // behind dummy tokens too where link0. on_chunk(done, all) may stop by returning false
  // (kCancelled).
  Expected<StoreSummary> store(const std::vector<std::vector<TokenId>>& chunks, bool link0,
                               const std::function<bool(uint32_t, uint32_t)>& on_chunk = {});

  // on_token as in LlamaEngine::generate().
  Expected<PolicyRun> ask(const ChunkedPrompt& prompt, const reuse::RowPolicy& policy,
                          const std::function<bool(TokenId)>& on_token = {});
  // Full prefill first, whether it is listed or not; results in the order of policies.
  Expected<std::vector<Comparison>> compare(
      const ChunkedPrompt& prompt, const std::vector<std::unique_ptr<reuse::RowPolicy>>& policies);

  // Logits before each token of `along`, forced behind the prompt of the run that was the last one.
  Expected<std::vector<std::vector<float>>> forced_logits(const PolicyRun& run,
                                                          const ChunkedPrompt& prompt,
                                                          std::span<const TokenId> along);

 private:
  LlamaSession(LlamaEngine& engine, KvSource& source, const SessionOptions& options)
      : engine_(&engine), source_(&source), options_(options) {}
  Expected<bool> is_stored(const std::vector<TokenId>& chunk, const VariantContext& context) const;
  VariantContext dummy_context() const;
  struct Loaded;
  Expected<Loaded> load(const ChunkedPrompt& prompt, const reuse::RowPolicy& policy,
                        bool from_store, AnswerTimeline& times);
  Expected<PolicyRun> start(const ChunkedPrompt& prompt, const reuse::RowPolicy& policy,
                            bool from_store);

  LlamaEngine* engine_;
  KvSource* source_;
  SessionOptions options_;
  std::vector<TokenId> system_;
  std::vector<TokenId> dummies_;
};

}  // namespace quire

#endif  // QUIRE_CLIENT_LLAMA_SESSION_H_
