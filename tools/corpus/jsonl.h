// Lines of JSONL: {"id": "...", "text": "...", "title": "..."}; id (text or integer) and title
// optional.
#ifndef QUIRE_TOOLS_CORPUS_JSONL_H_
#define QUIRE_TOOLS_CORPUS_JSONL_H_

#include <string>
#include <string_view>

#include "base/status.h"

namespace quire::corpus {

struct JsonlRecord {
  std::string id;  // empty where the line has none
  std::string title;
  std::string text;  // canonical (encoding.h)
};

// kInvalidArgument, with the reason, for a line that is not such an object. Thread safe.
Expected<JsonlRecord> parse_jsonl_line(std::string_view line);

}  // namespace quire::corpus

#endif  // QUIRE_TOOLS_CORPUS_JSONL_H_
