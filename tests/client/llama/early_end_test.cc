// Passes that should end early under a libllama that does not end them, or not as promised.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <utility>

#include "ggml.h"
#include "llama.h"
#include "tests/client/llama/support.h"

namespace quire::llama_test {
namespace {

constexpr uint32_t kContext = 1024;
constexpr uint32_t kTokens = 70;
constexpr uint32_t kQuestion = 9;

class EarlyEnd : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { start(shared_engine(GetParam(), kContext, nullptr)); }
  void start(LlamaEngine* engine) {
    engine_ = engine;
    if (engine_ == nullptr) GTEST_SKIP() << "model " << GetParam() << " is not here";
    impl().options.log = [this](std::string_view line) { log_.emplace_back(line); };
    context_ = chunk_of(*engine_, 0, kTokens);
    question_ = chunk_of(*engine_, 3, kQuestion);
    const std::vector<uint32_t> full = engine_->full_layers();
    depth_ = full[full.size() / 2] + 1;
    ASSERT_LT(depth_, engine_->n_layers());
    choose_rows({10, 11, 40});
  }
  void choose_rows(std::vector<uint32_t> rows) {
    rows_ = std::move(rows);
    row_tokens_.clear();
    for (const uint32_t row : rows_) row_tokens_.push_back(context_[row] ^ 1);
  }
  void TearDown() override {
    if (engine_ == nullptr) return;
    impl().options.log = nullptr;
    impl().hooks.set_end_fault(nullptr);
    impl().ends_early = true;
    impl().early_end_reported = false;
  }

  LlamaEngine::Impl& impl() const { return LlamaEngineTestPeer::impl(*engine_); }
  // As under a graph in several splits: the callback's end only ends one of them.
  void let_it_go_on() {
    impl().hooks.set_end_fault([this](ggml_tensor* softmax) {
      ++n_ends_;
      spoil(softmax);
      return false;
    });
  }

  struct Pass {
    std::vector<float> mass;
    uint32_t layers_run = 0;
    std::vector<float> below;  // values of the question in the last layer of the pass
  };
  Pass look() {
    Pass pass;
    engine_->clear();
    EXPECT_TRUE(engine_->append(context_, false).is_ok());
    const Status status =
        engine_->append_with_mass(question_, {true, depth_}, &pass.mass, &pass.layers_run);
    EXPECT_TRUE(status.is_ok()) << status.to_string();
    const auto n_question = static_cast<uint32_t>(question_.size());
    EXPECT_EQ(engine_->size(), kTokens + n_question);
    pass.below = read_plane(*engine_, depth_ - 1, Plane::kValue, kTokens, n_question);
    return pass;
  }

  struct Rows {
    uint32_t layers_run = 0;
    std::vector<float> below;
  };
  Rows renew() {
    Rows rows;
    engine_->clear();
    EXPECT_TRUE(engine_->append(context_, false).is_ok());
    const Status status = engine_->recompute_below(depth_, rows_, row_tokens_, &rows.layers_run);
    EXPECT_TRUE(status.is_ok()) << status.to_string();
    rows.below = read_plane(*engine_, depth_ - 1, Plane::kValue, 0, kTokens);
    return rows;
  }

