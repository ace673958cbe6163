#include "client/capi/errors.h"

namespace quire::capi {
namespace {

// A fixed buffer: remembering an error must not fail.
struct LastError {
  char message[768] = "";
  uint32_t retry_after_ms = 0;
};
thread_local LastError last_error;

}  // namespace

quire_status report(const Status& status) {
  if (!status.is_ok()) {
    const std::string& message = status.message();
    const size_t bytes = std::min(message.size(), sizeof(last_error.message) - 1);
    std::memcpy(last_error.message, message.data(), bytes);
    last_error.message[bytes] = '\0';
    last_error.retry_after_ms = status.retry_after_ms();
  }
  return static_cast<quire_status>(status.code());
}

}  // namespace quire::capi

uint32_t quire_abi_version(void) {
  return QUIRE_ABI_VERSION;
}

const char* quire_version(void) {
  return QUIRE_VERSION;
}

const char* quire_status_name(quire_status status) {
  // Names are string literals, so they end with a zero.
  return quire::status_code_name(static_cast<quire::StatusCode>(status)).data();
}

const char* quire_last_error(void) {
  return quire::capi::last_error.message;
}

uint32_t quire_last_retry_after_ms(void) {
  return quire::capi::last_error.retry_after_ms;
}

void quire_free(void* array) {
  std::free(array);
}
