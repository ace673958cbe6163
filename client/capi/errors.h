// What every function of the C ABI shares: Status to number and thread-local message, no exception
// outwards, versioned structs.
#ifndef QUIRE_CLIENT_CAPI_ERRORS_H_
#define QUIRE_CLIENT_CAPI_ERRORS_H_

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <type_traits>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "client/capi/quire.h"

namespace quire::capi {

// Ids in one call of the acquire_many functions.
inline constexpr size_t kAcquireManyMax = 1'000'000;

// Remembers the message for quire_last_error() and gives the number.
quire_status report(const Status& status);

// Runs body, which returns a Status; an exception (out of memory) becomes one.
template <typename Body>
quire_status guarded(Body body) noexcept {
  try {
    return report(body());
  } catch (const std::bad_alloc&) {
    return report({StatusCode::kResourceExhausted, "out of memory"});
  } catch (...) {
    return report({StatusCode::kInternal, "unexpected exception"});
  }
}

inline Status null_argument(const char* name) {
  return {StatusCode::kInvalidArgument, std::string(name) + " must not be NULL"};
}

// The part of a caller's struct that this library knows; the rest of target keeps its defaults.
template <typename T>
Status read_struct(const T* source, T& target) {
  static_assert(std::is_trivially_copyable_v<T>);
  uint32_t struct_bytes;
  std::memcpy(&struct_bytes, source, sizeof(struct_bytes));
  if (struct_bytes < sizeof(struct_bytes))
    return {StatusCode::kInvalidArgument, "struct_bytes is not set"};
  const auto* bytes = reinterpret_cast<const unsigned char*>(source);
  for (size_t i = sizeof(T); i < struct_bytes; ++i)
    if (bytes[i] != 0)
      return {StatusCode::kInvalidArgument, "the caller uses fields this library does not know"};
  std::memcpy(&target, source, std::min<size_t>(sizeof(T), struct_bytes));
  return Status::ok();
}

// The part of known that fits the caller's struct, whose struct_bytes must be set.
template <typename T>
Status write_struct(T known, T* target) {
  static_assert(std::is_trivially_copyable_v<T>);
  const uint32_t struct_bytes = target->struct_bytes;
  if (struct_bytes < sizeof(struct_bytes))
    return {StatusCode::kInvalidArgument, "struct_bytes is not set"};
  known.struct_bytes = struct_bytes;
  std::memcpy(target, &known, std::min<size_t>(struct_bytes, sizeof(known)));
  return Status::ok();
}

// Elements of a caller's array whose stride is the first element's struct_bytes.
template <typename T>
Status read_struct_array(const T* source, size_t count, size_t count_max, std::vector<T>& target) {
  if (count == 0) return Status::ok();
  if (source == nullptr) return null_argument("array");
  if (count > count_max) return {StatusCode::kResourceExhausted, "the array is too long"};
  const uint32_t stride = source->struct_bytes;
  if (stride < sizeof(uint32_t) || stride % alignof(T) != 0)
    return {StatusCode::kInvalidArgument, "struct_bytes is not set"};
  target.resize(count);
  const auto* bytes = reinterpret_cast<const unsigned char*>(source);
  for (size_t i = 0; i < count; ++i) {
    const auto* element = reinterpret_cast<const T*>(bytes + i * stride);
    if (element->struct_bytes != stride)
      return {StatusCode::kInvalidArgument, "elements of an array differ in struct_bytes"};
    QUIRE_RETURN_IF_ERROR(read_struct(element, target[i]));
  }
  return Status::ok();
}

// An array for the caller, freed by quire_free(); at least one element long, so never NULL.
template <typename T>
T* new_array(size_t count) {
  static_assert(std::is_trivially_copyable_v<T>);
  auto* array = static_cast<T*>(std::calloc(std::max<size_t>(count, 1), sizeof(T)));
  if (array == nullptr) throw std::bad_alloc();
  return array;
}

inline Digest to_digest(const quire_id& id) {
  Digest digest;
  std::memcpy(digest.bytes.data(), id.bytes, sizeof(id.bytes));
  return digest;
}

inline quire_id to_id(const Digest& digest) {
  quire_id id;
  std::memcpy(id.bytes, digest.bytes.data(), sizeof(id.bytes));
  return id;
}

}  // namespace quire::capi

#endif  // QUIRE_CLIENT_CAPI_ERRORS_H_
