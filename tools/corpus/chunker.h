// Cuts documents into chunks of about the same number of tokens. Deterministic: the same document,
// options and counter give the same chunks on every machine.
//
// A cut is made at the last paragraph end that fits the target; where the minimum would not be
// reached (an oversize paragraph), at the last sentence end, else line end, else word end, else
// between two code points. A heading is never the last paragraph of a chunk while there is another
// place to cut.
#ifndef QUIRE_TOOLS_CORPUS_CHUNKER_H_
#define QUIRE_TOOLS_CORPUS_CHUNKER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tools/corpus/document.h"

namespace quire::corpus {

// Tokens of a piece of text. Must be deterministic and need not be additive; an empty text has 0.
using TokenCounter = std::function<uint64_t(std::string_view text)>;

inline constexpr uint32_t kTargetTokensMin = 32;
inline constexpr uint32_t kTargetTokensMax = 1u << 16;
inline constexpr uint32_t kMinTokensDefaultDivisor = 4;

struct ChunkOptions {
  uint32_t target_tokens = 256;  // a chunk has at most these, its overlap not counted
  uint32_t min_tokens = 0;  // at least these; at most half the target. 0: a quarter of the target
  uint32_t overlap_tokens =
      0;  // at most these of the text before are repeated; up to half the target

  Status validate() const;
  uint32_t min_tokens_or_default() const {
    return min_tokens == 0 ? target_tokens / kMinTokensDefaultDivisor : min_tokens;
  }
};

struct Chunk {
  std::string id;           // 16 hex digits: SHA-256 over document id and chunk text, cut
  uint64_t index = 0;       // within the document
  uint64_t text_begin = 0;  // bytes of Document::text; the overlap begins here
  uint64_t begin = 0;  // where the chunk before ended: [begin, end) of all chunks tile the text
  uint64_t end = 0;
  uint64_t tokens = 0;  // of the whole chunk text, overlap included

  std::string_view text(const Document& document) const {
    return std::string_view(document.text).substr(text_begin, end - text_begin);
  }
};

// A document without paragraphs has no chunks; one with fewer tokens than the minimum has one
// chunk. kInvalidArgument for options that do not validate.
Expected<std::vector<Chunk>> chunk_document(const Document& document, const ChunkOptions& options,
                                            const TokenCounter& count_tokens);

// "<16 hex digits>": see docs/formats/manifest.md.
std::string chunk_id(std::string_view document_id, std::string_view chunk_text);

}  // namespace quire::corpus

#endif  // QUIRE_TOOLS_CORPUS_CHUNKER_H_