  LlamaEngine* engine_ = nullptr;
  std::vector<TokenId> context_, question_, row_tokens_;
  std::vector<uint32_t> rows_;
  uint32_t depth_ = 0;
  uint32_t n_ends_ = 0;
  std::vector<std::string> log_;
};

// Passes and rows of more than one graph.
class EarlyEndOfManyGraphs : public EarlyEnd {
 protected:
  static constexpr uint32_t kGraphTokens = 16;
  void SetUp() override {
    const auto path = model_path(GetParam());
    if (!path) GTEST_SKIP() << "model " << GetParam() << " is not here";
    LlamaOptions options;
    options.model_path = *path;
    options.n_ctx = kContext;
    options.n_ubatch = kGraphTokens;
    options.n_threads = 1;
    options.self_test = false;
    options.skip_digest = true;
    auto engine = LlamaEngine::open(options);
    ASSERT_TRUE(engine.is_ok()) << engine.status().to_string();
    own_ = std::move(*engine);
    start(own_.get());
  }
  // What lies above every end.
  std::vector<float> top() const {
    return read_plane(*engine_, engine_->n_layers() - 1, Plane::kValue, 0, engine_->size());
  }
  std::unique_ptr<LlamaEngine> own_;
};

TEST_P(EarlyEnd, HoldsHere) {
  const SelfTestReport& report = engine_->self_test();
  EXPECT_TRUE(report.early_end);
  EXPECT_EQ(report.early_end_error, 0);
  EXPECT_TRUE(engine_->ends_early());
  EXPECT_EQ(look().layers_run, depth_);
  EXPECT_EQ(renew().layers_run, depth_);
  EXPECT_TRUE(log_.empty());
}

TEST_P(EarlyEnd, TheSelfTestFindsAGraphThatGoesOn) {
  const Pass wanted = look();
  const Rows wanted_rows = renew();
  let_it_go_on();
  QUIRE_ASSERT_OK(impl().run_self_test());
  EXPECT_FALSE(engine_->ends_early());
  EXPECT_FALSE(engine_->self_test().early_end);
  EXPECT_TRUE(engine_->self_test().one_pass) << "nothing else fails";
  EXPECT_LT(engine_->self_test().rope_error, 0.2) << "nothing of it is left in the cache";
  EXPECT_TRUE(impl().ropes_hold);
  EXPECT_EQ(n_ends_, 1u);
  ASSERT_EQ(log_.size(), 1u);
  EXPECT_NE(log_[0].find("went on behind its end"), std::string::npos) << log_[0];
  // Nothing is asked to end any more, and the numbers are those of a pass that ends.
  const Pass whole = look();
  EXPECT_EQ(whole.mass, wanted.mass);
  EXPECT_EQ(whole.below, wanted.below);
  EXPECT_EQ(whole.layers_run, engine_->n_layers());
  const Rows rows = renew();
  EXPECT_EQ(rows.below, wanted_rows.below);
  EXPECT_EQ(rows.layers_run, engine_->n_layers());
  EXPECT_EQ(n_ends_, 1u);
  EXPECT_EQ(log_.size(), 1u);
}

// Each fault alters a value of layer 0, which lies below the end.
TEST_P(EarlyEnd, TheSelfTestFindsOtherNumbers) {
  for (const Plane plane : {Plane::kKey, Plane::kValue}) {
    for (const bool of_rows : {false, true}) {
      impl().ends_early = true;
      impl().early_end_reported = false;
      impl().report.early_end = true;
      n_ends_ = 0;
      impl().hooks.set_end_fault([&](ggml_tensor* /*softmax*/) {
        // The first end is that of a pass, behind half of the tokens; the second that of rows.
        if (n_ends_++ != (of_rows ? 1u : 0u)) return true;
        const reuse::EnginePlane cache = impl().cache_plane(0, plane);
        for (uint32_t row = of_rows ? 0 : 40; row < 64; ++row)
          std::memset(cache.data + row * cache.token_stride, 0x44, sizeof(ggml_fp16_t));
        return true;
      });
      QUIRE_ASSERT_OK(impl().run_self_test());
      EXPECT_FALSE(engine_->ends_early()) << of_rows;
      EXPECT_FALSE(engine_->self_test().early_end);
      EXPECT_GT(engine_->self_test().early_end_error, 0.01);
      ASSERT_FALSE(log_.empty());
      EXPECT_NE(log_.back().find("other numbers"), std::string::npos) << log_.back();
    }
  }
}

// Above the end nothing may be touched.
TEST_P(EarlyEnd, TheSelfTestFindsTracesAboveTheEnd) {
  impl().hooks.set_end_fault([&](ggml_tensor* /*softmax*/) {
    const reuse::EnginePlane cache = impl().cache_plane(engine_->n_layers() - 1, Plane::kKey);
    std::memset(cache.data + 40 * cache.token_stride, 0x44, sizeof(ggml_fp16_t));
    return true;
  });
  QUIRE_ASSERT_OK(impl().run_self_test());
  EXPECT_FALSE(engine_->ends_early());
}

TEST_P(EarlyEnd, APassThatGoesOnIsRepeatedWholeOnce) {
  const Pass wanted = look();
  engine_->clear();
  QUIRE_ASSERT_OK(engine_->append(context_, false));
  const auto kept = read_plane(*engine_, engine_->n_layers() - 1, Plane::kValue, 0, kTokens);
  let_it_go_on();
  const Pass repeated = look();
  EXPECT_EQ(repeated.mass, wanted.mass);
  EXPECT_EQ(repeated.below, wanted.below);
  EXPECT_EQ(repeated.layers_run, 2 * engine_->n_layers());
  EXPECT_EQ(read_plane(*engine_, engine_->n_layers() - 1, Plane::kValue, 0, kTokens), kept);
  EXPECT_FALSE(engine_->ends_early());
  EXPECT_EQ(n_ends_, 1u);
  EXPECT_EQ(log_.size(), 1u);
  const Pass again = look();
  EXPECT_EQ(again.mass, wanted.mass);
  EXPECT_EQ(again.layers_run, engine_->n_layers());
  EXPECT_EQ(n_ends_, 1u) << "remembered";
  EXPECT_EQ(log_.size(), 1u) << "said once";
}

TEST_P(EarlyEnd, RowsThatGoOnAreRepeatedWholeOnce) {
  for (const bool sequential : {false, true}) {
    impl().hooks.set_end_fault(nullptr);
    impl().ends_early = true;
    engine_->force_sequential(sequential);
    const Rows wanted = renew();
    let_it_go_on();
    const Rows repeated = renew();
    const bool ends_early = engine_->ends_early();
    const Rows again = renew();
    engine_->force_sequential(false);
    EXPECT_EQ(wanted.layers_run, depth_);
    EXPECT_EQ(repeated.below, wanted.below) << sequential;
    EXPECT_EQ(repeated.layers_run, 2 * engine_->n_layers());
    EXPECT_FALSE(ends_early);
    EXPECT_EQ(again.below, wanted.below);
    EXPECT_EQ(again.layers_run, engine_->n_layers());
    // Nothing else lies in the way of what comes then.
    QUIRE_ASSERT_OK(engine_->append(question_, true));
    EXPECT_EQ(engine_->size(), kTokens + kQuestion);
  }
  EXPECT_EQ(n_ends_, 2u);
  EXPECT_EQ(log_.size(), 1u);
}

// What the second graph of the first attempt left in its cells is masked, but not away, while the
// first graph of the second attempt runs: nothing that is no number may lie there.
TEST_P(EarlyEndOfManyGraphs, NothingOfThePassThatWentOnIsSeen) {
  question_ = chunk_of(*engine_, 3, 2 * kGraphTokens + 3);
  impl().ends_early = false;
  const Pass whole = look();
  const std::vector<float> whole_top = top();
  impl().ends_early = true;
  let_it_go_on();
  const Pass repeated = look();
  EXPECT_EQ(n_ends_, 3u);
  EXPECT_EQ(repeated.mass, whole.mass);
  EXPECT_EQ(repeated.below, whole.below);
  EXPECT_EQ(top(), whole_top);
  EXPECT_EQ(log_.size(), 1u);
}

TEST_P(EarlyEndOfManyGraphs, NothingOfTheRowsThatWentOnIsSeen) {
  std::vector<uint32_t> rows;
  for (uint32_t row = 1; row < kTokens; ++row)
    if (row % 32 < 20) rows.push_back(row);
  choose_rows(std::move(rows));
  ASSERT_GT(rows_.size(), 2 * kGraphTokens);
  for (const bool sequential : {false, true}) {
    engine_->force_sequential(sequential);
    impl().hooks.set_end_fault(nullptr);
    impl().ends_early = false;
    const Rows whole = renew();
    const std::vector<float> whole_top = top();
    impl().ends_early = true;
    let_it_go_on();
    const Rows repeated = renew();
    EXPECT_FALSE(engine_->ends_early());
    EXPECT_EQ(repeated.below, whole.below) << sequential;
    EXPECT_EQ(top(), whole_top) << sequential;
    EXPECT_EQ(repeated.layers_run, 2 * engine_->n_layers());
  }
}

TEST_P(EarlyEnd, AnInterruptedPassIsNotRepeated) {
  std::atomic<bool> abort{false};
  const std::atomic<bool>* const before = impl().options.abort_flag;
  QUIRE_ASSERT_OK(engine_->append(context_, false));
  impl().options.abort_flag = &abort;
  impl().hooks.set_end_fault([&](ggml_tensor* /*softmax*/) {
    ++n_ends_;
    abort = true;
    return false;
  });
  std::vector<float> mass;
  uint32_t layers_run = 0;
  const Status status = engine_->append_with_mass(question_, {true, depth_}, &mass, &layers_run);
  impl().options.abort_flag = before;
  EXPECT_EQ(status.code(), StatusCode::kCancelled);
  EXPECT_EQ(n_ends_, 1u);
  EXPECT_EQ(layers_run, depth_) << "no second attempt";
  EXPECT_TRUE(engine_->ends_early());
  EXPECT_EQ(engine_->size(), 0u);
  EXPECT_TRUE(log_.empty());
}

// The flag may be down again by the time that libllama is back.
TEST_P(EarlyEnd, APassThatLibllamaBrokeOffIsNotRepeated) {
  QUIRE_ASSERT_OK(engine_->append(context_, false));
  llama_set_abort_callback(
      impl().context, [](void*) { return true; }, nullptr);
  std::vector<float> mass;
  const Status status = engine_->append_with_mass(question_, {true, depth_}, &mass);
  llama_set_abort_callback(impl().context, nullptr, nullptr);
  EXPECT_EQ(status.code(), StatusCode::kCancelled) << status.to_string();
  EXPECT_TRUE(engine_->ends_early());
  EXPECT_EQ(engine_->size(), 0u);
  EXPECT_TRUE(log_.empty());
}

// A whole pass that fails as well has another reason.
TEST_P(EarlyEnd, AFailureOfBothIsAnError) {
  QUIRE_ASSERT_OK(engine_->append(context_, false));
  // Values of no head: their norms cannot be had.
  uint32_t& heads = impl().descriptor.layers[engine_->full_layers()[0]].kv_heads;
  const uint32_t kept = std::exchange(heads, 0);
  std::vector<float> mass;
  const Status status = engine_->append_with_mass(question_, {true, depth_}, &mass);
  heads = kept;
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_EQ(engine_->size(), 0u);
  EXPECT_TRUE(engine_->ends_early());
  EXPECT_TRUE(log_.empty());
}

INSTANTIATE_TEST_SUITE_P(Qwen, EarlyEnd, testing::Values(kQwen));
INSTANTIATE_TEST_SUITE_P(Gemma, EarlyEnd, testing::Values(kGemma));
INSTANTIATE_TEST_SUITE_P(Qwen, EarlyEndOfManyGraphs, testing::Values(kQwen));
INSTANTIATE_TEST_SUITE_P(Gemma, EarlyEndOfManyGraphs, testing::Values(kGemma));

}  // namespace
}  // namespace quire::llama_test
