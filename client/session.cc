#include "client/session.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>

namespace quire {
namespace {

constexpr uint32_t kTimeoutMsMax = 24 * 3600 * 1000;
// A frame that nobody waits for may wait this long for room in the socket.
constexpr uint32_t kForgetTimeoutMs = 1000;
// Late replies skipped while waiting for one reply; beyond it the server is out of step.
constexpr uint32_t kLateRepliesMax = 100'000;

Status corrupt(std::string message) {
  return {StatusCode::kCorrupt, "the server sent " + std::move(message)};
}

Status copy_name(const std::string& name, const char* what,
                 std::array<char, wire::kNameBytesMax>& target) {
  if (name.size() >= target.size() || name.find('\0') != std::string::npos)
    return {StatusCode::kInvalidArgument, std::string(what) + " must be shorter than " +
                                              std::to_string(target.size()) +
                                              " bytes, without zero bytes"};
  std::copy(name.begin(), name.end(), target.begin());
  return Status::ok();
}

}  // namespace

Mapping::Mapping(Mapping&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

Mapping::~Mapping() {
  if (!bytes_.empty()) munmap(bytes_.data(), bytes_.size());
}

Expected<Mapping> Mapping::map(const UniqueFd& fd, uint64_t bytes, bool writable) {
  struct stat info {};
  if (fstat(fd.get(), &info) != 0 || static_cast<uint64_t>(info.st_size) < bytes || bytes == 0)
    return corrupt("a file descriptor shorter than it says");
  const int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
  void* address = mmap(nullptr, bytes, protection, MAP_SHARED, fd.get(), 0);
  if (address == MAP_FAILED)
    return Status(StatusCode::kIoError,
                  std::string("mapping the server's memory: ") + std::strerror(errno));
  Mapping mapping;
  mapping.bytes_ = {static_cast<std::byte*>(address), bytes};
  return mapping;
}

void Mapping::prefault(uint64_t offset, uint64_t bytes) const {
  if (offset >= bytes_.size()) return;
#ifdef MADV_POPULATE_WRITE
  madvise(bytes_.data() + offset, std::min(bytes, bytes_.size() - offset), MADV_POPULATE_WRITE);
#endif
}

Status reply_status(const wire::FrameHeader& header, ByteSpan message) {
  const size_t bytes = std::min<size_t>(message.size(), wire::kMessageBytesMax);
  std::string text(reinterpret_cast<const char*>(message.data()), bytes);
  if (header.status == 0 || header.status >= kStatusCodeCount)
    return {StatusCode::kInternal,
            "unknown status " + std::to_string(header.status) + " from the server: " + text};
  return {static_cast<StatusCode>(header.status), std::move(text), header.retry_after_ms};
}

Client::Session::Session(Connection connection, uint32_t timeout_ms)
    : connection_(std::move(connection)), timeout_ms_(timeout_ms) {}

Client::Session::~Session() {
  connection_.shut_down();
}

Expected<std::unique_ptr<Client::Session>> Client::Session::open(const ClientOptions& options) {
  const std::string path =
      options.socket_path.empty() ? default_socket_path() : options.socket_path;
  QUIRE_ASSIGN_OR_RETURN(Connection connection,
                         Connection::open(path, Deadline::after_ms(options.timeout_ms)));
  return start(std::move(connection), options);
}

Expected<std::unique_ptr<Client::Session>> Client::Session::start(Connection connection,
                                                                  const ClientOptions& options) {
  if (options.timeout_ms == 0 || options.timeout_ms > kTimeoutMsMax)
    return Status(StatusCode::kInvalidArgument, "timeout_ms must be 1 to 86,400,000");
  std::unique_ptr<Session> session(new Session(std::move(connection), options.timeout_ms));
  QUIRE_RETURN_IF_ERROR(session->hello(options));
  return session;
}

Status Client::Session::hello(const ClientOptions& options) {
  wire::HelloRequest request;
  request.client_pid = static_cast<uint32_t>(getpid());
  if (options.prefault) request.flags |= wire::kHelloPrefault;
  request.staging_bytes = options.staging_bytes;
  QUIRE_RETURN_IF_ERROR(copy_name(options.client_name, "client_name", request.client_name));
  QUIRE_RETURN_IF_ERROR(copy_name(options.tenant, "tenant", request.tenant));
  const Deadline deadline = Deadline::after_ms(timeout_ms_);
  const uint64_t request_id = next_request_id_++;
  QUIRE_RETURN_IF_ERROR(connection_.send(
      {wire::Op::kHello, 0, request_id, 0, std::as_bytes(std::span(&request, 1))}, deadline));
  QUIRE_ASSIGN_OR_RETURN(Frame frame, connection_.receive(deadline));
  const wire::FrameHeader& header = frame.header;
  if ((header.flags & wire::kFlagReply) == 0 || header.request_id != request_id ||
      header.op != static_cast<uint16_t>(wire::Op::kHello))
    return corrupt("something else than a reply to the greeting");
  if (header.status != 0) return reply_status(header, frame.body);
  ByteReader reader(frame.body);
  const auto reply = reader.read<wire::HelloReply>();
  if (!reader.at_end()) return corrupt("a greeting of the wrong length");
  epoch_ = header.server_epoch;
  features_ = header.features;
  QUIRE_RETURN_IF_ERROR(accept_hello(reply, std::move(frame.fds)));
  if (options.prefault) staging_.prefault(wire::kPromptScratchBytes, wire::kPrefaultBytes);
  return Status::ok();
}

Status Client::Session::accept_hello(const wire::HelloReply& reply, std::vector<UniqueFd> fds) {
  if (fds.size() != 2) return corrupt("a greeting without its two file descriptors");
  if (reply.salt_bytes > reply.salt.size()) return corrupt("a salt that is too long");
  if (reply.staging_bytes < wire::kPromptScratchBytes) return corrupt("too small a staging window");
  const auto salt = std::as_bytes(std::span(reply.salt)).first(reply.salt_bytes);
  salt_.assign(salt.begin(), salt.end());
  object_bytes_max_ = reply.object_bytes_max;
  lease_ms_ = reply.lease_ms;
  QUIRE_ASSIGN_OR_RETURN(slab_, Mapping::map(fds[0], reply.slab_bytes, false));
  QUIRE_ASSIGN_OR_RETURN(staging_, Mapping::map(fds[1], reply.staging_bytes, true));
  return Status::ok();
}

Status Client::Session::fail(const Status& reason) {
  const std::scoped_lock lock(state_mutex_);
  if (failure_.is_ok()) {
    failure_ = {StatusCode::kUnavailable, "session over, connect again: " + reason.message()};
    connection_.shut_down();
  }
  return reason;
}

Status Client::Session::healthy() const {
  const std::scoped_lock lock(state_mutex_);
  if (!failure_.is_ok()) return failure_;
  if (connection_.peer_closed())
    return {StatusCode::kUnavailable, "the server has gone; connect again"};
  return Status::ok();
}

Expected<Client::Session::Turn> Client::Session::turn(const Deadline& deadline) {
  Turn turn(*this, deadline);
  // The realtime clock, since sanitizers do not know glibc's monotonic lock call.
  turn.lock_ =
      std::unique_lock(request_mutex_, std::chrono::system_clock::now() +
                                           std::chrono::milliseconds(deadline.remaining_ms()));
  if (!turn.lock_.owns_lock())
    return Status(StatusCode::kDeadlineExceeded, "requests of other threads took all of the time");
  {
    const std::scoped_lock lock(state_mutex_);
    if (!failure_.is_ok()) return failure_;
  }
  return turn;
}

void Client::Session::send_and_forget(wire::Op op, uint32_t flags, ByteSpan body) {
  {
    const std::scoped_lock lock(state_mutex_);
    if (!failure_.is_ok()) return;
  }
  const Status sent = connection_.send({op, flags, next_request_id_++, epoch_, body},
                                       Deadline::after_ms(kForgetTimeoutMs));
  if (!sent.is_ok() && sent.code() != StatusCode::kDeadlineExceeded) (void)fail(sent);
}

// What a reply granted that came after its request had given up.
void Client::Session::give_back(const Frame& late) {
  if (late.header.status != 0) return;
  ByteReader reader(late.body);
  if (late.header.op == static_cast<uint16_t>(wire::Op::kAcquire) ||
      late.header.op == static_cast<uint16_t>(wire::Op::kAcquireGpu)) {
    // Both begin with the same reply.
    const auto reply = reader.read<wire::AcquireReply>();
    ByteWriter body;
    body.write(wire::ReleaseRequest{.n_ids = 1, .lease_ms = 0});
    body.write(reply.lease_id);
    if (reader.ok()) send_and_forget(wire::Op::kRelease, wire::kFlagNoReply, body.bytes());
  } else if (late.header.op == static_cast<uint16_t>(wire::Op::kReserve)) {
    const wire::AbortRequest request{reader.read<wire::ReserveReply>().reservation_id};
    if (reader.ok()) send_and_forget(wire::Op::kAbort, 0, std::as_bytes(std::span(&request, 1)));
  }
}

Expected<Frame> Client::Session::next_reply(wire::Op op, uint64_t request_id,
                                            const Deadline& deadline) {
  for (uint32_t skipped = 0; skipped <= kLateRepliesMax; ++skipped) {
    // A commit copies and hashes.
    Expected<Frame> frame = connection_.receive(deadline, op == wire::Op::kCommit);
    if (!frame.is_ok()) {
      if (frame.status().code() == StatusCode::kDeadlineExceeded) return frame;
      return fail(frame.status());
    }
    const wire::FrameHeader& header = frame->header;
    if (header.server_epoch != epoch_)
      return fail({StatusCode::kUnavailable, "the server was restarted"});
    if ((header.flags & wire::kFlagReply) == 0) return fail(corrupt("a frame that is no reply"));
    if (header.request_id == request_id) {
      if (header.op != static_cast<uint16_t>(op))
        return fail(corrupt("a reply to another request"));
      return frame;
    }
    if (header.request_id >= next_request_id_.load())
      return fail(corrupt("a reply to a request that was never made"));
    give_back(*frame);
  }
  return fail(corrupt("too many replies that nobody waits for"));
}

Status Client::Session::Turn::call(wire::Op op, ByteSpan body, const ReplyHandler& on_reply) {
  const uint64_t request_id = session_.next_request_id_++;
  const Status sent =
      session_.connection_.send({op, 0, request_id, session_.epoch_, body}, deadline_);
  if (!sent.is_ok())
    return sent.code() == StatusCode::kDeadlineExceeded ? sent : session_.fail(sent);
  for (;;) {
    QUIRE_ASSIGN_OR_RETURN(Frame frame, session_.next_reply(op, request_id, deadline_));
    const Expected<bool> more = on_reply(frame);
    if (!more.is_ok()) return session_.fail(more.status());
    const bool announced = (frame.header.flags & wire::kFlagMore) != 0;
    if (*more && !announced) return session_.fail(corrupt("fewer replies than were asked for"));
    if (!*more) {
      if (announced) return session_.fail(corrupt("more replies than were asked for"));
      return Status::ok();
    }
  }
}

Status Client::Session::Turn::call(wire::Op op, ByteSpan body) {
  Status result;
  QUIRE_RETURN_IF_ERROR(call(op, body, [&](const Frame& frame) -> Expected<bool> {
    if (frame.header.status != 0) {
      result = reply_status(frame.header, frame.body);
    } else if (!frame.body.empty()) {
      return corrupt("a reply of the wrong length");
    }
    return false;
  }));
  return result;
}

}  // namespace quire
