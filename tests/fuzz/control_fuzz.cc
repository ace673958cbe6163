// Requests of the gRPC control API: the first byte chooses the message, the rest is its protobuf.
// Whatever a client sends, what goes on to the store keeps the limits that admin.h and messages.h
// name, and whatever text the store answers with, protobuf can carry it.
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <array>
#include <initializer_list>

#include "server/control/messages.h"
#include "tests/fuzz/fuzz_target.h"

namespace {

using quire::Digest;
using quire::StatusCode;
using quire::fuzz::expect;
namespace pb = quire::server::pb;
namespace server = quire::server;

// True where the part was accepted.
template <typename T>
bool accepted(const quire::Expected<T>& part) {
  if (part.is_ok()) return true;
  expect(part.status().code() == StatusCode::kInvalidArgument, "a bad request is a bad argument");
  expect(!part.status().message().empty(), "a refusal says why");
  return false;
}

bool within(const std::string& text, size_t bytes_max) {
  return text.size() <= bytes_max;
}

// What was filled goes over the wire and comes back: proto3 refuses text that is not UTF-8.
template <typename Message>
void check_sent(const Message& message) {
  std::string bytes;
  expect(message.SerializeToString(&bytes), "a reply can be sent");
  Message received;
  expect(received.ParseFromString(bytes), "a reply can be read");
}

bool check_filter(const pb::ObjectFilter& filter) {
  const auto parsed = server::parse_filter(filter);
  if (!accepted(parsed)) return false;
  expect(!parsed->scope || parsed->tenant, "a scope is a tenant's");
  expect(!parsed->tenant || within(*parsed->tenant, quire::wire::kNameBytesMax - 1),
         "tenants have short names");
  expect(!parsed->scope || within(*parsed->scope, quire::wire::kScopeLabelBytesMax),
         "labels are short");
  return true;
}

// All of them are looked at, whatever comes of the first.
bool all_of(std::initializer_list<bool> parts) {
  return std::ranges::all_of(parts, [](bool part) { return part; });
}

bool check(const pb::LookupRequest& request) {
  const auto tokens = server::parse_tokens(request);
  expect(!tokens.is_ok() || (!tokens->empty() && tokens->size() <= quire::kPromptTokensMax),
         "prompts have a limit");
  return all_of({accepted(server::parse_id(request.model(), "model")), accepted(tokens),
                 accepted(server::parse_tenant(request.tenant())),
                 accepted(server::parse_scope(request.scope()))});
}

bool check(const pb::ListRequest& request) {
  const auto range = server::parse_id_prefix(request.id_prefix());
  if (accepted(range)) {
    expect(range->first <= range->last, "a range of ids is not empty");
    expect(range->contains(range->first) && range->contains(range->last), "with both its ends");
  }
  return all_of({range.is_ok(), check_filter(request.filter())});
}

bool check(const pb::ClearRequest& request) {
  return check_filter(request.filter());
}

bool check(const pb::PrefetchRequest& request) {
  const auto ids = server::parse_prefetch_ids(request);
  expect(!ids.is_ok() || (!ids->empty() && ids->size() <= server::kPrefetchIdsMax),
         "a prefetch has a limit");
  return accepted(ids);
}

bool check(const pb::HintRequest& request) {
  const auto ids = server::parse_hint_ids(request);
  expect(!ids.is_ok() || (!ids->empty() && ids->size() <= server::kHintIdsMax),
         "a hint has a limit");
  const auto hint = server::parse_hint(request);
  if (accepted(hint)) {
    expect(hint->finished || hint->priority || hint->next_use_ms || hint->steps_to_next_use,
           "a hint says something");
    expect(!hint->next_use_ms || *hint->next_use_ms <= server::kNextUseMsMax,
           "times cannot overflow");
  }
  return all_of({accepted(ids), hint.is_ok()});
}

bool check(const pb::SetVerdictRequest& request) {
  const server::Verdict verdict = server::parse_verdict(request.verdict());
  pb::Verdict sent;
  server::fill(verdict, sent);
  check_sent(sent);
  if (!verdict.validate().is_ok()) return false;
  const auto kept = server::Verdict::parse(verdict.encode());
  expect(kept.is_ok() && *kept == verdict, "a valid verdict survives being kept");
  return accepted(server::parse_id(request.model(), "model"));
}

bool check(const pb::SetQuotaRequest& request) {
  return accepted(server::parse_tenant(request.tenant())) &&
         server::check_quota(request.soft_bytes(), request.hard_bytes()).is_ok();
}

bool check(const pb::CheckpointRequest& request) {
  const auto directory = server::parse_directory(request.directory(), "directory");
  if (!accepted(directory)) return false;
  expect(within(*directory, server::kPathBytesMax) && directory->front() == '/' &&
             directory->find("/../") == std::string::npos && !directory->ends_with("/.."),
         "a directory is what it looks like");
  return true;
}

bool check(const pb::RegisterModelRequest& request) {
  server::ModelInfo info;
  info.name = request.name();
  pb::Model sent;
  server::fill(info, sent);
  check_sent(sent);
  return quire::ModelDescriptor::parse(std::as_bytes(std::span(request.model_descriptor())))
      .is_ok();
}

// Names of tenants and files, and errors, reach replies as any bytes.
bool check_reply_text(quire::ByteSpan input) {
  server::ServerStats stats;
  stats.degraded = {quire::fuzz::text_of(input)};
  stats.tiers.emplace_back().state = stats.degraded[0];
  pb::StatsResponse sent;
  server::fill(stats, sent);
  check_sent(sent);
  expect(server::printable_text(sent.degraded(0)) == sent.degraded(0), "printable stays printable");
  return true;
}

template <typename Request>
bool check_request(quire::ByteSpan input) {
  Request request;
  if (!request.ParseFromArray(input.data(), static_cast<int>(input.size()))) return false;
  return check(request);
}

constexpr std::array kChecks = {
    check_request<pb::LookupRequest>,        check_request<pb::ListRequest>,
    check_request<pb::ClearRequest>,         check_request<pb::PrefetchRequest>,
    check_request<pb::HintRequest>,          check_request<pb::SetVerdictRequest>,
    check_request<pb::SetQuotaRequest>,      check_request<pb::CheckpointRequest>,
    check_request<pb::RegisterModelRequest>, check_reply_text,
};

std::vector<std::byte> seed(uint8_t which, const google::protobuf::Message& request) {
  std::vector<std::byte> bytes =
      quire::fuzz::bytes_of_text(std::string(1, static_cast<char>(which)));
  const auto body = quire::fuzz::bytes_of_text(request.SerializeAsString());
  bytes.insert(bytes.end(), body.begin(), body.end());
  return bytes;
}

pb::SetVerdictRequest sample_verdict(const std::string& id) {
  pb::SetVerdictRequest request;
  request.set_model(id);
  pb::Verdict& verdict = *request.mutable_verdict();
  verdict.set_reason("measured");
  verdict.set_budget(0.15);
  (*verdict.mutable_figures())["kl"] = 0.05;
  verdict.set_measured_wall_ms(1);
  verdict.set_tool("quire-eval");
  return request;
}

}  // namespace

