#include "tools/corpus/encoding.h"

#include <iconv.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <utility>

namespace quire::corpus {
namespace {

constexpr uint64_t kIconvBlockBytes = 64 * 1024;

std::string to_lower(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return lower;
}

Status invalid_utf8(std::string_view bytes, uint64_t offset, std::string_view why) {
  char byte[8];
  std::snprintf(byte, sizeof(byte), "0x%02X", static_cast<unsigned char>(bytes[offset]));
  return Status(StatusCode::kInvalidArgument,
                std::string(why) + " (byte " + byte + " at offset " + std::to_string(offset) +
                    "); convert it, for example: iconv -f ISO-8859-1 -t UTF-8 FILE > NEW");
}

struct ByteOrderMark {
  std::string_view bytes;
  std::string_view charset;
};
// UTF-32LE begins with UTF-16LE's mark, so it comes first.
constexpr std::array<ByteOrderMark, 5> kByteOrderMarks = {{
    {std::string_view("\xFF\xFE\x00\x00", 4), "utf-32le"},
    {std::string_view("\x00\x00\xFE\xFF", 4), "utf-32be"},
    {std::string_view("\xEF\xBB\xBF", 3), "utf-8"},
    {std::string_view("\xFF\xFE", 2), "utf-16le"},
    {std::string_view("\xFE\xFF", 2), "utf-16be"},
}};

bool is_utf8_name(std::string_view charset) {
  return charset == "utf-8" || charset == "utf8";
}

// Web pages that say Latin-1 mean windows-1252 (WHATWG Encoding Standard, labels).
std::string iconv_name(std::string_view charset) {
  for (std::string_view label : {"iso-8859-1", "iso8859-1", "latin1", "l1", "ascii", "us-ascii"})
    if (charset == label) return "windows-1252";
  return std::string(charset);
}

class Iconv {
 public:
  explicit Iconv(const std::string& from) : handle_(iconv_open("UTF-8", from.c_str())) {}
  ~Iconv() {
    if (valid()) iconv_close(handle_);
  }
  Iconv(const Iconv&) = delete;
  Iconv& operator=(const Iconv&) = delete;
  bool valid() const { return handle_ != reinterpret_cast<iconv_t>(-1); }
  iconv_t get() const { return handle_; }

 private:
  iconv_t handle_;
};

Expected<std::string> convert(std::string_view bytes, std::string_view charset) {
  Iconv converter(iconv_name(charset));
  if (!converter.valid())
    return Status(StatusCode::kInvalidArgument, "unknown charset '" + std::string(charset) +
                                                    "'; convert the file to UTF-8 first");
  std::string result;
  std::string block(kIconvBlockBytes, '\0');
  char* source = const_cast<char*>(bytes.data());  // iconv's signature; it does not write there
  size_t source_left = bytes.size();
  while (source_left > 0) {
    char* target = block.data();
    size_t target_left = block.size();
    const size_t rc = iconv(converter.get(), &source, &source_left, &target, &target_left);
    result.append(block.data(), block.size() - target_left);
    if (rc != static_cast<size_t>(-1) || errno == E2BIG) continue;
    return Status(StatusCode::kInvalidArgument,
                  "byte at offset " + std::to_string(bytes.size() - source_left) + " is not " +
                      std::string(charset) +
                      ", which the file declares; convert it to UTF-8 first");
  }
  return result;
}

void normalise_line_ends(std::string& text) {
  size_t out = 0;
  for (size_t in = 0; in < text.size(); ++in) {
    if (text[in] == '\r') {
      if (in + 1 < text.size() && text[in + 1] == '\n') continue;
      text[out++] = '\n';
    } else {
      text[out++] = text[in];
    }
  }
  text.resize(out);
}

// The value behind the first "charset=" or "encoding=" of a piece of markup, quotes optional.
std::string attribute_value(std::string_view lower, std::string_view name) {
  size_t at = lower.find(name);
  if (at == std::string_view::npos) return {};
  at += name.size();
  while (at < lower.size() && std::isspace(static_cast<unsigned char>(lower[at]))) ++at;
  if (at >= lower.size() || lower[at] != '=') return {};
  ++at;
  while (at < lower.size() && (std::isspace(static_cast<unsigned char>(lower[at])) ||
                               lower[at] == '"' || lower[at] == '\''))
    ++at;
  size_t end = at;
  while (end < lower.size() && (std::isalnum(static_cast<unsigned char>(lower[end])) ||
                                lower[end] == '-' || lower[end] == '_' || lower[end] == ':'))
    ++end;
  return std::string(lower.substr(at, end - at));
}

// 0 where the sequence at `at` is not valid, else its length in bytes.
uint64_t sequence_bytes(std::string_view bytes, uint64_t at) {
  const auto byte = [&](uint64_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char lead = byte(at);
  if (lead < 0x80) return 1;
  uint64_t length = 0;
  unsigned char second_min = 0x80;
  unsigned char second_max = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) second_min = 0xA0;
    if (lead == 0xED) second_max = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) second_min = 0x90;
    if (lead == 0xF4) second_max = 0x8F;
  }
  if (length == 0 || at + length > bytes.size()) return 0;
  if (byte(at + 1) < second_min || byte(at + 1) > second_max) return 0;
  for (uint64_t i = 2; i < length; ++i)
    if ((byte(at + i) & 0xC0) != 0x80) return 0;
  return length;
}

}  // namespace

