// A question for what is stored, on its way through rounds of reading details.
#ifndef QUIRE_SERVER_STORE_RESOLVE_JOB_H_
#define QUIRE_SERVER_STORE_RESOLVE_JOB_H_

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/hash.h"
#include "base/ids.h"
#include "proto/wire.h"
#include "tiers/index/details.h"

namespace quire::server {

// One question for what is stored. The tokens must stay as they are until done ran.
struct ResolveJob {
  tiers::TenantId tenant = 0;
  std::shared_ptr<const TenantSalt> salt;
  Digest scope;
  wire::ResolveRequest request;
  bool reads_gpu = false;  // name the GPU tier where it holds something
  std::vector<TokenId> tokens;
  // The answer: at most kResolveEntriesMax entries, and the token to go on from.
  std::vector<wire::ResolveEntry> entries;
  uint32_t next_token = 0;
  // Details that were read for this question.
  std::unordered_map<Digest, tiers::SharedDetails, DigestHasher> details;
  std::vector<Digest> missing;  // what the last round lacked
  uint32_t rounds = 0;
};

}  // namespace quire::server

#endif  // QUIRE_SERVER_STORE_RESOLVE_JOB_H_
