// Which chunks of a prompt stand as they were computed, told by the identities of variants.
#ifndef QUIRE_CLIENT_REUSE_EXACT_CHUNKS_H_
#define QUIRE_CLIENT_REUSE_EXACT_CHUNKS_H_

#include <span>
#include <vector>

#include "base/ids.h"
#include "client/client.h"
#include "client/reuse/plan.h"

namespace quire::reuse {

// True where the variant's id is that of this chunk behind the prompt's own tokens before it: as a
// fixed_prefix of all of them, or (given the runs those tokens are made of, in order) as synthetic
// behind these very runs. Nothing else names what a chunk was computed behind, so everything else
// is false: isolated and dummy_sink variants, neighbours that stand in another order, matches
// without a variant id, KV that was computed at another position. What stands at position 0 is the
// exact prefix's business: false.
bool stands_as_computed(const Match& match, const PromptIdentity& prompt,
                        std::span<const Digest> runs = {});

// Sets `exact` of the plan's chunks; those used from their first token on alone. The runs before a
// chunk are the plan's segments, consecutive pieces of prefix as one.
void mark_exact_chunks(Plan& plan, const PromptIdentity& prompt);

}  // namespace quire::reuse

#endif  // QUIRE_CLIENT_REUSE_EXACT_CHUNKS_H_
