// Scripts and values that several client tests share.
#ifndef QUIRE_TESTS_CLIENT_SCRIPTS_H_
#define QUIRE_TESTS_CLIENT_SCRIPTS_H_

#include <gtest/gtest.h>

#include "tests/client/fake_server.h"

namespace quire {

inline Digest id_of(uint8_t seed) {
  Digest digest;
  digest.bytes.fill(seed);
  return digest;
}

inline void no_requests(FakeServer&, const FakeServer::Request& request) {
  ADD_FAILURE() << "unexpected request " << request.header.op;
}

inline wire::AcquireReply lease_reply(uint32_t index) {
  wire::AcquireReply reply;
  reply.index = index;
  reply.lease_ms = 30'000;
  reply.lease_id = 100 + index;
  reply.generation = 5;
  reply.slab_offset = 4096 * index;
  reply.bytes = 1000;
  return reply;
}

// Answers every acquire with leases, the last reply first (any order is allowed).
inline void grant_leases(FakeServer& server, const FakeServer::Request& request) {
  if (request.op() != wire::Op::kAcquire) return;
  const uint32_t n_ids = request.as<wire::AcquireRequest>().n_ids;
  for (uint32_t i = n_ids; i-- > 0;)
    server.reply_with(request, lease_reply(i), i == 0 ? 0 : uint32_t{wire::kFlagMore});
}

}  // namespace quire

#endif  // QUIRE_TESTS_CLIENT_SCRIPTS_H_
