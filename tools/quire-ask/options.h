// Command line of quire-ask.
#ifndef QUIRE_TOOLS_QUIRE_ASK_OPTIONS_H_
#define QUIRE_TOOLS_QUIRE_ASK_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "client/llama/prompt.h"
#include "client/reuse/policy.h"
#include "tools/corpus/chunker.h"

namespace quire::ask {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitInterrupted = 130;

struct Options {
  std::string model_path;
  std::vector<std::string> documents;  // files, folders, patterns; "FILE#2-5" takes chunks 2 to 5
  std::string manifest_path;
  std::string question;
  std::string policy = std::string(reuse::kDefaultPolicy);
  std::vector<std::string> compare;  // policies; empty: no comparison
  std::string system_text = std::string(kDefaultSystemText);
  uint32_t answer_tokens_max = 48;
  corpus::ChunkOptions chunking;
  uint32_t context_tokens_max = 0;  // chunks beyond are left out; 0: all
  std::optional<uint32_t> shuffle_seed;
  std::string codec = "int8-channel";
  uint32_t n_ctx = 8192;
  uint32_t threads = 0;
  std::string kv_type = "f16";
  bool self_test = true;
  bool no_store = false;
  std::string attention_path;  // where the question's attention is written
  std::string socket_path;
  std::string tenant;
  std::string output = "table";
  bool quiet = false;
};

// The options, or the exit code of a run that is over (help, version, usage error; already
// printed).
struct ParsedOptions {
  std::optional<Options> options;
  int exit_code = kExitOk;
};
ParsedOptions parse_options(int argc, const char* const* argv);

}  // namespace quire::ask

#endif  // QUIRE_TOOLS_QUIRE_ASK_OPTIONS_H_
