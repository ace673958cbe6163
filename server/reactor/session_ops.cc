// What each request of a session does.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "server/reactor/session.h"

namespace quire::server {
namespace {

Status bad_body(const char* what) {
  return Status(StatusCode::kInvalidArgument, what);
}

// Longer is as good as never; keeps times in nanoseconds within 64 bits.
constexpr uint64_t kNextUseMsMax = 365ull * 24 * 3600 * 1000;

Digest digest_of(const wire::Id& id) {
  return Digest{id};
}

// Zero-terminated within its array; false where it is not.
template <size_t N>
bool read_name(const std::array<char, N>& field, std::string& name) {
  const auto end = std::find(field.begin(), field.end(), '\0');
  if (end == field.end()) return false;
  name.assign(field.begin(), end);
  return true;
}

std::string printable(std::string text) {
  for (char& c : text) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return text;
}

}  // namespace

void Session::handle_hello(const RequestFrame& frame) {
  wire::HelloRequest request;
  ByteSpan body = frame.body;
  std::string tenant;
  if (!take(body, request) || !body.empty() || !read_name(request.client_name, client_name_) ||
      !read_name(request.tenant, tenant)) {
    return violation(frame.header, bad_body("hello body is not a HelloRequest"));
  }
  client_name_ = printable(client_name_);
  if (const Status status = context_.store.fill_tenant(tenant, store_session_); !status.is_ok()) {
    return violation(frame.header, status);
  }
  const Config& config = context_.config;
  const uint64_t wanted =
      request.staging_bytes == 0 ? config.staging_default_bytes : request.staging_bytes;
  auto staging = StagingWindow::create(
      std::clamp(wanted, wire::kPromptScratchBytes + kStagingAlignment, config.staging_max_bytes));
  if (!staging) return violation(frame.header, staging.status());
  store_session_.staging = std::move(*staging);
  context_.store.add_session(store_session_);
  said_hello_ = true;
  if ((request.flags & wire::kHelloPrefault) != 0) context_.store.prefault(store_session_);

  wire::HelloReply hello;
  hello.slab_bytes = context_.store.slab().capacity_bytes();
  hello.staging_bytes = store_session_.staging->bytes();
  hello.object_bytes_max = context_.store.object_bytes_max();
  hello.lease_ms = config.lease_default_ms;
  const TenantSalt& salt = *store_session_.salt;
  hello.salt_bytes = static_cast<uint32_t>(salt.size());
  if (!salt.empty()) std::memcpy(hello.salt.data(), salt.data(), salt.size());
  ReplyBuilder builder(context_.send_buffer, frame.header, context_.store.epoch());
  builder.append_value(hello);
  builder.set_features(wire::kFeatureFill | wire::kFeatureHint | wire::kFeatureScope |
                       (context_.store.has_gpu() ? wire::kFeatureGpu : 0u));
  const std::array<int, 2> descriptors = {context_.store.slab().readonly_fd(),
                                          store_session_.staging->fd()};
  // The first reply of a fresh socket always fits its buffer.
  if (!send_with_descriptors(builder.seal(), descriptors)) return close(std::strerror(errno));
  spdlog::debug("session {} is \"{}\", pid {}", id_, client_name_, request.client_pid);
}

void Session::handle_resolve(const RequestFrame& frame) {
  wire::ResolveRequest request;
  ByteSpan body = frame.body;
  if (!take(body, request) || !body.empty()) {
    return violation(frame.header, bad_body("resolve body is not a ResolveRequest"));
  }
  if (request.n_tokens > kPromptTokensMax || request.start_token > request.n_tokens) {
    return reply(frame.header, bad_body("resolve: n_tokens or start_token is out of range"));
  }
  const ByteSpan scratch =
      store_session_.staging->memory().first(request.n_tokens * uint64_t{sizeof(TokenId)});
  // One job serves again and again; only an answer that must wait for details keeps it.
  if (!context_.resolve_job) context_.resolve_job = std::make_shared<ResolveJob>();
  const std::shared_ptr<ResolveJob> job = context_.resolve_job;
  job->tenant = store_session_.tenant;
  job->salt = store_session_.salt;
  job->scope = store_session_.scope;
  job->reads_gpu = store_session_.reads_gpu;
  job->request = request;
  job->rounds = 0;
  job->details.clear();
  // A copy: the client could change the ids between a look-up and a comparison.
  job->tokens.resize(request.n_tokens);
  if (!scratch.empty()) std::memcpy(job->tokens.data(), scratch.data(), scratch.size());
  if (context_.store.try_resolve(*job)) return reply_resolve(frame.header, *job);
  if (pending_.size() >= kPendingRequestsMax) {
    return reply(frame.header,
                 Status(StatusCode::kBusy, "too many requests of this session wait", kBusyRetryMs));
  }
  context_.resolve_job.reset();
  load_details(add_pending(frame, 1), job);
}

void Session::load_details(uint64_t ticket, const std::shared_ptr<ResolveJob>& job) {
  const Status status = context_.store.load_details(
      job, [find = context_.find_session, session_id = id_, ticket, job](const Status& loaded) {
        if (Session* session = find(session_id)) session->finish_resolve(ticket, job, loaded);
      });
  if (!status.is_ok()) finish_pending(ticket, status);
}

void Session::finish_resolve(uint64_t ticket, const std::shared_ptr<ResolveJob>& job,
                             const Status& status) {
  const auto found = pending_.find(ticket);
  if (found == pending_.end()) return;  // its deadline has answered
  if (!status.is_ok()) return finish_pending(ticket, status);
  if (!context_.store.try_resolve(*job)) return load_details(ticket, job);
  const wire::FrameHeader header = found->second.header;
  context_.loop.cancel_timer(found->second.timer);
  pending_.erase(found);
  reply_resolve(header, *job);
}

void Session::reply_resolve(const wire::FrameHeader& header, const ResolveJob& job) {
  wire::ResolveReply answer;
  answer.next_token = job.next_token;
  answer.n_entries = static_cast<uint32_t>(job.entries.size());
  ReplyBuilder builder(context_.send_buffer, header, context_.store.epoch());
  builder.append_value(answer);
  builder.append(std::as_bytes(std::span(job.entries)));
  send(builder.seal());
}

void Session::reply_acquire(const wire::FrameHeader& header, uint32_t index,
                            const Expected<Grant>& result, bool more) {
  ReplyBuilder builder(context_.send_buffer, header, context_.store.epoch());
  wire::AcquireReply answer;
  answer.index = index;
  if (result) {
    answer.lease_ms = result->lease_ms;
    answer.lease_id = result->lease_id;
    answer.generation = result->generation;
    answer.slab_offset = result->slab_offset;
    answer.bytes = result->bytes;
  }
  if (header.op == static_cast<uint16_t>(wire::Op::kAcquireGpu)) {
    wire::AcquireGpuReply placed;
    placed.lease = answer;
    if (result) {
      placed.tier = result->tier;
      placed.layout_version = result->gpu_layout_version;
    }
    builder.append_value(placed);
  } else {
    builder.append_value(answer);
  }
  if (!result) builder.set_error(result.status());
  if (more) builder.set_flags(wire::kFlagMore);
  send(builder.seal());
}

void Session::handle_acquire(const RequestFrame& frame) {
  wire::AcquireRequest request;
  ByteSpan body = frame.body;
  if (!take(body, request) || request.n_ids == 0 || request.n_ids > wire::kAcquireIdsMax ||
      body.size() != request.n_ids * sizeof(wire::Id)) {
    return violation(frame.header, bad_body("acquire body is not an AcquireRequest and its ids"));
  }
  // The ids stay valid: replies are built in another buffer.
  const bool on_gpu = frame.op == wire::Op::kAcquireGpu;
  uint32_t remaining = request.n_ids;
  uint64_t ticket = 0;
  for (uint32_t index = 0; index < request.n_ids && !closed(); ++index) {
    wire::Id raw;
    take(body, raw);
    const Digest id = digest_of(raw);
    bool must_load = false;
    Expected<Grant> grant =
        context_.store.try_acquire(store_session_, id, request.lease_ms, &must_load, on_gpu);
    if (must_load) {
      Status status;
      if (ticket == 0 && pending_.size() >= kPendingRequestsMax) {
        status = Status(StatusCode::kBusy, "too many requests of this session wait", kBusyRetryMs);
      } else {
        if (ticket == 0) {
          ticket = add_pending(frame, 0);
          pending_[ticket].unanswered.resize(request.n_ids, false);
          pending_[ticket].lease_ms = request.lease_ms;
        }
        status = context_.store.load(id, [find = context_.find_session, session_id = id_, ticket,
                                          index, id](const Status& loaded) {
          if (Session* session = find(session_id)) {
            session->finish_acquire(ticket, index, id, loaded);
          }
        });
      }
      if (status.is_ok()) {
        Pending& pending = pending_[ticket];
        pending.unanswered[index] = true;
        ++pending.remaining;
        continue;
      }
      grant = status;
    }
    // What waits for its load is still part of remaining.
    --remaining;
    reply_acquire(frame.header, index, grant, remaining != 0);
  }
  if (!closed() && ticket != 0 && pending_[ticket].remaining == 0) {
    context_.loop.cancel_timer(pending_[ticket].timer);
    pending_.erase(ticket);
  }
}

void Session::finish_acquire(uint64_t ticket, uint32_t index, const Digest& id,
                             const Status& status) {
  const auto found = pending_.find(ticket);
  if (found == pending_.end()) return;  // its deadline has answered
  Pending& pending = found->second;
  const wire::FrameHeader header = pending.header;
  const uint32_t lease_ms = pending.lease_ms;
  pending.unanswered[index] = false;
  const bool more = --pending.remaining != 0;
  if (!more) {
    context_.loop.cancel_timer(pending.timer);
    pending_.erase(found);
  }
  bool must_load = false;
  if (!status.is_ok()) return reply_acquire(header, index, status, more);
  const bool on_gpu = header.op == static_cast<uint16_t>(wire::Op::kAcquireGpu);
  auto grant = context_.store.try_acquire(store_session_, id, lease_ms, &must_load, on_gpu);
  if (!grant && must_load) {
    grant = Status(StatusCode::kBusy, "it was evicted again at once", kBusyRetryMs);
  }
  reply_acquire(header, index, grant, more);
}

void Session::handle_gpu_layout(const RequestFrame& frame) {
  wire::GpuLayoutRequest request;
  ByteSpan body = frame.body;
  if (!take(body, request) || !body.empty()) {
    return violation(frame.header, bad_body("body is not a GpuLayoutRequest"));
  }
  const auto attached = context_.store.attach_gpu(store_session_);
  if (!attached) return reply(frame.header, attached.status());
  const tiers::DevicePool& pool = **attached;
  const std::span<const tiers::DeviceChunk> chunks(pool.chunks());
  const size_t first = std::min<size_t>(request.first_chunk, chunks.size());
  const auto here =
      chunks.subspan(first, std::min<size_t>(chunks.size() - first, wire::kGpuChunksPerReplyMax));
  wire::GpuLayoutReply answer;
  answer.layout_version = pool.layout_version();
  answer.capacity_bytes = pool.capacity_bytes();
  answer.chunk_bytes = pool.chunk_bytes();
  answer.n_chunks = static_cast<uint32_t>(chunks.size());
  answer.first_chunk = request.first_chunk;
  answer.n_here = static_cast<uint32_t>(here.size());
  answer.driver = static_cast<wire::GpuDriverKind>(pool.driver().kind());
  answer.device_uuid = pool.device_info().uuid;
  ReplyBuilder builder(context_.send_buffer, frame.header, context_.store.epoch());
  builder.append_value(answer);
  std::vector<int> descriptors;
  for (const tiers::DeviceChunk& chunk : here) {
    builder.append_value(chunk.id);
    descriptors.push_back(chunk.fd);
  }
  if (here.empty()) return send(builder.seal());
  if (send_with_descriptors(builder.seal(), descriptors)) return;
  // The socket is full, or too many descriptors are on their way.
  reply(frame.header, Status(StatusCode::kBusy, std::strerror(errno), kBusyRetryMs));
}

void Session::handle_release(const RequestFrame& frame) {
  wire::ReleaseRequest request;
  ByteSpan body = frame.body;
  if (!take(body, request) || request.n_ids > wire::kReleaseIdsMax ||
      body.size() != request.n_ids * sizeof(uint64_t)) {
    return violation(frame.header, bad_body("body is not a ReleaseRequest and its lease ids"));
  }
  uint32_t failed = 0;
  Status first;
  for (uint32_t index = 0; index < request.n_ids; ++index) {
    uint64_t lease_id = 0;
    take(body, lease_id);
    const Status status = frame.op == wire::Op::kRelease
                              ? context_.store.release(store_session_, lease_id)
                              : context_.store.renew(store_session_, lease_id, request.lease_ms);
    if (!status.is_ok() && failed++ == 0) first = status;
  }
  reply(frame.header, first);
}

void Session::handle_reserve(const RequestFrame& frame) {
  wire::ReserveRequest request;
  ByteSpan body = frame.body;
  if (!take(body, request) || !body.empty()) {
    return violation(frame.header, bad_body("reserve body is not a ReserveRequest"));
  }
  const auto answer =
      context_.store.reserve(store_session_, digest_of(request.representation), request.bytes);
  if (!answer) return reply(frame.header, answer.status());
  reply(frame.header, Status::ok(), std::as_bytes(std::span(&*answer, 1)));
}

void Session::handle_fill(const RequestFrame& frame) {
  wire::FillRequest request;
  ByteSpan body = frame.body;
  if (!take(body, request) || !body.empty()) {
    return violation(frame.header, bad_body("fill body is not a FillRequest"));
  }
  reply(frame.header, context_.store.fill(store_session_, request));
}

void Session::handle_commit(const RequestFrame& frame) {
  wire::CommitRequest request;
  ByteSpan body = frame.body;
  if (!take(body, request) || !body.empty()) {
    return violation(frame.header, bad_body("commit body is not a CommitRequest"));
  }
  if (pending_.size() >= kPendingRequestsMax) {
    return reply(frame.header,
                 Status(StatusCode::kBusy, "too many requests of this session wait", kBusyRetryMs));
  }
  const uint64_t ticket = add_pending(frame, 1);
  const Status status = context_.store.commit(
      store_session_, request,
      [find = context_.find_session, session_id = id_, ticket](const Status& result) {
        if (Session* session = find(session_id)) session->finish_pending(ticket, result);
      });
  if (!status.is_ok()) finish_pending(ticket, status);
}

void Session::handle_abort(const RequestFrame& frame) {
  wire::AbortRequest request;
  ByteSpan body = frame.body;
  if (!take(body, request) || !body.empty()) {
    return violation(frame.header, bad_body("abort body is not an AbortRequest"));
  }
  reply(frame.header, context_.store.abort(store_session_, request.reservation_id));
}

void Session::handle_hint(const RequestFrame& frame) {
  wire::HintRequest request;
  ByteSpan body = frame.body;
  if (!take(body, request) || request.n_ids == 0 || request.n_ids > wire::kHintIdsMax ||
      body.size() != request.n_ids * sizeof(wire::Id)) {
    return violation(frame.header, bad_body("hint body is not a HintRequest and its ids"));
  }
  constexpr uint32_t kUses = wire::kHintSteps | wire::kHintNextUse | wire::kHintPriority;
  const bool finished = (request.flags & wire::kHintFinished) != 0;
  if (request.flags == 0 || (request.flags & ~(kUses | wire::kHintFinished)) != 0 ||
      (finished && (request.flags & kUses) != 0)) {
    return reply(frame.header, bad_body("hint: flags are none, unknown, or finished with others"));
  }
  if (request.priority > UINT8_MAX) {
    return reply(frame.header, bad_body("hint: priority is above 255"));
  }
  UseHint hint;
  hint.finished = finished;
  if ((request.flags & wire::kHintSteps) != 0) hint.steps_to_next_use = request.steps_to_next_use;
  if ((request.flags & wire::kHintNextUse) != 0) {
    hint.next_use_ms = std::min(request.next_use_ms, kNextUseMsMax);
  }
  if ((request.flags & wire::kHintPriority) != 0) {
    hint.priority = static_cast<uint8_t>(request.priority);
  }
  std::vector<Digest> ids(request.n_ids);
  for (Digest& id : ids) take(body, id.bytes);
  const HintResult result = context_.store.hint(ids, hint, &store_session_);
  const wire::HintReply answer{result.applied, result.missing};
  reply(frame.header, Status::ok(), std::as_bytes(std::span(&answer, 1)));
}

void Session::handle_scope(const RequestFrame& frame) {
  wire::ScopeRequest request;
  ByteSpan body = frame.body;
  if (!take(body, request) || !body.empty()) {
    return violation(frame.header, bad_body("scope body is not a ScopeRequest"));
  }
  const bool zeros_behind = request.label_bytes <= request.label.size() &&
                            std::all_of(request.label.begin() + request.label_bytes,
                                        request.label.end(), [](char c) { return c == 0; });
  if (!zeros_behind || request.reserved != 0) {
    return reply(frame.header, bad_body("scope: at most 64 bytes of label, zeros behind it"));
  }
  const Digest scope =
      context_.store.enter_scope(store_session_, {request.label.data(), request.label_bytes});
  const wire::ScopeReply answer{scope.bytes};
  reply(frame.header, Status::ok(), std::as_bytes(std::span(&answer, 1)));
}

void Session::handle_feedback(const RequestFrame& frame) {
  wire::FeedbackRequest request;
  ByteSpan body = frame.body;
  if (!take(body, request) || request.n_items == 0 || request.n_items > wire::kFeedbackItemsMax ||
      body.size() != request.n_items * sizeof(wire::FeedbackItem)) {
    return violation(frame.header,
                     bad_body("feedback body is not a FeedbackRequest and its items"));
  }
  std::vector<wire::FeedbackItem> items(request.n_items);
  for (wire::FeedbackItem& item : items) {
    take(body, item);
    constexpr uint32_t kKnown = wire::kFeedbackStrike | wire::kFeedbackDeviation;
    if (item.flags == 0 || (item.flags & ~kKnown) != 0) {
      return reply(frame.header, bad_body("feedback: flags are none or unknown"));
    }
    if (!std::isfinite(item.deviation) || item.deviation < 0) {
      return reply(frame.header, bad_body("feedback: a deviation is finite and not negative"));
    }
  }
  const wire::FeedbackReply answer = context_.store.feedback(store_session_, items);
  reply(frame.header, Status::ok(), std::as_bytes(std::span(&answer, 1)));
}

void Session::handle_register_model(const RequestFrame& frame) {
  wire::RegisterModelRequest request;
  ByteSpan body = frame.body;
  std::string name;
  if (!take(body, request) || !body.empty() || !read_name(request.name, name)) {
    return violation(frame.header, bad_body("body is not a RegisterModelRequest"));
  }
  if (request.descriptor_bytes > wire::kPromptScratchBytes) {
    return reply(frame.header, bad_body("descriptor_bytes is above the prompt scratch"));
  }
  if (pending_.size() >= kPendingRequestsMax) {
    return reply(frame.header,
                 Status(StatusCode::kBusy, "too many requests of this session wait", kBusyRetryMs));
  }
  const ByteSpan scratch = store_session_.staging->memory().first(request.descriptor_bytes);
  const std::vector<std::byte> descriptor(scratch.begin(), scratch.end());
  const uint64_t ticket = add_pending(frame, 1);
  const Status status = context_.store.register_model(
      digest_of(request.model), printable(name), descriptor,
      [find = context_.find_session, session_id = id_, ticket](const Status& result) {
        if (Session* session = find(session_id)) session->finish_pending(ticket, result);
      });
  if (!status.is_ok()) finish_pending(ticket, status);
}

}  // namespace quire::server
