#include "bench/answers/handbook.h"

#include <algorithm>
#include <cctype>
#include <fstream>
#include <nlohmann/json.hpp>

#include "client/llama/prompt.h"
#include "tools/corpus/chunker.h"
#include "tools/corpus/reader.h"

namespace quire::answers {

Expected<std::vector<Group>> read_questions(const std::string& path) {
  std::ifstream in(path);
  if (!in) return Status(StatusCode::kIoError, "cannot read " + path);
  try {
    const auto json = nlohmann::json::parse(in);
    std::vector<Group> groups;
    for (const auto& group : json.at("groups")) {
      Group& out = groups.emplace_back();
      out.name = group.at("name");
      for (const auto& q : group.at("questions")) {
        out.questions.push_back({q.at("id"), q.at("document"), q.at("evidence"), q.at("question"),
                                 q.at("opening"), q.at("answers")});
      }
    }
    return groups;
  } catch (const nlohmann::json::exception& exception) {
    return Status(StatusCode::kInvalidArgument, path + ": " + exception.what());
  }
}

std::string squeeze(std::string_view text) {
  std::string result;
  for (const char c : text) {
    const bool blank = std::isspace(static_cast<unsigned char>(c)) != 0;
    if (blank && (result.empty() || result.back() == ' ')) continue;
    result += blank ? ' ' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return result;
}

Expected<const std::vector<TextChunk>*> Corpus::chunks(const std::string& document) {
  std::vector<TextChunk>& held = chunks_[document];
  if (held.empty()) QUIRE_RETURN_IF_ERROR(cut(document, held));
  return &held;
}

Expected<const TextChunk*> Corpus::find_evidence(const Question& question) {
  QUIRE_ASSIGN_OR_RETURN(const auto* chunks, this->chunks(question.document));
  const std::string wanted = squeeze(question.evidence);
  for (const TextChunk& chunk : *chunks)
    if (squeeze(chunk.text).find(wanted) != std::string::npos) return &chunk;
  return Status(StatusCode::kNotFound,
                "no chunk of " + question.document + " contains \"" + question.evidence + "\"");
}

Status Corpus::cut(const std::string& document, std::vector<TextChunk>& held) {
  const corpus::FileList list = corpus::list_files({directory_ + "/" + document});
  if (list.files.empty())
    return {StatusCode::kNotFound,
            document + " is not in " + directory_ + " (package debian-handbook)"};
  corpus::ChunkOptions chunking;
  chunking.target_tokens = chunk_tokens_;
  const auto count = [&](std::string_view text) -> uint64_t {
    const auto tokens = prompt_chunk(engine_, text);
    return tokens ? tokens->size() : 0;
  };
  const auto cut_document = [&](const corpus::Document& read) -> Status {
    QUIRE_ASSIGN_OR_RETURN(const auto cuts, corpus::chunk_document(read, chunking, count));
    for (const corpus::Chunk& c : cuts) {
      TextChunk chunk{document, std::string(c.text(read)), {}};
      QUIRE_ASSIGN_OR_RETURN(chunk.tokens, prompt_chunk(engine_, chunk.text));
      if (chunk.tokens.size() >= kMatchTokensMin) held.push_back(std::move(chunk));
    }
    return Status::ok();
  };
  Status status;
  corpus::read_documents(
      list.files.front(),
      [&](const corpus::Document& read) {
        status = cut_document(read);
        return status.is_ok();
      },
      [&](const corpus::SourceError& error) { status = error.status; });
  return status;
}

}  // namespace quire::answers
