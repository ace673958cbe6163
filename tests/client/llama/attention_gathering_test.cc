// What is gathered of softmax nodes, and that what is missing is said.
#include "client/llama/attention_gathering.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>

#include "ggml.h"

namespace quire {
namespace {

constexpr uint32_t kCells = 3, kTokens = 2, kHeads = 2;

// A softmax node of a layer as libllama makes them: [head][token][cell].
struct Node {
  explicit Node(uint32_t layer, std::vector<float> weights) : values(std::move(weights)) {
    tensor.op = GGML_OP_SOFT_MAX;
    tensor.type = GGML_TYPE_F32;
    tensor.data = values.data();
    std::snprintf(tensor.name, sizeof(tensor.name), "kq_soft_max-%u", layer);
    const int64_t sizes[] = {kCells, kTokens, kHeads, 1};
    size_t stride = sizeof(float);
    for (int i = 0; i < 4; ++i) {
      tensor.ne[i] = sizes[i];
      tensor.nb[i] = stride;
      stride *= static_cast<size_t>(sizes[i]);
    }
  }
  std::vector<float> values;
  ggml_tensor tensor{};
};

// Rows of head 0 and head 1; a token sees itself and what is before it.
const std::vector<float> kFirst = {0.5f, 0.5f, 0, 0.25f, 0.25f, 0.5f, 1, 0, 0, 0, 0, 1};
const std::vector<float> kSecond = {1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0};

TEST(MassGathering, IsTheMeanOfTheColumnsOverHeadsAndLayers) {
  LlamaEngine::Attention kept;
  MassGathering gathering({{1, 0.5}, {4, 0.5}}, {}, &kept);
  const Node first(1, kFirst), other(2, kFirst), second(4, kSecond);
  EXPECT_TRUE(gathering.wants(&first.tensor) && gathering.wants(&second.tensor));
  EXPECT_FALSE(gathering.wants(&other.tensor));
  gathering.begin_graph(kTokens);
  gathering.add(&first.tensor);
  gathering.add(&second.tensor);
  EXPECT_EQ(gathering.finish(), "");
  // Layer 1: (0.75 + 1, 0.75, 0.5 + 1) / 2; layer 4: (2, 0, 0).
  EXPECT_EQ(gathering.take(4), (std::vector<float>{1.4375f, 0.1875f, 0.375f, 0}));
  EXPECT_EQ(kept.layers, 2u);
  ASSERT_EQ(kept.values.size(), kFirst.size() + kSecond.size());
  EXPECT_TRUE(std::equal(kFirst.begin(), kFirst.end(), kept.values.begin()));
}

TEST(MassGathering, LayersCountTheirWeights) {
  MassGathering gathering({{1, 1.0}, {4, 0.125}}, {}, nullptr);
  const Node first(1, kFirst), second(4, kSecond);
  gathering.begin_graph(kTokens);
  gathering.add(&first.tensor);
  gathering.add(&second.tensor);
  EXPECT_EQ(gathering.finish(), "");
  EXPECT_EQ(gathering.take(3), (std::vector<float>{0.875f + 0.25f, 0.375f, 0.75f}));
}

TEST(MassGathering, NormsWeighTheirHeadsColumns) {
  const auto norms_of = [](uint32_t layer) {
    EXPECT_EQ(layer, 1u);
    return ValueNorms{1, 2, {2, 4}};  // of two cells; the third was not loaded
  };
  MassGathering gathering({{1, 1.0}}, norms_of, nullptr);
  const Node node(1, kFirst);
  gathering.begin_graph(kTokens);
  gathering.add(&node.tensor);
  EXPECT_EQ(gathering.finish(), "");
  EXPECT_EQ(gathering.take(3), (std::vector<float>{1.75f, 1.5f, 0}));
}

TEST(MassGathering, WhatIsMissingIsAFailure) {
  MassGathering no_graph({{1, 1.0}}, {}, nullptr);
  EXPECT_NE(no_graph.finish(), "");
  const Node node(1, kFirst);
  MassGathering no_layer({{1, 1.0}, {4, 1.0}}, {}, nullptr);
  no_layer.begin_graph(kTokens);
  no_layer.add(&node.tensor);
  EXPECT_NE(no_layer.finish(), "");
  // The second graph lacks what the first one had.
  MassGathering no_second({{1, 1.0}}, {}, nullptr);
  no_second.begin_graph(kTokens);
  no_second.add(&node.tensor);
  no_second.begin_graph(kTokens);
  EXPECT_NE(no_second.finish(), "");
  Node streams(1, kFirst);
  streams.tensor.ne[3] = 2;
  Node half(1, kFirst);
  half.tensor.type = GGML_TYPE_F16;
  for (const Node* wrong : {&streams, &half}) {
    MassGathering gathering({{1, 1.0}}, {}, nullptr);
    gathering.begin_graph(kTokens);
    gathering.add(&wrong->tensor);
    EXPECT_NE(gathering.finish(), "");
  }
  MassGathering padded({{1, 1.0}}, {}, nullptr);
  padded.begin_graph(kTokens - 1);
  padded.add(&node.tensor);
  EXPECT_NE(padded.finish(), "");
}

TEST(ShareGathering, TellsRunsApart) {
  const std::vector<uint32_t> runs = {1};
  ShareGathering gathering({1}, runs, kTokens);
  // One cell before the chunk; the chunk's two tokens.
  const Node node(1, {0.5f, 0.5f, 0, 0.25f, 0.25f, 0.5f, 1, 0, 0, 0, 0, 1});
  gathering.begin_graph(kTokens);
  gathering.add(&node.tensor);
  EXPECT_EQ(gathering.finish(), "");
  const reuse::AttentionShares shares = gathering.take();
  EXPECT_EQ(shares.inter_of_segment, (std::vector<float>{0.75f, 0.125f}));
  // Received, mean over the tokens that can see it: 0.75 / 2 heads / 2 tokens, 1.5 / 2 heads.
  EXPECT_EQ(shares.received, (std::vector<float>{0.1875f, 0.75f}));
  ShareGathering short_of_cells({1}, std::vector<uint32_t>{2}, kTokens);
  short_of_cells.begin_graph(kTokens);
  short_of_cells.add(&node.tensor);
  EXPECT_NE(short_of_cells.finish(), "");
}

TEST(ShareGathering, LayersOfDifferentHeadsHaveNoMean) {
  ShareGathering gathering({1, 4}, std::vector<uint32_t>{1}, kTokens);
  const Node first(1, kFirst);
  Node second(4, kSecond);
  second.tensor.ne[2] = 1;
  gathering.begin_graph(kTokens);
  gathering.add(&first.tensor);
  gathering.add(&second.tensor);
  EXPECT_NE(gathering.finish(), "");
}

// Of a decode in two graphs the second one's tokens stand behind the first one's.
TEST(Gathering, GraphsOfOneDecodeSumUp) {
  Node first(1, kFirst), second(1, kSecond);
  first.tensor.ne[1] = second.tensor.ne[1] = 1;  // the first row of either head
  MassGathering mass({{1, 1.0}}, {}, nullptr);
  ShareGathering shares({1}, std::vector<uint32_t>{1}, 2);
  for (AttentionGathering* gathering :
       {static_cast<AttentionGathering*>(&mass), static_cast<AttentionGathering*>(&shares)}) {
    for (const Node* node : {&first, &second}) {
      gathering->begin_graph(1);
      gathering->add(&node->tensor);
    }
    EXPECT_EQ(gathering->finish(), "");
  }
  // (0.5 + 1, 0.5, 0) / 2 and (1 + 1, 0, 0) / 2.
  EXPECT_EQ(mass.take(3), (std::vector<float>{1.75f, 0.25f, 0}));
  const reuse::AttentionShares taken = shares.take();
  EXPECT_EQ(taken.inter_of_segment, (std::vector<float>{0.75f, 1}));
  EXPECT_EQ(taken.received, (std::vector<float>{0.125f, 0}));
}

// K q of layer 0 and its softmax, as libllama makes them where attention is a scaled product.
struct Product {
  Product() : softmax(0, kFirst) {
    query.type = GGML_TYPE_F32;
    query.data = values.data();
    const int64_t sizes[] = {kDims, kTokens, kHeads, 1};
    // Heads lie in the rows of tokens.
    const size_t strides[] = {4, 4 * kDims * kHeads, 4 * kDims, 4 * kDims * kHeads * kTokens};
    for (int i = 0; i < 4; ++i) {
      query.ne[i] = sizes[i];
      query.nb[i] = strides[i];
    }
    product.op = GGML_OP_MUL_MAT;
    product.src[1] = &query;
    std::snprintf(product.name, sizeof(product.name), "kq-0");
    softmax.tensor.src[0] = &product;
    set_scale(0.25f, 0);
  }
  void set_scale(float scale, float bias) {
    const float reals[] = {scale, bias};
    std::memcpy(softmax.tensor.op_params, reals, sizeof(reals));
  }
  std::string gather(QueryGathering& gathering) {
    gathering.begin_graph(kTokens);
    EXPECT_TRUE(gathering.wants(&product));
    gathering.add(&product);
    EXPECT_FALSE(gathering.wants(&softmax.tensor));
    return gathering.finish();
  }

