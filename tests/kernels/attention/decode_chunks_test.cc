#include "tests/kernels/attention/cases.h"

namespace quire_kernels_test {
namespace {

int decode_chunks(const quire_decode_chunks_params& p) {
  return quire_decode_chunks(&p);
}

class DecodeChunksTest : public BothImplementations {
 protected:
  Engines engine() const {
    return GetParam() == QUIRE_ISA_SCALAR ? Engines::kScalar : Engines::kAvx512;
  }
  Errors errors_;
};
INSTANTIATE_TEST_SUITE_P(Implementations, DecodeChunksTest,
                         ::testing::Values(QUIRE_ISA_SCALAR, QUIRE_ISA_AVX512));

TEST_P(DecodeChunksTest, EveryCodecEqualsDecodeThenAttend) {
  const uint32_t dims[] = {64, 128, 80, 96, 256, 20};
  uint64_t round = 0;
  for (int32_t codec : decodable_codecs())
    for (int32_t frame : {QUIRE_FRAME_LOCAL, QUIRE_FRAME_PRE_ROPE}) {
      DecodeCase c;
      c.seed = kSeed + round;
      c.dims = dims[round % 6];
      c.rotary_dims = round % 4 == 3 ? c.dims / 2 : c.dims;
      c.rope_style = round % 3 == 1 ? QUIRE_ROPE_STYLE_INTERLEAVED : QUIRE_ROPE_STYLE_NEOX;
      c.group = 1 + round % 5;
      c.kv_heads = 1 + round % 2;
      const uint32_t tokens = 1 + (round * 53) % 290;
      c.chunks = {{codec, codec, tokens, frame, 7}};
      c.requests = {{{{0, 0, tokens, 1000}}, 5, 2000}};
      expect_decode(engine(), c, decode_chunks, &errors_);
      ++round;
    }
}

TEST_P(DecodeChunksTest, MixedCodecsManyRequestsSharedChunks) {
  DecodeCase c;
  c.softcap = 5;
  c.query_dtype = QUIRE_DTYPE_BF16;
  c.out_dtype = QUIRE_DTYPE_F16;
  c.chunks = {{QUIRE_CODEC_INT8_CHANNEL, QUIRE_CODEC_INT4_CHANNEL64, 257},
              {QUIRE_CODEC_INT4_CHANNEL128, QUIRE_CODEC_INT8_CHANNEL, 130, QUIRE_FRAME_LOCAL, -3},
              {QUIRE_CODEC_RAW_BF16, QUIRE_CODEC_INT2_KIVI, 33, QUIRE_FRAME_PRE_ROPE},
              {QUIRE_CODEC_INT4_HADAMARD, QUIRE_CODEC_FP8_TOKEN, 64}};
  c.requests = {{{{0, 0, 257, 0}, {1, 0, 130, 257}, {2, 0, 33, 387}, {3, 0, 64, 420}}, 40},
                {{{3, 10, 64, 5}, {0, 3, 200, 9000}, {0, 200, 257, 700}}, 1},
                {{{1, 129, 130, 17}}, 0},
                {{}, 77}};
  expect_decode(engine(), c, decode_chunks, &errors_);
}

TEST_P(DecodeChunksTest, TailsOnlyAndChunksOnly) {
  for (uint32_t tail : {1u, 64u, 65u, 257u}) {
    DecodeCase c;
    c.pages.page_tokens = tail % 2 == 0 ? 7 : 64;
    c.requests = {{{}, tail}, {{}, 1}};
    expect_decode(engine(), c, decode_chunks, &errors_);
  }
  for (uint32_t tokens : {1u, 63u, 64u, 65u, 128u, 257u}) {
    DecodeCase c;
    c.chunks = {{QUIRE_CODEC_INT4_CHANNEL64, QUIRE_CODEC_INT4_CHANNEL64, tokens}};
    c.requests = {{{{0, 0, tokens, 12}}, 0}};
    expect_decode(engine(), c, decode_chunks, &errors_);
  }
}

// Without RoPE, positions mean nothing; frames neither.
TEST_P(DecodeChunksTest, WithoutRope) {
  DecodeCase c;
  c.rope_style = QUIRE_ROPE_STYLE_NONE;
  c.chunks = {{QUIRE_CODEC_INT8_CHANNEL, QUIRE_CODEC_INT8_CHANNEL, 40, QUIRE_FRAME_PRE_ROPE}};
  c.requests = {{{{0, 0, 40, 123}}, 3}};
  expect_decode(engine(), c, decode_chunks, &errors_);
}

// At 2^20 an fp32 angle is wrong by 0.06 rad; ours is not.
TEST_P(DecodeChunksTest, FarPositions) {
  for (int64_t start : {int64_t{1} << 20, int64_t{2147483000}, -(int64_t{1} << 20)})
    for (int32_t frame : {QUIRE_FRAME_LOCAL, QUIRE_FRAME_PRE_ROPE}) {
      DecodeCase c;
      c.chunks = {{QUIRE_CODEC_INT8_CHANNEL, QUIRE_CODEC_INT8_CHANNEL, 40, frame, 0}};
      c.requests = {{{{0, 0, 40, start}}, 3}};
      expect_decode(engine(), c, decode_chunks, &errors_);
    }
}

// The order of a request's chunks is nothing but the order of a sum.
TEST_P(DecodeChunksTest, OrderOfChunks) {
  DecodeCase c;
  c.chunks = {{QUIRE_CODEC_INT4_CHANNEL64, QUIRE_CODEC_INT4_CHANNEL64, 100},
              {QUIRE_CODEC_INT8_CHANNEL, QUIRE_CODEC_INT8_CHANNEL, 30},
              {QUIRE_CODEC_RAW_F16, QUIRE_CODEC_RAW_F16, 65}};
  c.requests = {{{{0, 0, 100, 0}, {1, 0, 30, 100}, {2, 0, 65, 130}}, 0}};
  DecodeRun run(c);
  ASSERT_EQ(decode_chunks(run.params()), QUIRE_KERNEL_OK);
  const Row first = run.out.values(0, 3);
  std::reverse(run.refs.begin(), run.refs.end());
  ASSERT_EQ(decode_chunks(run.params()), QUIRE_KERNEL_OK);
  const Row second = run.out.values(0, 3);
  for (size_t d = 0; d < first.size(); ++d) EXPECT_NEAR(first[d], second[d], 1e-5);
}

// Skipping with a threshold t: weights change by less than tokens * exp(-t).
TEST_P(DecodeChunksTest, SkippingStaysWithinItsThreshold) {
  DecodeCase c;
  c.query_spread = 3;
  c.group = 1;
  c.kv_heads = 6;
  c.chunks = {{QUIRE_CODEC_INT4_CHANNEL64, QUIRE_CODEC_INT8_CHANNEL, 256},
              {QUIRE_CODEC_RAW_F32, QUIRE_CODEC_RAW_F32, 200}};
  c.requests = {{{{0, 0, 256, 3}, {1, 5, 200, 500}}, 30}};
  c.page_tokens = 2;
  expect_decode(engine(), c, decode_chunks, &errors_);
  for (bool pages : {true, false}) {
    bool changed = false;
    for (float threshold : {1.0f, 3.0f, 8.0f, 60.0f}) {
      (pages ? c.page_threshold : c.block_threshold) = threshold;
      DecodeRun run(c);
      ASSERT_EQ(decode_chunks(run.params()), QUIRE_KERNEL_OK);
      for (uint32_t head = 0; head < c.kv_heads * c.group; ++head) {
        const Attention exact = run.exact(0, head);
        const Row out = run.out.values(0, head);
        const double lost =
            decode_tokens(c.requests[0]) * std::exp(static_cast<double>(-threshold));
        const double bound = 2 * lost * exact.largest + 1e-4;
        for (size_t d = 0; d < out.size(); ++d) {
          EXPECT_NEAR(out[d], exact.out[d], bound);
          changed |= std::fabs(out[d] - exact.out[d]) > 1e-5 * exact.largest;
        }
      }
    }
    EXPECT_TRUE(changed) << "nothing was ever skipped, pages " << pages;
    c.page_threshold = 0;
  }
}

TEST_P(DecodeChunksTest, KeyBoundsHoldEveryKey) {
  for (int32_t codec : decodable_codecs()) {
    DecodeCase c;
    c.page_tokens = 24;
    c.chunks = {{codec, codec, 100}};
    c.requests = {{{{0, 0, 100, 3}}, 0}};
    DecodeRun run(c);
    for (uint32_t head = 0; head < c.kv_heads; ++head)
      for (uint32_t token = 0; token < 100; ++token) {
        const Row key = run.keys[0].decode(head, token);
        const float* least = run.bounds[0].data() + (head * 5 + token / 24) * 2 * c.dims;
        for (uint32_t d = 0; d < c.dims; ++d) {
          EXPECT_LE(static_cast<double>(least[d]), key[d]);
          EXPECT_GE(static_cast<double>(least[c.dims + d]), key[d]);
        }
      }
  }
}

TEST_P(DecodeChunksTest, BadArgumentsChangeNothing) {
  DecodeCase c;
  c.chunks = {{QUIRE_CODEC_INT4_CHANNEL64, QUIRE_CODEC_INT8_CHANNEL, 70}};
  c.requests = {{{{0, 0, 70, 3}}, 30}};
  using Params = quire_decode_chunks_params;
  using Change = std::function<void(Params&, DecodeRun&)>;
  const int invalid = QUIRE_KERNEL_INVALID_ARGUMENT;
  const int unsupported = QUIRE_KERNEL_UNSUPPORTED;
  const std::vector<std::pair<int, Change>> mistakes = {
      {QUIRE_KERNEL_BAD_STRUCT, [](Params& p, DecodeRun&) { p.struct_bytes = 1; }},
      {invalid, [](Params& p, DecodeRun&) { p.requests = nullptr; }},
      {invalid, [](Params& p, DecodeRun&) { p.refs = nullptr; }},
      {invalid, [](Params& p, DecodeRun&) { p.n_chunks = 0; }},
      {invalid, [](Params& p, DecodeRun&) { p.inverse_frequencies = nullptr; }},
      {invalid, [](Params& p, DecodeRun&) { p.rotary_dims = 66; }},
      {invalid, [](Params& p, DecodeRun&) { p.rotary_dims = 3; }},
      {invalid, [](Params& p, DecodeRun&) { p.page_threshold = 1; }},
      {invalid, [](Params& p, DecodeRun&) { p.block_threshold = NAN; }},
      {invalid, [](Params& p, DecodeRun&) { p.tail.block_table_entries = 1; }},
      {invalid, [](Params& p, DecodeRun&) { p.tail.n_pages = 0; }},
      {invalid, [](Params&, DecodeRun& r) { r.tails.table()[0] = 1000; }},
      {invalid, [](Params&, DecodeRun& r) { r.refs[0].chunk = 1; }},
      {invalid, [](Params&, DecodeRun& r) { r.refs[0].token_end = 71; }},
      {invalid, [](Params&, DecodeRun& r) { r.refs[0].token_begin = 70; }},
      {invalid, [](Params&, DecodeRun& r) { r.refs[0].start_position = int64_t{1} << 31; }},
      {invalid, [](Params&, DecodeRun& r) { r.requests[0].ref_end = 2; }},
      {invalid, [](Params&, DecodeRun& r) { r.requests[0].tail_table_begin = UINT64_MAX; }},
      {invalid,
       [](Params&, DecodeRun& r) {
         r.requests[0] = {0, 0, 0, 0};
       }},
      {invalid, [](Params&, DecodeRun& r) { r.chunks[0].key_bytes -= 64; }},
      {invalid, [](Params&, DecodeRun& r) { r.chunks[0].value = nullptr; }},
      {invalid, [](Params&, DecodeRun& r) { r.chunks[0].n_tokens = 0; }},
      {unsupported, [](Params&, DecodeRun& r) { r.chunks[0].key_codec = QUIRE_CODEC_BF16_EXP4; }},
      {unsupported,
       [](Params&, DecodeRun& r) { r.chunks[0].value_codec = QUIRE_CODEC_MIXED_INT8_INT4; }},
      {unsupported, [](Params&, DecodeRun& r) { r.chunks[0].key_codec = 99; }},
      {unsupported, [](Params&, DecodeRun& r) { r.chunks[0].frame = 2; }},
      {unsupported, [](Params& p, DecodeRun&) { p.rope_style = 5; }},
      {unsupported, [](Params& p, DecodeRun&) { p.dims = 512; }},
  };
  for (size_t i = 0; i < mistakes.size(); ++i) {
    DecodeRun run(c);
    Params p = run.params();
    mistakes[i].second(p, run);
    EXPECT_EQ(decode_chunks(p), mistakes[i].first) << "mistake " << i;
    EXPECT_TRUE(run.out.untouched());
    EXPECT_EQ(run.lse[0], 1e30f);
  }
}

}  // namespace
}  // namespace quire_kernels_test
