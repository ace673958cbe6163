// What the subcommands share: connecting, resolving ids, printing JSON.
#ifndef QUIRE_TOOLS_QUIRECTL_COMMAND_SUPPORT_H_
#define QUIRE_TOOLS_QUIRECTL_COMMAND_SUPPORT_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/status.h"
#include "tools/quirectl/commands.h"
#include "tools/quirectl/control_client.h"

namespace quire::ctl {

using Json = nlohmann::ordered_json;

inline constexpr uint64_t kTimeoutMs = 30'000;
inline constexpr uint64_t kLongTimeoutMs = 600'000;  // clear, prefetch, drain, checkpoint
inline constexpr size_t kBatchIds = 4096;            // the server's limit for a call

ControlClient connect(const GlobalOptions& global, uint64_t default_timeout_ms = kTimeoutMs);

// Names come from clients; what is not UTF-8 is replaced.
void print(const Json& json);

Expected<std::vector<std::string>> resolve_objects(ControlClient& client,
                                                   const std::vector<std::string>& texts);

}  // namespace quire::ctl

#endif  // QUIRE_TOOLS_QUIRECTL_COMMAND_SUPPORT_H_
