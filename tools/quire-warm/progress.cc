#include "tools/quire-warm/progress.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "tools/corpus/encoding.h"

namespace quire::warm {

std::string format_bytes(uint64_t bytes) {
  static constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  char text[32];
  std::snprintf(text, sizeof(text), unit == 0 || value >= 100 ? "%.0f %s" : "%.1f %s", value,
                kUnits[unit]);
  return text;
}

std::string format_seconds(uint64_t seconds) {
  char text[48];
  const auto part = [](uint64_t value) { return static_cast<unsigned long long>(value); };
  if (seconds >= 86400) {
    std::snprintf(text, sizeof(text), "%llud %lluh", part(seconds / 86400),
                  part(seconds % 86400 / 3600));
  } else if (seconds >= 3600) {
    std::snprintf(text, sizeof(text), "%lluh %02llum", part(seconds / 3600),
                  part(seconds % 3600 / 60));
  } else if (seconds >= 60) {
    std::snprintf(text, sizeof(text), "%llum %02llus", part(seconds / 60), part(seconds % 60));
  } else {
    std::snprintf(text, sizeof(text), "%llus", part(seconds));
  }
  return text;
}

std::string format_count(uint64_t count) {
  std::string text = std::to_string(count);
  for (auto at = static_cast<int64_t>(text.size()) - 3; at > 0; at -= 3)
    text.insert(static_cast<size_t>(at), ",");
  return text;
}

Progress::Progress(std::ostream& out, ProgressStyle style, const Clock& clock)
    : out_(out), style_(style), clock_(clock) {}

double Progress::tokens_per_second() const {
  return computed_us_ == 0
             ? 0
             : static_cast<double>(computed_tokens_) * 1e6 / static_cast<double>(computed_us_);
}

void Progress::add(uint64_t tokens, bool computed, uint64_t compute_us, std::string_view where) {
  done_tokens_ += tokens;
  if (computed) {
    computed_tokens_ += tokens;
    computed_us_ += compute_us;
  }
  const uint64_t interval = style_.terminal ? kBarIntervalNs : kLineIntervalNs;
  const uint64_t now = clock_.now_ns();
  if (last_drawn_ns_ != 0 && now - last_drawn_ns_ < interval) return;
  last_drawn_ns_ = now;
  draw(where);
}

std::string Progress::status_line(std::string_view where) const {
  const uint64_t total = std::max(total_tokens_, done_tokens_);
  const double fraction =
      total == 0 ? 1 : static_cast<double>(done_tokens_) / static_cast<double>(total);
  char head[160];
  std::string line;
  if (style_.terminal) {
    const auto filled = static_cast<uint32_t>(fraction * kBarCells);
    line = "[" + std::string(filled, '#') + std::string(kBarCells - filled, '.') + "] ";
  }
  std::snprintf(head, sizeof(head), "%3.0f %%  %s/%s tokens", std::floor(fraction * 100),
                format_count(done_tokens_).c_str(), format_count(total).c_str());
  line += head;
  if (const double rate = tokens_per_second(); rate > 0) {
    const auto left = static_cast<double>(total - done_tokens_) / rate;
    std::snprintf(head, sizeof(head), "  %.0f tokens/s  %s left", rate,
                  format_seconds(static_cast<uint64_t>(left + 0.5)).c_str());
    line += head;
  }
  if (!where.empty()) line += "  " + std::string(where);
  return line;
}

void Progress::draw(std::string_view where) {
  if (style_.quiet) return;
  std::string line = status_line(where);
  if (!style_.terminal) {
    out_ << line << '\n' << std::flush;
    return;
  }
  // One column stays free: some terminals wrap when the last one is written.
  const size_t columns = style_.columns > 1 ? style_.columns - 1 : 1;
  if (line.size() > columns) {
    size_t end = columns;
    while (end > 0 && !corpus::is_code_point_start(line, end)) --end;
    line.resize(end);
  }
  out_ << "\r\x1b[K" << line << std::flush;
  bar_shown_ = true;
}

void Progress::message(std::string_view text) {
  if (bar_shown_) out_ << "\r\x1b[K";
  bar_shown_ = false;
  last_drawn_ns_ = 0;
  out_ << text << '\n' << std::flush;
}

void Progress::finish() {
  if (done_tokens_ > 0) draw({});
  if (bar_shown_) out_ << '\n' << std::flush;
  bar_shown_ = false;
}

}  // namespace quire::warm
