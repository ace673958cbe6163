// The vectors of docs/formats/ids.md, made by an independent implementation.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/ids.h"

namespace quire {
namespace {

using Json = nlohmann::json;

std::vector<std::byte> from_hex(const std::string& hex) {
  std::vector<std::byte> bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes.push_back(static_cast<std::byte>(std::stoul(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

std::string to_hex(ByteSpan bytes) {
  std::string hex;
  for (const std::byte byte : bytes) {
    char text[3];
    snprintf(text, sizeof(text), "%02x", static_cast<unsigned>(byte));
    hex += text;
  }
  return hex;
}

Digest digest_of(const Json& hex) {
  const auto digest = Digest::from_hex(hex.get<std::string>());
  EXPECT_TRUE(digest.is_ok()) << hex;
  return digest.is_ok() ? *digest : Digest{};
}

const Json& vectors() {
  static const Json json = [] {
    std::ifstream file(std::string(QUIRE_SOURCE_DIR) + "/tests/data/ids_vectors.json");
    return Json::parse(file);
  }();
  return json;
}

ModelDescriptor model_of(const Json& source) {
  ModelDescriptor model;
  model.weights = digest_of(source.at("weights"));
  model.tokenizer = digest_of(source.at("tokenizer"));
  model.lora = digest_of(source.at("lora"));
  for (const Json& layer : source.at("layers")) {
    LayerDescriptor result;
    result.attention = static_cast<AttentionKind>(layer.at("attention").get<int>());
    result.rope_style = static_cast<RopeStyle>(layer.at("rope_style").get<int>());
    result.length_dependent = layer.at("length_dependent");
    result.window_tokens = layer.at("window_tokens");
    result.kv_heads = layer.at("kv_heads");
    result.key_dims = layer.at("key_dims");
    result.value_dims = layer.at("value_dims");
    result.rotary_dims = layer.at("rotary_dims");
    result.attention_factor = layer.at("attention_factor");
    result.inverse_frequencies = layer.at("inverse_frequencies").get<std::vector<float>>();
    model.layers.push_back(result);
  }
  return model;
}

VariantContext context_of(const Json& source) {
  const std::vector<std::string> kinds = {"isolated",   "fixed_prefix", "dummy_sink",
                                          "contextual", "synthetic",    "delta_of"};
  VariantContext context;
  const auto found = std::find(kinds.begin(), kinds.end(), source.at("kind").get<std::string>());
  context.kind = static_cast<ContextKind>(found - kinds.begin());
  context.phase = static_cast<Phase>(source.at("phase").get<int>());
  if (source.contains("reference")) context.reference = digest_of(source["reference"]);
  context.dropped_tokens = source.value("dropped_tokens", 0u);
  if (source.contains("dummy_tokens"))
    context.dummy_tokens = source["dummy_tokens"].get<std::vector<TokenId>>();
  if (source.contains("neighbours"))
    for (const Json& neighbour : source["neighbours"])
      context.neighbours.push_back(digest_of(neighbour));
  if (source.contains("scope")) context.scope = digest_of(source["scope"]);
  return context;
}

TEST(IdsVectors, Models) {
  ASSERT_FALSE(vectors().at("models").empty());
  for (const Json& test : vectors()["models"]) {
    const ModelDescriptor model = model_of(test.at("model"));
    EXPECT_EQ(to_hex(model.encode()), test.at("descriptor"));
    EXPECT_EQ(model_id(model).to_hex(), test.at("model_id"));
    const auto parsed = ModelDescriptor::parse(from_hex(test.at("descriptor")));
    ASSERT_TRUE(parsed.is_ok()) << parsed.status().to_string();
    EXPECT_EQ(*parsed, model);
  }
}

TEST(IdsVectors, ObjectsAndPrefixes) {
  ASSERT_FALSE(vectors().at("tokens").empty());
  for (const Json& test : vectors()["tokens"]) {
    const Digest model = digest_of(test.at("model"));
    const auto salt = from_hex(test.at("salt"));
    const auto tokens = test.at("tokens").get<std::vector<TokenId>>();
    EXPECT_EQ(object_id(model, tokens, salt).to_hex(), test.at("object_id"));
    EXPECT_EQ(prefix_digest(model, tokens, salt).to_hex(), test.at("prefix_digest"));
    PrefixDigester digester(model, salt);
    for (const TokenId token : tokens) digester.extend({&token, 1});
    EXPECT_EQ(digester.digest().to_hex(), test.at("prefix_digest"));
  }
}

TEST(IdsVectors, EveryContextKind) {
  uint32_t kinds_seen = 0;
  for (const Json& test : vectors().at("contexts")) {
    const VariantContext context = context_of(test.at("context"));
    kinds_seen |= 1u << static_cast<uint32_t>(context.kind);
    EXPECT_EQ(to_hex(context.encode()), test.at("encoded"));
    EXPECT_EQ(variant_id(digest_of(test.at("object")), context).to_hex(), test.at("variant_id"));
    const auto parsed = VariantContext::parse(from_hex(test.at("encoded")));
    ASSERT_TRUE(parsed.is_ok());
    EXPECT_EQ(*parsed, context);
  }
  EXPECT_EQ(kinds_seen, (1u << kContextKindCount) - 1);
}

TEST(IdsVectors, Scopes) {
  ASSERT_FALSE(vectors().at("scopes").empty());
  for (const Json& test : vectors()["scopes"]) {
    const auto salt = from_hex(test.at("salt"));
    const auto label = from_hex(test.at("label"));
    const std::string_view text(reinterpret_cast<const char*>(label.data()), label.size());
    EXPECT_EQ(scope_id(salt, text).to_hex(), test.at("scope_id"));
  }
}

TEST(IdsVectors, Representations) {
  ASSERT_FALSE(vectors().at("representations").empty());
  for (const Json& test : vectors()["representations"]) {
    const auto coverage = test.at("coverage").get<std::vector<uint32_t>>();
    EXPECT_EQ(representation_id(digest_of(test.at("variant")), test.at("codec"),
                                static_cast<PositionFrame>(test.at("frame").get<int>()),
                                {coverage.at(0), coverage.at(1), coverage.at(2), coverage.at(3)})
                  .to_hex(),
              test.at("representation_id"));
  }
}

}  // namespace
}  // namespace quire
