#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <sstream>
#include <utility>
#include <vector>

#include "bench/quire-bench/replay.h"
#include "bench/quire-bench/trace.h"

namespace quire::bench {
namespace {

using Kind = tiers::EvictionPolicyKind;

constexpr const char* kGoodLine =
    R"({"timestamp": 27482, "input_length": 1100, "output_length": 52, "hash_ids": [46, 47, 2353]})";

Expected<Trace> parse(const std::string& text) {
  std::istringstream in(text);
  return read_trace(in);
}

TEST(Trace, ReadsTheMooncakeFormat) {
  const auto trace = parse(std::string(kGoodLine) + "\r\n\n" +
                           R"({"timestamp":1,"input_length":0,"output_length":1,"hash_ids":[]})" +
                           "\n" + R"({"hash_ids":[46,9],"input_length":1024,"timestamp":2})");
  ASSERT_TRUE(trace) << trace.status().message();
  ASSERT_EQ(trace->requests.size(), 3u);
  EXPECT_EQ(trace->blocks, 5u);
  EXPECT_EQ(trace->unique_blocks, 4u);
  const TraceRequest& first = trace->requests[0];
  EXPECT_EQ(first.timestamp_ms, 27482u);
  EXPECT_EQ(first.blocks, (std::vector<uint64_t>{46, 47, 2353}));
  EXPECT_EQ(first.block_tokens(0), 512u);
  EXPECT_EQ(first.block_tokens(2), 76u);
  EXPECT_EQ(trace->requests[2].block_tokens(1), 512u);
}

TEST(Trace, BadLinesAreNamed) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{", "not a JSON object"},
      {"[1, 2]", "not a JSON object"},
      {"7", "not a JSON object"},
      {"\xff\xfe{}", "not a JSON object"},
      {R"({"input_length": 1, "hash_ids": [1]})", "timestamp"},
      {R"({"timestamp": -1, "input_length": 1, "hash_ids": [1]})", "timestamp"},
      {R"({"timestamp": 1, "input_length": "1", "hash_ids": [1]})", "input_length"},
      {R"({"timestamp": 1, "input_length": 1.5, "hash_ids": [1]})", "input_length"},
      {R"({"timestamp": 1, "input_length": 1})", "hash_ids"},
      {R"({"timestamp": 1, "input_length": 1, "hash_ids": {"0": 1}})", "hash_ids"},
      {R"({"timestamp": 1, "input_length": 1, "hash_ids": [-1]})", "hash_ids"},
      {R"({"timestamp": 1, "input_length": 1, "hash_ids": [null]})", "hash_ids"},
      {R"({"timestamp": 1, "input_length": 513, "hash_ids": [1]})", "does not fit"},
      {R"({"timestamp": 1, "input_length": 512, "hash_ids": [1, 2]})", "does not fit"},
      {R"({"timestamp": 1, "input_length": 18446744073709551615, "hash_ids": [1]})", "fit"},
      {R"({"timestamp": 1, "input_length": 1, "hash_ids": [99999999999999999999]})", "hash_ids"},
      {R"({"timestamp": 1, "input_length": 600, "hash_ids": [5, 5]})", "twice"},
      {std::string(200'000, '['), "not a JSON object"},
      {std::string(kTraceLineBytesMax + 5, ' '), "longer than"},
  };
  for (const auto& [text, what] : cases) {
    SCOPED_TRACE(text.substr(0, 80));
    const auto trace = parse(std::string(kGoodLine) + "\n" + text + "\n" + kGoodLine);
    ASSERT_FALSE(trace);
    EXPECT_EQ(trace.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(trace.status().message().find("line 2"), std::string::npos)
        << trace.status().message();
    EXPECT_NE(trace.status().message().find(what), std::string::npos) << trace.status().message();
  }
  EXPECT_FALSE(parse(""));
  EXPECT_FALSE(parse("\n\n \n"));
  EXPECT_FALSE(parse(R"({"timestamp": 1, "input_length": 0, "hash_ids": []})"));
  EXPECT_EQ(read_trace_file("/nonexistent/trace.jsonl").status().code(), StatusCode::kNotFound);
}

TEST(Trace, EveryTruncationAndByteFlipIsReadOrRefused) {
  const std::string text = std::string(kGoodLine) + "\n" + kGoodLine;
  const std::string line = kGoodLine;
  for (size_t bytes = 1; bytes < line.size(); ++bytes)
    EXPECT_FALSE(parse(line.substr(0, bytes))) << bytes;
  uint64_t refused = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = text;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      const auto trace = parse(damaged);
      if (!trace) {
        ++refused;
        continue;
      }
      for (const TraceRequest& request : trace->requests)
        EXPECT_EQ(request.blocks.size(),
                  (request.input_tokens + kTraceBlockTokens - 1) / kTraceBlockTokens);
    }
  }
  EXPECT_GT(refused, 4 * text.size());
}

TEST(Trace, SyntheticFollowsFromItsSeed) {
  const Trace trace = synthetic_trace(1, 2000);
  EXPECT_EQ(trace.requests.size(), 2000u);
  // A change of the generator changes every published figure made with it.
  EXPECT_EQ(trace.blocks, synthetic_trace(1, 2000).blocks);
  EXPECT_NE(trace.blocks, synthetic_trace(2, 2000).blocks);
  std::ostringstream out;
  for (const TraceRequest& request : trace.requests) {
    out << R"({"timestamp":)" << request.timestamp_ms << R"(,"input_length":)"
        << request.input_tokens << R"(,"hash_ids":[)";
    for (size_t i = 0; i < request.blocks.size(); ++i) out << (i ? "," : "") << request.blocks[i];
    out << "]}\n";
  }
  const auto read = parse(out.str());
  ASSERT_TRUE(read) << read.status().message();
  EXPECT_EQ(read->unique_blocks, trace.unique_blocks);
  EXPECT_GT(trace.blocks, trace.unique_blocks * 5 / 4);
}

TraceRequest request_of(const std::vector<uint64_t>& blocks) {
  return {0, blocks.size() * kTraceBlockTokens, blocks};
}

Trace trace_of(const std::vector<std::vector<uint64_t>>& prompts) {
  Trace trace;
  std::map<uint64_t, bool> unique;
  for (const auto& prompt : prompts) {
    trace.requests.push_back(request_of(prompt));
    trace.blocks += prompt.size();
    for (const uint64_t block : prompt) unique[block] = true;
  }
  trace.unique_blocks = unique.size();
  return trace;
}

TEST(Replay, CountsContiguousPrefixesOnly) {
  // Room for 3: the second prompt hits its head; of the third block 2 is there, but not before
  // it 9.
  const Trace trace = trace_of({{1, 2, 3}, {1, 2, 4}, {9, 2}});
  const ReplayFigures lru = replay_policy(trace, Kind::kLru, 3);
  EXPECT_EQ(lru.requested_blocks, 8u);
  EXPECT_EQ(lru.hit_blocks, 2u);
  EXPECT_EQ(lru.inserted_blocks, 5u);
  const ReplayFigures fifo = replay_fifo(trace, 3);
  EXPECT_EQ(fifo.hit_blocks, 2u);
}

TEST(Replay, SegmentsCopyOnWhatWasHitUpToTheFraction) {
  // Segments of 4, two of them. Of the first segment 1 and 2 are hit before it is reclaimed.
  const Trace trace = trace_of({{1, 2, 3, 4}, {1, 2}, {5, 6, 7, 8}, {9}, {1, 2}});
  const ReplayFigures kept = replay_segment_fifo(trace, 8, {4, 0.5});
  EXPECT_EQ(kept.reinserted_blocks, 2u);
  EXPECT_EQ(kept.hit_blocks, 4u);
  EXPECT_DOUBLE_EQ(kept.write_amplification(), 11.0 / 9);
  const ReplayFigures one = replay_segment_fifo(trace, 8, {4, 0.25});
  EXPECT_EQ(one.reinserted_blocks, 1u);
  const ReplayFigures none = replay_segment_fifo(trace, 8, {4, 0});
  EXPECT_EQ(none.reinserted_blocks, 0u);
  EXPECT_EQ(none.hit_blocks, 2u);
}

// All ways to hold blocks, by trying them: what to keep after each access.
uint64_t best_hits(const std::vector<uint64_t>& accesses, size_t at, std::vector<uint64_t> held,
                   size_t capacity) {
  if (at == accesses.size()) return 0;
  const bool hit = std::ranges::find(held, accesses[at]) != held.end();
  uint64_t best = best_hits(accesses, at + 1, held, capacity);
  if (!hit) {
    if (held.size() < capacity) {
      held.push_back(accesses[at]);
      return std::max(best, best_hits(accesses, at + 1, held, capacity));
    }
    for (uint64_t& slot : held) {
      const uint64_t evicted = std::exchange(slot, accesses[at]);
      best = std::max(best, best_hits(accesses, at + 1, held, capacity));
      slot = evicted;
    }
  }
  return best + hit;
}

TEST(Replay, BeladyIsTheBestThereIs) {
  for (const uint64_t seed : {1, 2, 3, 4, 5, 6, 7, 8}) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    std::vector<std::vector<uint64_t>> prompts;
    std::vector<uint64_t> accesses;
    for (int i = 0; i < 14; ++i) {
      prompts.push_back({random() % 6});
      accesses.push_back(prompts.back()[0]);
    }
    const Trace trace = trace_of(prompts);
    for (const size_t capacity : {1, 2, 3}) {
      const uint64_t best = best_hits(accesses, 0, {}, capacity);
      EXPECT_DOUBLE_EQ(belady_bound(trace, capacity), static_cast<double>(best) / 14) << capacity;
    }
  }
}

TEST(Replay, NothingPassesTheBound) {
  const Trace trace = synthetic_trace(3, 1500);
  for (const double percent : {1.0, 5.0, 20.0, 100.0}) {
    const uint64_t blocks = capacity_blocks(trace, percent);
    const double bound = belady_bound(trace, blocks);
    for (const Kind kind : {Kind::kLru, Kind::kS3Fifo, Kind::kDecayedLfu})
      EXPECT_LE(replay_policy(trace, kind, blocks).hit_ratio(), bound + 1e-12) << percent;
    EXPECT_LE(replay_fifo(trace, blocks).hit_ratio(), bound + 1e-12);
    if (percent == 100) {
      EXPECT_DOUBLE_EQ(replay_policy(trace, Kind::kLru, blocks).hit_ratio(), bound);
    }
  }
}

struct KnownFigures {
  double percent;
  double lru;
  double fifo;
  double bound;
  double best;  // of any policy published for this trace and measure
};

TEST(Replay, OursBeatsLruAndComesCloseToTheBestKnownOnThePublicTrace) {
  const auto path = find_trace(QUIRE_SOURCE_DIR);
  if (!path) GTEST_SKIP() << path.status().message();
  const auto trace = read_trace_file(*path);
  ASSERT_TRUE(trace) << trace.status().message();
  ASSERT_EQ(trace->blocks, 288'500u);
  ASSERT_EQ(trace->unique_blocks, 182'790u);
  for (const KnownFigures& known : {KnownFigures{2, .079, .077, .314, .146},
                                    {5, .196, .176, .366, .220},
                                    {10, .279, .249, .366, .293},
                                    {25, .354, .327, .366, .355}}) {
    SCOPED_TRACE("capacity " + std::to_string(known.percent) + " %");
    const uint64_t blocks = capacity_blocks(*trace, known.percent);
    const double lru = replay_policy(*trace, Kind::kLru, blocks).hit_ratio();
    const double ours = replay_policy(*trace, Kind::kDecayedLfu, blocks).hit_ratio();
    EXPECT_NEAR(lru, known.lru, 0.001);
    EXPECT_NEAR(replay_fifo(*trace, blocks).hit_ratio(), known.fifo, 0.001);
    EXPECT_NEAR(belady_bound(*trace, blocks), known.bound, 0.001);
    EXPECT_GT(ours, lru);
    EXPECT_GE(ours, 0.95 * known.best);
    RecordProperty("hit_ratio_" + std::to_string(static_cast<int>(known.percent)),
                   std::to_string(ours));
  }
}

}  // namespace
}  // namespace quire::bench
