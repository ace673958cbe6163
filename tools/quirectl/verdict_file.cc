#include "tools/quirectl/verdict_file.h"

#include <algorithm>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

#include "base/hash.h"

namespace quire::ctl {
namespace {

using Json = nlohmann::json;

constexpr const char* kFields[] = {"model", "chunks",  "reason",           "policy", "budget",
                                   "codec", "figures", "measured_wall_ms", "tool"};

Status invalid(const std::string& what) {
  return {StatusCode::kInvalidArgument, "verdict: " + what};
}

// Refuses what a parser would otherwise decide in silence: a field given twice.
Expected<Json> parse_object(std::string_view text) {
  std::vector<std::set<std::string>> keys;
  std::string twice;
  const auto watch = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key &&
        !keys.back().insert(parsed.get_ref<const std::string&>()).second)
      twice = parsed.get_ref<const std::string&>();
    return true;
  };
  Json json = Json::parse(text, watch, /*allow_exceptions=*/false);
  if (json.is_discarded() || !json.is_object()) return invalid("not a JSON object");
  if (!twice.empty()) return invalid("\"" + twice + "\" is given twice");
  for (const char* field : kFields)
    if (!json.contains(field)) return invalid("\"" + std::string(field) + "\" is missing");
  if (json.size() != std::size(kFields)) {
    for (const auto& [key, value] : json.items())
      if (std::find(std::begin(kFields), std::end(kFields), key) == std::end(kFields))
        return invalid("\"" + key + "\" is unknown");
  }
  return json;
}

}  // namespace

Expected<pb::SetVerdictRequest> parse_verdict(std::string_view text) {
  if (text.size() > kVerdictFileBytesMax) return invalid("more than 64 KiB");
  QUIRE_ASSIGN_OR_RETURN(const Json json, parse_object(text));
  for (const char* field : {"model", "reason", "policy", "codec", "tool"})
    if (!json[field].is_string()) return invalid("\"" + std::string(field) + "\" is not a text");
  if (!json["chunks"].is_boolean()) return invalid("\"chunks\" is neither true nor false");
  if (!json["budget"].is_number()) return invalid("\"budget\" is not a number");
  if (!json["measured_wall_ms"].is_number_unsigned())
    return invalid("\"measured_wall_ms\" is not a whole number");
  if (!json["figures"].is_object()) return invalid("\"figures\" is not an object of numbers");
  const auto model = Digest::from_hex(json["model"].get_ref<const std::string&>());
  if (!model) return invalid("\"model\" is not a model id of 64 hexadecimal digits");

  pb::SetVerdictRequest request;
  request.set_model(std::string(model->bytes.begin(), model->bytes.end()));
  pb::Verdict& verdict = *request.mutable_verdict();
  verdict.set_chunks(json["chunks"].get<bool>());
  verdict.set_reason(json["reason"].get<std::string>());
  verdict.set_policy(json["policy"].get<std::string>());
  verdict.set_budget(json["budget"].get<double>());
  verdict.set_codec(json["codec"].get<std::string>());
  verdict.set_measured_wall_ms(json["measured_wall_ms"].get<uint64_t>());
  verdict.set_tool(json["tool"].get<std::string>());
  for (const auto& [name, value] : json["figures"].items()) {
    if (!value.is_number()) return invalid("figure \"" + name + "\" is not a number");
    (*verdict.mutable_figures())[name] = value.get<double>();
  }
  return request;
}

Expected<pb::SetVerdictRequest> read_verdict(const std::string& path) {
  std::ifstream file;
  if (path != "-") {
    file.open(path, std::ios::binary);
    if (!file) return Status(StatusCode::kInvalidArgument, "cannot read " + path);
  }
  std::istream& in = path == "-" ? std::cin : file;
  std::string text(kVerdictFileBytesMax + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  return parse_verdict(text);
}

}  // namespace quire::ctl
