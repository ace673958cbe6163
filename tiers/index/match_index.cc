#include "tiers/index/match_index.h"

#include <map>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "tiers/index/space.h"

namespace quire::tiers {
namespace {

struct SpaceKey {
  Digest model;
  TenantId tenant = 0;
  bool operator==(const SpaceKey&) const = default;
};

struct SpaceKeyHasher {
  size_t operator()(const SpaceKey& key) const {
    return DigestHasher{}(key.model) ^ (size_t{key.tenant} * 0x9e3779b97f4a7c15ull);
  }
};

Status invalid(const char* message) {
  return {StatusCode::kInvalidArgument, message};
}

}  // namespace

struct MatchIndex::State {
  explicit State(const MatchIndexOptions& given) : options(given) {}

  MatchIndexOptions options;
  std::unordered_map<Digest, IndexEntry, DigestHasher> entries;
  std::map<Digest, const IndexEntry*> ordered;  // the same, for listing
  std::unordered_map<SpaceKey, Space, SpaceKeyHasher> spaces;
  std::unordered_map<Digest, IndexUsage, DigestHasher> model_usage;
  IndexUsage total;
  std::unordered_set<Digest, DigestHasher> not_movable;
};

MatchIndex::MatchIndex(const MatchIndexOptions& options)
    : state_(std::make_unique<State>(options)) {}

MatchIndex::~MatchIndex() = default;

Expected<const IndexEntry*> MatchIndex::add(IndexEntry entry) {
  if (!entry.tokens || entry.tokens->empty()) return invalid("an object without tokens");
  if (entry.tokens->size() > kChunkTokensMax) return invalid("an object of too many tokens");
  if (state_->entries.contains(entry.representation))
    return Status(StatusCode::kAlreadyExists, "this representation is indexed already");

  const SpaceKey key{entry.model, entry.tenant};
  const auto found = state_->spaces.find(key);
  const ObjectNode* node =
      found == state_->spaces.end() ? nullptr : found->second.find_object(entry.object);
  if (node != nullptr) {
    if (*node->tokens != *entry.tokens) return invalid("these are not the tokens of this object");
    entry.tokens = node->tokens;
  }
  entry.n_tokens = static_cast<uint32_t>(entry.tokens->size());
  Space& space =
      state_->spaces.try_emplace(key, state_->options, entry.model, entry.tenant).first->second;

  const Digest id = entry.representation;
  const IndexEntry* stored = &state_->entries.emplace(id, std::move(entry)).first->second;
  state_->ordered.emplace(id, stored);
  space.add(stored);
  for (IndexUsage* usage : {&state_->total, &state_->model_usage[stored->model]}) {
    ++usage->entries;
    usage->bytes += stored->bytes;
    usage->objects += node == nullptr ? 1 : 0;
  }
  return stored;
}

bool MatchIndex::remove(const Digest& representation) {
  const auto found = state_->entries.find(representation);
  if (found == state_->entries.end()) return false;
  const IndexEntry& entry = found->second;
  const auto space = state_->spaces.find(SpaceKey{entry.model, entry.tenant});
  const uint64_t objects_before = space->second.objects();
  space->second.remove(&entry);
  const uint64_t objects_gone = objects_before - space->second.objects();
  if (space->second.empty()) state_->spaces.erase(space);

  const auto model = state_->model_usage.find(entry.model);
  for (IndexUsage* usage : {&state_->total, &model->second}) {
    --usage->entries;
    usage->bytes -= entry.bytes;
    usage->objects -= objects_gone;
  }
  if (model->second.entries == 0) state_->model_usage.erase(model);
  // By the stored key: the argument may be the entry's own id, which goes now.
  state_->ordered.erase(found->first);
  state_->entries.erase(found);
  return true;
}

const IndexEntry* MatchIndex::find(const Digest& representation) const {
  const auto found = state_->entries.find(representation);
  return found == state_->entries.end() ? nullptr : &found->second;
}

bool MatchIndex::set_cookie(const Digest& representation, uint64_t cookie) {
  const auto found = state_->entries.find(representation);
  if (found == state_->entries.end()) return false;
  found->second.cookie = cookie;
  return true;
}

std::shared_ptr<const TokenList> MatchIndex::object_tokens(const Digest& model, TenantId tenant,
                                                           const Digest& object) const {
  const auto space = state_->spaces.find(SpaceKey{model, tenant});
  if (space == state_->spaces.end()) return nullptr;
  const ObjectNode* node = space->second.find_object(object);
  return node == nullptr ? nullptr : node->tokens;
}

std::vector<const IndexEntry*> MatchIndex::list(const std::optional<Digest>& after,
                                                uint32_t limit) const {
  std::vector<const IndexEntry*> page;
  auto it = after ? state_->ordered.upper_bound(*after) : state_->ordered.begin();
  for (; it != state_->ordered.end() && page.size() < limit; ++it) page.push_back(it->second);
  return page;
}

void MatchIndex::set_model_movable(const Digest& model, bool movable) {
  if (movable) {
    state_->not_movable.erase(model);
  } else {
    state_->not_movable.insert(model);
  }
}

ResolveResult MatchIndex::resolve(const ResolveQuery& query) const {
  ResolveQuery cut = query;
  if (cut.tokens.size() > kPromptTokensMax) cut.tokens = cut.tokens.first(kPromptTokensMax);
  ResolveResult result;
  result.next_token = static_cast<uint32_t>(cut.tokens.size());
  const auto space = state_->spaces.find(SpaceKey{cut.model, cut.tenant});
  if (space != state_->spaces.end())
    space->second.resolve(cut, !state_->not_movable.contains(cut.model), result);
  return result;
}

IndexUsage MatchIndex::usage() const {
  return state_->total;
}

IndexUsage MatchIndex::usage(const Digest& model) const {
  const auto found = state_->model_usage.find(model);
  return found == state_->model_usage.end() ? IndexUsage{} : found->second;
}

}  // namespace quire::tiers
