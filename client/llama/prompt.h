// How a prompt over documents is laid out, shared by everything that stores or uses KV: what
// quire-warm stores must meet, token for token, what a later prompt contains.
//
//   system prefix | chunk | chunk | ... | question suffix
//
// System prefix: the chat template up to where the documents begin; the same for every prompt of a
// deployment, so its KV is exact (a contextual chunk at position 0) and chunks are computed behind
// it (fixed_prefix). Chunks: tokenised one by one, without BOS and without special tokens, so that
// a chunk's ids never depend on its neighbours. Question suffix: the question and the rest of the
// template.
#ifndef QUIRE_CLIENT_LLAMA_PROMPT_H_
#define QUIRE_CLIENT_LLAMA_PROMPT_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "client/llama/engine.h"

namespace quire {

inline constexpr std::string_view kDefaultSystemText =
    "You answer questions about the documents you are given. Answer briefly and only from the "
    "documents.";

// Never empty: models without BOS and template still get the system text.
Expected<std::vector<TokenId>> prompt_system_prefix(
    const LlamaEngine& engine, std::string_view system_text = kDefaultSystemText);
// Text of one chunk. Special tokens in it are plain text.
Expected<std::vector<TokenId>> prompt_chunk(const LlamaEngine& engine, std::string_view text);
Expected<std::vector<TokenId>> prompt_question_suffix(
    const LlamaEngine& engine, std::string_view question,
    std::string_view system_text = kDefaultSystemText);

// A whole prompt and its cuts.
struct ChunkedPrompt {
  std::vector<TokenId> tokens;
  uint32_t system_tokens = 0;
  std::vector<uint32_t>
      chunk_begins;  // ascending; chunk i ends where the next begins or the question does
  uint32_t question_begin = 0;
};
ChunkedPrompt join_prompt(const std::vector<TokenId>& system,
                          const std::vector<std::vector<TokenId>>& chunks,
                          const std::vector<TokenId>& question);

}  // namespace quire

#endif  // QUIRE_CLIENT_LLAMA_PROMPT_H_
