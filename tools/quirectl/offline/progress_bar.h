// One line on standard error that is overwritten while work goes on; nothing where standard error
// is no terminal.
#ifndef QUIRE_TOOLS_QUIRECTL_OFFLINE_PROGRESS_BAR_H_
#define QUIRE_TOOLS_QUIRECTL_OFFLINE_PROGRESS_BAR_H_

#include <cstdint>
#include <string>

namespace quire::ctl {

class ProgressBar {
 public:
  explicit ProgressBar(std::string what);
  ~ProgressBar();  // clears the line
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  void rename(const std::string& what) { what_ = what; }
  // Draws at most ten times a second. False once Ctrl-C was pressed.
  bool update(uint64_t done, uint64_t all, uint64_t bytes);

 private:
  std::string what_;
  bool terminal_;
  bool drawn_ = false;
  uint64_t begin_ns_;
  uint64_t next_ns_ = 0;
};

}  // namespace quire::ctl

#endif  // QUIRE_TOOLS_QUIRECTL_OFFLINE_PROGRESS_BAR_H_
