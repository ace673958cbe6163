#include "base/ids.h"

#include <gtest/gtest.h>

namespace quire {
namespace {

ModelDescriptor small_model() {
  ModelDescriptor model;
  model.weights.bytes.fill(1);
  model.tokenizer.bytes.fill(2);
  LayerDescriptor layer;
  layer.rope_style = RopeStyle::kNeox;
  layer.kv_heads = 2;
  layer.key_dims = layer.value_dims = layer.rotary_dims = 4;
  layer.inverse_frequencies = {1.0f, 0.5f};
  model.layers = {layer, layer};
  model.layers[1].attention = AttentionKind::kSlidingWindow;
  model.layers[1].window_tokens = 512;
  return model;
}

TEST(ModelDescriptor, EncodingRoundTrips) {
  const ModelDescriptor model = small_model();
  const auto bytes = model.encode();
  const auto parsed = ModelDescriptor::parse(bytes);
  ASSERT_TRUE(parsed.is_ok()) << parsed.status().to_string();
  EXPECT_EQ(*parsed, model);
}

TEST(ModelDescriptor, EveryTruncationIsRefused) {
  const auto bytes = small_model().encode();
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_FALSE(ModelDescriptor::parse(ByteSpan(bytes).first(size)).is_ok()) << size;
}

TEST(ModelDescriptor, AnyFieldChangesTheId) {
  const Digest original = model_id(small_model());
  ModelDescriptor model = small_model();
  model.layers[0].inverse_frequencies[1] = 0.25f;
  EXPECT_NE(model_id(model), original);
  model = small_model();
  model.layers[0].rope_style = RopeStyle::kInterleaved;
  EXPECT_NE(model_id(model), original);
  model = small_model();
  model.lora.bytes[0] = 1;
  EXPECT_NE(model_id(model), original);
}

TEST(ModelDescriptor, LengthDependentRopeIsNotMovable) {
  ModelDescriptor model = small_model();
  EXPECT_TRUE(model.movable().is_ok());
  model.layers[1].length_dependent = true;
  EXPECT_EQ(model.movable().code(), StatusCode::kUnsupported);
}

TEST(ObjectId, DependsOnModelTokensAndSalt) {
  const Digest model = model_id(small_model());
  const std::vector<TokenId> tokens = {1, 2, 3};
  const std::vector<TokenId> others = {1, 2, 4};
  const TenantSalt salt(16, std::byte{7});
  EXPECT_NE(object_id(model, tokens, {}), object_id(model, others, {}));
  EXPECT_NE(object_id(model, tokens, {}), object_id(model, tokens, salt));
  EXPECT_NE(object_id(Digest{}, tokens, {}), object_id(model, tokens, {}));
}

TEST(PrefixDigest, IndependentOfCuts) {
  const Digest model = model_id(small_model());
  const std::vector<TokenId> tokens = {5, 6, 7, 8, 9};
  PrefixDigester digester(model, {});
  digester.extend(std::span(tokens).first(2));
  digester.extend(std::span(tokens).subspan(2));
  EXPECT_EQ(digester.digest(), prefix_digest(model, tokens, {}));
}

TEST(VariantContext, EveryKindRoundTripsAndTruncationIsRefused) {
  VariantContext synthetic;
  synthetic.kind = ContextKind::kSynthetic;
  synthetic.neighbours = {Digest{}, Digest{}};
  VariantContext delta;
  delta.kind = ContextKind::kDeltaOf;
  delta.phase = Phase::kDecode;
  Digest reference;
  reference.bytes.fill(9);
  for (const VariantContext& context :
       {VariantContext::isolated(), VariantContext::fixed_prefix(reference),
        VariantContext::contextual(reference), VariantContext::dummy_sink({1, 1, 1, 1}, 4),
        synthetic, delta, VariantContext::synthetic({reference}, reference)}) {
    const auto bytes = context.encode();
    const auto parsed = VariantContext::parse(bytes);
    ASSERT_TRUE(parsed.is_ok());
    EXPECT_EQ(*parsed, context);
    for (size_t size = 0; size < bytes.size(); ++size)
      EXPECT_FALSE(VariantContext::parse(ByteSpan(bytes).first(size)).is_ok());
  }
}

TEST(VariantContext, AScopeHoldsOnlyWhatIsBound) {
  Digest scope;
  scope.bytes.fill(3);
  const auto wrap = [&](uint8_t phase, const Digest& id, const std::vector<std::byte>& inner) {
    std::vector<std::byte> bytes = {std::byte{6}, std::byte{phase}};
    const ByteSpan raw = std::as_bytes(std::span(id.bytes));
    bytes.insert(bytes.end(), raw.begin(), raw.end());
    bytes.insert(bytes.end(), inner.begin(), inner.end());
    return bytes;
  };
  VariantContext bound = VariantContext::synthetic({scope});
  const auto inner = bound.encode();
  bound.scope = scope;
  EXPECT_EQ(bound.encode(), wrap(0, scope, inner));
  ASSERT_TRUE(VariantContext::parse(wrap(0, scope, inner)).is_ok());
  EXPECT_EQ(*VariantContext::parse(wrap(0, scope, inner)), bound);
  EXPECT_NE(variant_id({}, bound), variant_id({}, VariantContext::synthetic({scope})));

  EXPECT_FALSE(VariantContext::parse(wrap(1, scope, inner)).is_ok()) << "two phases";
  EXPECT_FALSE(VariantContext::parse(wrap(0, {}, inner)).is_ok()) << "no scope";
  EXPECT_FALSE(VariantContext::parse(wrap(0, scope, wrap(0, scope, inner))).is_ok()) << "twice";
  for (const VariantContext& shared :
       {VariantContext::isolated(), VariantContext::fixed_prefix(scope),
        VariantContext::contextual(scope), VariantContext::dummy_sink({1}, 1)}) {
    EXPECT_FALSE(is_bound(shared));
    const auto refused = VariantContext::parse(wrap(0, scope, shared.encode()));
    EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument);
    VariantContext decode = shared;
    decode.phase = Phase::kDecode;
    EXPECT_TRUE(is_bound(decode));
    EXPECT_TRUE(VariantContext::parse(wrap(1, scope, decode.encode())).is_ok());
  }
}

TEST(ScopeId, DependsOnLabelAndSalt) {
  const TenantSalt salt(16, std::byte{7});
  EXPECT_EQ(scope_id({}, ""), Digest{});
  EXPECT_EQ(scope_id(salt, ""), Digest{});
  EXPECT_NE(scope_id(salt, "a"), scope_id({}, "a"));
  EXPECT_NE(scope_id(salt, "a"), scope_id(salt, "b"));
}

TEST(VariantContext, OnlyNeutralKindsCrossTrustDomains) {
  EXPECT_TRUE(crosses_trust_domains(VariantContext::isolated()));
  EXPECT_TRUE(crosses_trust_domains(VariantContext::fixed_prefix({})));
  EXPECT_FALSE(crosses_trust_domains(VariantContext::contextual({})));
  VariantContext decode;
  decode.phase = Phase::kDecode;
  EXPECT_FALSE(crosses_trust_domains(decode));
}

}  // namespace
}  // namespace quire
