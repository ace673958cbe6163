// One tenant's objects under one model: what a single resolve may see. Part of MatchIndex.
#ifndef QUIRE_TIERS_INDEX_SPACE_H_
#define QUIRE_TIERS_INDEX_SPACE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "tiers/index/fingerprint_table.h"
#include "tiers/index/match_index.h"

namespace quire::tiers {

// Chunks often begin alike (licence headers, templates), so the first tokens only say whether it is
// worth to look closer; candidates are found by a fingerprint of as many tokens as they are long,
// roughly.
inline constexpr std::array<uint32_t, 5> kFingerprintTokens = {kMatchTokensMin, 64, 256, 1024,
                                                               4096};

// A run of tokens and everything stored for it.
struct ObjectNode {
  Digest object;
  std::shared_ptr<const TokenList> tokens;
  uint64_t fingerprint = 0;        // of its first kMatchTokensMin tokens; 0 where shorter
  uint32_t level = 0;              // of kFingerprintTokens: the longest that is not longer than it
  uint64_t level_fingerprint = 0;  // of its first kFingerprintTokens[level] tokens
  std::vector<const IndexEntry*> chunks;  // chunk matches, in the order in which they are listed
  std::vector<const IndexEntry*> others;  // contextual and delta variants
};

// Values addressed by number; numbers of erased ones are used again.
template <typename T>
class Pool {
 public:
  uint32_t take() {
    if (unused_.empty()) {
      values_.emplace_back();
      return static_cast<uint32_t>(values_.size()) - 1;
    }
    const uint32_t index = unused_.back();
    unused_.pop_back();
    return index;
  }
  void give_back(uint32_t index) {
    values_[index] = T{};
    unused_.push_back(index);
  }
  T& operator[](uint32_t index) { return values_[index]; }
  const T& operator[](uint32_t index) const { return values_[index]; }

 private:
  std::vector<T> values_;
  std::vector<uint32_t> unused_;
};

class Space {
 public:
  Space(const MatchIndexOptions& options, const Digest& model, TenantId tenant);

  // nullptr where the object is unknown.
  ObjectNode* find_object(const Digest& object);
  // The entry's tokens are the object's, checked by the caller; it stays valid until remove().
  void add(const IndexEntry* entry);
  void remove(const IndexEntry* entry);

  bool empty() const { return objects_.empty(); }
  uint64_t objects() const { return objects_.size(); }

  void resolve(const ResolveQuery& query, bool movable, ResolveResult& result) const;

 private:
  // Objects of one level with the same fingerprint there, longest first.
  using Candidates = std::vector<ObjectNode*>;
  struct ChainKey {
    Digest prefix;
    uint64_t fingerprint = 0;
    bool operator==(const ChainKey&) const = default;
  };
  struct ChainKeyHasher {
    size_t operator()(const ChainKey& key) const {
      return DigestHasher{}(key.prefix) ^ key.fingerprint;
    }
  };
  class Answer;

  // How many objects with the same first tokens there are on each level.
  using LevelCounts = std::array<uint32_t, kFingerprintTokens.size()>;

  uint64_t fingerprint(const TokenId* tokens, uint32_t level) const;
  void insert_candidate(ObjectNode& node);
  void erase_candidate(const ObjectNode& node);
  void add_chunk(ObjectNode& node, const IndexEntry* entry);
  void remove_chunk(ObjectNode& node, const IndexEntry* entry);
  void remove_contextual(const ObjectNode& node, const IndexEntry* entry);
  uint32_t resolve_prefix(Answer& answer, const ResolveQuery& query) const;
  const ObjectNode* longest_chunk(Answer& answer, std::span<const TokenId> tokens) const;
  void resolve_chunks(Answer& answer, const ResolveQuery& query, uint32_t begin) const;

  uint64_t seed_ = 0;
  uint64_t mask_ = ~0ull;
  Digest model_;
  std::unordered_map<Digest, std::unique_ptr<ObjectNode>, DigestHasher> objects_;
  FingerprintTable first_table_;  // fingerprint of the first tokens -> level_counts_
  Pool<LevelCounts> level_counts_;
  FingerprintTable candidate_table_;  // fingerprint of a level -> candidates_
  Pool<Candidates> candidates_;
  // Contextual entries by what lies before them and their first tokens, longest first.
  std::unordered_map<ChainKey, std::vector<const IndexEntry*>, ChainKeyHasher> chains_;
};

}  // namespace quire::tiers

#endif  // QUIRE_TIERS_INDEX_SPACE_H_
