// Progress of a warm-up for people: a bar with rate and time left on a terminal, plain lines now
// and then elsewhere.
#ifndef QUIRE_TOOLS_QUIRE_WARM_PROGRESS_H_
#define QUIRE_TOOLS_QUIRE_WARM_PROGRESS_H_

#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>

#include "base/clock.h"

namespace quire::warm {

inline constexpr uint64_t kBarIntervalNs = 100'000'000;
inline constexpr uint64_t kLineIntervalNs = 5'000'000'000;
inline constexpr uint32_t kBarCells = 24;
inline constexpr uint32_t kTerminalColumnsDefault = 80;

// "1.5 GiB", "340 KiB", "12 B".
std::string format_bytes(uint64_t bytes);
// "2d 3h", "1h 05m", "3m 20s", "12s".
std::string format_seconds(uint64_t seconds);
// "12,345".
std::string format_count(uint64_t count);

struct ProgressStyle {
  bool terminal = false;
  uint32_t columns = kTerminalColumnsDefault;
  bool quiet = false;
};

// Not thread safe.
class Progress {
 public:
  Progress(std::ostream& out, ProgressStyle style, const Clock& clock);

  void set_total_tokens(uint64_t tokens) { total_tokens_ = tokens; }
  // Tokens finished since the last call; computed: by the engine (they make the rate), else
  // skipped.
  void add(uint64_t tokens, bool computed, uint64_t compute_us, std::string_view where);
  // A line of its own that the bar does not overwrite.
  void message(std::string_view text);
  // The same of what is going on; nothing where it is quiet.
  void note(std::string_view text) {
    if (!style_.quiet) message(text);
  }
  // Ends the bar's line.
  void finish();

  // Of the engine so far; 0 where unknown.
  double tokens_per_second() const;
  std::string status_line(std::string_view where) const;

 private:
  void draw(std::string_view where);

  std::ostream& out_;
  ProgressStyle style_;
  const Clock& clock_;
  uint64_t total_tokens_ = 0;
  uint64_t done_tokens_ = 0;
  uint64_t computed_tokens_ = 0;
  uint64_t computed_us_ = 0;
  uint64_t last_drawn_ns_ = 0;
  bool bar_shown_ = false;
};

}  // namespace quire::warm

#endif  // QUIRE_TOOLS_QUIRE_WARM_PROGRESS_H_
