#include "tests/server/test_client.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <thread>

namespace quire::server {

void reseal(std::vector<std::byte>& frame) {
  wire::FrameHeader header;
  std::memcpy(&header, frame.data(), sizeof(header));
  header.body_xxh3 = xxh3_64(ByteSpan(frame).subspan(sizeof(header)));
  std::memcpy(frame.data(), &header, sizeof(header));
  header.header_xxh3 = xxh3_64(ByteSpan(frame).first(56));
  std::memcpy(frame.data(), &header, sizeof(header));
}

std::vector<std::byte> make_frame(wire::Op op, ByteSpan body, uint64_t request_id,
                                  uint32_t deadline_ms, uint32_t flags) {
  wire::FrameHeader header;
  header.op = static_cast<uint16_t>(op);
  header.flags = flags;
  header.request_id = request_id;
  header.body_bytes = static_cast<uint32_t>(body.size());
  header.deadline_ms = deadline_ms;
  std::vector<std::byte> frame(sizeof(header) + body.size());
  std::memcpy(frame.data(), &header, sizeof(header));
  if (!body.empty()) std::memcpy(frame.data() + sizeof(header), body.data(), body.size());
  reseal(frame);
  return frame;
}

std::unique_ptr<TestClient> TestClient::open(const std::string& socket_path) {
  const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket_path.data(), socket_path.size());
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    ::close(fd);
    return nullptr;
  }
  return std::unique_ptr<TestClient>(new TestClient(fd));
}

std::unique_ptr<TestClient> TestClient::connect(const std::string& socket_path,
                                                const std::string& tenant, uint64_t staging_bytes) {
  auto client = open(socket_path);
  if (client == nullptr || !client->hello(tenant, staging_bytes).is_ok()) return nullptr;
  return client;
}

TestClient::~TestClient() {
  if (slab_ != nullptr) ::munmap(const_cast<std::byte*>(slab_), hello_.slab_bytes);
  if (staging_ != nullptr) ::munmap(staging_, hello_.staging_bytes);
  ::close(fd_);
}

bool TestClient::send(ByteSpan frame) {
  return ::send(fd_, frame.data(), frame.size(), MSG_NOSIGNAL) ==
         static_cast<ssize_t>(frame.size());
}

Expected<TestReply> TestClient::receive(int timeout_ms) {
  pollfd wait{fd_, POLLIN, 0};
  if (::poll(&wait, 1, timeout_ms) <= 0) return Status(StatusCode::kDeadlineExceeded, "no reply");
  std::vector<std::byte> buffer(wire::kFrameBytesMax + 1);
  const ssize_t got = ::recv(fd_, buffer.data(), buffer.size(), 0);
  if (got <= 0) return Status(StatusCode::kUnavailable, "server closed");
  TestReply reply;
  if (static_cast<size_t>(got) < sizeof(reply.header)) return Status(StatusCode::kCorrupt, "short");
  std::memcpy(&reply.header, buffer.data(), sizeof(reply.header));
  const ByteSpan body = ByteSpan(buffer).subspan(sizeof(reply.header), got - sizeof(reply.header));
  if (reply.header.magic != wire::kFrameMagic || reply.header.body_bytes != body.size() ||
      reply.header.body_xxh3 != xxh3_64(body) ||
      reply.header.header_xxh3 != xxh3_64(ByteSpan(buffer).first(56)) ||
      (reply.header.flags & wire::kFlagReply) == 0) {
    return Status(StatusCode::kCorrupt, "reply is not sound");
  }
  reply.body.assign(body.begin(), body.end());
  epoch_ = reply.header.server_epoch;
  return reply;
}

Expected<TestReply> TestClient::call(wire::Op op, ByteSpan body, uint32_t deadline_ms) {
  const uint64_t id = next_request_id_++;
  if (!send(make_frame(op, body, id, deadline_ms))) {
    return Status(StatusCode::kUnavailable, "send failed");
  }
  auto reply = receive();
  if (reply && reply->header.request_id != id) {
    return Status(StatusCode::kCorrupt, "reply to another request");
  }
  return reply;
}

Status TestClient::hello(const std::string& tenant, uint64_t staging_bytes) {
  wire::HelloRequest request;
  request.client_pid = static_cast<uint32_t>(::getpid());
  request.staging_bytes = staging_bytes;
  std::memcpy(request.client_name.data(), "test", 4);
  std::memcpy(request.tenant.data(), tenant.data(), tenant.size());
  if (!send(make_frame(wire::Op::kHello, bytes_of(request)))) {
    return Status(StatusCode::kUnavailable, "send failed");
  }
  std::vector<std::byte> buffer(wire::kFrameBytesMax);
  alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))] = {};
  iovec part{buffer.data(), buffer.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t got = ::recvmsg(fd_, &message, MSG_CMSG_CLOEXEC);
  if (got < static_cast<ssize_t>(sizeof(wire::FrameHeader))) {
    return Status(StatusCode::kUnavailable, "server closed");
  }
  wire::FrameHeader header;
  std::memcpy(&header, buffer.data(), sizeof(header));
  epoch_ = header.server_epoch;
  if (header.status != 0) return {static_cast<StatusCode>(header.status), "hello refused"};
  std::memcpy(&hello_, buffer.data() + sizeof(header), sizeof(hello_));
  const cmsghdr* rights = CMSG_FIRSTHDR(&message);
  if (rights == nullptr || rights->cmsg_len != CMSG_LEN(2 * sizeof(int))) {
    return Status(StatusCode::kCorrupt, "no descriptors");
  }
  int fds[2];
  std::memcpy(fds, CMSG_DATA(rights), sizeof(fds));
  void* slab = ::mmap(nullptr, hello_.slab_bytes, PROT_READ, MAP_SHARED, fds[0], 0);
  // Nobody but the server may write the slab.
  void* writable = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
  void* staging =
      ::mmap(nullptr, hello_.staging_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fds[1], 0);
  const bool can_shrink = ::ftruncate(fds[1], 0) == 0;
  ::close(fds[0]);
  ::close(fds[1]);
  if (slab == MAP_FAILED || staging == MAP_FAILED) return Status(StatusCode::kIoError, "mmap");
  slab_ = static_cast<const std::byte*>(slab);
  staging_ = static_cast<std::byte*>(staging);
  if (writable != MAP_FAILED || can_shrink) {
    return Status(StatusCode::kInternal, "slab is writable or staging can shrink");
  }
  return Status::ok();
}

