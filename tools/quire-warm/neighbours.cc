#include "tools/quire-warm/neighbours.h"

#include <algorithm>

namespace quire::warm {
namespace {

float dot(const float* a, const float* b, uint32_t n) {
  constexpr uint32_t kSums = 16;
  float sums[kSums] = {};
  uint32_t i = 0;
  for (; i + kSums <= n; i += kSums)
    for (uint32_t j = 0; j < kSums; ++j) sums[j] += a[i + j] * b[i + j];
  float sum = 0;
  for (; i < n; ++i) sum += a[i] * b[i];
  for (const float part : sums) sum += part;
  return sum;
}

class Grouper {
 public:
  Grouper(const Embeddings& embeddings, std::span<const uint32_t> chunk_tokens,
          std::span<const uint64_t> wanted, const GroupOptions& options)
      : embeddings_(embeddings),
        chunk_tokens_(chunk_tokens),
        pending_(wanted.begin(), wanted.end()),
        options_(options),
        n_leads_(std::min<uint64_t>(kGroupLeads, embeddings.size() - 1)),
        in_group_(embeddings.size(), false) {}

  bool done() const { return pending_.empty(); }

  // The next group begins with the first chunk that has none yet.
  ChunkGroup next() {
    ChunkGroup group;
    std::fill(in_group_.begin(), in_group_.end(), false);
    tokens_ = 0;
    const uint64_t first = pending_.front();
    in_group_[first] = true;
    group.leads = nearest(first);
    std::vector<uint64_t> order = group.leads;
    for (const uint64_t lead : group.leads) in_group_[lead] = true;
    for (const uint64_t chunk : order) tokens_ += chunk_tokens_[chunk];
    take(0, group, order);
    while (group.members.size() < members_max()) {
      const size_t best = most_similar(order);
      if (best == pending_.size()) break;
      take(best, group, order);
    }
    return group;
  }

 private:
  // The chunks nearest to one, the nearest last. Where the rest can be one group, leads are none of
  // it if that can be, or it would take another group for them.
  std::vector<uint64_t> nearest(uint64_t chunk) const {
    const bool keep_rest =
        pending_.size() <= members_max() && embeddings_.size() - pending_.size() >= n_leads_;
    const auto is_rest = [&](uint64_t other) {
      return std::binary_search(pending_.begin(), pending_.end(), other);
    };
    std::vector<std::pair<float, uint64_t>> others;
    others.reserve(embeddings_.size());
    for (uint64_t other = 0; other < embeddings_.size(); ++other)
      if (other != chunk && !(keep_rest && is_rest(other)))
        others.emplace_back(similarity(chunk, other), other);
    const auto nearer = [](const auto& a, const auto& b) {
      return a.first != b.first ? a.first > b.first : a.second < b.second;
    };
    const auto end = others.begin() + static_cast<int64_t>(n_leads_);
    std::partial_sort(others.begin(), end, others.end(), nearer);
    std::vector<uint64_t> result;
    for (auto other = end; other != others.begin();) result.push_back((--other)->second);
    return result;
  }

  uint64_t members_max() const { return group_members(options_.neighbours); }

  float similarity(uint64_t a, uint64_t b) const {
    return dot(embeddings_.of(a).data(), embeddings_.of(b).data(), embeddings_.dims);
  }

  // Place in pending_ of what is most similar to the last chunks of the order; its size where there
  // is nothing that fits.
  size_t most_similar(const std::vector<uint64_t>& order) const {
    std::vector<float> mean(embeddings_.dims, 0.0F);
    const size_t window = std::min<size_t>(options_.neighbours, order.size());
    for (size_t i = order.size() - window; i < order.size(); ++i)
      for (uint32_t dim = 0; dim < embeddings_.dims; ++dim)
        mean[dim] += embeddings_.of(order[i])[dim];
    size_t best = pending_.size();
    float best_similarity = 0;
    for (size_t at = 0; at < pending_.size(); ++at) {
      const uint64_t chunk = pending_[at];
      const bool fits =
          options_.tokens_max == 0 || tokens_ + chunk_tokens_[chunk] <= options_.tokens_max;
      if (in_group_[chunk] || !fits) continue;
      const float found = dot(mean.data(), embeddings_.of(chunk).data(), embeddings_.dims);
      if (best != pending_.size() && found <= best_similarity) continue;
      best = at;
      best_similarity = found;
    }
    return best;
  }

  void take(size_t at, ChunkGroup& group, std::vector<uint64_t>& order) {
    const uint64_t chunk = pending_[at];
    group.members.push_back(chunk);
    order.push_back(chunk);
    in_group_[chunk] = true;
    tokens_ += chunk_tokens_[chunk];
    pending_.erase(pending_.begin() + static_cast<int64_t>(at));
  }

  const Embeddings& embeddings_;
  std::span<const uint32_t> chunk_tokens_;
  std::vector<uint64_t> pending_;  // ascending
  const GroupOptions& options_;
  uint64_t n_leads_;
  std::vector<bool> in_group_;
  uint64_t tokens_ = 0;
};

}  // namespace

Status check_neighbour_chunks(uint64_t n_chunks) {
  if (n_chunks <= kNeighbourChunksMax) return Status::ok();
  return {StatusCode::kInvalidArgument, std::to_string(n_chunks) +
                                            " chunks are more than neighbours are found among (" +
                                            std::to_string(kNeighbourChunksMax) +
                                            "); warm parts of the corpus one after another"};
}

Expected<std::vector<ChunkGroup>> plan_groups(const Embeddings& embeddings,
                                              std::span<const uint32_t> chunk_tokens,
                                              std::span<const uint64_t> wanted,
                                              const GroupOptions& options,
                                              const std::atomic<bool>& stop) {
  const uint64_t n_chunks = embeddings.size();
  if (options.neighbours == 0 || options.neighbours > kNeighboursMax ||
      chunk_tokens.size() != n_chunks ||
      !std::is_sorted(wanted.begin(), wanted.end(), std::less_equal<>()) ||
      (!wanted.empty() && wanted.back() >= n_chunks))
    return Status(StatusCode::kInvalidArgument, "chunks and embeddings do not fit each other");
  QUIRE_RETURN_IF_ERROR(check_neighbour_chunks(n_chunks));
  std::vector<ChunkGroup> groups;
  if (wanted.empty()) return groups;
  if (n_chunks < 2)
    return Status(StatusCode::kFailedPrecondition,
                  "a single chunk has no neighbours; leave --neighbours out, or add documents");
  Grouper grouper(embeddings, chunk_tokens, wanted, options);
  while (!grouper.done()) {
    if (stop.load()) return Status(StatusCode::kCancelled, "interrupted");
    groups.push_back(grouper.next());
  }
  return groups;
}

}  // namespace quire::warm
