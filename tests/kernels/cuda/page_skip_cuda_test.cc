// The page threshold of the CUDA decode over chunks: which pages are left out, and what that costs.
#include <deque>

#include "kernels/executor/executor.h"
#include "tests/kernels/attention/cases.h"
#include "tests/kernels/attention/cuda_launch.h"

namespace quire_kernels_test {
namespace {

int decode_chunks(const quire_decode_chunks_params& p) {
  CudaLaunch launch(quire_cuda_decode_chunks_workspace_bytes(&p));
  const int status = quire_cuda_decode_chunks(&p, launch.get());
  return status != QUIRE_KERNEL_OK ? status : launch.device_status();
}

constexpr uint32_t kTokens = 600;  // three pieces
constexpr uint32_t kPage = 32;

DecodeCase raw_case(int64_t start = 0) {
  DecodeCase c;
  c.kv_heads = 1;
  c.group = 3;
  c.pages = {QUIRE_DTYPE_F16, 16, false};
  c.chunks = {{QUIRE_CODEC_RAW_F16, QUIRE_CODEC_RAW_F16, kTokens}};
  c.requests = {{{{0, 0, kTokens, start}}, 5}};
  c.page_tokens = kPage;
  return c;
}

uint16_t f16(float value) {
  uint16_t bits;
  narrow(QUIRE_DTYPE_F16, value, reinterpret_cast<uint8_t*>(&bits));
  return bits;
}

// Queries and keys along one dim that no rotation moves, so that logits are what a test says:
// `logits` of each page, less than a hundredth of it more within the page.
struct SkipRun {
  SkipRun(const DecodeCase& c, const std::vector<float>& logits) : run(c) {
    for (uint32_t head = 0; head < c.kv_heads * c.group; ++head)
      for (uint32_t d = 0; d < c.dims; ++d)
        narrow(c.query_dtype, d == c.dims - 1 ? 1.0f / run.scale() : 0.0f,
               run.query.at(0, head, d));
    keys.assign(uint64_t{c.kv_heads} * kTokens * c.dims, 0);
    values.assign(keys.size(), f16(1.0f));
    for (uint32_t head = 0; head < c.kv_heads; ++head)
      for (uint32_t token = 0; token < kTokens; ++token)
        keys[at(head, token) + c.dims - 1] =
            f16(logits[token / kPage] + 0.001f * static_cast<float>(token % kPage));
    run.chunks[0].key = keys_at();
    run.chunks[0].value = place(values);
    quire_key_bounds_params p{};
    p.struct_bytes = sizeof(p);
    p.codec = QUIRE_CODEC_RAW_F16;
    p.n_tokens = kTokens;
    p.n_heads = c.kv_heads;
    p.head_dim = c.dims;
    p.page_tokens = kPage;
    p.key = run.chunks[0].key;
    p.key_bytes = run.chunks[0].key_bytes;
    p.bounds = run.bounds[0].data();
    p.bounds_bytes = run.bounds[0].size() * 4;
    EXPECT_EQ(quire_key_bounds(&p), QUIRE_KERNEL_OK);
  }
  uint64_t at(uint32_t head, uint32_t token) const {
    return (uint64_t{head} * kTokens + token) * run.spec.dims;
  }
  const void* place(const std::vector<uint16_t>& from) {
    copies.emplace_back(from.size() * 2 + 64);
    auto* to = copies.back().data() + (64 - reinterpret_cast<uintptr_t>(copies.back().data()) % 64);
    memcpy(to, from.data(), from.size() * 2);
    return to;
  }
  const void* keys_at() { return place(keys); }
  // Values of the page become NaN: whoever looks at them has NaN in the output.
  void poison(uint32_t page) {
    for (uint32_t head = 0; head < run.spec.kv_heads; ++head)
      for (uint32_t token = page * kPage; token < std::min((page + 1) * kPage, kTokens); ++token)
        for (uint32_t d = 0; d < run.spec.dims; ++d) values[at(head, token) + d] = 0x7e00;
    run.chunks[0].value = place(values);
  }
  bool finite() {
    bool all = true;
    for (uint32_t head = 0; head < run.spec.kv_heads * run.spec.group; ++head)
      for (double value : run.out.values(0, head)) all &= std::isfinite(value);
    return all;
  }

