// An Embedder that asks another program: `--embed-command`, by default `python3 -m quire.embed`.
//
// Protocol, JSON lines. To its standard input: {"id": "0", "text": "..."} for each text, then the
// end of the file. From its standard output: {"id": "0", "vector": [0.1, ...]} for each id, once,
// in any order, all vectors of one length. It ends with exit status 0. Standard error is for
// people; its last lines are told where something goes wrong.
#ifndef QUIRE_TOOLS_QUIRE_WARM_EMBED_COMMAND_H_
#define QUIRE_TOOLS_QUIRE_WARM_EMBED_COMMAND_H_

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tools/quire-warm/neighbours.h"

namespace quire::warm {

inline constexpr uint32_t kEmbedDimsMax = 8192;
// Of an answer; a vector of so many numbers in full precision fits.
inline constexpr uint64_t kEmbedLineBytesMax = 512 << 10;
inline constexpr uint64_t kEmbedErrorBytesMax = 4096;
inline constexpr uint32_t kEmbedTimeoutSecondsMax = 3600;

struct EmbedCommandOptions {
  std::string command;            // for /bin/sh -c
  uint32_t timeout_seconds = 60;  // longest time without an answer
};

// Not thread safe. The command runs in a process group of its own, which is killed at the end of
// embed() whatever happens.
class EmbedCommand final : public Embedder {
 public:
  EmbedCommand(EmbedCommandOptions options, const std::atomic<bool>& stop)
      : options_(std::move(options)), stop_(stop) {}

  // kFailedPrecondition: it could not be run or ended with an error; kDeadlineExceeded: nothing
  // came for timeout_seconds; kResourceExhausted: a line beyond the limit; kCancelled; and the
  // errors of VectorCollector.
  Expected<Embeddings> embed(std::span<const std::string> texts) override;

 private:
  EmbedCommandOptions options_;
  const std::atomic<bool>& stop_;
};

// The text as the command reads it; bytes that are not UTF-8 are replaced.
std::string embed_request_line(uint64_t id, std::string_view text);

// Answers, line by line, for ids "0" to "n_texts - 1".
class VectorCollector {
 public:
  explicit VectorCollector(uint64_t n_texts) : seen_(n_texts, false) {}
  // kCorrupt: no such line, an unknown id, an id twice, another length than the vectors before, or
  // more than kEmbedDimsMax; kNonFinite: a number that is not finite as fp32.
  Status take_line(std::string_view line);
  uint64_t n_seen() const { return n_seen_; }
  bool complete() const { return n_seen_ == seen_.size(); }
  // kCorrupt: an id is missing. Vectors are brought to length 1.
  Expected<Embeddings> finish();

 private:
  std::vector<bool> seen_;
  uint64_t n_seen_ = 0;
  Embeddings embeddings_;
};

}  // namespace quire::warm

#endif  // QUIRE_TOOLS_QUIRE_WARM_EMBED_COMMAND_H_
