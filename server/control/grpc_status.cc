#include "server/control/grpc_status.h"

#include <array>

#include "proto/control_metadata.h"
#include "proto/wire.h"
#include "server/control/messages.h"

namespace quire::server {
namespace {

struct CodePair {
  StatusCode ours;
  grpc::StatusCode grpc;
};

// Rows in the order of StatusCode's numbers.
constexpr std::array<CodePair, kStatusCodeCount> kCodes = {{
    {StatusCode::kOk, grpc::StatusCode::OK},
    {StatusCode::kInvalidArgument, grpc::StatusCode::INVALID_ARGUMENT},
    {StatusCode::kNotFound, grpc::StatusCode::NOT_FOUND},
    {StatusCode::kAlreadyExists, grpc::StatusCode::ALREADY_EXISTS},
    {StatusCode::kBusy, grpc::StatusCode::RESOURCE_EXHAUSTED},
    {StatusCode::kDeadlineExceeded, grpc::StatusCode::DEADLINE_EXCEEDED},
    {StatusCode::kCancelled, grpc::StatusCode::CANCELLED},
    {StatusCode::kCorrupt, grpc::StatusCode::DATA_LOSS},
    {StatusCode::kIoError, grpc::StatusCode::INTERNAL},
    {StatusCode::kNoSpace, grpc::StatusCode::RESOURCE_EXHAUSTED},
    {StatusCode::kUnsupported, grpc::StatusCode::UNIMPLEMENTED},
    {StatusCode::kModelMismatch, grpc::StatusCode::FAILED_PRECONDITION},
    {StatusCode::kStaleLease, grpc::StatusCode::ABORTED},
    {StatusCode::kUnavailable, grpc::StatusCode::UNAVAILABLE},
    {StatusCode::kPermissionDenied, grpc::StatusCode::PERMISSION_DENIED},
    {StatusCode::kResourceExhausted, grpc::StatusCode::RESOURCE_EXHAUSTED},
    {StatusCode::kInternal, grpc::StatusCode::INTERNAL},
    {StatusCode::kVersionMismatch, grpc::StatusCode::FAILED_PRECONDITION},
    {StatusCode::kNonFinite, grpc::StatusCode::INVALID_ARGUMENT},
    {StatusCode::kFailedPrecondition, grpc::StatusCode::FAILED_PRECONDITION},
}};

constexpr bool rows_in_order() {
  for (uint32_t i = 0; i < kCodes.size(); ++i)
    if (static_cast<uint32_t>(kCodes[i].ours) != i) return false;
  return true;
}
static_assert(rows_in_order());

}  // namespace

grpc::StatusCode grpc_code(StatusCode code) {
  const auto index = static_cast<uint32_t>(code);
  return index < kCodes.size() ? kCodes[index].grpc : grpc::StatusCode::UNKNOWN;
}

grpc::Status to_grpc(grpc::ServerContext& context, const Status& status) {
  if (status.is_ok()) return grpc::Status::OK;
  context.AddTrailingMetadata(control::kStatusMetadataKey,
                              std::string(status_code_name(status.code())));
  if (status.retry_after_ms() != 0)
    context.AddTrailingMetadata(control::kRetryAfterMetadataKey,
                                std::to_string(status.retry_after_ms()));
  return {grpc_code(status.code()),
          printable_text(std::string_view(status.message()).substr(0, wire::kMessageBytesMax))};
}

}  // namespace quire::server
