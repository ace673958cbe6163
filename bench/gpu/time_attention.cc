// Times of the attention kernels on the shapes of an 8B model (32 query heads, 8 KV heads of 128
// dims), beside what bytes or FLOPs allow. peers.py times torch on the same shapes.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <numeric>
#include <random>

#include "bench/gpu/attention_data.h"
#include "kernels/math/codec_spec.h"

namespace quire_gpu {
namespace {

constexpr uint32_t kTokens = 32768;
constexpr uint32_t kChunkTokens = 1024;
constexpr uint32_t kChunksOfRequest = 8;
constexpr uint32_t kBatchMax = 32;
constexpr uint32_t kBoundsPage = 64;

quire_head_rows rows_of(const Buffer& buffer, const AttentionShape& shape) {
  return {buffer.data(), QUIRE_DTYPE_BF16, int64_t{shape.query_heads} * shape.dims * 2,
          int64_t{shape.dims} * 2};
}

// Rows scattered over the first `tokens`; returns TFLOP/s.
double time_rows(PagedSequence* sequence, uint32_t tokens, uint32_t every, bool sums,
                 const std::string& name, double causal_tflops, Table* table) {
  const AttentionShape& shape = sequence->shape;
  std::vector<int64_t> positions;
  for (uint32_t token = every - 1; token < tokens; token += every) positions.push_back(token);
  const auto n = static_cast<uint32_t>(positions.size());
  Twin<int64_t> q_pos(positions);
  Twin<uint16_t> query(normal_bf16(uint64_t{n} * shape.query_heads * shape.dims, 5));
  Buffer out(query.bytes(), Where::kDevice);
  Twin<int32_t> token_chunk{std::vector<int32_t>(tokens, 0)};
  Buffer mass(uint64_t{n} * 8, Where::kDevice);
  Buffer columns(uint64_t{tokens} * 8, Where::kDevice);
  quire_attend_rows_params p = {};
  p.struct_bytes = sizeof(p);
  p.n_rows = n;
  p.n_query_heads = shape.query_heads;
  p.n_kv_heads = shape.kv_heads;
  p.key_dims = p.value_dims = shape.dims;
  p.query = rows_of(query.device, shape);
  p.out = rows_of(out, shape);
  p.q_pos = q_pos.at(true);
  p.kv = sequence->view(true);
  p.kv_tokens = tokens;
  p.scale = shape.scale();
  if (sums) {
    p.token_chunk = token_chunk.at(true);
    p.n_chunks = 1;
    p.chunk_mass = reinterpret_cast<double*>(mass.data());
    p.column_sums = reinterpret_cast<double*>(columns.data());
  }
  AttentionLaunch launch(quire_cuda_attend_rows_workspace_bytes(&p));
  const double time = median_microseconds([&](int) { quire_cuda_attend_rows(&p, launch.get()); });
  if (launch.finish() != 0) fprintf(stderr, "gpu_check: attend_rows reported a status\n");
  double seen = 0;
  for (int64_t position : positions) seen += static_cast<double>(position) + 1;
  const double flops = 4.0 * shape.query_heads * shape.dims * seen;
  const double tflops = flops / time / 1e6;
  char note[64];
  snprintf(note, sizeof(note), "%.0f TFLOP/s", tflops);
  // The floor: the same FLOPs at the rate of our own causal prompt.
  table->add({"attention", name, time, causal_tflops > 0 ? flops / causal_tflops / 1e6 : 0, note});
  return tflops;
}

double time_decode(const quire_kernels::NamedCodec& codec, ChunkData* chunk, uint32_t batch,
                   float page_threshold, double bf16_time, const Ceilings& ceilings, Table* table) {
  const AttentionShape shape;
  std::vector<quire_chunk_kv> chunks;
  std::vector<quire_chunk_ref> refs;
  std::vector<quire_decode_request> requests;
  for (uint32_t r = 0; r < batch; ++r) {
    for (uint32_t i = 0; i < kChunksOfRequest; ++i) {
      const auto number = static_cast<uint32_t>(chunks.size());
      chunks.push_back(chunk->view(number, true));
      refs.push_back({number, 0, kChunkTokens, int64_t{i} * kChunkTokens});
    }
    requests.push_back({r * kChunksOfRequest, (r + 1) * kChunksOfRequest, 0, 0});
  }
  const std::vector<float> frequencies = inverse_frequencies(shape.dims);
  Twin<uint16_t> query(normal_bf16(uint64_t{batch} * shape.query_heads * shape.dims, 9));
  Buffer out(query.bytes(), Where::kDevice);
  quire_decode_chunks_params p = {};
  p.struct_bytes = sizeof(p);
  p.n_requests = batch;
  p.n_query_heads = shape.query_heads;
  p.n_kv_heads = shape.kv_heads;
  p.dims = shape.dims;
  p.query = rows_of(query.device, shape);
  p.out = rows_of(out, shape);
  p.scale = shape.scale();
  p.rope_style = QUIRE_ROPE_STYLE_NEOX;
  p.rotary_dims = shape.dims;
  p.inverse_frequencies = frequencies.data();
  p.chunks = chunks.data();
  p.n_chunks = static_cast<uint32_t>(chunks.size());
  p.refs = refs.data();
  p.n_refs = static_cast<uint32_t>(refs.size());
  p.requests = requests.data();
  p.page_tokens = kBoundsPage;
  p.page_threshold = page_threshold;
  AttentionLaunch launch(quire_cuda_decode_chunks_workspace_bytes(&p));
  const double time = median_microseconds([&](int) { quire_cuda_decode_chunks(&p, launch.get()); });
  if (launch.finish() != 0) fprintf(stderr, "gpu_check: decode_chunks reported a status\n");
  const double bytes = static_cast<double>(chunk->bytes()) * kChunksOfRequest * batch;
  char name[96];
  char note[64];
  snprintf(name, sizeof(name), "decode %s%s, batch %u x %u", codec.name,
           page_threshold > 0 ? " with page threshold" : "", batch,
           kChunksOfRequest * kChunkTokens);
  if (bf16_time > 0)
    snprintf(note, sizeof(note), "%.0f GB/s, %.2f x as fast as bf16", bytes / time / 1e3,
             bf16_time / time);
  else
    snprintf(note, sizeof(note), "%.0f GB/s", bytes / time / 1e3);
  table->add({"attention", name, time, bytes / ceilings.device_copy, note});
  return time;
}

void time_decodes(const Ceilings& ceilings, Table* table) {
  const AttentionShape shape;
  constexpr quire_kernels::NamedCodec kCodecs[] = {{QUIRE_CODEC_RAW_BF16, "raw-bf16"},
                                                   {QUIRE_CODEC_INT8_CHANNEL, "int8-channel"},
                                                   {QUIRE_CODEC_INT4_CHANNEL64, "int4-channel64"},
                                                   {QUIRE_CODEC_INT2_CHANNEL32, "int2-channel32"}};
  std::map<uint32_t, double> bf16;
  for (const quire_kernels::NamedCodec& codec : kCodecs) {
    ChunkData chunk(shape, codec.codec, kChunkTokens, kBatchMax * kChunksOfRequest, kBoundsPage,
                    31);
    for (uint32_t batch = 1; batch <= kBatchMax; batch = batch == 1 ? 8 : batch * 2) {
      const double time = time_decode(codec, &chunk, batch, 0, bf16[batch], ceilings, table);
      if (codec.codec == QUIRE_CODEC_RAW_BF16) bf16[batch] = time;
    }
    if (codec.codec == QUIRE_CODEC_INT4_CHANNEL64)  // random keys: the cost of looking at bounds
      time_decode(codec, &chunk, 8, 10.0f, bf16[8], ceilings, table);
  }
}

void time_tokens(PagedSequence* sequence, const Ceilings& ceilings, Table* table) {
  const AttentionShape& shape = sequence->shape;
  std::vector<int64_t> numbers(kTokens);
  std::iota(numbers.begin(), numbers.end(), 0);
  std::shuffle(numbers.begin(), numbers.end(), std::mt19937(8));
  Twin<int64_t> rows(numbers);
  const int64_t row_bytes = int64_t{shape.kv_heads} * shape.dims * 2;
  const auto tokens_of = [&](void* data, const int64_t* row) {
    return quire_token_rows{data, QUIRE_DTYPE_BF16, row_bytes, int64_t{shape.dims} * 2,
                            row,  kTokens};
  };
  Buffer other(uint64_t{kTokens} * static_cast<uint64_t>(row_bytes), Where::kDevice);
  Twin<float> deviation{std::vector<float>(kTokens)};
  AttentionLaunch launch(0);
  const quire_rotate_params rotate{sizeof(quire_rotate_params),
                                   kTokens,
                                   shape.kv_heads,
                                   shape.dims,
                                   tokens_of(sequence->key.at(true), rows.at(true)),
                                   tokens_of(other.data(), nullptr),
                                   {QUIRE_ROPE_STYLE_NEOX, shape.dims, deviation.at(true), 0}};
  const double moved = 2.0 * kTokens * static_cast<double>(row_bytes);
  // It reads its input twice: what it refuses to write is looked for first.
  table->add({"attention", "rotate 32768 tokens",
              median_microseconds([&](int) { quire_cuda_rotate(&rotate, launch.get()); }),
              1.5 * moved / ceilings.device_copy, "scans first"});
  const quire_deviation_params compare{sizeof(quire_deviation_params),
                                       kTokens,
                                       shape.kv_heads,
                                       shape.dims,
                                       QUIRE_DEVIATION_SQUARED,
                                       tokens_of(sequence->key.at(true), rows.at(true)),
                                       tokens_of(sequence->value.at(true), nullptr),
                                       deviation.at(true)};
  table->add({"attention", "deviation of 32768 tokens",
              median_microseconds([&](int) { quire_cuda_deviation(&compare, launch.get()); }),
              moved / ceilings.device_copy, ""});
  Twin<uint32_t> chosen{std::vector<uint32_t>(kTokens / 7)};
  const quire_top_tokens_params top{sizeof(quire_top_tokens_params),
                                    kTokens,
                                    kTokens / 7,
                                    deviation.at(true),
                                    nullptr,
                                    chosen.at(true)};
  table->add({"attention", "top 1/7 of 32768 tokens",
              median_microseconds([&](int) { quire_cuda_top_tokens(&top, launch.get()); }), 0, ""});
  if (launch.finish() != 0) fprintf(stderr, "gpu_check: a token kernel reported a status\n");
}

}  // namespace

void time_attention(const Ceilings& ceilings, Table* table) {
  PagedSequence sequence({}, kTokens, 1);
  const double causal =
      time_rows(&sequence, kTokens / 4, 1, false, "rows: all of 8192 (causal)", 0, table);
  time_rows(&sequence, kTokens, 20, false, "rows: 5 % of 32768", causal, table);
  time_rows(&sequence, kTokens / 2, 7, false, "rows: 15 % of 16384", causal, table);
  time_rows(&sequence, kTokens, 7, false, "rows: 15 % of 32768", causal, table);
  time_rows(&sequence, kTokens, 7, true, "rows: 15 % of 32768 with sums", causal, table);
  time_decodes(ceilings, table);
  time_tokens(&sequence, ceilings, table);
}

}  // namespace quire_gpu
