// The JSON of a verdict, as quire-eval writes it: docs/ops/quirectl.md.
#ifndef QUIRE_TOOLS_QUIRECTL_VERDICT_FILE_H_
#define QUIRE_TOOLS_QUIRECTL_VERDICT_FILE_H_

#include <string>
#include <string_view>

#include "base/status.h"
#include "proto/control.pb.h"

namespace quire::ctl {

namespace pb = control::v1;

inline constexpr size_t kVerdictFileBytesMax = 64 * 1024;

// Every field must be there, of its type, once, and nothing else (kInvalidArgument, which names the
// field). Limits of texts and numbers are the server's business.
Expected<pb::SetVerdictRequest> parse_verdict(std::string_view json);
// path "-" reads standard input.
Expected<pb::SetVerdictRequest> read_verdict(const std::string& path);

}  // namespace quire::ctl

#endif  // QUIRE_TOOLS_QUIRECTL_VERDICT_FILE_H_
