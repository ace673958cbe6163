// quirectl run as a program of its own.
#ifndef QUIRE_TESTS_TOOLS_QUIRECTL_QUIRECTL_PROCESS_H_
#define QUIRE_TESTS_TOOLS_QUIRECTL_QUIRECTL_PROCESS_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

namespace quire::ctl {

struct Result {
  int exit_code = -1;
  std::string out;
  std::string err;
};

inline std::string read_all(int fd) {
  std::string text;
  char buffer[4096];
  ssize_t count = 0;
  while ((count = read(fd, buffer, sizeof(buffer))) > 0)
    text.append(buffer, static_cast<size_t>(count));
  close(fd);
  return text;
}

// Runs quirectl with stdin from `input`, or from a terminal into which `typed` is typed. Output
// goes through files: no pipe can fill up.
inline Result run(const std::vector<std::string>& arguments, const std::string& input = "",
                  const char* typed = nullptr) {
  const std::string base = ::testing::TempDir() + "quirectl_" + std::to_string(getpid());
  const auto open_file = [&](const char* suffix) {
    return open((base + suffix).c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  };
  const int in = open_file(".in");
  const int out = open_file(".out");
  const int err = open_file(".err");
  EXPECT_EQ(write(in, input.data(), input.size()), static_cast<ssize_t>(input.size()));
  lseek(in, 0, SEEK_SET);
  int master = -1;
  int slave = -1;
  if (typed != nullptr) {
    EXPECT_EQ(openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
    EXPECT_GT(write(master, typed, strlen(typed)), 0);
  }
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(typed != nullptr ? slave : in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    const std::string program = QUIRE_BIN_DIR "/quirectl";
    std::vector<char*> argv = {const_cast<char*>(program.c_str())};
    for (const std::string& argument : arguments)
      argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    execv(program.c_str(), argv.data());
    _exit(127);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  if (master >= 0) {
    close(master);
    close(slave);
  }
  close(in);
  lseek(out, 0, SEEK_SET);
  lseek(err, 0, SEEK_SET);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_all(out), read_all(err)};
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace quire::ctl

#endif  // QUIRE_TESTS_TOOLS_QUIRECTL_QUIRECTL_PROCESS_H_
