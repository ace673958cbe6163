#include "tiers/index/space.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <tuple>

namespace quire::tiers {
namespace {

// Tokens are compared in pieces of this many, so that work is counted as it is done.
constexpr uint64_t kComparePieceTokens = 256;

// Hashing a token costs this much less than comparing one in a candidate far away in memory.
constexpr uint64_t kTokensHashedPerWork = 4;

bool is_chunk_match(const VariantContext& context) {
  return context.kind != ContextKind::kContextual && context.kind != ContextKind::kDeltaOf;
}

// Order of alternatives: what is nearest to a real prompt first; decode variants last.
std::tuple<uint32_t, uint16_t, const Digest&> listing_order(const IndexEntry* entry) {
  uint32_t rank = 4;
  switch (entry->context.kind) {
    case ContextKind::kFixedPrefix:
      rank = 0;
      break;
    case ContextKind::kIsolated:
      rank = 1;
      break;
    case ContextKind::kDummySink:
      rank = 2;
      break;
    case ContextKind::kSynthetic:
      rank = 3;
      break;
    default:
      break;
  }
  if (entry->context.phase == Phase::kDecode) rank += 8;
  return {rank, entry->codec, entry->representation};
}

// Longest first; entries of one object (equal length and tokens) stay next to each other.
std::tuple<uint32_t, const Digest&, uint16_t, const Digest&> chain_order(const IndexEntry* entry) {
  return {~entry->n_tokens, entry->object, entry->codec, entry->representation};
}

}  // namespace

// Collects matches within the limits of a query.
class Space::Answer {
 public:
  Answer(const ResolveQuery& query, ResolveResult& result) : query_(query), result_(result) {
    matches_max_ = std::clamp(query.matches_max, 1u, kIndexMatchesMax);
    result_.next_token = static_cast<uint32_t>(query.tokens.size());
  }

  void count_work(uint64_t work) { work_ += work; }

  // Do tokens begin with candidate?
  bool starts_with(std::span<const TokenId> tokens, const TokenList& candidate) {
    if (candidate.size() > tokens.size()) return false;
    for (uint64_t begin = 0; begin < candidate.size(); begin += kComparePieceTokens) {
      const uint64_t count = std::min<uint64_t>(kComparePieceTokens, candidate.size() - begin);
      work_ += count;
      if (std::memcmp(tokens.data() + begin, candidate.data() + begin, count * sizeof(TokenId)))
        return false;
    }
    return true;
  }

  bool out_of_work() {
    if (work_ >= kResolveWorkMax) result_.work_limited = true;
    return result_.work_limited;
  }

  // A range with its alternatives. False where it no longer fits: the answer ends before it.
  bool list(std::span<const IndexEntry* const> entries, IndexMatchKind kind, uint32_t begin,
            uint32_t n_tokens) {
    if (begin < query_.start_token) return true;
    const uint64_t room = matches_max_ - result_.matches.size();
    if (entries.size() > room) {
      // Alone in its answer it is cut instead, so that paging always goes on.
      if (!result_.matches.empty()) {
        result_.next_token = begin;
        return false;
      }
      entries = entries.first(room);
    }
    for (const IndexEntry* entry : entries)
      result_.matches.push_back({entry, kind, begin, n_tokens});
    return true;
  }

  bool complete() const { return result_.next_token == query_.tokens.size(); }