  DecodeRun run;
  std::vector<uint16_t> keys;
  std::vector<uint16_t> values;
  std::deque<std::vector<uint8_t>> copies;
};

// Logits that a test wants need dims that RoPE leaves alone.
DecodeCase still_case(int64_t start) {
  DecodeCase c = raw_case(start);
  c.rotary_dims = 32;
  return c;
}

std::vector<uint32_t> pages_left_out(const DecodeCase& c, const std::vector<float>& logits) {
  std::vector<uint32_t> pages;
  for (uint32_t page = 0; page < logits.size(); ++page) {
    SkipRun one(c, logits);
    one.poison(page);
    EXPECT_EQ(decode_chunks(one.run.params()), QUIRE_KERNEL_OK);
    if (one.finite()) pages.push_back(page);
  }
  return pages;
}

// Tiles are two pages here. What lies far below the sink in page 0 is left out in later pieces,
// even where its own piece has nothing greater, and a tile with one near page is not.
TEST(CudaPageThreshold, LeavesOutWhatIsFarBelowTheFirstPiece) {
  DecodeCase c = still_case(0);
  std::vector<float> logits(19, 2.0f);
  logits[0] = 30;
  logits[7] = 29;
  logits[13] = 25;
  EXPECT_TRUE(pages_left_out(c, logits).empty());
  c.page_threshold = 10;
  // 6 stands beside 7, 12 beside 13. Page 1 is beside 0; tile 1 was decided before tile 0 was seen.
  const std::vector<uint32_t> expected = {4, 5, 8, 9, 10, 11, 14, 15, 16, 17, 18};
  EXPECT_EQ(pages_left_out(c, logits), expected);
}

// What the tail sees counts for all pieces but the first.
TEST(CudaPageThreshold, LeavesOutWhatIsFarBelowTheTail) {
  DecodeCase c = still_case(0);
  c.page_threshold = 5;
  c.query_spread = 1;
  SkipRun one(c, std::vector<float>(19, -40.0f));
  for (uint32_t page = 8; page < 19; ++page) one.poison(page);
  EXPECT_EQ(decode_chunks(one.run.params()), QUIRE_KERNEL_OK);
  EXPECT_TRUE(one.finite());
  one.poison(0);
  EXPECT_EQ(decode_chunks(one.run.params()), QUIRE_KERNEL_OK);
  EXPECT_FALSE(one.finite()) << "the first tile is always looked at";
}

// The output is the mean over the tokens that were looked at, and as near to that over all as the
// threshold promises.
TEST(CudaPageThreshold, LosesWhatWasLeftOutAndNoMore) {
  DecodeCase c = still_case(0);
  c.requests[0].tail_tokens = 0;
  c.page_threshold = 3;
  std::vector<float> logits(19, 6.0f);
  for (uint32_t page = 0; page < 4; ++page) logits[page] = 10;
  SkipRun one(c, logits);
  double seen[2] = {0, 0};
  double all[2] = {0, 0};
  for (uint32_t token = 0; token < kTokens; ++token) {
    const bool near = token < 4 * kPage;
    const double value = near ? 1 : 5;
    for (uint32_t head = 0; head < c.kv_heads; ++head)
      for (uint32_t d = 0; d < c.dims; ++d)
        one.values[one.at(head, token) + d] = f16(static_cast<float>(value));
    const double weight =
        std::exp(static_cast<double>(logits[token / kPage]) + 0.001 * (token % kPage));
    for (double* sums : {all, near ? seen : nullptr}) {
      if (sums == nullptr) continue;
      sums[0] += weight;
      sums[1] += weight * value;
    }
  }
  one.run.chunks[0].value = one.place(one.values);
  ASSERT_EQ(decode_chunks(one.run.params()), QUIRE_KERNEL_OK);
  const double full = all[1] / all[0];
  const double bound = 2 * kTokens * std::exp(-3.0) * 5;
  for (uint32_t head = 0; head < c.kv_heads * c.group; ++head) {
    EXPECT_NEAR(static_cast<double>(one.run.lse[head]), std::log(seen[0]), 2e-3);
    for (double value : one.run.out.values(0, head)) {
      EXPECT_NEAR(value, seen[1] / seen[0], 2e-3);
      EXPECT_GT(std::fabs(value - full), 0.1) << "nothing was left out";
      EXPECT_LT(std::fabs(value - full), bound);
    }
  }
}

std::vector<uint8_t> bytes_of(DecodeRun& run) {
  std::vector<uint8_t> bytes = run.out.row_bytes(0);
  const auto* lse = reinterpret_cast<const uint8_t*>(run.lse.data());
  bytes.insert(bytes.end(), lse, lse + run.lse.size() * 4);
  return bytes;
}

// Off is what it was without bounds, bit for bit; on and too large to leave anything out too.
TEST(CudaPageThreshold, OffChangesNothing) {
  for (int32_t codec : {QUIRE_CODEC_INT4_CHANNEL64, QUIRE_CODEC_INT8_CHANNEL}) {
    DecodeCase c = raw_case(77);
    c.chunks = {{codec, codec, kTokens}};
    c.requests = {{{{0, 3, kTokens, 77}}, 20}};
    c.page_tokens = 0;
    DecodeRun without(c);
    ASSERT_EQ(decode_chunks(without.params()), QUIRE_KERNEL_OK);
    c.page_tokens = 16;
    for (float threshold : {0.0f, 1e6f}) {
      c.page_threshold = threshold;
      DecodeRun with(c);
      ASSERT_EQ(decode_chunks(with.params()), QUIRE_KERNEL_OK);
      EXPECT_EQ(bytes_of(with), bytes_of(without)) << threshold;
    }
  }
}

// Weights change by less than tokens * exp(-t), under every schedule and in every codec.
TEST(CudaPageThreshold, StaysWithinItsThreshold) {
  uint32_t round = 0;
  for (const quire_executor::Schedule& schedule : quire_executor::schedules()) {
    quire_executor::set_schedule(schedule);
    for (int32_t codec :
         {QUIRE_CODEC_RAW_F16, QUIRE_CODEC_INT4_CHANNEL64, QUIRE_CODEC_INT4_HADAMARD})
      for (float threshold : {1.0f, 8.0f}) {
        DecodeCase c = raw_case(5);
        c.seed = kSeed + round++;
        c.kv_heads = 2;
        c.group = 1;
        c.query_spread = 3;
        c.softcap = round % 3 == 0 ? 20.0f : 0.0f;
        c.chunks = {{codec, QUIRE_CODEC_INT8_CHANNEL, 300}, {codec, QUIRE_CODEC_RAW_F16, 130}};
        c.requests = {{{{0, 0, 300, 5}, {1, 7, 130, 500}}, 9}, {{{1, 0, 130, 0}}, 0}};
        c.page_tokens = 2;
        c.page_threshold = threshold;
        DecodeRun run(c);
        ASSERT_EQ(decode_chunks(run.params()), QUIRE_KERNEL_OK);
        for (uint32_t row = 0; row < 2; ++row)
          for (uint32_t head = 0; head < c.kv_heads; ++head) {
            const Attention exact = run.exact(row, head);
            const Row out = run.out.values(row, head);
            const double lost =
                decode_tokens(c.requests[row]) * std::exp(static_cast<double>(-threshold));
            for (size_t d = 0; d < out.size(); ++d) {
              EXPECT_NEAR(out[d], exact.out[d], (2 * lost + 2e-3) * exact.largest);
            }
          }
      }
  }
  quire_executor::set_schedule({});
}

}  // namespace
}  // namespace quire_kernels_test
