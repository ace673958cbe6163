#include "tools/quire-ask/documents.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <map>
#include <optional>
#include <random>
#include <sstream>

#include "client/llama/prompt.h"
#include "tools/corpus/reader.h"
#include "tools/quire-warm/manifest.h"

namespace quire::ask {

namespace {

struct ChunkRange {
  uint64_t first = 0;
  uint64_t last = UINT64_MAX;
};

struct Wanted {
  std::string path;
  ChunkRange range;
};

std::optional<uint64_t> parse_number(std::string_view text) {
  uint64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) return std::nullopt;
  return value;
}

// "FILE", "FILE#3" or "FILE#2-5".
Wanted parse_wanted(const std::string& text) {
  const size_t hash = text.rfind('#');
  if (hash == std::string::npos) return {text, {}};
  const std::string_view range = std::string_view(text).substr(hash + 1);
  const size_t dash = range.find('-');
  const auto first = parse_number(range.substr(0, dash));
  const auto last = dash == std::string_view::npos ? first : parse_number(range.substr(dash + 1));
  if (!first || !last || *first > *last) return {text, {}};
  return {text.substr(0, hash), {*first, *last}};
}

Expected<warm::ManifestContents> read_manifest(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return Status(StatusCode::kIoError, "cannot read the manifest " + path);
  std::ostringstream text;
  text << in.rdbuf();
  return warm::parse_manifest(text.str());
}

// Documents of a manifest by their files, in its own order of paths.
std::vector<std::string> manifest_documents(const warm::ManifestContents& contents) {
  std::map<std::string, bool> paths;
  for (const auto& [key, chunk] : contents.chunks) {
    paths[chunk.document.substr(0, chunk.document.rfind('#'))] = true;
  }
  std::vector<std::string> result;
  for (const auto& [path, seen] : paths) result.push_back(path);
  return result;
}

class Loader {
 public:
  Loader(const LlamaEngine& engine, const corpus::ChunkOptions& chunking)
      : engine_(engine), chunking_(chunking) {}

  Status add(const Wanted& wanted) {
    const corpus::FileList list = corpus::list_files({wanted.path});
    if (!list.errors.empty()) return list.errors.front().status;
    if (list.files.empty()) return Status(StatusCode::kNotFound, "no document at " + wanted.path);
    for (const corpus::SourceFile& file : list.files) {
      Status status;
      corpus::read_documents(
          file,
          [&](const corpus::Document& document) {
            status = add_document(document, wanted.range);
            return status.is_ok();
          },
          [&](const corpus::SourceError& error) {
            status = Status(error.status.code(), error.to_string());
          });
      QUIRE_RETURN_IF_ERROR(status);
    }
    return Status::ok();
  }

  std::vector<PromptChunk> take() { return std::move(chunks_); }

 private:
  Status add_document(const corpus::Document& document, const ChunkRange& range) {
    Status counted;
    const auto count = [&](std::string_view text) -> uint64_t {
      const auto tokens = prompt_chunk(engine_, text);
      if (!tokens) counted = tokens.status();
      return tokens ? tokens->size() : 0;
    };
    QUIRE_ASSIGN_OR_RETURN(const std::vector<corpus::Chunk> cuts,
                           corpus::chunk_document(document, chunking_, count));
    QUIRE_RETURN_IF_ERROR(counted);
    for (const corpus::Chunk& cut : cuts) {
      if (cut.index < range.first || cut.index > range.last) continue;
      PromptChunk chunk{document.id, cut.index, {}};
      QUIRE_ASSIGN_OR_RETURN(chunk.tokens, prompt_chunk(engine_, cut.text(document)));
      if (!chunk.tokens.empty()) chunks_.push_back(std::move(chunk));
    }
    return Status::ok();
  }

  const LlamaEngine& engine_;
  corpus::ChunkOptions chunking_;
  std::vector<PromptChunk> chunks_;
};

void cut_to(std::vector<PromptChunk>& chunks, uint32_t tokens_max) {
  uint64_t tokens = 0;
  size_t keep = 0;
  while (keep < chunks.size() && tokens + chunks[keep].tokens.size() <= tokens_max) {
    tokens += chunks[keep++].tokens.size();
  }
  chunks.resize(keep);
}

}  // namespace

Expected<std::vector<PromptChunk>> load_chunks(const LlamaEngine& engine, const Options& options) {
  corpus::ChunkOptions chunking = options.chunking;
  std::vector<std::string> documents = options.documents;
  if (!options.manifest_path.empty()) {
    QUIRE_ASSIGN_OR_RETURN(const warm::ManifestContents contents,
                           read_manifest(options.manifest_path));
    if (contents.header.model != engine.model_id()) {
      return Status(StatusCode::kModelMismatch, "the manifest was made with another model (" +
                                                    contents.header.model_name + ")");
    }
    chunking.target_tokens = contents.header.chunk_tokens;
    chunking.overlap_tokens = contents.header.overlap_tokens;
    if (documents.empty()) documents = manifest_documents(contents);
  }
  QUIRE_RETURN_IF_ERROR(chunking.validate());
  Loader loader(engine, chunking);
  for (const std::string& document : documents) {
    QUIRE_RETURN_IF_ERROR(loader.add(parse_wanted(document)));
  }
  std::vector<PromptChunk> chunks = loader.take();
  if (options.context_tokens_max != 0) cut_to(chunks, options.context_tokens_max);
  if (options.shuffle_seed) {
    std::mt19937 random(*options.shuffle_seed);
    std::shuffle(chunks.begin(), chunks.end(), random);
  }
  if (chunks.empty()) return Status(StatusCode::kNotFound, "the documents have no text");
  return chunks;
}

}  // namespace quire::ask
