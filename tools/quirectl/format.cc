#include "tools/quirectl/format.h"

#include <algorithm>
#include <cassert>
#include <charconv>
#include <cstdio>
#include <limits>

namespace quire::ctl {
namespace {

constexpr uint64_t kSecondMs = 1000;
constexpr uint64_t kMinuteMs = 60 * kSecondMs;
constexpr uint64_t kHourMs = 60 * kMinuteMs;
constexpr uint64_t kDayMs = 24 * kHourMs;

Status bad_duration(std::string_view text) {
  return {StatusCode::kInvalidArgument,
          "\"" + std::string(text) + "\" is not a duration: write 250ms, 30s, 5m, 1h30m or 7d"};
}

// Milliseconds of a unit, 0 for an unknown one.
uint64_t unit_ms(std::string_view unit) {
  if (unit == "ms") return 1;
  if (unit == "s") return kSecondMs;
  if (unit == "m") return kMinuteMs;
  if (unit == "h") return kHourMs;
  if (unit == "d") return kDayMs;
  return 0;
}

constexpr std::string_view kByteUnits = "BKMGTP";

Status bad_bytes(std::string_view text) {
  return {StatusCode::kInvalidArgument,
          "\"" + std::string(text) + "\" is not a size: write 512MiB, 10GiB, 1.5TiB or bytes"};
}

// log2 of the unit's bytes, -1 for an unknown one.
int unit_shift(std::string_view unit) {
  if (unit.empty()) return 0;
  const size_t index = kByteUnits.find(unit[0]);
  if (index == std::string_view::npos) return -1;
  if (index == 0) return unit.size() == 1 ? 0 : -1;
  if (unit.size() != 1 && unit.substr(1) != "iB") return -1;
  return static_cast<int>(10 * index);
}

// Characters, not bytes, of UTF-8.
size_t width_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xc0) != 0x80; }));
}

}  // namespace

std::string format_mib(uint64_t bytes) {
  char text[40];
  std::snprintf(text, sizeof(text), "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  return text;
}

std::string format_bytes(uint64_t bytes) {
  if (bytes == 0) return "0";
  size_t unit = 0;
  while (unit + 1 < kByteUnits.size() && bytes >> (10 * (unit + 1)) != 0) ++unit;
  if (unit == 0) return std::to_string(bytes) + " B";
  char text[40];
  std::snprintf(text, sizeof(text), "%.1f %ciB",
                static_cast<double>(bytes) / static_cast<double>(1ull << (10 * unit)),
                kByteUnits[unit]);
  return text;
}

std::string format_duration_ms(uint64_t duration_ms) {
  if (duration_ms < kMinuteMs) return std::to_string(duration_ms / kSecondMs) + "s";
  if (duration_ms < kHourMs) return std::to_string(duration_ms / kMinuteMs) + "m";
  if (duration_ms < kDayMs) return std::to_string(duration_ms / kHourMs) + "h";
  return std::to_string(duration_ms / kDayMs) + "d";
}

std::string format_age(uint64_t wall_ms, uint64_t now_wall_ms) {
  if (wall_ms == 0) return "-";
  return format_duration_ms(now_wall_ms > wall_ms ? now_wall_ms - wall_ms : 0);
}

std::string to_hex(std::string_view bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * bytes.size());
  for (const char c : bytes) {
    const auto byte = static_cast<uint8_t>(c);
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

Expected<uint64_t> parse_duration_ms(std::string_view text) {
  uint64_t total_ms = 0;
  std::string_view rest = text;
  if (rest.empty()) return bad_duration(text);
  while (!rest.empty()) {
    uint64_t count = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), count);
    if (error != std::errc{}) return bad_duration(text);
    rest.remove_prefix(static_cast<size_t>(end - rest.data()));
    const size_t unit_size = std::min(rest.find_first_of("0123456789"), rest.size());
    const bool bare_seconds = rest.empty() && total_ms == 0;
    const uint64_t factor_ms = bare_seconds ? kSecondMs : unit_ms(rest.substr(0, unit_size));
    if (factor_ms == 0 || count > (std::numeric_limits<uint64_t>::max() - total_ms) / factor_ms)
      return bad_duration(text);
    total_ms += count * factor_ms;
    rest.remove_prefix(unit_size);
  }
  return total_ms;
}

Expected<uint64_t> parse_bytes(std::string_view text) {
  constexpr int kFractionDigitsMax = 6;
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  uint64_t whole = 0;
  if (std::from_chars(text.data(), text.data() + digits, whole).ec != std::errc{})
    return bad_bytes(text);
  std::string_view rest = text.substr(digits);
  uint64_t fraction = 0;
  uint64_t fraction_unit = 1;
  if (rest.starts_with('.')) {
    rest.remove_prefix(1);
    int count = 0;
    for (; !rest.empty() && rest[0] >= '0' && rest[0] <= '9'; ++count, rest.remove_prefix(1)) {
      if (count == kFractionDigitsMax) return bad_bytes(text);
      fraction = 10 * fraction + static_cast<uint64_t>(rest[0] - '0');
      fraction_unit *= 10;
    }
    if (count == 0 || rest.empty()) return bad_bytes(text);
  }
  if (rest.starts_with(' ')) rest.remove_prefix(1);
  const int shift = unit_shift(rest);
  if (shift < 0 || whole > std::numeric_limits<uint64_t>::max() >> shift) return bad_bytes(text);
  const auto part =
      static_cast<uint64_t>(static_cast<double>(fraction) / static_cast<double>(fraction_unit) *
                            static_cast<double>(1ull << shift));
  const uint64_t bytes = whole << shift;
  if (bytes > std::numeric_limits<uint64_t>::max() - part) return bad_bytes(text);
  return bytes + part;
}

Table::Table(std::vector<std::string> headers) : headers_(std::move(headers)) {
  for (std::string& header : headers_) {
    right_.push_back(header.starts_with('>'));
    if (right_.back()) header.erase(0, 1);
  }
}

void Table::add(std::vector<std::string> cells) {
  assert(cells.size() == headers_.size());
  rows_.push_back(std::move(cells));
}

std::string Table::text() const {
  std::vector<size_t> widths;
  for (size_t column = 0; column < headers_.size(); ++column) {
    size_t width = width_of(headers_[column]);
    for (const auto& row : rows_) width = std::max(width, width_of(row[column]));
    widths.push_back(width);
  }
  std::string text;
  const auto append = [&](const std::vector<std::string>& cells) {
    std::string line;
    for (size_t column = 0; column < cells.size(); ++column) {
      const std::string padding(widths[column] - width_of(cells[column]), ' ');
      if (column != 0) line += "  ";
      line += right_[column] ? padding + cells[column] : cells[column] + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  };
  append(headers_);
  for (const auto& row : rows_) append(row);
  return text;
}

}  // namespace quire::ctl