QUIRE_FUZZ_SEEDS(control) {
  const std::string id(Digest{}.bytes.size(), 'i');
  quire::fuzz::Seeds seeds;
  pb::LookupRequest lookup;
  lookup.set_model(id);
  for (uint32_t token : {1u, 300u, 0xffffffffu}) lookup.add_tokens(token);
  lookup.set_tenant("a");
  seeds.emplace_back("lookup", seed(0, lookup));
  pb::ListRequest list;
  list.set_id_prefix("0aF");
  list.mutable_filter()->set_scope("label");
  list.mutable_filter()->set_tier(pb::TIER_NVME);
  seeds.emplace_back("list", seed(1, list));
  pb::ClearRequest clear;
  clear.mutable_filter()->set_model(id);
  seeds.emplace_back("clear", seed(2, clear));
  pb::PrefetchRequest prefetch;
  prefetch.add_representations(id);
  seeds.emplace_back("prefetch", seed(3, prefetch));
  pb::HintRequest hint;
  hint.add_representations(id);
  hint.set_priority(255);
  seeds.emplace_back("hint", seed(4, hint));
  seeds.emplace_back("verdict", seed(5, sample_verdict(id)));
  pb::SetQuotaRequest quota;
  quota.set_soft_bytes(1);
  quota.set_hard_bytes(2);
  seeds.emplace_back("quota", seed(6, quota));
  pb::CheckpointRequest checkpoint;
  checkpoint.set_directory("/a/b");
  seeds.emplace_back("checkpoint", seed(7, checkpoint));
  seeds.emplace_back("text", quire::fuzz::bytes_of_text("\x09"
                                                        "caf\xc3\xa9 \xff"));
  return seeds;
}

QUIRE_FUZZ_TARGET(control) {
  // As in the server: text that is not UTF-8 is refused without a word in the log.
  static const auto other_handler = google::protobuf::SetLogHandler(nullptr);
  (void)other_handler;
  if (input.empty()) return false;
  const auto which = static_cast<uint8_t>(input.front());
  return which < kChecks.size() && kChecks[which](input.subspan(1));
}
