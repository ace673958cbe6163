#include "bench/codec/report.h"

#include <gtest/gtest.h>

#include <cmath>

#include "bench/codec/attention.h"
#include "tests/tools/codec/toy_dump.h"

namespace quire::bench {
namespace {

constexpr uint32_t kSeed = 11;
constexpr uint32_t kTokens = 40;
constexpr uint32_t kQueries = 8;

// K turned to its positions and the softmax, by the book.
std::vector<double> weights_by_hand(const KvDump& dump, const DumpLayer& layer,
                                    const std::vector<float>& keys, uint32_t query, uint32_t head) {
  const uint32_t last = dump.first_query + query;
  const uint32_t window = layer.shape.window_tokens;
  std::vector<double> weights(dump.n_tokens, 0.0);
  double sum = 0;
  for (uint32_t token = 0; token <= last; ++token) {
    if (window != 0 && last - token >= window) continue;
    double score = 0;
    for (uint32_t dim = 0; dim < layer.shape.key_dims; ++dim)
      score +=
          double{layer.queries[(query * layer.query_heads + head) * layer.shape.key_dims + dim]} *
          keys[(token * 2 + head / 2) * layer.shape.key_dims + dim];
    weights[token] = std::exp(score * layer.attention_scale);
    sum += weights[token];
  }
  for (double& weight : weights) weight /= sum;
  return weights;
}

TEST(CodecRun, ExactKeysAreTurnedToTheirPositions) {
  const KvDump dump = toy_dump(kSeed, kTokens, kQueries);
  const DumpLayer& layer = dump.layers[0];
  const auto keys = exact_plane(Plane::kKey, layer, kTokens);
  ASSERT_TRUE(keys.is_ok()) << keys.status().to_string();
  for (const uint32_t token : {0u, 1u, 17u, 39u})
    for (uint32_t pair = 0; pair < 4; ++pair) {
      const float* from = layer.key(token, 1);
      const float* to = keys->data() + (token * 2 + 1) * 16;
      const double angle = token * double{layer.shape.inverse_frequencies[pair]};
      EXPECT_NEAR(to[pair], from[pair] * std::cos(angle) - from[pair + 4] * std::sin(angle), 1e-5);
      EXPECT_NEAR(to[pair + 4], from[pair] * std::sin(angle) + from[pair + 4] * std::cos(angle),
                  1e-5);
    }
  // The dims behind the rotary ones stay.
  EXPECT_EQ((*keys)[39 * 2 * 16 + 12], layer.key(39, 0)[12]);
  EXPECT_EQ(*exact_plane(Plane::kValue, layer, kTokens), layer.values);
}

TEST(CodecRun, BothFramesGiveTheSameKeys) {
  const KvDump dump = toy_dump(kSeed, kTokens, kQueries);
  const auto exact = exact_plane(Plane::kKey, dump.layers[0], kTokens);
  for (const PositionFrame frame : {PositionFrame::kPreRope, PositionFrame::kLocal}) {
    const auto run =
        run_plane(CodecId::kRawF32, Plane::kKey, dump.layers[0], kTokens, {16, frame}, {});
    ASSERT_TRUE(run.is_ok()) << run.status().to_string();
    for (size_t i = 0; i < exact->size(); ++i) EXPECT_NEAR(run->values[i], (*exact)[i], 2e-5);
    EXPECT_EQ(run->section_bytes, exact->size() * 4);
  }
}

TEST(LayerAttention, DistanceIsTheSumByHand) {
  const KvDump dump = toy_dump(kSeed, kTokens, kQueries);
  for (const DumpLayer& layer : dump.layers) {
    const auto keys = *exact_plane(Plane::kKey, layer, kTokens);
    auto moved = keys;
    for (size_t i = 0; i < moved.size(); i += 7) moved[i] += 0.5f;
    auto values = layer.values;
    for (size_t i = 0; i < values.size(); i += 5) values[i] -= 0.25f;
    const uint32_t begin = 3;
    double kl = 0;
    double error = 0;
    double norm = 0;
    for (uint32_t head = 0; head < layer.query_heads; ++head)
      for (uint32_t query = begin; query < kQueries; ++query) {
        const auto p = weights_by_hand(dump, layer, keys, query, head);
        const auto q = weights_by_hand(dump, layer, moved, query, head);
        for (uint32_t token = 0; token < kTokens; ++token)
          if (p[token] > 0) kl += p[token] * std::log(p[token] / q[token]);
        for (uint32_t dim = 0; dim < 8; ++dim) {
          double exact = 0;
          double changed = 0;
          for (uint32_t token = 0; token < kTokens; ++token) {
            exact += p[token] * layer.values[(token * 2 + head / 2) * 8 + dim];
            changed += q[token] * values[(token * 2 + head / 2) * 8 + dim];
          }
          error += (changed - exact) * (changed - exact);
          norm += exact * exact;
        }
      }
    const LayerAttention attention(dump, layer, begin, keys, layer.values);
    const AttentionDistance none = attention.distance(keys, layer.values);
    EXPECT_LT(none.kl_sum, 1e-5);
    EXPECT_LT(none.output_relative(), 1e-6);
    const AttentionDistance found = attention.distance(moved, values);
    EXPECT_EQ(found.rows, layer.query_heads * (kQueries - begin));
    EXPECT_NEAR(found.kl_sum, kl, 1e-4 * kl);
    EXPECT_NEAR(found.output_relative(), std::sqrt(error / norm), 1e-4);
    EXPECT_GT(found.kl_mean(), 0.01);
  }
}

TEST(LayerAttention, MassSumsToTheQueries) {
  const KvDump dump = toy_dump(kSeed, kTokens, kQueries);
  for (const DumpLayer& layer : dump.layers) {
    std::vector<double> mass(kTokens, 0.0);
    LayerAttention::add_mass(dump, layer, 4, *exact_plane(Plane::kKey, layer, kTokens), mass);
    double sum = 0;
    for (const double value : mass) sum += value;
    EXPECT_NEAR(sum, 4.0 * layer.query_heads, 1e-6);
    EXPECT_EQ(mass[kTokens - 1], 0);  // no query of the first half sees it
  }
}

// Every codec of the registry, whatever there is.
TEST(CodecReport, EveryCodecIsScored) {
  const KvDump dump = toy_dump(kSeed, 300, 16);
  ReportOptions options;
  for (const CodecInfo& codec : codecs()) options.codecs.push_back(&codec);
  options.rounds = 1;
  options.speed_bytes = 1;
  const auto scores = make_codec_report(dump, options);
  ASSERT_TRUE(scores.is_ok()) << scores.status().to_string();
  ASSERT_EQ(scores->size(), codecs().size());
  for (const CodecScore& score : *scores) {
    SCOPED_TRACE(score.codec->name);
    EXPECT_GT(score.key.bits_per_element, 1.5);
    EXPECT_LE(score.key.bits_per_element, 33);
    EXPECT_LT(score.value.relative_error, 0.7);
    EXPECT_GT(score.speed->decode, 0);
    EXPECT_GE(score.attention_kl_worst_layer, score.attention_kl);
    if (score.codec->lossless) {
      EXPECT_TRUE(score.lossless.value());
      EXPECT_LT(score.attention_kl, 0.02);
    } else {
      EXPECT_FALSE(score.lossless.has_value());
      EXPECT_GT(score.value.max_error, 0);
    }
    if (score.codec->id == CodecId::kRawF32) {
      EXPECT_EQ(score.value.max_error, 0);
    }
    if (score.codec->id == CodecId::kRawF32) {
      EXPECT_EQ(score.key.bits_per_element, 32);
    }
    if (score.codec->id == CodecId::kInt8Channel) {
      EXPECT_LT(score.attention_kl, 1e-3);
    }
  }
}

TEST(CodecReport, StopsWhereItIsTold) {
  const KvDump dump = toy_dump(kSeed, 20, 4);
  ReportOptions options;
  options.codecs.push_back(&codecs().front());
  options.on_step = [](const char*) { return Status(StatusCode::kCancelled, "enough"); };
  EXPECT_EQ(make_codec_report(dump, options).status().code(), StatusCode::kCancelled);
}

}  // namespace
}  // namespace quire::bench
