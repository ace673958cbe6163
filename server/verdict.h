// What a measurement says of a model: may its chunks be reused at other positions, and how best.
// Stored under the state key "verdict/<model id>"; bytes: docs/formats/metadata.md. Pure, any
// thread.
#ifndef QUIRE_SERVER_VERDICT_H_
#define QUIRE_SERVER_VERDICT_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/status.h"

namespace quire::server {

inline constexpr size_t kVerdictTextBytesMax = 256;
inline constexpr size_t kVerdictFiguresMax = 64;

struct Verdict {
  bool chunks = true;  // false: exact prefixes only
  std::string reason;  // not empty
  std::string policy;  // recommended, with its codec; may be empty
  double budget = 0;   // share of rows computed again, 0 to 1
  std::string codec;
  std::map<std::string, double> figures;
  uint64_t measured_wall_ms = 0;
  std::string tool;  // what measured it
  bool operator==(const Verdict&) const = default;

  // kInvalidArgument names the field.
  Status validate() const;
  // Of a valid one; parse() is the inverse and refuses everything else (kCorrupt,
  // kVersionMismatch).
  std::vector<std::byte> encode() const;
  static Expected<Verdict> parse(ByteSpan bytes);
};

std::string verdict_state_key(const Digest& model);

}  // namespace quire::server

#endif  // QUIRE_SERVER_VERDICT_H_
