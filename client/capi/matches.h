// Matches between the C++ API and the C ABI.
#ifndef QUIRE_CLIENT_CAPI_MATCHES_H_
#define QUIRE_CLIENT_CAPI_MATCHES_H_

#include "base/status.h"
#include "client/capi/quire.h"
#include "client/client.h"

namespace quire::capi {

quire_match to_c_match(const Match& match);
// kInvalidArgument where a field holds no value of its kind.
Expected<Match> from_c_match(const quire_match& match);

}  // namespace quire::capi

#endif  // QUIRE_CLIENT_CAPI_MATCHES_H_
