#include "client/llama/prompt.h"

namespace quire {

namespace {

// Stands for the documents and the question while the chat template is applied.
constexpr std::string_view kDocumentsMark = "\x01quire-documents\x01";

struct Frame {
  std::string head;  // up to the documents
  std::string tail;  // behind the question
};

Expected<Frame> prompt_frame(const LlamaEngine& engine, std::string_view system_text) {
  auto text = engine.apply_chat_template(system_text, kDocumentsMark);
  if (!text) {
    if (text.status().code() != StatusCode::kNotFound) return text.status();
    return Frame{std::string(system_text) + "\n\n", "\nAnswer:"};
  }
  const size_t at = text->find(kDocumentsMark);
  if (at == std::string::npos) {
    return Status(StatusCode::kUnsupported, "the chat template drops the user's message");
  }
  return Frame{text->substr(0, at), text->substr(at + kDocumentsMark.size())};
}

}  // namespace

Expected<std::vector<TokenId>> prompt_system_prefix(const LlamaEngine& engine,
                                                    std::string_view system_text) {
  QUIRE_ASSIGN_OR_RETURN(const Frame frame, prompt_frame(engine, system_text));
  return engine.tokenize(frame.head, true, true);
}

Expected<std::vector<TokenId>> prompt_chunk(const LlamaEngine& engine, std::string_view text) {
  return engine.tokenize(text, false, false);
}

Expected<std::vector<TokenId>> prompt_question_suffix(const LlamaEngine& engine,
                                                      std::string_view question,
                                                      std::string_view system_text) {
  QUIRE_ASSIGN_OR_RETURN(const Frame frame, prompt_frame(engine, system_text));
  // Only the template's own text may hold special tokens.
  QUIRE_ASSIGN_OR_RETURN(std::vector<TokenId> tokens,
                         engine.tokenize("\nQuestion: " + std::string(question), false, false));
  QUIRE_ASSIGN_OR_RETURN(const std::vector<TokenId> tail, engine.tokenize(frame.tail, false, true));
  tokens.insert(tokens.end(), tail.begin(), tail.end());
  return tokens;
}

ChunkedPrompt join_prompt(const std::vector<TokenId>& system,
                          const std::vector<std::vector<TokenId>>& chunks,
                          const std::vector<TokenId>& question) {
  ChunkedPrompt prompt;
  prompt.tokens = system;
  prompt.system_tokens = static_cast<uint32_t>(system.size());
  for (const std::vector<TokenId>& chunk : chunks) {
    prompt.chunk_begins.push_back(static_cast<uint32_t>(prompt.tokens.size()));
    prompt.tokens.insert(prompt.tokens.end(), chunk.begin(), chunk.end());
  }
  prompt.question_begin = static_cast<uint32_t>(prompt.tokens.size());
  prompt.tokens.insert(prompt.tokens.end(), question.begin(), question.end());
  return prompt;
}

}  // namespace quire