  static constexpr uint32_t kDims = 2;
  std::vector<float> values = {1, 2, 3, 4, 5, 6, 7, 8};  // [token][head][dim]
  ggml_tensor query{}, product{};
  Node softmax;
};

TEST(QueryGathering, KeepsQueriesAndTheirScale) {
  Product attention;
  QueryGathering gathering(1);
  EXPECT_EQ(attention.gather(gathering), "");
  const LlamaEngine::Queries queries = gathering.take();
  ASSERT_EQ(queries.layers.size(), 1u);
  EXPECT_EQ(queries.layers[0].values, attention.values);
  EXPECT_EQ(queries.layers[0].heads, kHeads);
  EXPECT_EQ(queries.layers[0].dims, Product::kDims);
  EXPECT_EQ(queries.layers[0].scale, 0.25f);
}

TEST(QueryGathering, WhatIsMoreThanAScaledProductIsAFailure) {
  ggml_tensor sinks{};
  Product biased, sunk, capped, missing;
  biased.set_scale(0.25f, 1);
  sunk.softmax.tensor.src[2] = &sinks;
  ggml_tensor cap{};
  std::snprintf(cap.name, sizeof(cap.name), "kq_soft-0");
  capped.softmax.tensor.src[0] = &cap;
  for (Product* attention : {&biased, &sunk, &capped}) {
    QueryGathering gathering(1);
    EXPECT_NE(attention->gather(gathering), "");
  }
  QueryGathering no_layer(2);
  EXPECT_NE(missing.gather(no_layer), "");
  QueryGathering two_graphs(1);
  two_graphs.begin_graph(kTokens);
  two_graphs.add(&missing.product);
  two_graphs.wants(&missing.softmax.tensor);
  EXPECT_NE(missing.gather(two_graphs), "");
}

}  // namespace
}  // namespace quire
