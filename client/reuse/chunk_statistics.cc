#include "client/reuse/chunk_statistics.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/bytes.h"
#include "codecs/statistics.h"
#include "kernels/math/bits.h"

namespace quire::reuse {
namespace {

constexpr double kMassMin = 1e-30;
constexpr double kExponentMax = 700;
constexpr float kHalfMax = 65504;

Status check_shares(const AttentionShares& shares) {
  const size_t n_tokens = shares.received.size();
  if (n_tokens == 0 || n_tokens > kChunkTokensMax ||
      shares.segments.size() > kStatisticsSegmentsMax ||
      shares.inter_of_segment.size() != n_tokens * shares.segments.size())
    return {StatusCode::kInvalidArgument, "attention shares do not fit the chunk's tokens"};
  if (std::count(shares.segments.begin(), shares.segments.end(), 0u) > 0)
    return {StatusCode::kInvalidArgument, "an empty run before the chunk"};
  const auto bad = [](float value) { return !std::isfinite(value) || value < 0; };
  if (std::any_of(shares.received.begin(), shares.received.end(), bad) ||
      std::any_of(shares.inter_of_segment.begin(), shares.inter_of_segment.end(), bad))
    return {StatusCode::kNonFinite, "attention shares that are negative or not finite"};
  return Status::ok();
}

std::vector<float> inter_of(const AttentionShares& shares) {
  const size_t n_tokens = shares.received.size();
  std::vector<float> inter(n_tokens, 0.0F);
  for (size_t i = 0; i < shares.inter_of_segment.size(); ++i)
    inter[i % n_tokens] += shares.inter_of_segment[i];
  return inter;
}

std::vector<uint16_t> halves(const std::vector<float>& values) {
  std::vector<uint16_t> result(values.size());
  std::transform(values.begin(), values.end(), result.begin(), [](float value) {
    return quire_kernels::float_to_half(std::min(value, kHalfMax));
  });
  return result;
}

template <typename T>
ByteSpan bytes_of(const T& values) {
  return std::as_bytes(std::span(values));
}

}  // namespace

Expected<CacheCraftIndex> cache_craft_index(const AttentionShares& shares) {
  QUIRE_RETURN_IF_ERROR(check_shares(shares));
  const size_t n_tokens = shares.received.size();
  const auto n = static_cast<double>(n_tokens);
  double a = 0;
  double intra = n;
  for (size_t segment = 0; segment < shares.segments.size(); ++segment) {
    double mass = 0;
    for (size_t token = 0; token < n_tokens; ++token)
      mass += shares.inter_of_segment[segment * n_tokens + token];
    a += mass / (n * shares.segments[segment]);
    intra -= mass;
  }
  const double b = std::max(intra, 0.0) / (n * n);
  const double ratio = std::min(a / std::max(b, kMassMin), kExponentMax);
  return CacheCraftIndex{static_cast<float>(a), static_cast<float>(b),
                         static_cast<float>(1 / (1 + std::exp(-ratio)))};
}

Expected<std::vector<std::byte>> encode_shares(const AttentionShares& shares, uint32_t n_layers) {
  QUIRE_ASSIGN_OR_RETURN(const CacheCraftIndex index, cache_craft_index(shares));
  const std::vector<uint16_t> received = halves(shares.received);
  const std::vector<uint16_t> inter = halves(inter_of(shares));
  const std::vector<uint16_t> of_segment = halves(shares.inter_of_segment);
  const std::array<float, 3> cache_craft{index.a, index.b, index.cci};
  Statistics statistics;
  statistics.n_tokens = static_cast<uint32_t>(shares.received.size());
  statistics.n_layers = n_layers;
  statistics.n_segments = static_cast<uint32_t>(shares.segments.size());
  const auto add = [&](StatisticsType type, StatisticsDtype dtype, std::array<uint32_t, 3> dims,
                       ByteSpan values) {
    statistics.vectors.push_back({type, dtype, dims, values});
  };
  const bool behind = statistics.n_segments > 0;
  if (behind)
    add(StatisticsType::kSegments, StatisticsDtype::kU32, {statistics.n_segments, 1, 1},
        bytes_of(shares.segments));
  add(StatisticsType::kReceived, StatisticsDtype::kF16, {statistics.n_tokens, 1, 1},
      bytes_of(received));
  add(StatisticsType::kInter, StatisticsDtype::kF16, {statistics.n_tokens, 1, 1}, bytes_of(inter));
  if (behind)
    add(StatisticsType::kInterOfSegment, StatisticsDtype::kF16,
        {statistics.n_segments, statistics.n_tokens, 1}, bytes_of(of_segment));
  add(StatisticsType::kCacheCraft, StatisticsDtype::kF32, {3, 1, 1}, bytes_of(cache_craft));
  return encode_statistics(statistics);
}

}  // namespace quire::reuse
