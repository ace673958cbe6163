#include "bench/synthetic.h"

#include <gtest/gtest.h>

namespace quire::bench {
namespace {

constexpr SyntheticShape kShape{.layers = 3, .kv_heads = 2, .head_dims = 16};

SyntheticObject object_of(uint64_t number, bool all_bytes) {
  auto object = SyntheticObject::make(kShape, 7, 100'000);
  EXPECT_TRUE(object.is_ok());
  EXPECT_TRUE(object->fill(number, all_bytes).is_ok());
  return std::move(object).value();
}

std::vector<std::byte> bytes_of(const SyntheticObject& object) {
  return {object.bytes().begin(), object.bytes().end()};
}

TEST(Synthetic, IsAValidRepresentation) {
  const SyntheticObject object = object_of(5, true);
  EXPECT_TRUE(object.model().movable().is_ok());
  const auto view = RepresentationView::parse(object.bytes());
  ASSERT_TRUE(view.is_ok()) << view.status().to_string();
  EXPECT_TRUE(view->verify_sections().is_ok());
  EXPECT_TRUE(view->verify_object({}).is_ok());
  EXPECT_EQ(view->header().model, model_id(synthetic_model(kShape, 7)));
  EXPECT_EQ(view->header().representation, object.representation());
  EXPECT_GE(object.bytes().size(), 100'000u);
}

TEST(Synthetic, TheNumberDecides) {
  EXPECT_EQ(bytes_of(object_of(5, true)), bytes_of(object_of(5, true)));
  EXPECT_NE(object_of(5, true).representation(), object_of(6, true).representation());
  SyntheticObject reused = object_of(5, true);
  ASSERT_TRUE(reused.fill(6, true).is_ok());
  EXPECT_EQ(bytes_of(reused), bytes_of(object_of(6, true)));
  ASSERT_TRUE(reused.fill(8, false).is_ok());
  const auto view = RepresentationView::parse(reused.bytes());
  ASSERT_TRUE(view.is_ok());
  EXPECT_TRUE(view->verify_sections().is_ok());
}

TEST(Synthetic, TooManyTokensAreRefused) {
  EXPECT_FALSE(SyntheticObject::make({.layers = 1, .kv_heads = 1, .head_dims = 16}, 1, 1ull << 30));
}

}  // namespace
}  // namespace quire::bench
