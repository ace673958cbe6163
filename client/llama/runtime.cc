#include "client/llama/runtime.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>
#include <vector>

#include "llama.h"

namespace quire {

namespace {

constexpr size_t kLogLinesMax = 6;
constexpr size_t kReadBytes = 1u << 20;

struct Log {
  std::mutex mutex;
  std::deque<std::string> lines;
  bool continues = false;
};

Log& log_state() {
  static auto* log = new Log;
  return *log;
}

void on_log(ggml_log_level level, const char* text, void*) {
  Log& log = log_state();
  const std::lock_guard<std::mutex> lock(log.mutex);
  const bool problem = level == GGML_LOG_LEVEL_ERROR || level == GGML_LOG_LEVEL_WARN;
  if (level == GGML_LOG_LEVEL_CONT ? !log.continues : !problem) {
    log.continues = false;
    return;
  }
  if (level == GGML_LOG_LEVEL_CONT) {
    log.lines.back() += text;
    return;
  }
  log.continues = true;
  log.lines.emplace_back(text);
  if (log.lines.size() > kLogLinesMax) log.lines.pop_front();
}

struct FileIdentity {
  std::string path;
  uint64_t size = 0;
  int64_t mtime_ns = 0;
};

std::string memory_path(const FileIdentity& file, const std::string& directory) {
  const uint64_t key = xxh3_64(std::as_bytes(std::span(file.path.data(), file.path.size())));
  std::ostringstream name;
  name << directory << "/digests/" << std::hex << key << ".txt";
  return name.str();
}

std::string memory_line(const FileIdentity& file) {
  return std::to_string(file.size) + " " + std::to_string(file.mtime_ns) + " " + file.path;
}

Expected<Digest> hash_file(int fd, const std::string& path) {
  Sha256 sha;
  std::vector<std::byte> buffer(kReadBytes);
  while (true) {
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Status(StatusCode::kIoError, "cannot read " + path);
    if (got == 0) return sha.digest();
    sha.update(ByteSpan(buffer.data(), static_cast<size_t>(got)));
  }
}

}  // namespace

void llama_runtime_start() {
  static std::once_flag once;
  std::call_once(once, [] {
    ::setenv("GGML_NO_BACKTRACE", "1", 1);
    llama_log_set(on_log, nullptr);
    llama_backend_init();
  });
}

void llama_log_reset() {
  Log& log = log_state();
  const std::lock_guard<std::mutex> lock(log.mutex);
  log.lines.clear();
  log.continues = false;
}

std::string llama_log_text() {
  Log& log = log_state();
  const std::lock_guard<std::mutex> lock(log.mutex);
  std::string text;
  for (const std::string& line : log.lines) {
    const size_t end = line.find_last_not_of(" \n\t.");
    if (end == std::string::npos) continue;
    if (!text.empty()) text += "; ";
    for (size_t i = 0; i <= end; ++i) {
      // Bytes of a damaged file may be quoted in it.
      const bool plain = line[i] >= ' ' && line[i] <= '~';
      text += plain ? line[i] : '?';
    }
  }
  return text;
}

Expected<Digest> file_digest(const std::string& path, const std::string& directory) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat info {};
  if (fd < 0 || ::fstat(fd, &info) != 0) {
    if (fd >= 0) ::close(fd);
    return Status(StatusCode::kIoError, "cannot open " + path);
  }
  std::error_code error;
  FileIdentity file;
  file.path = std::filesystem::weakly_canonical(path, error).string();
  if (error) file.path = path;
  file.size = static_cast<uint64_t>(info.st_size);
  file.mtime_ns = info.st_mtim.tv_sec * 1'000'000'000LL + info.st_mtim.tv_nsec;
  const std::string memory = memory_path(file, directory);
  {
    std::ifstream in(memory);
    std::string line;
    std::string hex;
    if (std::getline(in, line) && std::getline(in, hex) && line == memory_line(file)) {
      if (auto digest = Digest::from_hex(hex)) {
        ::close(fd);
        return digest;
      }
    }
  }
  auto digest = hash_file(fd, path);
  ::close(fd);
  if (!digest) return digest;
  std::filesystem::create_directories(directory + "/digests", error);
  const std::string temporary = memory + "." + std::to_string(::getpid());
  bool written = false;
  {
    std::ofstream out(temporary);
    out << memory_line(file) << "\n" << digest->to_hex() << "\n" << std::flush;
    written = out.good();
  }
  if (written) std::filesystem::rename(temporary, memory, error);
  if (!written || error) std::filesystem::remove(temporary, error);
  return digest;
}

}  // namespace quire
