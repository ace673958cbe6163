#include "tiers/index/match_index.h"

#include <algorithm>
#include <cstdlib>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "tiers/index/candidates.h"
#include "tiers/index/counting_allocator.h"
#include "tiers/index/resolver.h"
#include "tiers/index/row_store.h"
#include "tiers/index/sorted_table.h"

namespace quire::tiers {
namespace {

struct SpaceHasher {
  size_t operator()(const IndexSpace& space) const {
    return DigestHasher{}(space.model) ^ (size_t{space.tenant} * 0x9e3779b97f4a7c15ull) ^
           (DigestHasher{}(space.scope) * 0xc2b2ae3d27d4eb4full);
  }
};

// A space that is there has rows; one without is given to the next new space.
struct SpaceState {
  IndexSpace key;
  IndexUsage* model_usage = nullptr;
  uint64_t rows = 0;
  uint64_t contextual_rows = 0;
};

// The first bytes of an id, in the order of ids.
uint32_t id_tag(const Digest& id) {
  return uint32_t{id.bytes[0]} << 24 | uint32_t{id.bytes[1]} << 16 | uint32_t{id.bytes[2]} << 8 |
         uint32_t{id.bytes[3]};
}

}  // namespace

struct MatchIndex::State {
  explicit State(const MatchIndexOptions& given)
      : options(given), candidates(rows, given.fingerprint_mask) {}

  // The first position whose id is not less than this one.
  uint64_t seek_id(const Digest& id) const;
  RowId find(const Digest& id) const;
  uint32_t take_space(const IndexSpace& key);
  void count(const IndexRow& row);
  void uncount(const IndexRow& row);
  void remove(RowId id);

  template <typename Key, typename Value, typename Hasher>
  using Map = std::unordered_map<Key, Value, Hasher, std::equal_to<Key>,
                                 CountingAllocator<std::pair<const Key, Value>>>;
  template <typename T>
  using Vector = std::vector<T, CountingAllocator<T>>;

