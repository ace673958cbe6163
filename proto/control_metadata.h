// What both ends of the gRPC control API agree on beside proto/control.proto.
#ifndef QUIRE_PROTO_CONTROL_METADATA_H_
#define QUIRE_PROTO_CONTROL_METADATA_H_

#include <cstdint>

namespace quire::control {

// Larger requests and replies are refused by either end.
inline constexpr int kControlMessageBytesMax = 4 << 20;
inline constexpr uint32_t kIdBytes = 32;

// Trailing metadata of a failed call: status_code_name() of base/status.h, and milliseconds in
// decimal.
inline constexpr char kStatusMetadataKey[] = "quire-status";
inline constexpr char kRetryAfterMetadataKey[] = "quire-retry-after-ms";

// The server's address where none is configured.
inline constexpr char kDefaultControlAddress[] = "127.0.0.1:7766";

}  // namespace quire::control

#endif  // QUIRE_PROTO_CONTROL_METADATA_H_
