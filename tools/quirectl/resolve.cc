#include "tools/quirectl/resolve.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iostream>
#include <optional>

#include "base/hash.h"
#include "base/ids.h"
#include "tools/quirectl/format.h"

namespace quire::ctl {
namespace {

constexpr size_t kShownCandidatesMax = 5;
constexpr size_t kTokenFileBytesMax = size_t{16} << 20;  // 16 bytes for each of the most tokens

Status invalid(std::string message) {
  return {StatusCode::kInvalidArgument, std::move(message)};
}

bool is_hex(std::string_view text) {
  return text.find_first_not_of("0123456789abcdefABCDEF") == std::string_view::npos;
}

// The bytes of a full id, nothing for a shorter text.
std::optional<std::string> full_id(const std::string& text) {
  const auto digest = Digest::from_hex(text);
  if (!digest) return std::nullopt;
  return std::string(reinterpret_cast<const char*>(digest->bytes.data()), digest->bytes.size());
}

Status ambiguous(const std::string& text, const std::vector<std::string>& ids) {
  std::string message = "\"" + text + "\" fits several ids, give more digits:";
  for (size_t i = 0; i < std::min(ids.size(), kShownCandidatesMax); ++i)
    message += "\n  " + to_hex(ids[i]);
  if (ids.size() > kShownCandidatesMax) message += "\n  ...";
  return invalid(std::move(message));
}

Expected<pb::Tier> parse_tier(const std::string& text) {
  if (text.empty()) return pb::TIER_UNSPECIFIED;
  if (text == "gpu") return pb::TIER_GPU;
  if (text == "host") return pb::TIER_HOST;
  if (text == "nvme") return pb::TIER_NVME;
  if (text == "rocks") return pb::TIER_ROCKS;
  return invalid("\"" + text + "\" is not a tier: gpu, host, nvme or rocks");
}

Expected<std::string> read_limited(std::istream& stream, const std::string& name) {
  std::string text;
  char buffer[1 << 16];
  while (stream.read(buffer, sizeof(buffer)), stream.gcount() > 0) {
    text.append(buffer, static_cast<size_t>(stream.gcount()));
    if (text.size() > kTokenFileBytesMax) return invalid(name + ": more than 16 MiB of token ids");
  }
  return text;
}

}  // namespace

Status go_on(pb::ListRequest& request, const pb::ListResponse& page) {
  if (page.next_page_token() == request.page_token())
    return {StatusCode::kInternal, "the server's list does not advance"};
  request.set_page_token(page.next_page_token());
  return Status::ok();
}

Expected<std::string> resolve_object(ControlClient& client, const std::string& text) {
  if (auto id = full_id(text)) return *id;
  if (text.size() < kIdDigitsMin || text.size() > kIdDigits || !is_hex(text))
    return invalid("\"" + text + "\" is not an id: 64 hexadecimal digits, or the first 6 or more");
  pb::ListRequest request;
  request.set_id_prefix(text);
  std::vector<std::string> found;
  do {
    QUIRE_ASSIGN_OR_RETURN(const pb::ListResponse page, client.call(request));
    for (const pb::Object& object : page.objects()) found.push_back(object.representation());
    if (page.next_page_token().empty()) break;
    QUIRE_RETURN_IF_ERROR(go_on(request, page));
  } while (found.size() <= kShownCandidatesMax);
  if (found.empty()) return Status(StatusCode::kNotFound, "no object's id starts with " + text);
  if (found.size() > 1) return ambiguous(text, found);
  return found.front();
}

Expected<std::string> resolve_model(ControlClient& client, const std::string& text) {
  if (auto id = full_id(text)) return *id;
  QUIRE_ASSIGN_OR_RETURN(const pb::ListModelsResponse models, client.call(pb::ListModelsRequest()));
  std::string digits = text;
  std::transform(digits.begin(), digits.end(), digits.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const bool may_be_id = text.size() >= kIdDigitsMin && is_hex(text);
  std::vector<std::string> by_name;
  std::vector<std::string> by_id;
  for (const pb::Model& model : models.models()) {
    if (model.name() == text) by_name.push_back(model.model());
    if (may_be_id && to_hex(model.model()).starts_with(digits)) by_id.push_back(model.model());
  }
  const std::vector<std::string>& found = by_name.empty() ? by_id : by_name;
  if (found.empty())
    return Status(StatusCode::kNotFound,
                  "no registered model is called \"" + text + "\": see `quirectl models`");
  if (found.size() > 1) return ambiguous(text, found);
  return found.front();
}

namespace {

// A server that does not know scopes in filters would take everything else for what is wanted.
Status check_scope_known(ControlClient& client, const pb::ObjectFilter& filter) {
  pb::ListRequest request;
  *request.mutable_filter() = filter;
  request.set_limit(1);
  QUIRE_ASSIGN_OR_RETURN(const pb::ListResponse response, client.call(request));
  if (response.scope().empty())
    return {StatusCode::kUnsupported, "this server is too old to tell scopes apart"};
  return Status::ok();
}

}  // namespace

Expected<pb::ObjectFilter> resolve_filter(ControlClient& client, const FilterOptions& options) {
  pb::ObjectFilter filter;
  QUIRE_ASSIGN_OR_RETURN(const pb::Tier tier, parse_tier(options.tier));
  filter.set_tier(tier);
  if (options.tenant) filter.set_tenant(*options.tenant);
  if (options.scope) {
    filter.set_scope(*options.scope);
    QUIRE_RETURN_IF_ERROR(check_scope_known(client, filter));
  }
  if (!options.model.empty()) {
    QUIRE_ASSIGN_OR_RETURN(const std::string model, resolve_model(client, options.model));
    filter.set_model(model);
  }
  return filter;
}

Expected<std::vector<uint32_t>> parse_tokens(std::string_view text) {
  constexpr std::string_view kBetween = " \t\r\n,[]";
  std::vector<uint32_t> tokens;
  for (;;) {
    const size_t begin = text.find_first_not_of(kBetween);
    if (begin == std::string_view::npos) break;
    text.remove_prefix(begin);
    const size_t size = std::min(text.find_first_of(kBetween), text.size());
    uint32_t token = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + size, token);
    if (error != std::errc{} || end != text.data() + size)
      return invalid("token " + std::to_string(tokens.size()) +
                     ": not a number from 0 to 4294967295");
    if (tokens.size() == kPromptTokensMax)
      return invalid("more than " + std::to_string(kPromptTokensMax) + " tokens");
    tokens.push_back(token);
    text.remove_prefix(size);
  }
  if (tokens.empty()) return invalid("no token ids");
  return tokens;
}

Expected<std::vector<uint32_t>> read_tokens(const std::string& path) {
  std::string text;
  if (path == "-") {
    QUIRE_ASSIGN_OR_RETURN(text, read_limited(std::cin, "standard input"));
  } else {
    std::ifstream file(path, std::ios::binary);
    if (!file) return invalid("cannot read " + path);
    QUIRE_ASSIGN_OR_RETURN(text, read_limited(file, path));
  }
  auto tokens = parse_tokens(text);
  if (!tokens) return invalid(path + ": " + tokens.status().message());
  return tokens;
}

}  // namespace quire::ctl
