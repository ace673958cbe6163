// Little-endian reading and writing of untrusted and trusted bytes. Quire's formats are
// little-endian and the supported machines are too (asserted here), so fields are copied, never
// cast.
#ifndef QUIRE_BASE_BYTES_H_
#define QUIRE_BASE_BYTES_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

namespace quire {

static_assert(std::endian::native == std::endian::little, "Quire's formats assume little-endian");

using ByteSpan = std::span<const std::byte>;
using MutableByteSpan = std::span<std::byte>;

inline constexpr uint64_t align_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

// Reads fields in order; one read past the end makes every later result zero and ok() false, so a
// parser checks once at its end (and before it uses a length).
class ByteReader {
 public:
  explicit ByteReader(ByteSpan bytes) : bytes_(bytes) {}

  template <typename T>
  T read() {
    static_assert(std::is_trivially_copyable_v<T>);
    T value{};
    if (sizeof(T) > remaining()) {
      fail();
      return value;
    }
    std::memcpy(&value, bytes_.data() + offset_, sizeof(T));
    offset_ += sizeof(T);
    return value;
  }

  ByteSpan read_bytes(uint64_t count) {
    if (count > remaining()) {
      fail();
      return {};
    }
    const ByteSpan result = bytes_.subspan(offset_, count);
    offset_ += count;
    return result;
  }

  bool ok() const { return ok_; }
  uint64_t offset() const { return offset_; }
  uint64_t remaining() const { return bytes_.size() - offset_; }
  bool at_end() const { return ok_ && remaining() == 0; }

 private:
  void fail() {
    ok_ = false;
    offset_ = bytes_.size();
  }

  ByteSpan bytes_;
  uint64_t offset_ = 0;
  bool ok_ = true;
};

// Appends fields to a growing buffer (slow paths: manifests, metadata, frames of control).
class ByteWriter {
 public:
  template <typename T>
  void write(const T& value) {
    static_assert(std::is_trivially_copyable_v<T> && !std::is_pointer_v<T>);
    const auto* first = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), first, first + sizeof(T));
  }

  void write_bytes(ByteSpan bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
  void write_text(std::string_view text) { write_bytes(std::as_bytes(std::span(text))); }
  void pad_to(uint64_t alignment) { bytes_.resize(align_up(bytes_.size(), alignment)); }

  uint64_t size() const { return bytes_.size(); }
  ByteSpan bytes() const { return bytes_; }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace quire

#endif  // QUIRE_BASE_BYTES_H_
