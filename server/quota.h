// The one rule that limits of a tenant obey.
#ifndef QUIRE_SERVER_QUOTA_H_
#define QUIRE_SERVER_QUOTA_H_

#include <cstdint>
#include <string>

#include "base/status.h"

namespace quire::server {

// kInvalidArgument where the guaranteed share is above the limit. 0 = none of either.
inline Status check_quota(uint64_t soft_bytes, uint64_t hard_bytes) {
  if (hard_bytes == 0 || soft_bytes <= hard_bytes) return Status::ok();
  return Status(StatusCode::kInvalidArgument, "soft_bytes " + std::to_string(soft_bytes) +
                                                  " is above hard_bytes " +
                                                  std::to_string(hard_bytes));
}

}  // namespace quire::server

#endif  // QUIRE_SERVER_QUOTA_H_
