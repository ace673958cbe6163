#include "base/status.h"

#include <array>

namespace quire {
namespace {

constexpr std::array<std::string_view, kStatusCodeCount> kNames = {
    "OK",          "INVALID_ARGUMENT",  "NOT_FOUND",         "ALREADY_EXISTS",
    "BUSY",        "DEADLINE_EXCEEDED", "CANCELLED",         "CORRUPT",
    "IO_ERROR",    "NO_SPACE",          "UNSUPPORTED",       "MODEL_MISMATCH",
    "STALE_LEASE", "UNAVAILABLE",       "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
    "INTERNAL",    "VERSION_MISMATCH",  "NON_FINITE",        "FAILED_PRECONDITION"};

}  // namespace

std::string_view status_code_name(StatusCode code) {
  const auto index = static_cast<uint32_t>(code);
  return index < kNames.size() ? kNames[index] : "UNKNOWN";
}

bool status_is_retryable(StatusCode code) {
  return code == StatusCode::kBusy || code == StatusCode::kUnavailable ||
         code == StatusCode::kDeadlineExceeded;
}

std::string Status::to_string() const {
  std::string text(status_code_name(code_));
  if (!message_.empty()) text += ": " + message_;
  return text;
}

}  // namespace quire
