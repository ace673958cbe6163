#include "tiers/index/details.h"

#include <cstdlib>
#include <utility>

namespace quire::tiers {
namespace {

// Of a shared pointer's counters, and of the list and map nodes that hold an entry.
constexpr uint64_t kSharedBytes = 16;
constexpr uint64_t kCacheEntryBytes = 128;

}  // namespace

uint64_t IndexDetails::memory_bytes() const {
  uint64_t bytes = sizeof(IndexDetails) + kSharedBytes;
  bytes += context.dummy_tokens.capacity() * sizeof(TokenId);
  bytes += context.neighbours.capacity() * sizeof(Digest);
  if (tokens) bytes += kSharedBytes + sizeof(TokenList) + tokens->capacity() * sizeof(TokenId);
  return bytes;
}

DetailsCache::DetailsCache(uint64_t bytes_max) : bytes_max_(bytes_max) {}

SharedDetails DetailsCache::find(RowId row) {
  const auto found = places_.find(row);
  if (found == places_.end()) {
    ++misses_;
    return nullptr;
  }
  ++hits_;
  order_.splice(order_.begin(), order_, found->second);
  return found->second->details;
}

void DetailsCache::insert(RowId row, SharedDetails details) {
  if (!details) std::abort();
  erase(row);
  const uint64_t bytes = details->memory_bytes() + kCacheEntryBytes;
  if (bytes > bytes_max_) return;
  order_.push_front({row, bytes, std::move(details)});
  places_.emplace(row, order_.begin());
  bytes_ += bytes;
  evict();
}

void DetailsCache::erase(RowId row) {
  const auto found = places_.find(row);
  if (found == places_.end()) return;
  bytes_ -= found->second->bytes;
  order_.erase(found->second);
  places_.erase(found);
}

void DetailsCache::evict() {
  while (bytes_ > bytes_max_) erase(order_.back().row);
}

}  // namespace quire::tiers
