#include "tools/quirectl/offline/progress_bar.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "base/clock.h"
#include "tools/quirectl/offline/interrupt.h"

namespace quire::ctl {

ProgressBar::ProgressBar(std::string what)
    : what_(std::move(what)),
      terminal_(isatty(STDERR_FILENO) != 0),
      begin_ns_(system_clock().now_ns()) {}

ProgressBar::~ProgressBar() {
  if (drawn_) std::fputs("\r\x1b[K", stderr);
}

bool ProgressBar::update(uint64_t done, uint64_t all, uint64_t bytes) {
  constexpr uint64_t kDrawEveryNs = 100'000'000;
  constexpr int kBarWidth = 30;
  const uint64_t now_ns = system_clock().now_ns();
  if (terminal_ && now_ns >= next_ns_) {
    next_ns_ = now_ns + kDrawEveryNs;
    drawn_ = true;
    const double part = all == 0 ? 1 : static_cast<double>(done) / static_cast<double>(all);
    const int filled = std::min(kBarWidth, static_cast<int>(part * kBarWidth));
    const double seconds = static_cast<double>(now_ns - begin_ns_) / 1e9;
    const double mib = static_cast<double>(bytes) / (1 << 20);
    std::fprintf(stderr, "\r\x1b[K%s [%.*s%*s] %llu/%llu  %.0f MiB, %.0f MiB/s", what_.c_str(),
                 filled, "##############################", kBarWidth - filled, "",
                 static_cast<unsigned long long>(done), static_cast<unsigned long long>(all), mib,
                 seconds > 0 ? mib / seconds : 0);
    std::fflush(stderr);
  }
  return !interrupted();
}

}  // namespace quire::ctl
