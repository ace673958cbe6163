#include "tiers/index/resolver.h"

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>

#include "codecs/codec_ids.h"

namespace quire::tiers {
namespace {

// Work is counted in nanoseconds, about: tokens hashed or compared in one of them, and a row looked
// at somewhere in memory.
constexpr uint64_t kTokensPerWork = 4;
constexpr uint64_t kWorkPerRow = 16;

bool is_statistics(const IndexRow& row) {
  return row.codec == static_cast<uint16_t>(CodecId::kStatistics);
}

// Order of alternatives: what is nearest to a real prompt first; decode variants last, and
// statistics behind all that they are of.
std::tuple<uint32_t, uint16_t, const Digest&> listing_order(const IndexRow& row) {
  uint32_t rank = 4;
  switch (row.kind()) {
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
  if (row.phase() == Phase::kDecode) rank += 8;
  if (is_statistics(row)) rank += 16;
  return {rank, row.codec, row.representation};
}

}  // namespace

Resolver::Resolver(const RowStore& rows, const Candidates& candidates,
                   const MatchIndexOptions& options, const ResolvedSpaces& spaces,
                   const ResolveQuery& query, const MatchIndex::DetailsLookup& details,
                   ResolveResult& result)
    : rows_(rows),
      candidates_(candidates),
      all_mask_(options.all_mask),
      spaces_(spaces),
      query_(query),
      details_(details),
      result_(result),
      hasher_(options.fingerprint_seed, query.model, query.tenant),
      matches_max_(std::clamp(query.matches_max, 1u, kIndexMatchesMax)) {}

void Resolver::run(bool prefix, bool chunks) {
  if (prefix) resolve_prefix();
  const bool complete = result_.next_token == query_.tokens.size();
  if (chunks && complete) resolve_chunks(std::max(result_.prefix_tokens, query_.start_token));
}

bool Resolver::stopped() {
  if (work_ >= kResolveWorkMax) result_.work_limited = true;
  return result_.work_limited || missing_full_;
}

void Resolver::resolve_prefix() {
  PrefixDigester digester(query_.model, query_.tenant_salt);
  uint32_t position = 0;
  while (query_.tokens.size() - position >= kMatchTokensMin && !stopped()) {
    const TokenId* tokens = query_.tokens.data() + position;
    const Digest before = digester.digest();
    const RowId head = candidates_.head(hasher_.contextual(before, tokens));
    const uint32_t n_tokens = longest({.position = position, .prefix = &before}, head);
    if (n_tokens == 0 || !list(IndexMatchKind::kPrefix, position, n_tokens)) break;
    digester.extend({tokens, n_tokens});
    position += n_tokens;
  }
  result_.prefix_tokens = position;
}

void Resolver::resolve_chunks(uint32_t begin) {
  uint64_t position = begin;
  while (position + kMatchTokensMin <= query_.tokens.size() && !stopped()) {
    const uint32_t levels = candidates_.levels(first_fingerprint(position));
    const auto token_begin = static_cast<uint32_t>(position);
    const uint32_t n_tokens = levels == 0 ? 0 : longest_chunk(token_begin, levels);
    if (n_tokens == 0) {
      ++position;
      continue;
    }
    if (!list(IndexMatchKind::kChunk, token_begin, n_tokens)) return;
    position += n_tokens;
  }
}

uint32_t Resolver::first_fingerprint(uint64_t position) {
  if (position >= ahead_end_) {
    // Behind a match there is often another, so not much is made ahead in vain; where nothing
    // matches, more and more.
    ahead_count_ = position == ahead_end_ ? std::min(2 * ahead_count_, kLookahead) : 1;
    const uint64_t positions = query_.tokens.size() - kMatchTokensMin + 1;
    ahead_begin_ = position;
    ahead_end_ = std::min(position + ahead_count_, positions);
    for (uint64_t each = position; each < ahead_end_; ++each) {
      const uint32_t fingerprint = hasher_.level(query_.tokens.data() + each, 0);
      candidates_.prefetch(fingerprint);
      ahead_[each - ahead_begin_] = fingerprint;
    }
  }
  return ahead_[position - ahead_begin_];
}

uint32_t Resolver::longest_chunk(uint32_t position, uint32_t levels) {
  const auto tokens = query_.tokens.subspan(position);
  // Chunks of a higher level are longer than all of a lower one.
  for (uint32_t level = kFingerprintTokens.size(); level-- > 0;) {
    if ((levels >> level & 1) == 0 || tokens.size() < kFingerprintTokens[level]) continue;
    count_work(1 + kFingerprintTokens[level] / kTokensPerWork);
    const RowId head = candidates_.head(hasher_.level(tokens.data(), level));
    const uint32_t n_tokens = longest({.position = position, .level = level}, head);
    if (n_tokens != 0 || stopped()) return n_tokens;
  }
  return 0;
}

uint32_t Resolver::longest(const Wanted& wanted, RowId head) {
  if (head == kNoRow) return 0;
  nominate(wanted, head);
  std::span<const Nominee> rest = nominees_;
  while (!rest.empty() && !stopped()) {
    const uint32_t n_tokens = rest.front().n_tokens;
    const auto shorter = std::ranges::find_if(
        rest, [n_tokens](const Nominee& nominee) { return nominee.n_tokens != n_tokens; });
    const auto count = static_cast<uint64_t>(shorter - rest.begin());
    choose(wanted, rest.first(count));
    if (!alternatives_.empty()) return stopped() ? 0 : n_tokens;
    rest = rest.subspan(count);
  }
  return 0;
}

bool Resolver::visible(const IndexRow& row) const {
  if (row.space == spaces_.own) return true;
  return row.space == spaces_.shared && !is_bound(row.kind(), row.phase());
}

void Resolver::nominate(const Wanted& wanted, RowId head) {
  nominees_.clear();
  const uint64_t tokens_max = query_.tokens.size() - wanted.position;
  for (RowId id = head; id != kNoRow && !stopped(); id = rows_[id].next) {
    count_work(kWorkPerRow);
    const IndexRow& row = rows_[id];
    if (!visible(row) || row.n_tokens > tokens_max) continue;
    if (is_statistics(row) && !query_.statistics) continue;
    // Values of blocks and chunks, and of two levels, may collide: chunks are found on their own
    // level.
    const bool fits = wanted.prefix != nullptr
                          ? row.kind() == ContextKind::kContextual
                          : is_chunk_kind(row.kind()) &&
                                fingerprint_level(row.n_tokens) == wanted.level &&
                                row.strikes < kStrikesMax;
    if (fits) nominees_.push_back({row.n_tokens, id});
  }
  if (nominees_.size() > 1) std::ranges::sort(nominees_, std::greater{}, &Nominee::n_tokens);
}

void Resolver::choose(const Wanted& wanted, std::span<const Nominee> same_length) {
  alternatives_.clear();
  const uint32_t n_tokens = same_length.front().n_tokens;
  count_work(1 + n_tokens / kTokensPerWork);
  const uint64_t all = hasher_.all(query_.tokens.subspan(wanted.position, n_tokens)) & all_mask_;
  chosen_.clear();
  for (const Nominee& nominee : same_length)
    if ((rows_[nominee.row].fingerprints.all & all_mask_) == all) chosen_.push_back(nominee.row);
  std::ranges::sort(
      chosen_, [&](RowId a, RowId b) { return listing_order(rows_[a]) < listing_order(rows_[b]); });

  // One more than there is room for tells that they do not all fit; a range that is not listed only
  // has to be there.
  const uint64_t enough = wanted.position < query_.start_token ? 1 : room() + 1;
  for (const RowId id : chosen_) {
    if (alternatives_.size() >= enough || stopped()) return;
    // Statistics come last: of a text of which nothing can be loaded they say nothing.
    if (alternatives_.empty() && is_statistics(rows_[id])) return;
    count_work(kWorkPerRow);
    SharedDetails details = details_(id);
    if (!details) {
      add_missing(id);
    } else if (refuted(wanted, rows_[id], *details)) {
      continue;
    }
    alternatives_.push_back({id, std::move(details)});
  }
}

bool Resolver::refuted(const Wanted& wanted, const IndexRow& row, const IndexDetails& details) {
  if (!details.tokens || details.tokens->size() != row.n_tokens) return true;
  // A prefix digest fixes the prefix's length: another base position is nonsense, and not listed.
  if (wanted.prefix != nullptr &&
      (details.context.reference != *wanted.prefix || details.base_position != wanted.position))
    return true;
  // Representations of one object may share their tokens.
  if (!alternatives_.empty() && alternatives_.back().details &&
      alternatives_.back().details->tokens == details.tokens)
    return false;
  count_work(row.n_tokens / kTokensPerWork);
  return std::memcmp(details.tokens->data(), query_.tokens.data() + wanted.position,
                     row.n_tokens * sizeof(TokenId)) != 0;
}

void Resolver::add_missing(RowId row) {
  if (missing_.contains(row)) return;
  missing_.insert(row);
  result_.missing.push_back(row);
  missing_full_ = result_.missing.size() >= kMissingRowsMax;
}

bool Resolver::list(IndexMatchKind kind, uint32_t begin, uint32_t n_tokens) {
  if (begin < query_.start_token) return true;
  uint64_t count = alternatives_.size();
  if (count > room()) {
    // Alone in its answer it is cut instead, so that paging always goes on.
    if (!result_.matches.empty()) {
      result_.next_token = begin;
      return false;
    }
    count = room();
  }
  for (uint64_t i = 0; i < count; ++i) {
    Alternative& alternative = alternatives_[i];
    result_.matches.push_back(
        {alternative.row, std::move(alternative.details), kind, begin, n_tokens});
  }
  return true;
}

}  // namespace quire::tiers
