// The CUDA decode kernels, run by the executor under its schedules, against the fp64 reference.
#include "kernels/executor/executor.h"
#include "kernels/quire_cuda_attention.h"
#include "tests/kernels/attention/cases.h"
#include "tests/kernels/attention/cuda_launch.h"

namespace quire_kernels_test {
namespace {

int decode_chunks(const quire_decode_chunks_params& p) {
  CudaLaunch launch(quire_cuda_decode_chunks_workspace_bytes(&p));
  const int status = quire_cuda_decode_chunks(&p, launch.get());
  return status != QUIRE_KERNEL_OK ? status : launch.device_status();
}

DecodeCase small_case() {
  DecodeCase c;
  c.kv_heads = 1;
  c.pages = {QUIRE_DTYPE_F16, 16, false};
  c.chunks = {{QUIRE_CODEC_INT4_CHANNEL64, QUIRE_CODEC_INT4_CHANNEL64, 70},
              {QUIRE_CODEC_INT8_CHANNEL, QUIRE_CODEC_INT8_CHANNEL, 20, QUIRE_FRAME_LOCAL, -3}};
  c.requests = {{{{0, 0, 70, 0}, {1, 0, 20, 70}}, 10}, {{{1, 3, 20, 9000}, {0, 65, 70, 5}}, 0}};
  return c;
}

TEST(CudaDecodeChunks, EverySchedule) {
  Errors errors;
  for (const quire_executor::Schedule& schedule : quire_executor::schedules()) {
    quire_executor::set_schedule(schedule);
    expect_decode(Engines::kCuda, small_case(), decode_chunks, &errors);
  }
  quire_executor::set_schedule({});
}

TEST(CudaDecodeChunks, EveryCodecEqualsDecodeThenAttend) {
  Errors errors;
  const uint32_t dims[] = {64, 128, 80, 96, 256, 16};
  uint64_t round = 0;
  for (int32_t codec : decodable_codecs()) {
    if (codec == QUIRE_CODEC_RAW_F32) continue;
    DecodeCase c = small_case();
    c.seed = kSeed + round;
    c.dims = dims[round % 6];
    c.rotary_dims = round % 4 == 3 ? c.dims / 2 : c.dims;
    c.rope_style = round % 3 == 1 ? QUIRE_ROPE_STYLE_INTERLEAVED : QUIRE_ROPE_STYLE_NEOX;
    c.group = 1 + round % 5;
    c.pages.dtype = codec == QUIRE_CODEC_RAW_BF16 ? QUIRE_DTYPE_BF16 : QUIRE_DTYPE_F16;
    const uint32_t tokens = 1 + static_cast<uint32_t>(round * 53 % 290);
    c.chunks = {{codec, codec, tokens, QUIRE_FRAME_LOCAL, 7}};
    c.requests = {{{{0, tokens > 9 ? 3u : 0u, tokens, 1000}}, 5}};
    expect_decode(Engines::kCuda, c, decode_chunks, &errors);
    ++round;
  }
}

TEST(CudaDecodeChunks, ManyHeadsSharedChunksFarPositions) {
  Errors errors;
  DecodeCase c = small_case();
  c.group = 11;  // more than the columns of one product
  c.softcap = 5;
  c.out_dtype = QUIRE_DTYPE_F16;
  c.query_dtype = QUIRE_DTYPE_BF16;
  c.requests = {
      {{{0, 0, 70, 1 << 20}, {1, 0, 20, 2147483000}}, 0}, {{{0, 0, 70, 0}}, 300}, {{}, 1}};
  expect_decode(Engines::kCuda, c, decode_chunks, &errors);
}

TEST(CudaDecodeChunks, BlockThreshold) {
  DecodeCase c = small_case();
  c.group = 1;
  c.kv_heads = 6;
  c.query_spread = 2;
  c.chunks = {{QUIRE_CODEC_INT4_CHANNEL64, QUIRE_CODEC_INT8_CHANNEL, 256}};
  c.requests = {{{{0, 0, 256, 3}}, 0}};
  bool changed = false;
  for (float threshold : {1.0f, 3.0f}) {
    c.block_threshold = threshold;
    DecodeRun run(c);
    ASSERT_EQ(decode_chunks(run.params()), QUIRE_KERNEL_OK);
    for (uint32_t head = 0; head < c.kv_heads; ++head) {
      const Attention exact = run.exact(0, head);
      const Row out = run.out.values(0, head);
      const double lost = 256 * std::exp(static_cast<double>(-threshold));
      for (size_t d = 0; d < out.size(); ++d) {
        EXPECT_NEAR(out[d], exact.out[d], (2 * lost + 1e-3) * exact.largest);
        changed |= std::fabs(out[d] - exact.out[d]) > 2e-3 * exact.largest;
      }
    }
  }
  EXPECT_TRUE(changed) << "nothing was ever skipped";
}

TEST(CudaDecodeChunks, Refusals) {
  using Change = std::function<void(quire_decode_chunks_params&, DecodeRun&)>;
  const int invalid = QUIRE_KERNEL_INVALID_ARGUMENT;
  const int unsupported = QUIRE_KERNEL_UNSUPPORTED;
  const std::vector<std::pair<int, Change>> mistakes = {
      {invalid, [](quire_decode_chunks_params&, DecodeRun& r) { r.tails.table()[0] = 1000; }},
      {invalid, [](quire_decode_chunks_params& p, DecodeRun&) { p.tail.key_token_stride += 2; }},
      {invalid,
       [](quire_decode_chunks_params&, DecodeRun& r) {
         r.chunks[0].key = static_cast<const uint8_t*>(r.chunks[0].key) + 4;
       }},
      {invalid, [](quire_decode_chunks_params&, DecodeRun& r) { r.refs[0].chunk = 7; }},
      {unsupported,
       [](quire_decode_chunks_params&, DecodeRun& r) { r.chunks[0].frame = QUIRE_FRAME_PRE_ROPE; }},
      {unsupported,
       [](quire_decode_chunks_params& p, DecodeRun&) { p.tail.dtype = QUIRE_DTYPE_F32; }},
  };
  for (size_t i = 0; i < mistakes.size(); ++i) {
    DecodeRun run(small_case());
    quire_decode_chunks_params p = run.params();
    mistakes[i].second(p, run);
    EXPECT_EQ(decode_chunks(p), mistakes[i].first) << "mistake " << i;
    EXPECT_TRUE(run.out.untouched());
    EXPECT_EQ(run.lse[0], 1e30f);
  }
  DecodeRun run(small_case());
  const quire_decode_chunks_params p = run.params();
  CudaLaunch small(quire_cuda_decode_chunks_workspace_bytes(&p) - 1);
  EXPECT_EQ(quire_cuda_decode_chunks(&p, small.get()), QUIRE_KERNEL_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace quire_kernels_test
