#include "bench/quire-bench/trace.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <unordered_set>

namespace quire::bench {
namespace {

constexpr const char* kTraceName = "mooncake_conversation.jsonl";
constexpr const char* kHowToGetOne =
    "give --trace FILE, set QUIRE_TRACES to a file or a folder with "
    "mooncake_conversation.jsonl (it is FAST25-release/traces/conversation_trace.jsonl of "
    "github.com/kvcache-ai/Mooncake), or try --synthetic 1";

Status bad_line(uint64_t line, const std::string& what) {
  return Status(StatusCode::kInvalidArgument, "trace line " + std::to_string(line) + ": " + what);
}

// A line without its end; false at the end of the stream. Stops reading past the limit.
bool read_line(std::istream& in, std::string& line) {
  line.clear();
  for (int c = in.get(); c != std::istream::traits_type::eof(); c = in.get()) {
    if (c == '\n') return true;
    line.push_back(static_cast<char>(c));
    if (line.size() > kTraceLineBytesMax) return true;
  }
  return !line.empty();
}

std::optional<uint64_t> unsigned_field(const nlohmann::json& object, const char* name) {
  const auto found = object.find(name);
  if (found == object.end() || !found->is_number_unsigned()) return std::nullopt;
  return found->get<uint64_t>();
}

Expected<TraceRequest> parse_request(const std::string& text, uint64_t line) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded() || !json.is_object()) return bad_line(line, "not a JSON object");
  TraceRequest request;
  const auto timestamp = unsigned_field(json, "timestamp");
  if (!timestamp) return bad_line(line, "timestamp is not an unsigned number");
  const auto input = unsigned_field(json, "input_length");
  if (!input) return bad_line(line, "input_length is not an unsigned number");
  request.timestamp_ms = *timestamp;
  request.input_tokens = *input;
  const auto ids = json.find("hash_ids");
  if (ids == json.end() || !ids->is_array()) return bad_line(line, "hash_ids is not an array");
  request.blocks.reserve(ids->size());
  for (const auto& id : *ids) {
    if (!id.is_number_unsigned()) return bad_line(line, "an id in hash_ids is not unsigned");
    request.blocks.push_back(id.get<uint64_t>());
  }
  const uint64_t full = *input / kTraceBlockTokens;
  if (request.blocks.size() != full + (*input % kTraceBlockTokens != 0))
    return bad_line(line, "hash_ids has " + std::to_string(request.blocks.size()) +
                              " blocks, which does not fit input_length " + std::to_string(*input));
  std::vector<uint64_t> sorted = request.blocks;
  std::ranges::sort(sorted);
  if (std::ranges::adjacent_find(sorted) != sorted.end())
    return bad_line(line, "an id comes twice in hash_ids");
  return request;
}

// splitmix64: the same on every machine, unlike the standard distributions.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  // 0 .. limit - 1.
  uint64_t below(uint64_t limit) { return next() % limit; }
  // Geometric with this mean, at least 1.
  uint64_t around(uint64_t mean) {
    uint64_t value = 1;
    while (value < 16 * mean && below(mean) != 0) ++value;
    return value;
  }

 private:
  uint64_t state_;
};

void append_new_blocks(std::vector<uint64_t>& blocks, uint64_t count, uint64_t& next_id) {
  for (uint64_t i = 0; i < count; ++i) blocks.push_back(next_id++);
}

void count_blocks(Trace& trace) {
  std::unordered_set<uint64_t> unique;
  trace.blocks = 0;
  for (const TraceRequest& request : trace.requests) {
    trace.blocks += request.blocks.size();
    unique.insert(request.blocks.begin(), request.blocks.end());
  }
  trace.unique_blocks = unique.size();
}

}  // namespace

uint64_t TraceRequest::block_tokens(uint64_t i) const {
  return i + 1 < blocks.size() ? kTraceBlockTokens : input_tokens - i * kTraceBlockTokens;
}

