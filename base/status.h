// Errors as values. Every fallible call of Quire returns Status or Expected<T>; no exception
// crosses a module. The numbers below are stable: they travel in data-plane frames and in the C
// ABI.
#ifndef QUIRE_BASE_STATUS_H_
#define QUIRE_BASE_STATUS_H_

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace quire {

enum class StatusCode : uint32_t {
  kOk = 0,
  kInvalidArgument = 1,  // the caller's input is wrong; retrying the same call cannot help
  kNotFound = 2,         // a miss
  kAlreadyExists = 3,    // somebody stored this id first
  kBusy = 4,             // no space or no slot right now; retry after the hint
  kDeadlineExceeded = 5,
  kCancelled = 6,
  kCorrupt = 7,  // a checksum, magic or length does not hold
  kIoError = 8,
  kNoSpace = 9,       // the device is full
  kUnsupported = 10,  // a valid request for something this build or model cannot do
  kModelMismatch = 11,
  kStaleLease = 12,   // expired, released, or of another generation
  kUnavailable = 13,  // server draining, stopped or unreachable
  kPermissionDenied = 14,
  kResourceExhausted = 15,  // a named limit is reached
  kInternal = 16,           // a bug of ours
  kVersionMismatch = 17,
  kNonFinite = 18,  // NaN or infinity in a payload
  kFailedPrecondition = 19,
};

inline constexpr uint32_t kStatusCodeCount = 20;

// "NOT_FOUND" and so on; "UNKNOWN" for a number outside the table.
std::string_view status_code_name(StatusCode code);

// True where the same call may succeed later without any change by the caller.
bool status_is_retryable(StatusCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message, uint32_t retry_after_ms = 0)
      : code_(code), retry_after_ms_(retry_after_ms), message_(std::move(message)) {}

  static Status ok() { return {}; }

  bool is_ok() const { return code_ == StatusCode::kOk; }
  explicit operator bool() const { return is_ok(); }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }
  // Meaningful with kBusy: the server's advice when to try again.
  uint32_t retry_after_ms() const { return retry_after_ms_; }
  // "NOT_FOUND: no such object".
  std::string to_string() const;

 private:
  StatusCode code_ = StatusCode::kOk;
  uint32_t retry_after_ms_ = 0;
  std::string message_;
};

// A value or the Status (never OK) that says why there is none.
template <typename T>
class [[nodiscard]] Expected {
 public:
  Expected(T value) : state_(std::move(value)) {}        // NOLINT(google-explicit-constructor)
  Expected(Status status) : state_(std::move(status)) {  // NOLINT(google-explicit-constructor)
    if (std::get<Status>(state_).is_ok()) std::abort();
  }

  bool is_ok() const { return std::holds_alternative<T>(state_); }
  explicit operator bool() const { return is_ok(); }
  T& value() & { return std::get<T>(state_); }
  const T& value() const& { return std::get<T>(state_); }
  T&& value() && { return std::get<T>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  Status status() const { return is_ok() ? Status::ok() : std::get<Status>(state_); }

 private:
  std::variant<T, Status> state_;
};

}  // namespace quire

#define QUIRE_RETURN_IF_ERROR(expression)                                                \
  do {                                                                                   \
    if (auto quire_status_ = (expression); !quire_status_.is_ok()) return quire_status_; \
  } while (false)

#define QUIRE_CONCAT_INNER_(a, b) a##b
#define QUIRE_CONCAT_(a, b) QUIRE_CONCAT_INNER_(a, b)
// QUIRE_ASSIGN_OR_RETURN(auto x, expected_expression);
#define QUIRE_ASSIGN_OR_RETURN(target, expression)              \
  auto QUIRE_CONCAT_(quire_expected_, __LINE__) = (expression); \
  if (!QUIRE_CONCAT_(quire_expected_, __LINE__).is_ok())        \
    return QUIRE_CONCAT_(quire_expected_, __LINE__).status();   \
  target = std::move(QUIRE_CONCAT_(quire_expected_, __LINE__)).value()

#endif  // QUIRE_BASE_STATUS_H_
