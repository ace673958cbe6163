// Command line of quire-warm.
#ifndef QUIRE_TOOLS_QUIRE_WARM_OPTIONS_H_
#define QUIRE_TOOLS_QUIRE_WARM_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "tools/corpus/chunker.h"

namespace quire::warm {

inline constexpr int kExitOk = 0;
inline constexpr int kExitSomeFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitInterrupted = 130;

inline constexpr uint64_t kSystemTextBytesMax = 1 << 20;

struct Options {
  std::string model_path;
  std::optional<std::string> system_text;  // none: the default of client/llama/prompt.h
  std::string variant = "fixed_prefix";
  std::string codec = "int8-channel";
  double salient_share = 0.2;
  corpus::ChunkOptions chunking;
  std::string manifest_path;
  bool dry_run = false;
  bool durable = true;
  bool self_test = true;
  double tokens_per_second = 0;  // dry run: 0 = measure
  uint32_t threads = 0;
  std::string socket_path;
  std::string tenant;
  std::string scope;
  uint32_t neighbours = 0;
  std::string embed_command = "python3 -m quire.embed";
  uint32_t embed_timeout_seconds = 60;
  bool statistics = false;
  std::string output = "table";
  bool quiet = false;
  std::vector<std::string> paths;
};

// The options, or the exit code of a run that is over (help, version, usage error; already
// printed).
struct ParsedOptions {
  std::optional<Options> options;
  int exit_code = kExitOk;
};
ParsedOptions parse_options(int argc, const char* const* argv);

}  // namespace quire::warm

#endif  // QUIRE_TOOLS_QUIRE_WARM_OPTIONS_H_
