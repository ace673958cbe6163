// A new folder that goes with its owner.
#ifndef QUIRE_BENCH_QUIRE_BENCH_TEMP_DIRECTORY_H_
#define QUIRE_BENCH_QUIRE_BENCH_TEMP_DIRECTORY_H_

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>

#include "base/status.h"

namespace quire::bench {

class TempDirectory {
 public:
  // Below parent (empty: the system's folder for temporary files).
  static Expected<std::unique_ptr<TempDirectory>> make(const std::string& parent) {
    std::error_code error;
    const std::filesystem::path base = parent.empty() ? std::filesystem::temp_directory_path(error)
                                                      : std::filesystem::path(parent);
    std::string pattern = (base / "quire-bench-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr)
      return Status(StatusCode::kIoError,
                    "cannot make a folder in " + base.string() + ": " + std::strerror(errno));
    return std::unique_ptr<TempDirectory>(new TempDirectory(pattern));
  }
  ~TempDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  explicit TempDirectory(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

}  // namespace quire::bench

#endif  // QUIRE_BENCH_QUIRE_BENCH_TEMP_DIRECTORY_H_