uint64_t first_invalid_utf8(std::string_view bytes) {
  for (uint64_t at = 0; at < bytes.size();) {
    const uint64_t length = sequence_bytes(bytes, at);
    if (length == 0) return at;
    at += length;
  }
  return kNoInvalidByte;
}

std::string declared_html_charset(std::string_view bytes) {
  const std::string head = to_lower(bytes.substr(0, kCharsetScanBytes));
  std::string charset;
  if (const size_t xml = head.find("<?xml"); xml != std::string::npos) {
    const size_t end = std::min(head.find("?>", xml), head.size());
    charset = attribute_value(std::string_view(head).substr(xml, end - xml), "encoding");
  }
  for (size_t at = head.find("<meta"); at != std::string::npos && charset.empty();
       at = head.find("<meta", at + 1)) {
    const size_t end = std::min(head.find('>', at), head.size());
    charset = attribute_value(std::string_view(head).substr(at, end - at), "charset");
  }
  // Markup that could be read byte by byte is not UTF-16, whatever it says (HTML standard,
  // prescan).
  if (charset.starts_with("utf-16")) charset = "utf-8";
  return charset;
}

Expected<std::string> to_canonical_utf8(std::string_view bytes, std::string_view declared_charset) {
  std::string charset = to_lower(declared_charset);
  for (const ByteOrderMark& mark : kByteOrderMarks) {
    if (!bytes.starts_with(mark.bytes)) continue;
    charset = mark.charset;
    bytes.remove_prefix(mark.bytes.size());
    break;
  }
  std::string text;
  if (charset.empty() || is_utf8_name(charset)) {
    const uint64_t offset = first_invalid_utf8(bytes);
    if (offset != kNoInvalidByte)
      return invalid_utf8(
          bytes, offset,
          charset.empty() ? "is not UTF-8 and declares no charset" : "declares UTF-8 but is not");
    text = bytes;
  } else {
    QUIRE_ASSIGN_OR_RETURN(text, convert(bytes, charset));
  }
  if (const size_t nul = text.find('\0'); nul != std::string::npos)
    return Status(StatusCode::kInvalidArgument,
                  "has a NUL byte at offset " + std::to_string(nul) +
                      ": a binary file, not text; leave it out or convert it to text first");
  normalise_line_ends(text);
  return text;
}

}  // namespace quire::corpus
