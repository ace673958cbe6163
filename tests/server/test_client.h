// A client written from docs/formats/wire.md alone, able to misbehave: it sends any bytes, keeps
// leases, never reads, dies. Blocking, one thread.
#ifndef QUIRE_TESTS_SERVER_TEST_CLIENT_H_
#define QUIRE_TESTS_SERVER_TEST_CLIENT_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/ids.h"
#include "base/status.h"
#include "proto/wire.h"

namespace quire::server {

// How long a test waits for what must happen: longer than a slow disk or a loaded machine takes, so
// that only a hang ends it.
inline constexpr int kPatienceMs = 60'000;

struct TestReply {
  wire::FrameHeader header;
  std::vector<std::byte> body;

  StatusCode code() const { return static_cast<StatusCode>(header.status); }
  template <typename T>
  T read(size_t offset = 0) const {
    T value{};
    if (offset + sizeof(T) <= body.size()) std::memcpy(&value, body.data() + offset, sizeof(T));
    return value;
  }
  std::string message(size_t offset = 0) const {
    return offset < body.size() ? std::string(reinterpret_cast<const char*>(body.data()) + offset,
                                              body.size() - offset)
                                : std::string();
  }
  Status status() const { return {code(), message(), header.retry_after_ms}; }
};

// A sound request frame.
std::vector<std::byte> make_frame(wire::Op op, ByteSpan body, uint64_t request_id = 1,
                                  uint32_t deadline_ms = kPatienceMs, uint32_t flags = 0);
// Makes the checksums of a frame that was tampered with right again.
void reseal(std::vector<std::byte>& frame);

template <typename T>
ByteSpan bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

class TestClient {
 public:
  // Connects without saying anything.
  static std::unique_ptr<TestClient> open(const std::string& socket_path);
  // Connects and says hello; nullptr where that fails.
  static std::unique_ptr<TestClient> connect(const std::string& socket_path,
                                             const std::string& tenant = "",
                                             uint64_t staging_bytes = 0);
  ~TestClient();

  int fd() const { return fd_; }
  bool send(ByteSpan frame);
  // The next frame; code kUnavailable where the server closed, kDeadlineExceeded after timeout_ms.
  Expected<TestReply> receive(int timeout_ms = kPatienceMs + 10'000);
  Expected<TestReply> call(wire::Op op, ByteSpan body, uint32_t deadline_ms = kPatienceMs);
  Status hello(const std::string& tenant, uint64_t staging_bytes);

  Status register_model(const ModelDescriptor& model, const std::string& name = "test");
  Expected<wire::ReserveReply> reserve(const Digest& id, uint64_t bytes);
  Status commit(uint64_t reservation, ByteSpan bytes, wire::AckLevel ack = wire::AckLevel::kMemory);
  // reserve, copy, commit.
  Status put(const Digest& id, ByteSpan bytes, wire::AckLevel ack = wire::AckLevel::kMemory);
  Expected<wire::AcquireReply> acquire(const Digest& id, uint32_t lease_ms = 0,
                                       uint32_t deadline_ms = kPatienceMs);
  // acquire with retries while BUSY, as while memory is full of objects still being written below.
  Expected<wire::AcquireReply> acquire_patiently(const Digest& id);
  Status release(uint64_t lease_id);
  Expected<std::vector<wire::ResolveEntry>> resolve(const Digest& model,
                                                    std::span<const TokenId> tokens);
  ByteSpan leased(const wire::AcquireReply& lease) const {
    return {slab_ + lease.slab_offset, lease.bytes};
  }
  MutableByteSpan staging() const { return {staging_, hello_.staging_bytes}; }
  const wire::HelloReply& hello_reply() const { return hello_; }
  uint64_t epoch() const { return epoch_; }

 private:
  explicit TestClient(int fd) : fd_(fd) {}

  int fd_;
  wire::HelloReply hello_;
  uint64_t epoch_ = 0;
  uint64_t next_request_id_ = 1;
  const std::byte* slab_ = nullptr;
  std::byte* staging_ = nullptr;
};

}  // namespace quire::server

#endif  // QUIRE_TESTS_SERVER_TEST_CLIENT_H_
