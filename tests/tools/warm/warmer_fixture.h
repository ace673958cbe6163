// A store in memory and one run of the program over it.
#ifndef QUIRE_TESTS_TOOLS_WARM_WARMER_FIXTURE_H_
#define QUIRE_TESTS_TOOLS_WARM_WARMER_FIXTURE_H_

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "tools/quire-warm/warmer.h"

namespace quire::warm {
namespace fs = std::filesystem;

// A store in memory; tokens are words.
class FakeTarget final : public WarmTarget {
 public:
  Expected<std::vector<TokenId>> tokenize(std::string_view text) override {
    std::vector<TokenId> tokens;
    std::istringstream words{std::string(text)};
    for (std::string word; words >> word;)
      tokens.push_back(static_cast<TokenId>(std::hash<std::string>{}(word)));
    return tokens;
  }
  Expected<ChunkIds> identify(std::span<const TokenId> tokens) override {
    ChunkIds ids;
    ids.object = object_id(Digest{}, tokens, {});
    ids.variant = variant_id(ids.object, VariantContext::isolated());
    ids.representation = representation_id(ids.variant, 1, PositionFrame::kLocal, {});
    ids.bytes_max = 10 * tokens.size();
    return ids;
  }
  Expected<std::optional<uint64_t>> find_stored(std::span<const TokenId> tokens,
                                                const ChunkIds& ids) override {
    if (!stored.contains(ids.representation)) return std::optional<uint64_t>();
    return std::optional(knows_bytes ? bytes_per_token * tokens.size() : 0);
  }
  Expected<ChunkIds> identify_behind(std::span<const TokenId> tokens,
                                     std::span<const Digest> neighbours) override {
    Expected<ChunkIds> ids = identify(tokens);
    ids->variant =
        variant_id(ids->object, VariantContext::synthetic({neighbours.begin(), neighbours.end()}));
    ids->representation = representation_id(ids->variant, 1, PositionFrame::kLocal, {});
    return ids;
  }
  Expected<StoreResult> store_behind(std::span<const TokenId> tokens,
                                     std::span<const WarmNeighbour> neighbours,
                                     const ChunkIds& ids) override {
    std::vector<Digest> names;
    for (const WarmNeighbour& neighbour : neighbours) {
      EXPECT_EQ(neighbour.object, object_id(Digest{}, neighbour.tokens, {}));
      names.push_back(neighbour.object);
    }
    EXPECT_EQ(ids.representation, identify_behind(tokens, names)->representation);
    fronts[ids.object] = names;
    return store(tokens, ids);
  }
  Expected<StoreResult> store(std::span<const TokenId> tokens, const ChunkIds& ids) override {
    if (on_store) {
      if (const Status status = on_store(stores); !status) return status;
    }
    ++stores;
    stored.insert(ids.representation);
    return StoreResult{false, 1000, bytes_per_token * tokens.size()};
  }

  std::set<Digest> stored;
  std::map<Digest, std::vector<Digest>> fronts;  // object -> what it was computed behind last
  uint64_t stores = 0;
  uint64_t bytes_per_token = 10;  // less than 10: a codec of variable size
  bool knows_bytes = true;        // of what was there before
  std::function<Status(uint64_t)> on_store;
};

class WarmerTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "quire-warmer-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    chunking_.target_tokens = 40;
  }
  void TearDown() override { fs::remove_all(root_); }

  std::string write(const std::string& name, std::string_view bytes) {
    const fs::path path = root_ / "docs" / name;
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << bytes;
    return path.string();
  }
  static std::string words(int n, const std::string& stem) {
    std::string text;
    for (int i = 0; i < n; ++i) text += stem + std::to_string(i) + (i % 10 == 9 ? "\n\n" : " ");
    return text;
  }
  std::string docs() const { return (root_ / "docs").string(); }

  // One run of the program, from scan to end.
  Status run(const std::vector<std::string>& paths) {
    auto manifest = Manifest::open((root_ / "m").string(), ManifestHeader{});
    EXPECT_TRUE(manifest.is_ok()) << manifest.status().to_string();
    out_.str("");
    Progress progress(out_, {}, clock_);
    Warmer warmer(target_, chunking_, manifest->get(), progress, stop_);
    if (neighbours_.embedder != nullptr) warmer.use_neighbours(neighbours_);
    const auto plan = warmer.scan(paths);
    if (!plan) return plan.status();
    plan_ = *plan;
    const Status status = warmer.run();
    summary_ = warmer.summary();
    return status;
  }
  ManifestContents manifest() const {
    std::ifstream stream(root_ / "m", std::ios::binary);
    std::ostringstream text;
    text << stream.rdbuf();
    manifest_text_ = text.str();
    return parse_manifest(manifest_text_).value();
  }

  fs::path root_;
  FakeTarget target_;
  corpus::ChunkOptions chunking_;
  NeighbourOptions neighbours_;
  std::atomic<bool> stop_{false};
  ManualClock clock_;
  std::ostringstream out_;
  WarmSummary plan_;
  WarmSummary summary_;
  mutable std::string manifest_text_;
};

}  // namespace quire::warm

#endif  // QUIRE_TESTS_TOOLS_WARM_WARMER_FIXTURE_H_
