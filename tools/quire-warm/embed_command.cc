#include "tools/quire-warm/embed_command.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/clock.h"

extern char** environ;

namespace quire::warm {
namespace {

using Json = nlohmann::json;

constexpr int kPollMs = 100;  // how late a Ctrl-C may be noticed
constexpr uint64_t kReadBytes = 64 << 10;
constexpr uint64_t kWriteBytes = 64 << 10;
constexpr int kErrorReadsMax = 64;       // of a program that says more than can be read
constexpr uint32_t kExitGraceMs = 2000;  // from the end of its output to its own end

// One end of a pipe, closed with it.
class PipeEnd {
 public:
  PipeEnd() = default;
  PipeEnd(const PipeEnd&) = delete;
  PipeEnd& operator=(const PipeEnd&) = delete;
  ~PipeEnd() { close(); }
  void set(int fd) { fd_ = fd; }
  int fd() const { return fd_; }
  bool open() const { return fd_ >= 0; }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
};

Status make_pipe(PipeEnd& reader, PipeEnd& writer) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0)
    return {StatusCode::kResourceExhausted, std::string("pipe: ") + std::strerror(errno)};
  reader.set(fds[0]);
  writer.set(fds[1]);
  return Status::ok();
}

// A write to a command that went away is an error, not the end of this process.
class IgnoreBrokenPipe {
 public:
  IgnoreBrokenPipe() : before_(::signal(SIGPIPE, SIG_IGN)) {}
  ~IgnoreBrokenPipe() { ::signal(SIGPIPE, before_); }
  IgnoreBrokenPipe(const IgnoreBrokenPipe&) = delete;
  IgnoreBrokenPipe& operator=(const IgnoreBrokenPipe&) = delete;

 private:
  sighandler_t before_;
};

