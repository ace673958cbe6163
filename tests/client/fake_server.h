// A scripted server on the other end of a socketpair: answers the greeting, hands every further
// request to the test's script.
#ifndef QUIRE_TESTS_CLIENT_FAKE_SERVER_H_
#define QUIRE_TESTS_CLIENT_FAKE_SERVER_H_

#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "client/connection.h"
#include "client/session.h"
#include "proto/wire.h"

namespace quire {

// Opens clients over a given socket.
class ClientTestPeer {
 public:
  static Expected<std::unique_ptr<Client>> connect(UniqueFd socket, const ClientOptions& options);
};

class FakeServer {
 public:
  struct Request {
    wire::FrameHeader header;
    std::vector<std::byte> body;
    wire::Op op() const { return static_cast<wire::Op>(header.op); }
    // The first bytes of the body as T.
    template <typename T>
    T as() const {
      return ByteReader(body).read<T>();
    }
  };
  using Script = std::function<void(FakeServer&, const Request&)>;

  static constexpr uint64_t kEpoch = 77;
  static constexpr uint64_t kSlabBytes = 1 << 20;
  static constexpr uint64_t kStagingBytes = wire::kPromptScratchBytes + (1 << 20);

  explicit FakeServer(Script script);
  ~FakeServer();

  // Called in place of the regular greeting.
  Script on_hello;
  wire::HelloReply hello_reply;
  uint32_t features = 0;  // in the greeting

  // The client's end; once.
  UniqueFd client_socket() { return std::move(client_end_); }
  Expected<std::unique_ptr<Client>> connect(uint32_t timeout_ms = 5000);

  // From the script.
  void reply(const Request& request, ByteSpan body, uint32_t flags = 0,
             const std::function<void(wire::FrameHeader&)>& change = {});
  template <typename T>
  void reply_with(const Request& request, const T& value, uint32_t flags = 0) {
    reply(request, std::as_bytes(std::span(&value, 1)), flags);
  }
  void reply_error(const Request& request, StatusCode code, std::string_view message,
                   uint32_t retry_after_ms = 0);
  void send_raw(ByteSpan bytes);
  // A reply with descriptors; of the greeting with the features.
  void send_hello(const Request& request, ByteSpan body, std::span<const int> fds);
  void hang_up();

  MutableByteSpan slab() { return slab_.bytes(); }
  MutableByteSpan staging() { return staging_.bytes(); }
  int slab_fd() const { return slab_fd_.get(); }
  int staging_fd() const { return staging_fd_.get(); }
  // Ops received so far.
  std::vector<wire::Op> seen();
  // Waits until count requests were received (at most 5 s).
  bool wait_seen(size_t count);

 private:
  void run();

  Script script_;
  UniqueFd server_end_;
  UniqueFd client_end_;
  UniqueFd slab_fd_;
  UniqueFd staging_fd_;
  Mapping slab_;
  Mapping staging_;
  std::mutex mutex_;
  std::vector<wire::Op> seen_;
  std::thread thread_;
};

}  // namespace quire

#endif  // QUIRE_TESTS_CLIENT_FAKE_SERVER_H_
