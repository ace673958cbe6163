// Which chunks of a prompt stand as they were computed, told by the identities of variants.
#ifndef QUIRE_CLIENT_REUSE_EXACT_CHUNKS_H_
#define QUIRE_CLIENT_REUSE_EXACT_CHUNKS_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/ids.h"
#include "client/client.h"
#include "client/reuse/plan.h"

namespace quire::reuse {

// The runs that a prompt is cut into, from its start on, and the ids of variants computed behind
// them. Each token is hashed once as part of a run and once as part of a prefix, and only where a
// match asks for it; a chunk whose head the runs cover is hashed anew. What prompt refers to
// outlives it; not for use by several threads.
class PromptRuns {
 public:
  explicit PromptRuns(const PromptIdentity& prompt);

  // The next segment of the plan; it begins where the last one ended. Consecutive pieces of prefix
  // are one run.
  void append(const Segment& segment);

  // For a match that begins where the runs end or before (false behind their end) and ends inside
  // the prompt. Where its head is covered by the runs, what stood before the head counts, and of a
  // run that reaches into it the part before it: the rest of the chunk was computed behind the very
  // tokens before it all the same.
  // True where the variant's id is that of this chunk behind the prompt's own tokens before it: as
  // a fixed_prefix of all of them, or as synthetic behind these very runs in their order. Nothing
  // else names what a chunk was computed behind, so everything else is false: isolated and
  // dummy_sink variants, neighbours that stand in another order, matches without a variant id, KV
  // that was computed at another position. What stands at position 0 is the exact prefix's
  // business: false.
  bool stands_as_computed(const Match& match);

 private:
  struct Run {
    uint32_t begin = 0;
    uint32_t end = 0;
    std::optional<Digest> object;
  };
  // The chunk asked about last, at the end of the runs.
  struct Asked {
    Run run;
    std::optional<Digest> behind_prefix;
    std::optional<Digest> behind_runs;
  };

  void ask(const Match& match);
  size_t n_runs_before(uint32_t token) const;  // that begin before it
  std::vector<Digest> runs_before_asked();
  const Digest& object_of(Run& run) const;
  const Digest& behind_prefix();
  const Digest& behind_runs();

  const PromptIdentity prompt_;
  std::vector<Run> runs_;
  uint32_t n_tokens_ = 0;  // of all runs
  bool ends_in_prefix_ = false;
  std::optional<PrefixDigester> prefix_;
  uint32_t n_prefix_tokens_ = 0;  // that prefix_ has seen
  Asked asked_;
};

// For each match: whether it is a chunk in a fixed_prefix variant whose text is the beginning of
// this prompt, and that has been moved: at its own position it would stand as it was computed,
// which PromptRuns proves. Tokens are hashed once, and none behind the longest text that is asked
// about.
std::vector<bool> behind_own_beginning(const PromptIdentity& prompt,
                                       std::span<const Match> matches);

}  // namespace quire::reuse

#endif  // QUIRE_CLIENT_REUSE_EXACT_CHUNKS_H_
