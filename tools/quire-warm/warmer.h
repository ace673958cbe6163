// The warm-up itself: documents -> chunks -> store, with errors per file, progress, resume and a
// manifest.
#ifndef QUIRE_TOOLS_QUIRE_WARM_WARMER_H_
#define QUIRE_TOOLS_QUIRE_WARM_WARMER_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <unordered_set>
#include <vector>

#include "base/status.h"
#include "tools/corpus/chunker.h"
#include "tools/corpus/reader.h"
#include "tools/quire-warm/manifest.h"
#include "tools/quire-warm/progress.h"
#include "tools/quire-warm/warm_target.h"

namespace quire::warm {

struct WarmSummary {
  uint64_t files = 0;
  uint64_t files_failed = 0;   // not found, unreadable, or with a bad line or chunk
  uint64_t files_skipped = 0;  // of folders, by extension
  uint64_t documents = 0;
  uint64_t documents_empty = 0;
  uint64_t chunks = 0;
  uint64_t chunks_stored = 0;
  uint64_t chunks_already_stored = 0;
  uint64_t chunks_too_short = 0;
  uint64_t chunks_failed = 0;
  uint64_t tokens = 0;
  uint64_t tokens_computed = 0;
  uint64_t bytes = 0;         // of all representations; of a scan: the most they can take
  uint64_t bytes_stored = 0;  // of those stored now
  uint64_t compute_us = 0;
};

// Not thread safe; stop may be set from anywhere, also from a signal handler.
class Warmer {
 public:
  // manifest may be null (then nothing is written down).
  Warmer(WarmTarget& target, const corpus::ChunkOptions& chunking, Manifest* manifest,
         Progress& progress, const std::atomic<bool>& stop);

  // Reads and cuts everything once: what a run would do. Touches no store. kCancelled where
  // stopped.
  Expected<WarmSummary> scan(const std::vector<std::string>& paths);

  // Stores what scan() found. Errors of files, lines and chunks are reported and counted and the
  // rest goes on; an error returned ended the run: kCancelled, or the server or the disk is gone.
  // summary() holds what was done until then.
  Status run();
  const WarmSummary& summary() const { return summary_; }

 private:
  template <typename OnDocument>
  Status read_all(const OnDocument& on_document);
  Status scan_document(const corpus::Document& document);
  Status warm_document(const corpus::Document& document);
  Status warm_chunk(const corpus::Document& document, const corpus::Chunk& chunk, ChunkLine& line);
  Status store_chunk(std::span<const TokenId> tokens, ChunkLine& line);
  Status note_chunk(const ChunkLine& line);
  uint64_t bytes_of(const ChunkLine& line, uint64_t stored, const ChunkIds& ids) const;
  Expected<std::vector<corpus::Chunk>> chunks_of(const corpus::Document& document);
  void report(const corpus::SourceError& error);

  WarmTarget& target_;
  corpus::ChunkOptions chunking_;
  Manifest* manifest_;
  Progress& progress_;
  const std::atomic<bool>& stop_;
  corpus::FileList files_;
  WarmSummary summary_;
  std::unordered_set<std::string> errors_seen_;
  std::unordered_set<std::string> files_failed_;
  bool manifest_changed_ = false;
};

}  // namespace quire::warm

#endif  // QUIRE_TOOLS_QUIRE_WARM_WARMER_H_
