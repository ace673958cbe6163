#include "client/client.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "client/session.h"

namespace quire {
namespace {

// put() while the server is BUSY: this many tries, each after what the server advises, within the
// deadline.
constexpr uint32_t kPutTriesMax = 16;
constexpr uint32_t kBusyWaitMsDefault = 10;
constexpr uint32_t kBusyWaitMsMax = 1000;

Status invalid(std::string message) {
  return {StatusCode::kInvalidArgument, std::move(message)};
}

Status corrupt(std::string message) {
  return {StatusCode::kCorrupt, "the server sent " + std::move(message)};
}

Digest digest_of(const wire::Id& id) {
  return {id};
}

Expected<Match> match_of(const wire::ResolveEntry& entry, uint32_t n_tokens) {
  const bool in_range = entry.n_tokens > 0 && entry.token_begin <= n_tokens &&
                        entry.n_tokens <= n_tokens - entry.token_begin;
  if (!in_range) return corrupt("a match outside the prompt");
  if (static_cast<uint8_t>(entry.kind) > 1 || entry.context_kind >= kContextKindCount ||
      entry.phase > 1 || entry.frame > 1)
    return corrupt("a match of an unknown kind");
  if (!std::isfinite(entry.deviation) || entry.deviation < 0)
    return corrupt("a match of no possible deviation");
  Match match;
  match.kind = entry.kind;
  match.token_begin = entry.token_begin;
  match.n_tokens = entry.n_tokens;
  match.representation = digest_of(entry.representation);
  match.variant = digest_of(entry.variant);
  match.context_kind = static_cast<ContextKind>(entry.context_kind);
  match.context_reference = digest_of(entry.context_reference);
  match.phase = static_cast<Phase>(entry.phase);
  match.codec = entry.codec;
  match.frame = static_cast<PositionFrame>(entry.frame);
  match.base_position = entry.base_position;
  match.bytes = entry.bytes;
  match.tier = entry.tier;
  match.load_us = entry.load_us;
  match.recompute_us = entry.recompute_us;
  match.hits = entry.hits;
  match.strikes = entry.strikes;
  match.deviation = entry.deviation;
  return match;
}

}  // namespace

Client::Client(std::unique_ptr<Session> session) : session_(std::move(session)) {}

Client::~Client() = default;

Expected<std::unique_ptr<Client>> Client::connect(const ClientOptions& options) {
  QUIRE_ASSIGN_OR_RETURN(std::unique_ptr<Session> session, Session::open(options));
  std::unique_ptr<Client> client(new Client(std::move(session)));
  if (!options.scope.empty()) QUIRE_RETURN_IF_ERROR(client->enter_scope(options.scope).status());
  return client;
}

const TenantSalt& Client::tenant_salt() const {
  return session_->salt();
}
uint64_t Client::server_epoch() const {
  return session_->epoch();
}
uint64_t Client::object_bytes_max() const {
  return session_->object_bytes_max();
}

Expected<uint32_t> Client::hint(std::span<const Digest> representations, const UseHint& hint) {
  wire::HintRequest request;
  request.flags = (hint.steps_to_next_use ? wire::kHintSteps : 0u) |
                  (hint.next_use_ms ? wire::kHintNextUse : 0u) |
                  (hint.priority ? wire::kHintPriority : 0u) |
                  (hint.finished ? wire::kHintFinished : 0u);
  if (request.flags == 0) return invalid("a hint that says nothing");
  if (hint.finished && request.flags != wire::kHintFinished)
    return invalid("a finished object has no next use and no priority");
  if (!session_->can(wire::kFeatureHint))
    return Status(StatusCode::kUnsupported, "this server takes no hints");
  request.steps_to_next_use = hint.steps_to_next_use.value_or(0);
  request.next_use_ms = hint.next_use_ms.value_or(0);
  request.priority = hint.priority.value_or(request.priority);
  uint32_t applied = 0;
  const Deadline deadline = Deadline::after_ms(session_->timeout_ms());
  while (!representations.empty()) {
    const auto part =
        representations.first(std::min<size_t>(representations.size(), wire::kHintIdsMax));
    representations = representations.subspan(part.size());
    request.n_ids = static_cast<uint32_t>(part.size());
    ByteWriter body;
    body.write(request);
    for (const Digest& id : part) body.write(id.bytes);
    QUIRE_ASSIGN_OR_RETURN(auto turn, session_->turn(deadline));
    QUIRE_ASSIGN_OR_RETURN(const auto reply,
                           turn.call_for<wire::HintReply>(wire::Op::kHint, body.bytes()));
    applied += reply.applied;
  }
  return applied;
}

Expected<Digest> Client::enter_scope(std::string_view label) {
  wire::ScopeRequest request;
  if (label.size() > request.label.size())
    return invalid("a scope's label has at most " + std::to_string(request.label.size()) +
                   " bytes");
  if (!session_->can(wire::kFeatureScope))
    return Status(StatusCode::kUnsupported, "this server knows no scopes");
  request.label_bytes = static_cast<uint32_t>(label.size());
  std::copy(label.begin(), label.end(), request.label.begin());
  QUIRE_ASSIGN_OR_RETURN(auto turn, session_->turn());
  QUIRE_ASSIGN_OR_RETURN(const auto reply,
                         turn.call_for<wire::ScopeReply>(wire::Op::kScope, bytes_of(request)));
  const Digest scope = digest_of(reply.scope);
  if (scope != scope_id(session_->salt(), label))
    return session_->fail(corrupt("another scope than the one asked for"));
  session_->set_scope(scope);
  return scope;
}

Digest Client::scope() const {
  return session_->scope();
}

Expected<uint32_t> Client::feedback(std::span<const UseFeedback> uses) {
  if (!session_->can(wire::kFeatureScope))
    return Status(StatusCode::kUnsupported, "this server takes no feedback");
  for (const UseFeedback& use : uses) {
    if (!use.strike && !use.deviation) return invalid("feedback that says nothing");
    if (use.deviation && !(std::isfinite(*use.deviation) && *use.deviation >= 0))
      return invalid("a deviation is finite and not negative");
  }
  uint32_t applied = 0;
  const Deadline deadline = Deadline::after_ms(session_->timeout_ms());
  while (!uses.empty()) {
    const auto part = uses.first(std::min<size_t>(uses.size(), wire::kFeedbackItemsMax));
    uses = uses.subspan(part.size());
    ByteWriter body;
    body.write(wire::FeedbackRequest{static_cast<uint32_t>(part.size()), 0});
    for (const UseFeedback& use : part) {
      wire::FeedbackItem item;
      item.representation = use.representation.bytes;
      item.deviation = use.deviation.value_or(0);
      item.flags = (use.strike ? wire::kFeedbackStrike : 0u) |
                   (use.deviation ? wire::kFeedbackDeviation : 0u);
      body.write(item);
    }
    QUIRE_ASSIGN_OR_RETURN(auto turn, session_->turn(deadline));
    QUIRE_ASSIGN_OR_RETURN(const auto reply,
                           turn.call_for<wire::FeedbackReply>(wire::Op::kFeedback, body.bytes()));
    applied += reply.applied;
  }
  return applied;
}

Status Client::ping() {
  QUIRE_ASSIGN_OR_RETURN(auto turn, session_->turn());
  return turn.call(wire::Op::kPing, {});
}

Expected<Digest> Client::register_model(const std::string& name, const ModelDescriptor& model) {
  QUIRE_RETURN_IF_ERROR(model.validate());
  wire::RegisterModelRequest request;
  if (name.size() >= request.name.size() || name.find('\0') != std::string::npos)
    return invalid("a model's name must be shorter than " + std::to_string(request.name.size()) +
                   " bytes");
  std::copy(name.begin(), name.end(), request.name.begin());
  const std::vector<std::byte> descriptor = model.encode();
  if (descriptor.size() > wire::kPromptScratchBytes) return invalid("the descriptor is too large");
  const Digest id = quire::model_id(model);
  request.model = id.bytes;
  request.descriptor_bytes = static_cast<uint32_t>(descriptor.size());
  QUIRE_ASSIGN_OR_RETURN(auto turn, session_->turn());
  std::memcpy(session_->prompt_scratch().data(), descriptor.data(), descriptor.size());
  QUIRE_RETURN_IF_ERROR(turn.call(wire::Op::kRegisterModel, bytes_of(request)));
  return id;
}

Expected<std::vector<Match>> Client::resolve(const Digest& model, std::span<const TokenId> tokens,
                                             const ResolveOptions& options) {
  if (tokens.empty() || tokens.size() > kPromptTokensMax)
    return invalid("a prompt has 1 to " + std::to_string(kPromptTokensMax) + " tokens");
  if (!(options.recompute_us_per_token >= 0))
    return invalid("recompute_us_per_token must not be negative");
  std::vector<Match> matches;
  wire::ResolveRequest request;
  request.model = model.bytes;
  request.n_tokens = static_cast<uint32_t>(tokens.size());
  request.flags =
      (options.prefix ? wire::kResolvePrefix : 0u) | (options.chunks ? wire::kResolveChunks : 0u);
  request.recompute_us_per_token = options.recompute_us_per_token;
  if (request.flags == 0) return matches;
  if (options.statistics) {
    if (!session_->can(wire::kFeatureScope))
      return Status(StatusCode::kUnsupported, "this server lists no statistics");
    request.flags |= wire::kResolveStatistics;
  }

  QUIRE_ASSIGN_OR_RETURN(auto turn, session_->turn());
  std::memcpy(session_->prompt_scratch().data(), tokens.data(), tokens.size_bytes());
  // Every page moves on by a token at least, so the loop is bounded by the prompt.
  for (;;) {
    std::vector<std::byte> rest;
    QUIRE_ASSIGN_OR_RETURN(const auto reply, turn.call_for<wire::ResolveReply>(
                                                 wire::Op::kResolve, bytes_of(request), &rest));
    if (reply.n_entries > wire::kResolveEntriesMax ||
        rest.size() != reply.n_entries * sizeof(wire::ResolveEntry))
      return session_->fail(corrupt("a list of matches of the wrong length"));
    ByteReader reader(rest);
    for (uint32_t i = 0; i < reply.n_entries; ++i) {
      const Expected<Match> match = match_of(reader.read<wire::ResolveEntry>(), request.n_tokens);
      if (!match.is_ok()) return session_->fail(match.status());
      matches.push_back(*match);
    }
    if (reply.next_token == request.n_tokens) return matches;
    if (reply.next_token <= request.start_token || reply.next_token > request.n_tokens)
      return session_->fail(corrupt("a page of matches that leads nowhere"));
    request.start_token = reply.next_token;
    request.flags &= ~static_cast<uint32_t>(wire::kResolvePrefix);
    if ((request.flags & wire::kResolveChunks) == 0) return matches;
  }
}

Expected<Lease> Client::acquire(const Digest& representation) {
  QUIRE_ASSIGN_OR_RETURN(auto leases, acquire(std::span(&representation, 1)));
  return std::move(leases.front());
}

Expected<Lease> Client::accept_lease(const wire::AcquireReply& reply, uint64_t asked_ns) {
  const ByteSpan slab = session_->slab();
  if (reply.bytes == 0 || reply.bytes > slab.size() ||
      reply.slab_offset > slab.size() - reply.bytes)
    return corrupt("a lease outside the shared memory");
  if (reply.slab_offset % kSlabAlignment != 0) return corrupt("a lease that is not aligned");
  Lease lease;
  lease.client_ = this;
  lease.bytes_ = slab.subspan(reply.slab_offset, reply.bytes);
  lease.id_ = reply.lease_id;
  lease.generation_ = reply.generation;
  lease.expires_ns_ = asked_ns + reply.lease_ms * kNsPerMs;
  return lease;
}

Status Client::acquire_some(std::span<const Digest> ids, const Deadline& deadline,
                            std::vector<Expected<Lease>>& leases) {
  const size_t first = leases.size();
  for (size_t i = 0; i < ids.size(); ++i)
    leases.emplace_back(Status(StatusCode::kInternal, "no answer for this id"));
  ByteWriter body;
  body.write(wire::AcquireRequest{.n_ids = static_cast<uint32_t>(ids.size()), .lease_ms = 0});
  for (const Digest& id : ids) body.write(id.bytes);

  QUIRE_ASSIGN_OR_RETURN(auto turn, session_->turn(deadline));
  const uint64_t asked_ns = system_clock().now_ns();
  std::vector<bool> answered(ids.size());
  size_t n_answered = 0;
  Status refused;  // the request as a whole
  const auto on_reply = [&](const Frame& frame) -> Expected<bool> {
    const bool failed = frame.header.status != 0;
    ByteReader reader(frame.body);
    const auto reply = reader.read<wire::AcquireReply>();
    // A refusal of the whole request is text alone; no text has the zeros of a reply without lease.
    const bool no_lease =
        reply.lease_id == 0 && reply.generation == 0 && reply.slab_offset == 0 && reply.bytes == 0;
    if (failed && (!reader.ok() || !no_lease)) {
      refused = reply_status(frame.header, frame.body);
      return false;
    }
    if (!reader.ok() || (!failed && !reader.at_end()))
      return corrupt("a lease of the wrong length");
    if (reply.index >= ids.size() || answered[reply.index])
      return corrupt("a lease for an id that was not asked for");
    answered[reply.index] = true;
    ++n_answered;
    Expected<Lease>& slot = leases[first + reply.index];
    if (failed) {
      slot = reply_status(frame.header, reader.read_bytes(reader.remaining()));
    } else {
      QUIRE_ASSIGN_OR_RETURN(slot, accept_lease(reply, asked_ns));
    }
    return n_answered < ids.size();
  };
  const Status called = turn.call(wire::Op::kAcquire, body.bytes(), on_reply);
  if (called.code() == StatusCode::kDeadlineExceeded && n_answered > 0) {
    // One slow read must not cost the others; leases that come late are given back.
    for (size_t i = 0; i < ids.size(); ++i)
      if (!answered[i]) leases[first + i] = called;
    return Status::ok();
  }
  QUIRE_RETURN_IF_ERROR(called);
  return refused;
}

Expected<std::vector<Expected<Lease>>> Client::acquire(std::span<const Digest> representations) {
  std::vector<Expected<Lease>> leases;
  leases.reserve(representations.size());
  const Deadline deadline = Deadline::after_ms(session_->timeout_ms());
  while (leases.size() < representations.size()) {
    const size_t begin = leases.size();
    const auto rest = representations.subspan(begin);
    const auto part = rest.first(std::min<size_t>(wire::kAcquireIdsMax, rest.size()));
    const Status acquired = acquire_some(part, deadline, leases);
    const bool others_are_held = begin > 0 && (acquired.code() == StatusCode::kDeadlineExceeded ||
                                               acquired.code() == StatusCode::kBusy);
    if (!others_are_held) QUIRE_RETURN_IF_ERROR(acquired);
    if (!acquired.is_ok())
      std::fill(leases.begin() + static_cast<ptrdiff_t>(begin), leases.end(), acquired);
  }
  return leases;
}

Expected<PutWindow> Client::reserve(const Digest& representation, uint64_t bytes) {
  if (bytes == 0) return invalid("an object has at least one byte");
  if (bytes > object_bytes_max())
    return Status(StatusCode::kResourceExhausted,
                  "the object has " + std::to_string(bytes) + " bytes, the server takes " +
                      std::to_string(object_bytes_max()) + " at most");
  const wire::ReserveRequest request{
      .representation = representation.bytes, .bytes = bytes, .reserved = 0};
  QUIRE_ASSIGN_OR_RETURN(auto turn, session_->turn());
  QUIRE_ASSIGN_OR_RETURN(const auto reply,
                         turn.call_for<wire::ReserveReply>(wire::Op::kReserve, bytes_of(request)));
  const MutableByteSpan staging = session_->staging();
  const bool inside = bytes <= staging.size() && reply.staging_offset <= staging.size() - bytes &&
                      reply.staging_offset >= wire::kPromptScratchBytes;
  if (!inside || reply.staging_offset % kSlabAlignment != 0)
    return session_->fail(corrupt("a window outside the shared memory"));
  PutWindow window;
  window.client_ = this;
  window.bytes_ = staging.subspan(reply.staging_offset, bytes);
  window.reservation_id_ = reply.reservation_id;
  const uint64_t progress_offset = reply.staging_offset + align_up(bytes, kSlabAlignment);
  if (session_->can(wire::kFeatureFill) &&
      progress_offset + sizeof(wire::FillProgress) <= staging.size())
    window.progress_ = reinterpret_cast<wire::FillProgress*>(staging.data() + progress_offset);
  return window;
}

Status Client::put(const Digest& representation, ByteSpan bytes, wire::AckLevel ack) {
  const Deadline deadline = Deadline::after_ms(session_->timeout_ms());
  for (uint32_t tries = 1;; ++tries) {
    Status status;
    Expected<PutWindow> window = reserve(representation, bytes.size());
    if (window.is_ok()) {
      status = window->commit(window->hand_over(bytes), ack);
    } else {
      status = window.status();
    }
    if (status.code() == StatusCode::kAlreadyExists) return Status::ok();
    if (status.code() != StatusCode::kBusy || tries >= kPutTriesMax) return status;
    const uint32_t advised_ms =
        status.retry_after_ms() == 0 ? kBusyWaitMsDefault : status.retry_after_ms();
    const uint32_t wait_ms = std::min(advised_ms, kBusyWaitMsMax);
    if (deadline.remaining_ms() <= wait_ms) return status;
    std::this_thread::sleep_for(std::chrono::milliseconds(wait_ms));
  }
}

}  // namespace quire