 private:
  const ResolveQuery& query_;
  ResolveResult& result_;
  uint64_t matches_max_ = 0;
  uint64_t work_ = 0;
};

Space::Space(const MatchIndexOptions& options, const Digest& model, TenantId tenant)
    : mask_(options.fingerprint_mask), model_(model) {
  const uint64_t tenant_seed = options.fingerprint_seed ^ (uint64_t{tenant} << 32);
  seed_ = xxh3_64(std::as_bytes(std::span(model.bytes)), tenant_seed);
}

uint64_t Space::fingerprint(const TokenId* tokens, uint32_t level) const {
  const std::span<const TokenId> first(tokens, kFingerprintTokens[level]);
  return xxh3_64(std::as_bytes(first), seed_ + level) & mask_;
}

ObjectNode* Space::find_object(const Digest& object) {
  const auto found = objects_.find(object);
  return found == objects_.end() ? nullptr : found->second.get();
}

void Space::add(const IndexEntry* entry) {
  auto& slot = objects_[entry->object];
  if (!slot) {
    slot = std::make_unique<ObjectNode>();
    slot->object = entry->object;
    slot->tokens = entry->tokens;
    const uint64_t n_tokens = slot->tokens->size();
    if (n_tokens >= kMatchTokensMin) {
      while (slot->level + 1 < kFingerprintTokens.size() &&
             kFingerprintTokens[slot->level + 1] <= n_tokens)
        ++slot->level;
      slot->fingerprint = fingerprint(slot->tokens->data(), 0);
      slot->level_fingerprint = fingerprint(slot->tokens->data(), slot->level);
    }
  }
  ObjectNode& node = *slot;
  if (is_chunk_match(entry->context)) {
    add_chunk(node, entry);
    return;
  }
  node.others.push_back(entry);
  if (entry->context.kind != ContextKind::kContextual || entry->n_tokens < kMatchTokensMin) return;
  auto& chain = chains_[ChainKey{entry->context.reference, node.fingerprint}];
  const auto place = std::lower_bound(
      chain.begin(), chain.end(), entry,
      [](const auto* a, const auto* b) { return chain_order(a) < chain_order(b); });
  chain.insert(place, entry);
}

void Space::insert_candidate(ObjectNode& node) {
  uint32_t counts = first_table_.find(node.fingerprint);
  if (counts == FingerprintTable::kEmpty) {
    counts = level_counts_.take();
    first_table_.set(node.fingerprint, counts);
  }
  ++level_counts_[counts][node.level];

  uint32_t list = candidate_table_.find(node.level_fingerprint);
  if (list == FingerprintTable::kEmpty) {
    list = candidates_.take();
    candidate_table_.set(node.level_fingerprint, list);
  }
  Candidates& candidates = candidates_[list];
  const auto place = std::partition_point(
      candidates.begin(), candidates.end(),
      [&](const ObjectNode* other) { return other->tokens->size() > node.tokens->size(); });
  candidates.insert(place, &node);
}

void Space::erase_candidate(const ObjectNode& node) {
  const uint32_t counts = first_table_.find(node.fingerprint);
  const uint32_t list = candidate_table_.find(node.level_fingerprint);
  if (counts == FingerprintTable::kEmpty || list == FingerprintTable::kEmpty) std::abort();
  --level_counts_[counts][node.level];
  if (level_counts_[counts] == LevelCounts{}) {
    level_counts_.give_back(counts);
    first_table_.erase(node.fingerprint);
  }
  if (std::erase(candidates_[list], &node) != 1) std::abort();
  if (candidates_[list].empty()) {
    candidates_.give_back(list);
    candidate_table_.erase(node.level_fingerprint);
  }
}

void Space::add_chunk(ObjectNode& node, const IndexEntry* entry) {
  const auto place = std::lower_bound(
      node.chunks.begin(), node.chunks.end(), entry,
      [](const auto* a, const auto* b) { return listing_order(a) < listing_order(b); });
  node.chunks.insert(place, entry);
  if (node.chunks.size() == 1 && node.tokens->size() >= kMatchTokensMin) insert_candidate(node);
}

void Space::remove_chunk(ObjectNode& node, const IndexEntry* entry) {
  if (std::erase(node.chunks, entry) != 1) std::abort();
  if (node.chunks.empty() && node.tokens->size() >= kMatchTokensMin) erase_candidate(node);
}

void Space::remove_contextual(const ObjectNode& node, const IndexEntry* entry) {
  const auto chain = chains_.find(ChainKey{entry->context.reference, node.fingerprint});
  if (chain == chains_.end() || std::erase(chain->second, entry) != 1) std::abort();
  if (chain->second.empty()) chains_.erase(chain);
}

void Space::remove(const IndexEntry* entry) {
  const auto found = objects_.find(entry->object);
  if (found == objects_.end()) std::abort();
  ObjectNode& node = *found->second;
  if (is_chunk_match(entry->context)) {
    remove_chunk(node, entry);
  } else {
    if (std::erase(node.others, entry) != 1) std::abort();
    if (entry->context.kind == ContextKind::kContextual && entry->n_tokens >= kMatchTokensMin)
      remove_contextual(node, entry);
  }
  if (node.chunks.empty() && node.others.empty()) objects_.erase(found);
}

void Space::resolve(const ResolveQuery& query, bool movable, ResolveResult& result) const {
  Answer answer(query, result);
  if (query.prefix && !chains_.empty()) result.prefix_tokens = resolve_prefix(answer, query);
  if (query.chunks && movable && answer.complete())
    resolve_chunks(answer, query, std::max(result.prefix_tokens, query.start_token));
}

uint32_t Space::resolve_prefix(Answer& answer, const ResolveQuery& query) const {
  PrefixDigester digester(model_, query.tenant_salt);
  uint32_t position = 0;
  while (query.tokens.size() - position >= kMatchTokensMin && !answer.out_of_work()) {
    const auto rest = query.tokens.subspan(position);
    const auto chain = chains_.find(ChainKey{digester.digest(), fingerprint(rest.data(), 0)});
    if (chain == chains_.end()) break;
    const auto& entries = chain->second;
    const auto first = std::find_if(entries.begin(), entries.end(), [&](const IndexEntry* entry) {
      answer.count_work(1);
      return entry->base_position == position && !answer.out_of_work() &&
             answer.starts_with(rest, *entry->tokens);
    });
    if (first == entries.end()) break;
    // Entries of other base positions would sit between: the digest of a prefix fixes its length,
    // so there are none unless somebody stored nonsense, and nonsense is not listed.
    std::vector<const IndexEntry*> alternatives;
    for (auto it = first; it != entries.end() && (*it)->object == (*first)->object; ++it)
      if ((*it)->base_position == position) alternatives.push_back(*it);
    const uint32_t n_tokens = (*first)->n_tokens;
    if (!answer.list(alternatives, IndexMatchKind::kPrefix, position, n_tokens)) break;
    digester.extend(rest.first(n_tokens));
    position += n_tokens;
  }
  return position;
}

const ObjectNode* Space::longest_chunk(Answer& answer, std::span<const TokenId> tokens) const {
  const uint32_t counts = first_table_.find(fingerprint(tokens.data(), 0));
  if (counts == FingerprintTable::kEmpty) return nullptr;
  // Objects of a higher level are longer than all of a lower one.
  for (uint32_t level = kFingerprintTokens.size(); level-- > 0;) {
    if (level_counts_[counts][level] == 0 || tokens.size() < kFingerprintTokens[level]) continue;
    answer.count_work(1 + kFingerprintTokens[level] / kTokensHashedPerWork);
    const uint32_t list = candidate_table_.find(fingerprint(tokens.data(), level));
    if (list == FingerprintTable::kEmpty) continue;
    for (const ObjectNode* candidate : candidates_[list]) {
      answer.count_work(1);
      if (answer.out_of_work()) return nullptr;
      // Fingerprints of two levels may collide: then it is found on its own level.
      if (candidate->level == level && answer.starts_with(tokens, *candidate->tokens))
        return candidate;
    }
  }
  return nullptr;
}

void Space::resolve_chunks(Answer& answer, const ResolveQuery& query, uint32_t begin) const {
  if (first_table_.size() == 0) return;
  uint64_t position = begin;
  while (position + kMatchTokensMin <= query.tokens.size() && !answer.out_of_work()) {
    const ObjectNode* match = longest_chunk(answer, query.tokens.subspan(position));
    if (match == nullptr) {
      ++position;
      continue;
    }
    const auto n_tokens = static_cast<uint32_t>(match->tokens->size());
    if (!answer.list(match->chunks, IndexMatchKind::kChunk, static_cast<uint32_t>(position),
                     n_tokens))
      return;
    position += n_tokens;
  }
}

}  // namespace quire::tiers
