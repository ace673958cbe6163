// The warm-up itself: documents -> chunks -> store, with errors per file, progress, resume and a
// manifest.
#ifndef QUIRE_TOOLS_QUIRE_WARM_WARMER_H_
#define QUIRE_TOOLS_QUIRE_WARM_WARMER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/status.h"
#include "tools/corpus/chunker.h"
#include "tools/corpus/reader.h"
#include "tools/quire-warm/manifest.h"
#include "tools/quire-warm/neighbours.h"
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
  uint64_t chunks_stale = 0;          // neighbours of theirs are gone: computed anew
  uint64_t lead_tokens_computed = 0;  // of neighbours, in front of what was stored
};

// Each chunk behind its neighbours (neighbours.h).
struct NeighbourOptions {
  GroupOptions groups;
  Embedder* embedder = nullptr;  // outlives the warmer
};

// Not thread safe; stop may be set from anywhere, also from a signal handler.
class Warmer {
 public:
  // manifest may be null (then nothing is written down).
  Warmer(WarmTarget& target, const corpus::ChunkOptions& chunking, Manifest* manifest,
         Progress& progress, const std::atomic<bool>& stop);

  // From now on run() stores the variants behind neighbours. It holds the text and the tokens of
  // the whole corpus meanwhile.
  void use_neighbours(const NeighbourOptions& options) { neighbours_ = options; }

  // Reads and cuts everything once: what a run would do. Touches no store. kCancelled where
  // stopped.
  Expected<WarmSummary> scan(const std::vector<std::string>& paths);

  // Stores what scan() found. Chunks behind neighbours whose recorded neighbours (manifest) are all
  // still there and whose KV is stored stay as they are; the others are grouped anew. Errors of
  // files, lines and chunks are reported and counted and the rest goes on; an error returned ended
  // the run: kCancelled, or the server or the disk is gone. summary() holds what was done until
  // then.
  Status run();
  const WarmSummary& summary() const { return summary_; }

 private:
  Status read_all(const std::function<Status(const corpus::Document&)>& on_document);
  Status scan_document(const corpus::Document& document);
  Status warm_document(const corpus::Document& document);
  Status warm_chunk(const corpus::Document& document, const corpus::Chunk& chunk, ChunkLine& line);
  Status count_chunk(const ChunkLine& line, uint64_t compute_us);
  Status store_chunk(std::span<const TokenId> tokens, ChunkLine& line);
  // Stores what the store does not have yet, and writes down which it was.
  Status store_missing(std::span<const TokenId> tokens, const ChunkIds& ids, ChunkLine& line,
                       const std::function<Expected<StoreResult>()>& store);
  Status note_chunk(const ChunkLine& line);
  uint64_t bytes_of(const ChunkLine& line, uint64_t stored, const ChunkIds& ids) const;
  Expected<std::vector<corpus::Chunk>> chunks_of(const corpus::Document& document);
  void report(const corpus::SourceError& error);
  Status chunk_failed(const Status& status, ChunkLine& line);

  // warmer_neighbours.cc
  struct Corpus;
  Status warm_behind_neighbours();
  Status collect_document(const corpus::Document& document, Corpus& corpus);
  Status find_kept(Corpus& corpus);
  Expected<bool> is_kept(const Corpus& corpus, uint64_t entry, ChunkLine& line);
  Status embed_and_group(Corpus& corpus, std::vector<ChunkGroup>& groups);
  Status warm_group(Corpus& corpus, const ChunkGroup& group);
  Status store_behind(std::span<const TokenId> tokens, std::span<const WarmNeighbour> front,
                      ChunkLine& line);
  Status finish_entry(Corpus& corpus, uint64_t entry, const ChunkLine& outcome,
                      uint64_t compute_us);
  Status finish_line(Corpus& corpus, uint64_t document, const ChunkLine& line, uint64_t compute_us);

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
  NeighbourOptions neighbours_;
};

}  // namespace quire::warm

#endif  // QUIRE_TOOLS_QUIRE_WARM_WARMER_H_