// The running command.
class Child {
 public:
  Child() = default;
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ <= 0) return;
    ::kill(-pid_, SIGKILL);
    ::kill(pid_, SIGKILL);  // it may have left its group
    ::waitpid(pid_, nullptr, 0);
  }

  Status start(const std::string& command) {
    PipeEnd in, out, error;
    QUIRE_RETURN_IF_ERROR(make_pipe(in, input));
    QUIRE_RETURN_IF_ERROR(make_pipe(output, out));
    QUIRE_RETURN_IF_ERROR(make_pipe(errors, error));
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_adddup2(&actions, in.fd(), STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out.fd(), STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, error.fd(), STDERR_FILENO);
    // A Ctrl-C at the terminal is for quire-warm, which ends the command itself.
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setpgroup(&attributes, 0);
    sigset_t defaults;
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    std::string shell = "/bin/sh", flag = "-c", text = command;
    char* const argv[] = {shell.data(), flag.data(), text.data(), nullptr};
    const int code = posix_spawn(&pid_, shell.c_str(), &actions, &attributes, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    if (code == 0) {
      ::fcntl(input.fd(), F_SETFL, O_NONBLOCK);
      return Status::ok();
    }
    pid_ = -1;
    return {StatusCode::kFailedPrecondition, std::string("/bin/sh: ") + std::strerror(code)};
  }

  // Its exit status, if it ends in time; else -1, and it is killed.
  int wait(uint32_t grace_ms) {
    for (uint32_t waited_ms = 0; waited_ms < grace_ms; waited_ms += 10) {
      int status = 0;
      if (::waitpid(pid_, &status, WNOHANG) == pid_) {
        ::kill(-pid_, SIGKILL);  // what it left behind
        pid_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      }
      ::usleep(10'000);
    }
    return -1;
  }

  PipeEnd input, output, errors;

 private:
  pid_t pid_ = -1;
};

// Feeds the texts to the command and takes its answers, neither waiting for the other.
class Conversation {
 public:
  Conversation(std::span<const std::string> texts, const EmbedCommandOptions& options,
               const std::atomic<bool>& stop)
      : texts_(texts), options_(options), stop_(stop), vectors_(texts.size()) {}

  Expected<Embeddings> run() {
    QUIRE_RETURN_IF_ERROR(child_.start(options_.command));
    last_answer_ns_ = system_clock().now_ns();
    while (child_.output.open()) QUIRE_RETURN_IF_ERROR(step());
    const int exit_status = child_.wait(kExitGraceMs);
    read_errors();
    if (exit_status != 0)
      return failed(
          StatusCode::kFailedPrecondition,
          exit_status < 0 ? "does not end" : "ended with status " + std::to_string(exit_status));
    if (!rest_.empty()) QUIRE_RETURN_IF_ERROR(take(rest_));
    auto found = vectors_.finish();
    if (!found) return failed(found.status().code(), found.status().message());
    return found;
  }

 private:
  Status failed(StatusCode code, const std::string& what) const {
    std::string text = "--embed-command '" + options_.command + "' " + what;
    const size_t end = errors_.find_last_not_of(" \n\r\t");
    if (end != std::string::npos) text += "; it says: " + errors_.substr(0, end + 1);
    return {code, std::move(text)};
  }

  Status take(std::string_view line) {
    const Status status = vectors_.take_line(line);
    if (!status) return failed(status.code(), status.message());
    return Status::ok();
  }

  Status step() {
    if (stop_.load()) return {StatusCode::kCancelled, "interrupted"};
    const uint64_t silent_ns = system_clock().now_ns() - last_answer_ns_;
    if (silent_ns > uint64_t{options_.timeout_seconds} * 1'000'000'000) {
      return failed(StatusCode::kDeadlineExceeded, "gave no answer for " +
                                                       std::to_string(options_.timeout_seconds) +
                                                       " s (--embed-timeout)");
    }
    std::array<pollfd, 3> fds{{{child_.output.fd(), POLLIN, 0},
                               {child_.errors.fd(), POLLIN, 0},
                               {child_.input.fd(), POLLOUT, 0}}};
    if (::poll(fds.data(), fds.size(), kPollMs) < 0 && errno != EINTR)
      return {StatusCode::kInternal, std::string("poll: ") + std::strerror(errno)};
    if (fds[1].revents != 0) read_errors();
    if (fds[2].revents != 0) write_texts();
    if (fds[0].revents != 0) return read_answers();
    return Status::ok();
  }

  void write_texts() {
    while (unsent_.size() - sent_ < kWriteBytes && next_text_ < texts_.size()) {
      unsent_.erase(0, std::exchange(sent_, 0));
      unsent_ += embed_request_line(next_text_, texts_[next_text_]);
      ++next_text_;
    }
    const ssize_t n = ::write(child_.input.fd(), unsent_.data() + sent_, unsent_.size() - sent_);
    if (n > 0) {
      sent_ += static_cast<uint64_t>(n);
      last_answer_ns_ = system_clock().now_ns();  // it reads, so it lives
    }
    const bool broken = n < 0 && errno != EAGAIN && errno != EINTR;
    // One that closes its input early may still answer; what is missing is told at the end.
    if (broken || (sent_ == unsent_.size() && next_text_ == texts_.size())) child_.input.close();
  }

  Status read_answers() {
    std::array<char, kReadBytes> buffer;
    const ssize_t n = ::read(child_.output.fd(), buffer.data(), buffer.size());
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return Status::ok();
    if (n <= 0) {
      child_.output.close();
      return Status::ok();
    }
    rest_.append(buffer.data(), static_cast<size_t>(n));
    const uint64_t seen_before = vectors_.n_seen();
    size_t at = 0;
    for (size_t end = rest_.find('\n'); end != std::string::npos; end = rest_.find('\n', at)) {
      QUIRE_RETURN_IF_ERROR(take(std::string_view(rest_).substr(at, end - at)));
      at = end + 1;
    }
    rest_.erase(0, at);
    // Blank lines and pieces of lines are no answers: a command that writes only such runs out of
    // time like a silent one.
    if (vectors_.n_seen() > seen_before) last_answer_ns_ = system_clock().now_ns();
    if (rest_.size() <= kEmbedLineBytesMax) return Status::ok();
    return failed(StatusCode::kResourceExhausted,
                  "wrote a line of more than " + std::to_string(kEmbedLineBytesMax) + " bytes");
  }

  // All there is now; keeps the end of it, where the cause stands.
  void read_errors() {
    std::array<char, kEmbedErrorBytesMax> buffer;
    for (int i = 0; i < kErrorReadsMax && child_.errors.open(); ++i) {
      ::fcntl(child_.errors.fd(), F_SETFL, O_NONBLOCK);
      const ssize_t n = ::read(child_.errors.fd(), buffer.data(), buffer.size());
      if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
      if (n <= 0) {
        child_.errors.close();
        return;
      }
      errors_.append(buffer.data(), static_cast<size_t>(n));
      if (errors_.size() > kEmbedErrorBytesMax)
        errors_.erase(0, errors_.size() - kEmbedErrorBytesMax);
    }
  }

  std::span<const std::string> texts_;
  const EmbedCommandOptions& options_;
  const std::atomic<bool>& stop_;
  VectorCollector vectors_;
  Child child_;
  uint64_t next_text_ = 0;
  std::string unsent_;
  size_t sent_ = 0;
  std::string rest_;
  std::string errors_;
  uint64_t last_answer_ns_ = 0;
};

Status corrupt(std::string what) {
  return {StatusCode::kCorrupt, std::move(what)};
}

}  // namespace

