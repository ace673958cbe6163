// The attention kernels against the scalar ones, which accumulate in float64.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>

#include "bench/gpu/attention_data.h"
#include "kernels/math/layout.h"

namespace quire_gpu {
namespace {

// quire_attention.h: (2^-8 + 2^-16 * (8 + A)) * V, with A below 64 and V below 8 for these inputs.
constexpr double kBf16Error = (0x1p-8 + 0x1p-16 * 72) * 8;
constexpr double kLseError = 0x1p-16 * 72 + 1e-5;
constexpr double kMassError = 0.04;
constexpr float kPageThreshold = 12.0f;
// Twice the largest value, for each of up to 1500 tokens that are left out: less than exp(-12).
constexpr double kLostError = 2 * 8 * 1500 * 6.2e-6;

struct Judge {
  explicit Judge(const char* name) : what(name) {}
  template <typename T>
  void compare(const std::vector<T>& got, const std::vector<T>& expected, double bound) {
    for (size_t i = 0; i < expected.size(); ++i) {
      const double error =
          std::fabs(static_cast<double>(got[i]) - static_cast<double>(expected[i]));
      worst = std::max(worst, error / bound);
      if (!(error <= bound)) good = false;
    }
  }
  void status(int call, int32_t device) {
    if (call == QUIRE_KERNEL_OK && device == 0) return;
    fprintf(stderr, "WRONG %s: call %s, device %s\n", what, quire_kernel_status_name(call),
            quire_kernel_status_name(device));
    good = false;
  }
  bool verdict() const {
    fprintf(stderr, "%-40s %s, %.2f of the bound\n", what, good ? "right" : "WRONG", worst);
    return good;
  }
  const char* what;
  bool good = true;
  double worst = 0;
};

quire_head_rows rows_of(void* data, int32_t dtype, uint32_t heads, uint32_t dims) {
  const int64_t size = dtype == QUIRE_DTYPE_F32 ? 4 : 2;
  return {data, dtype, size * dims * heads, size * dims};
}

bool check_rows(bool tiny, uint32_t dims, uint32_t window) {
  AttentionShape shape;
  shape.query_heads = 6;
  shape.kv_heads = 2;
  shape.dims = dims;
  const uint32_t tokens = tiny ? 70 : 1500;
  const uint32_t chunks = 4;
  PagedSequence sequence(shape, tokens, 3);
  std::vector<int64_t> positions;
  for (uint32_t token = 5; token < tokens; token += 7) positions.push_back(token);
  const auto n = static_cast<uint32_t>(positions.size());
  const uint64_t heads = shape.query_heads;
  std::vector<int32_t> owners(tokens);
  for (uint32_t i = 0; i < tokens; ++i)
    owners[i] = i % 11 == 3 ? -1 : static_cast<int32_t>(i / 9 % chunks);
  Twin<int64_t> q_pos(positions);
  Twin<uint16_t> query(normal_bf16(n * heads * dims, 7));
  Twin<float> out(std::vector<float>(n * heads * dims));
  Twin<float> lse(std::vector<float>(n * heads));
  Twin<int32_t> token_chunk(owners);
  Twin<double> mass(std::vector<double>(uint64_t{n} * chunks));
  Twin<double> columns{std::vector<double>(tokens)};
  const auto params = [&](bool on_device) {
    quire_attend_rows_params p = {};
    p.struct_bytes = sizeof(p);
    p.n_rows = n;
    p.n_query_heads = shape.query_heads;
    p.n_kv_heads = shape.kv_heads;
    p.key_dims = p.value_dims = dims;
    p.window = window;
    p.query = rows_of(query.at(on_device), QUIRE_DTYPE_BF16, shape.query_heads, dims);
    p.out = rows_of(out.at(on_device), QUIRE_DTYPE_F32, shape.query_heads, dims);
    p.q_pos = q_pos.at(on_device);
    p.kv = sequence.view(on_device);
    p.kv_tokens = tokens;
    p.scale = shape.scale();
    p.lse = lse.at(on_device);
    p.token_chunk = token_chunk.at(on_device);
    p.n_chunks = chunks;
    p.chunk_mass = mass.at(on_device);
    p.column_sums = columns.at(on_device);
    return p;
  };
  char name[64];
  snprintf(name, sizeof(name), "attend_rows dims %u window %u", dims, window);
  Judge judge(name);
  const quire_attend_rows_params on_host = params(false);
  judge.status(quire_attend_rows(&on_host), 0);
  const quire_attend_rows_params p = params(true);
  AttentionLaunch launch(quire_cuda_attend_rows_workspace_bytes(&p));
  const int call = quire_cuda_attend_rows(&p, launch.get());
  judge.status(call, launch.finish());
  judge.compare(out.download(), out.host, kBf16Error);
  judge.compare(lse.download(), lse.host, kLseError);
  judge.compare(mass.download(), mass.host, kMassError * static_cast<double>(heads));
  judge.compare(columns.download(), columns.host, kMassError * 8);
  return judge.verdict();
}

bool check_decode(bool tiny, int32_t codec, const char* name, uint32_t page_tokens,
                  float block_threshold) {
  AttentionShape shape;
  shape.query_heads = 10;
  shape.kv_heads = 2;
  shape.dims = 64;
  const uint32_t tokens = tiny ? 70 : 700;
  ChunkData first(shape, codec, tokens, 1, page_tokens, 11);
  ChunkData second(shape, QUIRE_CODEC_INT8_CHANNEL, 40, 1, page_tokens, 13);
  PagedSequence tail(shape, 33, 17);
  const quire_chunk_ref refs[] = {
      {0, 0, tokens, 0}, {1, 3, 40, 1 << 20}, {1, 0, 40, 5}, {0, 7, tokens, 100}};
  const quire_decode_request requests[] = {{0, 2, 0, 33}, {2, 4, 0, 0}};
  const std::vector<float> frequencies = inverse_frequencies(shape.dims);
  const uint64_t heads = shape.query_heads;
  Twin<uint16_t> query(normal_bf16(2 * heads * shape.dims, 19));
  Twin<float> out(std::vector<float>(2 * heads * shape.dims));
  Twin<float> lse(std::vector<float>(2 * heads));
  quire_chunk_kv chunks[2];
  const auto params = [&](bool on_device) {
    chunks[0] = first.view(0, on_device);
    chunks[1] = second.view(0, on_device);
    quire_decode_chunks_params p = {};
    p.struct_bytes = sizeof(p);
    p.n_requests = 2;
    p.n_query_heads = shape.query_heads;
    p.n_kv_heads = shape.kv_heads;
    p.dims = shape.dims;
    p.query = rows_of(query.at(on_device), QUIRE_DTYPE_BF16, shape.query_heads, shape.dims);
    p.out = rows_of(out.at(on_device), QUIRE_DTYPE_F32, shape.query_heads, shape.dims);
    p.lse = lse.at(on_device);
    p.scale = shape.scale();
    p.rope_style = QUIRE_ROPE_STYLE_NEOX;
    p.rotary_dims = shape.dims;
    p.inverse_frequencies = frequencies.data();
    p.chunks = chunks;
    p.n_chunks = 2;
    p.refs = refs;
    p.n_refs = 4;
    p.requests = requests;
    p.tail = tail.view(on_device);
    p.block_threshold = block_threshold;
    // The reference leaves nothing out.
    p.page_tokens = page_tokens;
    p.page_threshold = on_device && page_tokens != 0 ? kPageThreshold : 0;
    if (!on_device) p.block_threshold = 0;
    return p;
  };
  Judge judge(name);
  const quire_decode_chunks_params on_host = params(false);
  judge.status(quire_decode_chunks(&on_host), 0);
  const quire_decode_chunks_params p = params(true);
  AttentionLaunch launch(quire_cuda_decode_chunks_workspace_bytes(&p));
  const int call = quire_cuda_decode_chunks(&p, launch.get());
  judge.status(call, launch.finish());
  const double lost = page_tokens != 0 || block_threshold > 0 ? kLostError : 0;
  judge.compare(out.download(), out.host, kBf16Error + lost);
  judge.compare(lse.download(), lse.host, kLseError + lost);
  return judge.verdict();
}

quire_token_rows token_rows(void* data, const int64_t* rows, uint32_t heads, uint32_t dims,
                            int64_t n) {
  return {data, QUIRE_DTYPE_BF16, int64_t{heads} * dims * 2, int64_t{dims} * 2, rows, n};
}

bool check_tokens(bool tiny) {
  const uint32_t n = tiny ? 40 : 3000;
  constexpr uint32_t kHeads = 3;
  constexpr uint32_t kDims = 80;
  std::vector<int64_t> numbers(n);
  std::iota(numbers.begin(), numbers.end(), 0);
  std::shuffle(numbers.begin(), numbers.end(), std::mt19937(2));
  Twin<int64_t> rows(numbers);
  Twin<uint16_t> a(normal_bf16(uint64_t{n} * kHeads * kDims, 21));
  Twin<uint16_t> b(normal_bf16(uint64_t{n} * kHeads * kDims, 22));
  Twin<float> deviation{std::vector<float>(n)};
  AttentionLaunch launch(0);
  Judge judge("deviation");
  for (int32_t norm : {QUIRE_DEVIATION_SQUARED, QUIRE_DEVIATION_ABSOLUTE}) {
    const auto params = [&](bool on_device) {
      return quire_deviation_params{
          sizeof(quire_deviation_params),
          n,
          kHeads,
          kDims,
          norm,
          token_rows(a.at(on_device), rows.at(on_device), kHeads, kDims, n),
          token_rows(b.at(on_device), nullptr, kHeads, kDims, n),
          deviation.at(on_device)};
    };
    const quire_deviation_params on_host = params(false);
    const quire_deviation_params p = params(true);
    judge.status(quire_deviation(&on_host), 0);
    const int call = quire_cuda_deviation(&p, launch.get());
    judge.status(call, launch.finish());
    judge.compare(deviation.download(), deviation.host, 1e-2);
  }
  bool good = judge.verdict();

  Judge chosen("top_tokens");
  deviation.upload();
  Twin<uint32_t> tokens{std::vector<uint32_t>(n / 7)};
  const auto top = [&](bool on_device) {
    return quire_top_tokens_params{sizeof(quire_top_tokens_params), n,       n / 7,
                                   deviation.at(on_device),         nullptr, tokens.at(on_device)};
  };
  const quire_top_tokens_params top_host = top(false);
  const quire_top_tokens_params top_device = top(true);
  chosen.status(quire_top_tokens(&top_host), 0);
  const int call = quire_cuda_top_tokens(&top_device, launch.get());
  chosen.status(call, launch.finish());
  chosen.compare(tokens.download(), tokens.host, 0.5);
  good &= chosen.verdict();

  Judge turned("rotate");
  std::vector<float> angles(uint64_t{n} * kDims);
  for (size_t i = 0; i + 1 < angles.size(); i += 2) {
    angles[i] = std::cos(0.37f * static_cast<float>(i));
    angles[i + 1] = std::sin(0.37f * static_cast<float>(i));
  }
  Twin<float> table(angles);
  const auto rotate = [&](bool on_device) {
    return quire_rotate_params{
        sizeof(quire_rotate_params),
        n,
        kHeads,
        kDims,
        token_rows(a.at(on_device), rows.at(on_device), kHeads, kDims, n),
        token_rows(b.at(on_device), nullptr, kHeads, kDims, n),
        {QUIRE_ROPE_STYLE_NEOX, kDims, table.at(on_device), int64_t{kDims} * 4}};
  };
  const quire_rotate_params rotate_host = rotate(false);
  const quire_rotate_params rotate_device = rotate(true);
  turned.status(quire_rotate(&rotate_host), 0);
  const int rotated = quire_cuda_rotate(&rotate_device, launch.get());
  turned.status(rotated, launch.finish());
  std::vector<double> got;
  std::vector<double> expected;
  for (uint16_t bits : b.download()) got.push_back(bf16_value(bits));
  for (uint16_t bits : b.host) expected.push_back(bf16_value(bits));
  turned.compare(got, expected, 0x1p-6);  // one step of bf16 below 4
  return good && turned.verdict();
}

}  // namespace

bool check_attention(bool tiny) {
  // float64, so that it is the reference.
  quire_kernel_select(QUIRE_ISA_SCALAR);
  bool good = true;
  for (uint32_t dims : tiny ? std::vector<uint32_t>{64} : std::vector<uint32_t>{64, 80, 128, 256})
    for (uint32_t window : {0u, 33u}) good &= check_rows(tiny, dims, window);
  for (const quire_kernels::NamedCodec& codec : quire_kernels::kKernelCodecs) {
    if (quire_kernels::variable_size(codec.codec) || codec.codec == QUIRE_CODEC_RAW_F32) continue;
    good &= check_decode(tiny, codec.codec, (std::string("decode ") + codec.name).c_str(), 0, 0);
  }
  good &= check_decode(tiny, QUIRE_CODEC_INT4_CHANNEL64, "decode with page threshold", 16, 0);
  good &= check_decode(tiny, QUIRE_CODEC_INT4_CHANNEL64, "decode with block threshold", 0,
                       kPageThreshold);
  good &= check_tokens(tiny);
  quire_kernel_select(QUIRE_ISA_BEST);
  return good;
}

}  // namespace quire_gpu
