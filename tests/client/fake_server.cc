#include "tests/client/fake_server.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace quire {
namespace {

UniqueFd memory_file(const char* name, uint64_t bytes) {
  UniqueFd fd(memfd_create(name, MFD_CLOEXEC));
  if (!fd.valid() || ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) std::abort();
  return fd;
}

Mapping map_all(const UniqueFd& fd, uint64_t bytes) {
  Expected<Mapping> mapping = Mapping::map(fd, bytes, true);
  if (!mapping.is_ok()) std::abort();
  return std::move(*mapping);
}

}  // namespace

Expected<std::unique_ptr<Client>> ClientTestPeer::connect(UniqueFd socket,
                                                          const ClientOptions& options) {
  QUIRE_ASSIGN_OR_RETURN(std::unique_ptr<Client::Session> session,
                         Client::Session::start(Connection(std::move(socket)), options));
  return std::unique_ptr<Client>(new Client(std::move(session)));
}

FakeServer::FakeServer(Script script) : script_(std::move(script)) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) std::abort();
  server_end_ = UniqueFd(ends[0]);
  client_end_ = UniqueFd(ends[1]);
  slab_fd_ = memory_file("slab", kSlabBytes);
  staging_fd_ = memory_file("staging", kStagingBytes);
  slab_ = map_all(slab_fd_, kSlabBytes);
  staging_ = map_all(staging_fd_, kStagingBytes);
  hello_reply.slab_bytes = kSlabBytes;
  hello_reply.staging_bytes = kStagingBytes;
  hello_reply.object_bytes_max = 1 << 20;
  hello_reply.lease_ms = 60'000;
  thread_ = std::thread([this] { run(); });
}

FakeServer::~FakeServer() {
  hang_up();
  thread_.join();
}

Expected<std::unique_ptr<Client>> FakeServer::connect(uint32_t timeout_ms) {
  ClientOptions options;
  options.timeout_ms = timeout_ms;
  return ClientTestPeer::connect(client_socket(), options);
}

void FakeServer::run() {
  std::vector<std::byte> buffer(wire::kFrameBytesMax);
  for (;;) {
    const ssize_t received = recv(server_end_.get(), buffer.data(), buffer.size(), 0);
    if (received <= 0) return;
    const ByteSpan bytes = ByteSpan(buffer).first(static_cast<size_t>(received));
    const Expected<wire::FrameHeader> header = parse_frame(bytes);
    if (!header.is_ok()) std::abort();
    const ByteSpan body = bytes.subspan(sizeof(wire::FrameHeader));
    const Request request{*header, {body.begin(), body.end()}};
    {
      const std::scoped_lock lock(mutex_);
      seen_.push_back(request.op());
    }
    if (request.op() != wire::Op::kHello) {
      script_(*this, request);
    } else if (on_hello) {
      on_hello(*this, request);
    } else {
      const int fds[] = {slab_fd(), staging_fd()};
      send_hello(request, std::as_bytes(std::span(&hello_reply, 1)), fds);
    }
  }
}

void FakeServer::reply(const Request& request, ByteSpan body, uint32_t flags,
                       const std::function<void(wire::FrameHeader&)>& change) {
  wire::FrameHeader header;
  header.op = request.header.op;
  header.flags = wire::kFlagReply | flags;
  header.request_id = request.header.request_id;
  header.server_epoch = kEpoch;
  if (change) change(header);
  send_raw(encode_frame(header, body));
}

void FakeServer::reply_error(const Request& request, StatusCode code, std::string_view message,
                             uint32_t retry_after_ms) {
  reply(request, std::as_bytes(std::span(message)), 0, [&](wire::FrameHeader& header) {
    header.status = static_cast<uint32_t>(code);
    header.retry_after_ms = retry_after_ms;
  });
}

void FakeServer::send_raw(ByteSpan bytes) {
  // Fails only where the client has gone, which some tests want.
  (void)!send(server_end_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
}

void FakeServer::send_hello(const Request& request, ByteSpan body, std::span<const int> fds) {
  wire::FrameHeader header;
  header.op = request.header.op;
  header.flags = wire::kFlagReply;
  header.request_id = request.header.request_id;
  header.server_epoch = kEpoch;
  if (request.op() == wire::Op::kHello) header.features = features;
  std::vector<std::byte> bytes = encode_frame(header, body);
  iovec part{bytes.data(), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(8 * sizeof(int))] = {};
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(rights), fds.data(), fds.size_bytes());
  }
  (void)!sendmsg(server_end_.get(), &message, MSG_NOSIGNAL);
}

void FakeServer::hang_up() {
  shutdown(server_end_.get(), SHUT_RDWR);
}

std::vector<wire::Op> FakeServer::seen() {
  const std::scoped_lock lock(mutex_);
  return seen_;
}

bool FakeServer::wait_seen(size_t count) {
  for (int i = 0; i < 5000; ++i) {
    if (seen().size() >= count) return true;
    poll(nullptr, 0, 1);
  }
  return false;
}

}  // namespace quire
