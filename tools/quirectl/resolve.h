// From what people type (abbreviated ids, model and tier names, files of token ids) to what the
// control API takes.
#ifndef QUIRE_TOOLS_QUIRECTL_RESOLVE_H_
#define QUIRE_TOOLS_QUIRECTL_RESOLVE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tools/quirectl/commands.h"
#include "tools/quirectl/control_client.h"

namespace quire::ctl {

inline constexpr size_t kIdDigits = 64;
inline constexpr size_t kIdDigitsMin = 6;

// Makes request ask for what follows page, which must have a next page. A server whose list does
// not advance is an error, not an endless loop.
Status go_on(pb::ListRequest& request, const pb::ListResponse& page);

// The 32 bytes of the one object whose id starts with text. A full id is not looked up. kNotFound
// where there is none, kInvalidArgument where text is no id or fits several.
Expected<std::string> resolve_object(ControlClient& client, const std::string& text);

// By id, by unique prefix of an id, or by name.
Expected<std::string> resolve_model(ControlClient& client, const std::string& text);

Expected<pb::ObjectFilter> resolve_filter(ControlClient& client, const FilterOptions& options);

// Decimal token ids between white space, commas and brackets (so that a JSON array is fine too).
Expected<std::vector<uint32_t>> parse_tokens(std::string_view text);
// "-" reads standard input.
Expected<std::vector<uint32_t>> read_tokens(const std::string& path);

}  // namespace quire::ctl

#endif  // QUIRE_TOOLS_QUIRECTL_RESOLVE_H_