std::string embed_request_line(uint64_t id, std::string_view text) {
  const Json json{{"id", std::to_string(id)}, {"text", text}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Status VectorCollector::take_line(std::string_view line) {
  if (line.find_first_not_of(" \r\t") == std::string_view::npos) return Status::ok();
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) return corrupt("wrote a line that is no JSON object");
  const auto id = json.find("id");
  const auto vector = json.find("vector");
  if (id == json.end() || !id->is_string() || vector == json.end() || !vector->is_array())
    return corrupt(R"(wrote a line without "id" (a string) and "vector" (a list))");
  const auto& name = id->get_ref<const std::string&>();
  uint64_t index = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
  if (error != std::errc() || end != name.data() + name.size() || index >= seen_.size() ||
      std::to_string(index) != name)
    return corrupt("answered an id that was not asked for: '" + name.substr(0, 40) + "'");
  if (seen_[index]) return corrupt("answered id " + name + " twice");
  const size_t dims = vector->size();
  if (dims == 0 || dims > kEmbedDimsMax)
    return corrupt("wrote a vector of " + std::to_string(dims) + " numbers for id " + name);
  if (embeddings_.dims == 0) {
    embeddings_.dims = static_cast<uint32_t>(dims);
    embeddings_.values.resize(dims * seen_.size());
  }
  if (dims != embeddings_.dims)
    return corrupt("wrote vectors of " + std::to_string(embeddings_.dims) + " and of " +
                   std::to_string(dims) + " numbers");
  for (size_t dim = 0; dim < dims; ++dim) {
    const Json& number = (*vector)[dim];
    const auto value = number.is_number() ? number.get<float>() : NAN;
    if (!std::isfinite(value))
      return {StatusCode::kNonFinite,
              "wrote a vector with what is no finite number for id " + name};
    embeddings_.values[index * dims + dim] = value;
  }
  seen_[index] = true;
  ++n_seen_;
  return Status::ok();
}

Expected<Embeddings> VectorCollector::finish() {
  if (!complete()) {
    const auto missing = std::find(seen_.begin(), seen_.end(), false) - seen_.begin();
    return corrupt("answered " + std::to_string(n_seen_) + " of " + std::to_string(seen_.size()) +
                   " texts; the first without a vector is id " + std::to_string(missing));
  }
  for (uint64_t chunk = 0; chunk < embeddings_.size(); ++chunk) {
    float* const values = embeddings_.values.data() + chunk * embeddings_.dims;
    double square = 0;
    for (uint32_t dim = 0; dim < embeddings_.dims; ++dim)
      square += double{values[dim]} * values[dim];
    const double scale = square > 0 ? 1 / std::sqrt(square) : 0;
    for (uint32_t dim = 0; dim < embeddings_.dims; ++dim)
      values[dim] = static_cast<float>(values[dim] * scale);
  }
  return std::move(embeddings_);
}

Expected<Embeddings> EmbedCommand::embed(std::span<const std::string> texts) {
  if (texts.empty()) return Embeddings{};
  const IgnoreBrokenPipe ignore;
  return Conversation(texts, options_, stop_).run();
}

}  // namespace quire::warm