Expected<Trace> read_trace(std::istream& in) {
  Trace trace;
  std::string text;
  for (uint64_t line = 1; read_line(in, text); ++line) {
    if (text.size() > kTraceLineBytesMax)
      return bad_line(line, "longer than " + std::to_string(kTraceLineBytesMax) + " bytes");
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    auto request = parse_request(text, line);
    if (!request) return request.status();
    trace.blocks += request->blocks.size();
    if (trace.requests.size() == kTraceRequestsMax || trace.blocks > kTraceBlocksMax)
      return bad_line(line, "more than " + std::to_string(kTraceRequestsMax) + " requests or " +
                                std::to_string(kTraceBlocksMax) + " blocks");
    trace.requests.push_back(std::move(*request));
  }
  if (in.bad()) return Status(StatusCode::kIoError, "cannot read the trace");
  count_blocks(trace);
  if (trace.blocks == 0)
    return Status(StatusCode::kInvalidArgument, "the trace has no request with a block");
  return trace;
}

Expected<Trace> read_trace_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return Status(StatusCode::kNotFound, "cannot open the trace " + path);
  auto trace = read_trace(in);
  if (!trace) return Status(trace.status().code(), path + ": " + trace.status().message());
  return trace;
}

Expected<std::string> find_trace(const std::string& from) {
  namespace fs = std::filesystem;
  std::error_code error;
  std::vector<fs::path> places;
  if (const char* traces = std::getenv("QUIRE_TRACES"); traces != nullptr && *traces != '\0') {
    places = {fs::path(traces) / kTraceName, fs::path(traces)};
  } else {
    fs::path below = from.empty() ? fs::current_path(error) : fs::path(from);
    places = {below / "../shared/traces" / kTraceName, below / "shared/traces" / kTraceName};
  }
  for (const fs::path& place : places)
    if (fs::is_regular_file(place, error)) return place.string();
  return Status(StatusCode::kNotFound, std::string("no trace here: ") + kHowToGetOne);
}

Expected<Trace> load_trace(const TraceOptions& options) {
  if (options.synthetic_seed)
    return synthetic_trace(*options.synthetic_seed, options.synthetic_requests);
  std::string path = options.path;
  if (path.empty()) {
    QUIRE_ASSIGN_OR_RETURN(path, find_trace(""));
  }
  return read_trace_file(path);
}

Trace synthetic_trace(uint64_t seed, uint64_t requests) {
  constexpr uint64_t kSystemPrompts = 12;
  constexpr uint64_t kChatsMax = 400;  // that may come back
  Random random(seed);
  uint64_t next_id = 0;
  std::vector<std::vector<uint64_t>> system_prompts(kSystemPrompts);
  for (auto& prompt : system_prompts) append_new_blocks(prompt, random.around(3), next_id);
  std::vector<std::vector<uint64_t>> chats;
  Trace trace;
  for (uint64_t i = 0; i < requests; ++i) {
    TraceRequest request;
    request.timestamp_ms = i * 300;
    const uint64_t dice = random.below(10);
    if (dice < 5 && !chats.empty()) {
      // The newest chats come back most; some stop with each turn.
      const uint64_t back = std::min<uint64_t>(chats.size(), random.around(60));
      const uint64_t chat = chats.size() - back;
      append_new_blocks(chats[chat], random.around(3), next_id);
      request.blocks = chats[chat];
      std::rotate(chats.begin() + static_cast<int64_t>(chat),
                  chats.begin() + static_cast<int64_t>(chat) + 1, chats.end());
      if (random.below(4) == 0) chats.pop_back();
    } else {
      // Low numbers are the popular ones.
      const uint64_t system = std::min(random.below(kSystemPrompts), random.below(kSystemPrompts));
      request.blocks = system_prompts[system];
      append_new_blocks(request.blocks, random.around(12), next_id);
      if (dice < 8) chats.push_back(request.blocks);
      if (chats.size() > kChatsMax) chats.erase(chats.begin());
    }
    request.input_tokens =
        (request.blocks.size() - 1) * kTraceBlockTokens + 1 + random.below(kTraceBlockTokens);
    trace.requests.push_back(std::move(request));
  }
  count_blocks(trace);
  return trace;
}

}  // namespace quire::bench