  MatchIndexOptions options;
  uint64_t allocated_bytes = 0;  // by the containers below with a counting allocator
  RowStore rows;
  SortedTable ids;  // of first bytes -> row
  Candidates candidates;
  Vector<SpaceState> spaces{CountingAllocator<SpaceState>(&allocated_bytes)};
  Vector<uint32_t> unused_spaces{CountingAllocator<uint32_t>(&allocated_bytes)};
  Map<IndexSpace, uint32_t, SpaceHasher> space_numbers{
      CountingAllocator<std::pair<const IndexSpace, uint32_t>>(&allocated_bytes)};
  uint32_t last_space = 0;  // the one last added to: most rows come in long runs of one space
  Map<Digest, IndexUsage, DigestHasher> model_usage{
      CountingAllocator<std::pair<const Digest, IndexUsage>>(&allocated_bytes)};
  IndexUsage total;
  std::unordered_set<Digest, DigestHasher, std::equal_to<Digest>, CountingAllocator<Digest>>
      not_movable{CountingAllocator<Digest>(&allocated_bytes)};
};

uint64_t MatchIndex::State::seek_id(const Digest& id) const {
  const uint32_t tag = id_tag(id);
  return ids.seek(tag, [&](const SortedTable::Cell& cell) {
    return cell.tag != tag ? cell.tag < tag : rows[cell.value].representation < id;
  });
}

RowId MatchIndex::State::find(const Digest& id) const {
  const SortedTable::Cell& cell = ids.at(seek_id(id));
  const bool found = cell.value != SortedTable::kEmpty && cell.tag == id_tag(id) &&
                     rows[cell.value].representation == id;
  return found ? cell.value : kNoRow;
}

uint32_t MatchIndex::State::take_space(const IndexSpace& key) {
  if (last_space < spaces.size() && spaces[last_space].rows > 0 && spaces[last_space].key == key)
    return last_space;
  const auto found = space_numbers.find(key);
  if (found != space_numbers.end()) {
    last_space = found->second;
    return last_space;
  }
  if (unused_spaces.empty()) {
    unused_spaces.push_back(static_cast<uint32_t>(spaces.size()));
    spaces.emplace_back();
  }
  last_space = unused_spaces.back();
  unused_spaces.pop_back();
  spaces[last_space] = {.key = key, .model_usage = &model_usage[key.model]};
  space_numbers.emplace(key, last_space);
  return last_space;
}

void MatchIndex::State::count(const IndexRow& row) {
  SpaceState& space = spaces[row.space];
  ++space.rows;
  if (row.kind() == ContextKind::kContextual) ++space.contextual_rows;
  for (IndexUsage* usage : {&total, space.model_usage}) {
    ++usage->entries;
    usage->bytes += row.bytes;
  }
}

void MatchIndex::State::uncount(const IndexRow& row) {
  SpaceState& space = spaces[row.space];
  --space.rows;
  if (row.kind() == ContextKind::kContextual) --space.contextual_rows;
  for (IndexUsage* usage : {&total, space.model_usage}) {
    --usage->entries;
    usage->bytes -= row.bytes;
  }
  if (space.model_usage->entries == 0) model_usage.erase(space.key.model);
  if (space.rows > 0) return;
  space_numbers.erase(space.key);
  unused_spaces.push_back(row.space);
}

void MatchIndex::State::remove(RowId id) {
  const uint64_t position = seek_id(rows[id].representation);
  if (ids.at(position).value != id) std::abort();
  ids.erase(position);
  candidates.unlink(id);
  uncount(rows[id]);
  rows.give_back(id);
}

MatchIndex::MatchIndex(const MatchIndexOptions& options)
    : state_(std::make_unique<State>(options)) {}

MatchIndex::~MatchIndex() = default;

Expected<RowId> MatchIndex::add(const NewRow& row) {
  if (row.n_tokens == 0) return Status(StatusCode::kInvalidArgument, "an object without tokens");
  static_assert(kChunkTokensMax < 1u << 24);
  if (row.n_tokens > kChunkTokensMax)
    return Status(StatusCode::kInvalidArgument, "an object of too many tokens");
  State& state = *state_;
  state.candidates.prefetch(row.fingerprints);
  state.ids.prepare_insert();
  const uint64_t position = state.seek_id(row.representation);
  const SortedTable::Cell& cell = state.ids.at(position);
  if (cell.value != SortedTable::kEmpty &&
      state.rows[cell.value].representation == row.representation)
    return Status(StatusCode::kAlreadyExists, "this representation is indexed already");
  const RowId id = state.rows.take(kIndexRowsMax);
  if (id == kNoRow) return Status(StatusCode::kResourceExhausted, "the index is full");

  IndexRow& stored = state.rows[id];
  stored.fingerprints = row.fingerprints;
  stored.n_tokens = row.n_tokens;
  stored.space = state.take_space({row.model, row.tenant, row.scope});
  stored.codec = row.codec;
  stored.kind_and_phase =
      static_cast<uint8_t>(static_cast<uint8_t>(row.kind) | static_cast<uint8_t>(row.phase) << 4);
  stored.bytes = row.bytes;
  stored.representation = row.representation;
  stored.checksum = row.checksum;
  stored.variant_tag = id_tag(row.variant);
  state.ids.insert(position, id_tag(row.representation), id);
  state.candidates.link(id);
  state.count(stored);
  return id;
}

void MatchIndex::reserve(uint64_t rows) {
  state_->ids.reserve(rows);
  state_->candidates.reserve(rows);
}

bool MatchIndex::remove(const Digest& representation) {
  const RowId id = state_->find(representation);
  if (id == kNoRow) return false;
  state_->remove(id);
  return true;
}

bool MatchIndex::remove(RowId row) {
  if (!state_->rows.contains(row)) return false;
  state_->remove(row);
  return true;
}

RowId MatchIndex::find(const Digest& representation) const {
  return state_->find(representation);
}

const IndexRow& MatchIndex::row(RowId row) const {
  return state_->rows[row];
}

IndexRow& MatchIndex::row(RowId row) {
  return state_->rows[row];
}

const IndexSpace& MatchIndex::space(const IndexRow& row) const {
  return state_->spaces[row.space].key;
}

bool MatchIndex::visible(const IndexRow& row, TenantId tenant, const Digest& scope) const {
  const IndexSpace& of = space(row);
  return of.tenant == tenant && (!is_bound(row.kind(), row.phase()) || of.scope == scope);
}

std::vector<RowId> MatchIndex::same_text(RowId id) const {
  const State& state = *state_;
  const IndexRow& row = state.rows[id];
  std::vector<RowId> found;
  if (!is_chunk_kind(row.kind()) || row.n_tokens < kMatchTokensMin) return found;
  uint32_t seen = 0;
  for (RowId other = state.candidates.head(row.fingerprints.level);
       other != kNoRow && seen < kSameTextRowsMax; other = state.rows[other].next, ++seen) {
    const IndexRow& candidate = state.rows[other];
    if (candidate.space == row.space && candidate.n_tokens == row.n_tokens &&
        candidate.fingerprints.all == row.fingerprints.all && is_chunk_kind(candidate.kind()))
      found.push_back(other);
  }
  return found;
}

std::vector<RowId> MatchIndex::list(const std::optional<Digest>& after, uint32_t limit) const {
  const State& state = *state_;
  std::vector<RowId> page;
  page.reserve(std::min<uint64_t>(limit, state.rows.size()));
  uint64_t position = after ? state.seek_id(*after) : 0;
  for (; position < state.ids.positions() && page.size() < limit; ++position) {
    const RowId id = state.ids.at(position).value;
    if (id == SortedTable::kEmpty) continue;
    if (page.empty() && after && state.rows[id].representation == *after) continue;
    page.push_back(id);
  }
  return page;
}

RowId MatchIndex::next_row(RowId from) const {
  return state_->rows.next(from);
}

uint64_t MatchIndex::rows() const {
  return state_->rows.size();
}

void MatchIndex::set_model_movable(const Digest& model, bool movable) {
  if (movable) {
    state_->not_movable.erase(model);
  } else {
    state_->not_movable.insert(model);
  }
}

ResolveResult MatchIndex::resolve(const ResolveQuery& query, const DetailsLookup& details) const {
  const State& state = *state_;
  ResolveQuery cut = query;
  if (cut.tokens.size() > kPromptTokensMax) cut.tokens = cut.tokens.first(kPromptTokensMax);
  ResolveResult result;
  result.next_token = static_cast<uint32_t>(cut.tokens.size());
  // The tenant's own space, and the scope's.
  ResolvedSpaces spaces;
  bool prefix = false;
  bool chunks = false;
  const auto look_into = [&](const Digest& scope, uint32_t& number) {
    const auto found = state.space_numbers.find(IndexSpace{cut.model, cut.tenant, scope});
    if (found == state.space_numbers.end()) return;
    number = found->second;
    const SpaceState& space = state.spaces[number];
    prefix |= space.contextual_rows > 0;
    chunks |= space.rows > space.contextual_rows;
  };
  look_into({}, spaces.shared);
  spaces.own = spaces.shared;
  if (cut.scope != Digest{}) {
    spaces.own = UINT32_MAX;
    look_into(cut.scope, spaces.own);
  }
  prefix &= cut.prefix;
  chunks &= cut.chunks && !state.not_movable.contains(cut.model);
  if (!prefix && !chunks) return result;
  Resolver(state.rows, state.candidates, state.options, spaces, cut, details, result)
      .run(prefix, chunks);
  if (!result.missing.empty()) result.matches.clear();
  return result;
}

IndexUsage MatchIndex::usage() const {
  return state_->total;
}

IndexUsage MatchIndex::usage(const Digest& model) const {
  const auto found = state_->model_usage.find(model);
  return found == state_->model_usage.end() ? IndexUsage{} : found->second;
}

uint64_t MatchIndex::memory_bytes() const {
  const State& state = *state_;
  return sizeof(State) + state.allocated_bytes + state.rows.memory_bytes() +
         state.ids.memory_bytes() + state.candidates.memory_bytes();
}

}  // namespace quire::tiers
