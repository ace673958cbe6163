#include "tests/tiers/rocks/kill_child.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

namespace quire::tiers {
namespace {

constexpr const char* kDirectoryVariable = "QUIRE_TEST_KILL_CHILD_DIRECTORY";

}  // namespace

int run_kill_child(const std::string& test, const std::string& directory,
                   const std::string& kill_point) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::setenv(kDirectoryVariable, directory.c_str(), 1);
    if (!kill_point.empty()) ::setenv("QUIRE_KILL_POINT", kill_point.c_str(), 1);
    const int null = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (null >= 0) ::dup2(null, STDOUT_FILENO);
    const std::string filter = "--gtest_filter=" + test;
    ::execl("/proc/self/exe", "child", filter.c_str(), static_cast<char*>(nullptr));
    ::_exit(127);
  }
  int status = 0;
  if (child < 0 || ::waitpid(child, &status, 0) != child) return -1000;
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

std::string kill_child_directory() {
  const char* directory = std::getenv(kDirectoryVariable);
  return directory == nullptr ? "" : directory;
}

}  // namespace quire::tiers
