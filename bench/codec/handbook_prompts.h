// Prompts of the end-to-end comparison over the Debian handbook.
#ifndef QUIRE_BENCH_CODEC_HANDBOOK_PROMPTS_H_
#define QUIRE_BENCH_CODEC_HANDBOOK_PROMPTS_H_

#include <string>
#include <vector>

#include "bench/answers/handbook.h"
#include "bench/codec/end_to_end.h"

namespace quire::bench {

struct HandbookPromptOptions {
  std::string questions_path;
  std::string documents = answers::kHandbookDirectory;
  uint32_t prompts_max = 8;
  uint32_t context_tokens = 1200;
  uint32_t chunk_tokens = 200;
  uint32_t questions_per_prompt = 3;  // at most
  uint32_t continuation_tokens = 32;
  uint32_t seed = 1;
};

// A context is the system prefix and chunks in an order of their own: those that hold the answers
// of some questions of one group, others of the same documents, and last a chunk whose text goes on
// for the continuation. The groups' questions are dealt to prompts in turn.
Expected<std::vector<KlPrompt>> handbook_prompts(const LlamaEngine& engine,
                                                 const HandbookPromptOptions& options);

}  // namespace quire::bench

#endif  // QUIRE_BENCH_CODEC_HANDBOOK_PROMPTS_H_
