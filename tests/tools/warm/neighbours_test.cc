#include "tools/quire-warm/neighbours.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>

namespace quire::warm {
namespace {

const std::atomic<bool> kGoOn{false};

// Unit vectors at these angles of a circle.
Embeddings at_degrees(const std::vector<double>& degrees) {
  Embeddings embeddings;
  embeddings.dims = 2;
  for (const double degree : degrees) {
    embeddings.values.push_back(static_cast<float>(std::cos(degree * M_PI / 180)));
    embeddings.values.push_back(static_cast<float>(std::sin(degree * M_PI / 180)));
  }
  return embeddings;
}

std::vector<uint64_t> all(uint64_t n) {
  std::vector<uint64_t> wanted(n);
  std::iota(wanted.begin(), wanted.end(), 0);
  return wanted;
}

std::vector<ChunkGroup> plan(const Embeddings& embeddings, const std::vector<uint64_t>& wanted,
                             const GroupOptions& options, uint32_t tokens = 10) {
  const std::vector<uint32_t> chunk_tokens(embeddings.size(), tokens);
  auto groups = plan_groups(embeddings, chunk_tokens, wanted, options, kGoOn);
  EXPECT_TRUE(groups.is_ok()) << groups.status().to_string();
  return groups.is_ok() ? std::move(*groups) : std::vector<ChunkGroup>();
}

TEST(Neighbours, TheNearestStandsInFront) {
  // By distance from chunk 0: 3 (1 degree), 1 (5), 4 (20), 2 (90).
  const Embeddings embeddings = at_degrees({0, 5, 90, 1, 20});
  const auto groups = plan(embeddings, {0}, {2, 0});
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_EQ(groups[0].leads, (std::vector<uint64_t>{3}));
  EXPECT_EQ(groups[0].members, (std::vector<uint64_t>{0}));
}

TEST(Neighbours, MembersFollowWhatIsMostSimilarToTheChunksBefore) {
  // Two clusters, told apart by 180 degrees.
  const Embeddings embeddings = at_degrees({0, 180, 2, 182, 4, 184, 6, 186});
  const auto groups = plan(embeddings, all(8), {2, 0});
  ASSERT_EQ(groups.size(), 3u);
  // The lead of the first group is 2, so the group goes on from 0 to 4 and 6.
  EXPECT_EQ(groups[0].leads, (std::vector<uint64_t>{2}));
  EXPECT_EQ(groups[0].members, (std::vector<uint64_t>{0, 4, 6}));
  EXPECT_EQ(groups[1].leads, (std::vector<uint64_t>{3}));
  EXPECT_EQ(groups[1].members, (std::vector<uint64_t>{1, 5, 7}));
  EXPECT_EQ(groups[2].members, (std::vector<uint64_t>{2, 3})) << "what is left, alike or not";
  EXPECT_NE(groups[2].leads[0], 3u) << "which would need a group of its own";
}

TEST(Neighbours, EveryWantedChunkIsAMemberOnceBehindEnoughOthers) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (const uint64_t n : {2u, 3u, 5u, 17u, 60u}) {
    for (const uint32_t neighbours : {1u, 2u, 4u}) {
      Embeddings embeddings;
      embeddings.dims = 19;  // not a multiple of what is summed at once
      for (uint64_t i = 0; i < n * embeddings.dims; ++i)
        embeddings.values.push_back(normal(random));
      std::vector<uint64_t> wanted;
      for (uint64_t i = 0; i < n; ++i)
        if (n < 4 || random() % 3 != 0) wanted.push_back(i);
      std::multiset<uint64_t> members;
      uint64_t n_leads = 0;
      for (const ChunkGroup& group : plan(embeddings, wanted, {neighbours, 0})) {
        members.insert(group.members.begin(), group.members.end());
        EXPECT_EQ(group.leads.size(), kGroupLeads);
        EXPECT_LE(group.members.size(), group_members(neighbours));
        n_leads += group.leads.size();
        // Nothing stands twice in one context.
        std::set<uint64_t> once(group.leads.begin(), group.leads.end());
        once.insert(group.members.begin(), group.members.end());
        EXPECT_EQ(once.size(), group.leads.size() + group.members.size());
      }
      EXPECT_TRUE(std::equal(members.begin(), members.end(), wanted.begin(), wanted.end()));
      // The leads are the whole cost: one for each group, which are full but for the last.
      if (n == 60) {
        EXPECT_LE(n_leads, wanted.size() / group_members(neighbours) + 1);
      }
    }
  }
}

TEST(Neighbours, AGroupFitsItsTokens) {
  const Embeddings embeddings = at_degrees({0, 1, 2, 3, 4, 5, 6, 7});
  for (const ChunkGroup& group : plan(embeddings, all(8), {2, 45}))
    EXPECT_LE((group.leads.size() + group.members.size()) * 10, 45u);
  for (const ChunkGroup& group : plan(embeddings, all(8), {2, 5}))
    EXPECT_EQ(group.members.size(), 1u) << "a member that does not fit is tried alone";
}

TEST(Neighbours, EqualVectorsAndZerosAreInOrder) {
  Embeddings embeddings;
  embeddings.dims = 3;
  embeddings.values.assign(15, 0.0F);
  const auto groups = plan(embeddings, all(5), {2, 0});
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(groups[0].leads, (std::vector<uint64_t>{1}));
  EXPECT_EQ(groups[0].members, (std::vector<uint64_t>{0, 2, 3}));
}

TEST(Neighbours, WrongArgumentsAreTypedErrors) {
  const Embeddings embeddings = at_degrees({0, 5, 90});
  const std::vector<uint32_t> tokens{1, 1, 1};
  const auto code = [&](const Embeddings& from, std::vector<uint32_t> chunk_tokens,
                        std::vector<uint64_t> wanted, GroupOptions options) {
    return plan_groups(from, chunk_tokens, wanted, options, kGoOn).status().code();
  };
  EXPECT_EQ(code(embeddings, tokens, {0, 3}, {1, 0}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(embeddings, tokens, {1, 0}, {1, 0}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(embeddings, tokens, {1, 1}, {1, 0}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(embeddings, {1}, {0}, {1, 0}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(embeddings, tokens, {0}, {0, 0}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(embeddings, tokens, {0}, {kNeighboursMax + 1, 0}), StatusCode::kInvalidArgument);
  EXPECT_TRUE(check_neighbour_chunks(kNeighbourChunksMax).is_ok());
  EXPECT_EQ(check_neighbour_chunks(kNeighbourChunksMax + 1).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(at_degrees({0}), {1}, {0}, {1, 0}), StatusCode::kFailedPrecondition);
  EXPECT_EQ(code(embeddings, tokens, {}, {1, 0}), StatusCode::kOk);
  const std::atomic<bool> stop{true};
  EXPECT_EQ(plan_groups(embeddings, tokens, all(3), {1, 0}, stop).status().code(),
            StatusCode::kCancelled);
}

}  // namespace
}  // namespace quire::warm
