// The floor of a request to another process: 64 bytes there and 64 bytes back over a bare unix
// seqpacket socket, nothing else.
#ifndef QUIRE_BENCH_QUIRE_BENCH_PING_PONG_H_
#define QUIRE_BENCH_QUIRE_BENCH_PING_PONG_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>

#include "base/status.h"

namespace quire::bench {

inline constexpr uint64_t kPingBytes = 64;

class PingPong {
 public:
  // Forks the other side: call it before threads are started.
  static Expected<std::unique_ptr<PingPong>> start();
  ~PingPong();
  PingPong(const PingPong&) = delete;
  PingPong& operator=(const PingPong&) = delete;

  // One round trip; nanoseconds.
  Expected<uint64_t> round_trip_ns();

 private:
  PingPong(int fd, pid_t pid) : fd_(fd), pid_(pid) {}
  int fd_;
  pid_t pid_;
};

}  // namespace quire::bench

#endif  // QUIRE_BENCH_QUIRE_BENCH_PING_PONG_H_