Status TestClient::register_model(const ModelDescriptor& model, const std::string& name) {
  const std::vector<std::byte> descriptor = model.encode();
  std::memcpy(staging_, descriptor.data(), descriptor.size());
  wire::RegisterModelRequest request;
  request.model = model_id(model).bytes;
  request.descriptor_bytes = static_cast<uint32_t>(descriptor.size());
  std::memcpy(request.name.data(), name.data(), name.size());
  auto reply = call(wire::Op::kRegisterModel, bytes_of(request));
  return reply ? reply->status() : reply.status();
}

Expected<wire::ReserveReply> TestClient::reserve(const Digest& id, uint64_t bytes) {
  wire::ReserveRequest request;
  request.representation = id.bytes;
  request.bytes = bytes;
  auto reply = call(wire::Op::kReserve, bytes_of(request));
  if (!reply) return reply.status();
  if (reply->header.status != 0) return reply->status();
  return reply->read<wire::ReserveReply>();
}

Status TestClient::commit(uint64_t reservation, ByteSpan bytes, wire::AckLevel ack) {
  wire::CommitRequest request;
  request.reservation_id = reservation;
  request.bytes = bytes.size();
  const Hash128 checksum = xxh3_128(bytes);
  request.checksum_low = checksum.low;
  request.checksum_high = checksum.high;
  request.ack = ack;
  auto reply = call(wire::Op::kCommit, bytes_of(request));
  return reply ? reply->status() : reply.status();
}

Status TestClient::put(const Digest& id, ByteSpan bytes, wire::AckLevel ack) {
  auto window = reserve(id, bytes.size());
  if (!window) return window.status();
  std::memcpy(staging_ + window->staging_offset, bytes.data(), bytes.size());
  return commit(window->reservation_id, bytes, ack);
}

Expected<wire::AcquireReply> TestClient::acquire(const Digest& id, uint32_t lease_ms,
                                                 uint32_t deadline_ms) {
  const wire::AcquireRequest request{1, lease_ms};
  std::vector<std::byte> body(sizeof(request) + sizeof(wire::Id));
  std::memcpy(body.data(), &request, sizeof(request));
  std::memcpy(body.data() + sizeof(request), id.bytes.data(), sizeof(wire::Id));
  auto reply = call(wire::Op::kAcquire, body, deadline_ms);
  if (!reply) return reply.status();
  if (reply->header.status != 0) {
    return Status(reply->code(), reply->message(sizeof(wire::AcquireReply)),
                  reply->header.retry_after_ms);
  }
  return reply->read<wire::AcquireReply>();
}

Expected<wire::AcquireReply> TestClient::acquire_patiently(const Digest& id) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(kPatienceMs);
  auto lease = acquire(id);
  while (!lease && lease.status().code() == StatusCode::kBusy &&
         std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(lease.status().retry_after_ms()));
    lease = acquire(id);
  }
  return lease;
}

Status TestClient::release(uint64_t lease_id) {
  struct {
    wire::ReleaseRequest request{1, 0};
    uint64_t id = 0;
  } body;
  body.id = lease_id;
  auto reply = call(wire::Op::kRelease, bytes_of(body));
  return reply ? reply->status() : reply.status();
}

Expected<std::vector<wire::ResolveEntry>> TestClient::resolve(const Digest& model,
                                                              std::span<const TokenId> tokens) {
  std::memcpy(staging_, tokens.data(), tokens.size_bytes());
  wire::ResolveRequest request;
  request.model = model.bytes;
  request.n_tokens = static_cast<uint32_t>(tokens.size());
  request.recompute_us_per_token = 100;
  auto reply = call(wire::Op::kResolve, bytes_of(request));
  if (!reply) return reply.status();
  if (reply->header.status != 0) return reply->status();
  const auto answer = reply->read<wire::ResolveReply>();
  std::vector<wire::ResolveEntry> entries(answer.n_entries);
  if (reply->body.size() != sizeof(answer) + entries.size() * sizeof(wire::ResolveEntry)) {
    return Status(StatusCode::kCorrupt, "resolve reply has another size");
  }
  if (!entries.empty()) {
    std::memcpy(entries.data(), reply->body.data() + sizeof(answer),
                entries.size() * sizeof(wire::ResolveEntry));
  }
  return entries;
}

}  // namespace quire::server
