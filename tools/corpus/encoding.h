// From the bytes of a file to canonical UTF-8 text. Pure functions, thread safe.
#ifndef QUIRE_TOOLS_CORPUS_ENCODING_H_
#define QUIRE_TOOLS_CORPUS_ENCODING_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace quire::corpus {

inline constexpr uint64_t kNoInvalidByte = ~0ull;

// Offset of the first byte that is not strict UTF-8 (no overlong forms, surrogates or values above
// U+10FFFF), or kNoInvalidByte.
uint64_t first_invalid_utf8(std::string_view bytes);

// True at the end of the text and at the first byte of a code point.
inline bool is_code_point_start(std::string_view text, uint64_t offset) {
  return offset >= text.size() || (static_cast<unsigned char>(text[offset]) & 0xC0) != 0x80;
}

// The charset a page of HTML declares (meta charset, http-equiv, XML declaration) within its first
// kCharsetScanBytes, lower case; empty where it declares none.
inline constexpr uint64_t kCharsetScanBytes = 4096;
std::string declared_html_charset(std::string_view bytes);

// Canonical text: UTF-8 with LF line ends and no byte-order mark. The charset comes from a
// byte-order mark, else from declared_charset, else the bytes must be UTF-8. kInvalidArgument, with
// advice, for bytes that do not fit, an unknown charset, and NUL bytes (a binary file).
Expected<std::string> to_canonical_utf8(std::string_view bytes, std::string_view declared_charset);

}  // namespace quire::corpus

#endif  // QUIRE_TOOLS_CORPUS_ENCODING_H_
