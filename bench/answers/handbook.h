// Questions with checkable answers over documents, and the documents' chunks as a model sees them.
#ifndef QUIRE_BENCH_ANSWERS_HANDBOOK_H_
#define QUIRE_BENCH_ANSWERS_HANDBOOK_H_

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "client/llama/engine.h"

namespace quire::answers {

inline constexpr const char* kHandbookDirectory = "/usr/share/doc/debian-handbook/html/en-US";

struct Question {
  std::string id, document, evidence, text, opening;
  std::vector<std::string> answers;
};

struct Group {
  std::string name;
  std::vector<Question> questions;
};

// questions.json. kIoError, kInvalidArgument.
Expected<std::vector<Group>> read_questions(const std::string& path);

// Lower case, runs of blanks made one.
std::string squeeze(std::string_view text);

struct TextChunk {
  std::string document, text;
  std::vector<TokenId> tokens;
};

// Chunks of the documents of a folder, cut on first use. The engine outlives it; pointers stay
// valid.
class Corpus {
 public:
  Corpus(const LlamaEngine& engine, std::string directory, uint32_t chunk_tokens)
      : engine_(engine), directory_(std::move(directory)), chunk_tokens_(chunk_tokens) {}

  // In the order of the text. kNotFound: no such document.
  Expected<const std::vector<TextChunk>*> chunks(const std::string& document);
  // The chunk that holds the question's answer. kNotFound.
  Expected<const TextChunk*> find_evidence(const Question& question);

 private:
  Status cut(const std::string& document, std::vector<TextChunk>& held);

  const LlamaEngine& engine_;
  std::string directory_;
  uint32_t chunk_tokens_;
  std::map<std::string, std::vector<TextChunk>> chunks_;
};

}  // namespace quire::answers

#endif  // QUIRE_BENCH_ANSWERS_HANDBOOK_H_
