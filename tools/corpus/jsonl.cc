#include "tools/corpus/jsonl.h"

#include <nlohmann/json.hpp>

#include "tools/corpus/encoding.h"

namespace quire::corpus {
namespace {

Status bad(std::string why) {
  return Status(StatusCode::kInvalidArgument, std::move(why));
}

}  // namespace

Expected<JsonlRecord> parse_jsonl_line(std::string_view line) {
  if (const uint64_t offset = first_invalid_utf8(line); offset != kNoInvalidByte)
    return bad("is not UTF-8 at byte " + std::to_string(offset) + " of the line");
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return bad("is not valid JSON");
  if (!json.is_object()) return bad("is not a JSON object; expected {\"id\": ..., \"text\": ...}");
  JsonlRecord record;
  const auto text = json.find("text");
  if (text == json.end() || !text->is_string()) return bad("has no \"text\" of type string");
  QUIRE_ASSIGN_OR_RETURN(record.text,
                         to_canonical_utf8(text->get_ref<const std::string&>(), "utf-8"));
  if (const auto id = json.find("id"); id != json.end() && !id->is_null()) {
    if (id->is_string()) {
      record.id = id->get_ref<const std::string&>();
    } else if (id->is_number_integer()) {
      record.id = id->dump();
    } else {
      return bad("has an \"id\" that is neither a string nor an integer");
    }
  }
  if (const auto title = json.find("title"); title != json.end() && title->is_string())
    record.title = title->get_ref<const std::string&>();
  return record;
}

}  // namespace quire::corpus
