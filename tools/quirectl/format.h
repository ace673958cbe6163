// Text for people: sizes, durations, aligned tables; and the parsers of what people type.
#ifndef QUIRE_TOOLS_QUIRECTL_FORMAT_H_
#define QUIRE_TOOLS_QUIRECTL_FORMAT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace quire::ctl {

// "12.5 MiB", always MiB so that columns compare.
std::string format_mib(uint64_t bytes);
// "0", "512 B", "1.5 GiB": the largest unit that leaves at least 1.
std::string format_bytes(uint64_t bytes);
// "12s", "4m", "3h", "9d": one unit, rounded down.
std::string format_duration_ms(uint64_t duration_ms);
// How long ago, or "-" for 0.
std::string format_age(uint64_t wall_ms, uint64_t now_wall_ms);
// Lower-case hexadecimal.
std::string to_hex(std::string_view bytes);

// "250ms", "30s", "5m", "1h30m", "7d"; a bare number counts seconds.
Expected<uint64_t> parse_duration_ms(std::string_view text);

// "10GiB", "512 MiB", "1.5TiB", "4096", "0"; units of 1024: B, KiB, MiB, GiB, TiB, PiB (the "iB"
// may be left out). Fractions are rounded down to whole bytes.
Expected<uint64_t> parse_bytes(std::string_view text);

// Columns as wide as their widest cell; numbers to the right where the header starts with '>'.
class Table {
 public:
  explicit Table(std::vector<std::string> headers);
  void add(std::vector<std::string> cells);  // as many as headers
  std::string text() const;

 private:
  std::vector<std::string> headers_;
  std::vector<bool> right_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace quire::ctl

#endif  // QUIRE_TOOLS_QUIRECTL_FORMAT_H_
