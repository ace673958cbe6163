// Fuzz entry of blocks of statistics: any bytes end in a status; what is taken is written again as
// the same bytes, and its vectors lie inside the block.
#include "codecs/statistics.h"
#include "tests/fuzz/fuzz_target.h"

namespace {

using quire::Statistics;
using quire::StatisticsDtype;
using quire::StatisticsType;

std::vector<std::byte> sample(uint32_t n_tokens, uint32_t n_segments, bool user_type) {
  const std::vector<uint16_t> halves(uint64_t{n_tokens} * (n_segments + 1), 0x3800);
  const std::vector<uint32_t> words(n_segments + 3, 5);
  const auto halves_of = [&](uint64_t count) {
    return std::as_bytes(std::span(halves).first(count));
  };
  const auto words_of = [&](uint64_t count) {
    return std::as_bytes(std::span(words).first(count));
  };
  Statistics statistics;
  statistics.n_tokens = n_tokens;
  statistics.n_layers = 2;
  statistics.n_segments = n_segments;
  if (n_segments != 0)
    statistics.vectors.push_back({StatisticsType::kSegments,
                                  StatisticsDtype::kU32,
                                  {n_segments, 1, 1},
                                  words_of(n_segments)});
  statistics.vectors.push_back(
      {StatisticsType::kReceived, StatisticsDtype::kF16, {n_tokens, 1, 1}, halves_of(n_tokens)});
  if (n_segments != 0)
    statistics.vectors.push_back({StatisticsType::kInterOfSegment,
                                  StatisticsDtype::kF16,
                                  {n_segments, n_tokens, 1},
                                  halves_of(uint64_t{n_segments} * n_tokens)});
  if (user_type)
    statistics.vectors.push_back(
        {static_cast<StatisticsType>(1025), StatisticsDtype::kU32, {3, 1, 1}, words_of(3)});
  return *quire::encode_statistics(statistics);
}

}  // namespace

QUIRE_FUZZ_SEEDS(statistics) {
  return {{"golden", quire::fuzz::golden_bytes("statistics_v1.bin")},
          {"no_segments", sample(5, 0, false)},
          {"segments_and_user", sample(3, 2, true)}};
}

QUIRE_FUZZ_TARGET(statistics) {
  const auto parsed = quire::parse_statistics(input);
  if (!parsed) {
    quire::fuzz::expect(!parsed.status().message().empty(), "a refusal says why");
    return false;
  }
  for (const quire::StatisticsVector& vector : parsed->vectors) {
    const bool inside = vector.values.data() >= input.data() &&
                        vector.values.data() + vector.values.size() <= input.data() + input.size();
    quire::fuzz::expect(inside && !vector.values.empty(), "a vector lies in its block");
  }
  const auto again = quire::encode_statistics(*parsed);
  quire::fuzz::expect(again.is_ok(), "what is read can be written");
  quire::fuzz::expect(std::equal(again->begin(), again->end(), input.begin(), input.end()),
                      "there is one block of these vectors");
  return true;
}
