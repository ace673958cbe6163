// Attention on the CPU, one thread: decode from stored chunks beside decode from bf16 pages, and
// scattered rows beside the full causal attention of the same kernel.
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "bench/quire-bench/benches.h"
#include "codecs/registry.h"
#include "kernels/quire_attention.h"

namespace quire::bench {
namespace {

constexpr uint32_t kChunkTokens = 256;
constexpr uint32_t kPageTokens = 64;
constexpr uint32_t kKvHeads = 4;
constexpr uint32_t kGroup = 4;
constexpr uint32_t kHeadDim = 128;
constexpr uint32_t kRowTokens = 2048;  // of the sequence whose rows are recomputed
constexpr double kRecomputedShare = 0.15;
constexpr int64_t kStartPosition = 1000;  // chunks are stored at 0
constexpr uint64_t kSectionAlignment = 64;

// Time that this thread ran: other processes do not count.
double thread_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

std::vector<uint16_t> random_bf16(uint64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values(n);
  for (uint16_t& value : values) {
    const float x = normal(random);
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    value = static_cast<uint16_t>(bits >> 16);
  }
  return values;
}

// A cache of `tokens` tokens in pages, and query rows.
struct Sequence {
  Sequence(uint32_t n_tokens, uint32_t n_rows)
      : tokens(n_tokens),
        key(random_bf16(uint64_t{n_tokens} * kKvHeads * kHeadDim, 1)),
        value(random_bf16(uint64_t{n_tokens} * kKvHeads * kHeadDim, 2)),
        query(random_bf16(uint64_t{n_rows} * kKvHeads * kGroup * kHeadDim, 3)),
        out(query.size()),
        block_table((n_tokens + kPageTokens - 1) / kPageTokens) {
    for (size_t i = 0; i < block_table.size(); ++i)
      block_table[i] = static_cast<int32_t>(block_table.size() - 1 - i);
  }

  quire_paged_kv pages() const {
    quire_paged_kv kv{};
    kv.dtype = QUIRE_DTYPE_BF16;
    kv.page_tokens = kPageTokens;
    kv.key = key.data();
    kv.value = value.data();
    kv.key_head_stride = kv.value_head_stride = kHeadDim * 2;
    kv.key_token_stride = kv.value_token_stride = kKvHeads * kHeadDim * 2;
    kv.key_page_stride = kv.value_page_stride = kv.key_token_stride * kPageTokens;
    kv.n_pages = static_cast<int64_t>(block_table.size());
    kv.block_table = block_table.data();
    kv.block_table_entries = block_table.size();
    return kv;
  }
  quire_head_rows rows(std::vector<uint16_t>& data) const {
    return {data.data(), QUIRE_DTYPE_BF16, kKvHeads * kGroup * kHeadDim * 2, kHeadDim * 2};
  }

  uint32_t tokens;
  std::vector<uint16_t> key;
  std::vector<uint16_t> value;
  std::vector<uint16_t> query;
  std::vector<uint16_t> out;
  std::vector<int32_t> block_table;
};

Status checked(int status) {
  if (status == QUIRE_KERNEL_OK) return Status::ok();
  return Status(StatusCode::kInternal, quire_kernel_status_name(status));
}

// The sections of one plane of a sequence, one for each chunk.
struct Sections {
  std::vector<uint64_t> words;  // 64-byte aligned from `first` on
  std::byte* first = nullptr;
  uint64_t bytes = 0;
  uint64_t stride = 0;  // from one chunk's to the next

  Status encode(const CodecInfo& codec, Plane plane, const Sequence& sequence) {
    QUIRE_ASSIGN_OR_RETURN(bytes, section_bytes(codec.id, plane, kChunkTokens, kKvHeads, kHeadDim));
    stride = (bytes + kSectionAlignment - 1) / kSectionAlignment * kSectionAlignment;
    const uint32_t chunks = sequence.tokens / kChunkTokens;
    words.assign((chunks * stride + kSectionAlignment) / 8, 0);
    auto* base = reinterpret_cast<std::byte*>(words.data());
    const uint64_t over = reinterpret_cast<uintptr_t>(base) % kSectionAlignment;
    first = base + (kSectionAlignment - over) % kSectionAlignment;
    quire_store_params p{};
    p.struct_bytes = sizeof(p);
    p.codec = static_cast<int32_t>(codec.id);
    p.plane = static_cast<int32_t>(plane);
    p.n_tokens = kChunkTokens;
    p.n_heads = kKvHeads;
    p.head_dim = kHeadDim;
    p.src_dtype = QUIRE_DTYPE_BF16;
    p.src_tokens = kChunkTokens;
    p.src_token_stride = kKvHeads * kHeadDim * 2;
    p.src_head_stride = kHeadDim * 2;
    p.src_dim_stride = 2;
    p.dst_bytes = bytes;
    const auto& source = plane == Plane::kKey ? sequence.key : sequence.value;
    for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
      p.src = source.data() + uint64_t{chunk} * kChunkTokens * kKvHeads * kHeadDim;
      p.dst = first + chunk * stride;
      QUIRE_RETURN_IF_ERROR(encode_section(p));
    }
    return Status::ok();
  }
};

class AttentionBench {
 public:
  AttentionBench(const AttentionBenchOptions& options, const ResultSink& sink)
      : options_(options),
        sink_(sink),
        sequence_(options.tokens / kChunkTokens * kChunkTokens, 1),
        frequencies_(kHeadDim / 2) {
    for (uint32_t i = 0; i < frequencies_.size(); ++i)
      frequencies_[i] = static_cast<float>(std::pow(1e4, -2.0 * i / kHeadDim));
  }

  Status decode(const CodecInfo& codec) {
    Sections keys;
    Sections values;
    QUIRE_RETURN_IF_ERROR(keys.encode(codec, Plane::kKey, sequence_));
    QUIRE_RETURN_IF_ERROR(values.encode(codec, Plane::kValue, sequence_));
    const uint32_t n = sequence_.tokens / kChunkTokens;
    std::vector<quire_chunk_kv> chunks(n);
    std::vector<quire_chunk_ref> refs(n);
    for (uint32_t i = 0; i < n; ++i) {
      quire_chunk_kv& chunk = chunks[i];
      chunk.key_codec = chunk.value_codec = static_cast<int32_t>(codec.id);
      chunk.frame = QUIRE_FRAME_LOCAL;
      chunk.n_tokens = kChunkTokens;
      chunk.key = keys.first + i * keys.stride;
      chunk.value = values.first + i * values.stride;
      chunk.key_bytes = keys.bytes;
      chunk.value_bytes = values.bytes;
      refs[i] = {i, 0, kChunkTokens, kStartPosition + int64_t{i} * kChunkTokens};
    }
    quire_decode_chunks_params stored = params();
    const quire_decode_request from_chunks{0, n, 0, 0};
    stored.chunks = chunks.data();
    stored.n_chunks = n;
    stored.refs = refs.data();
    stored.n_refs = n;
    stored.requests = &from_chunks;
    quire_decode_chunks_params paged = params();
    const quire_decode_request from_pages{0, 0, 0, sequence_.tokens};
    paged.requests = &from_pages;
    paged.tail = sequence_.pages();
    std::vector<double> rates;
    std::vector<double> floors;
    const double bytes = 4.0 * sequence_.tokens * kKvHeads * kHeadDim;
    for (uint32_t round = 0; round <= options_.rounds; ++round) {
      QUIRE_RETURN_IF_ERROR(options_.common.check_stop());
      const double start = thread_seconds();
      QUIRE_RETURN_IF_ERROR(checked(quire_decode_chunks(&paged)));
      const double middle = thread_seconds();
      QUIRE_RETURN_IF_ERROR(checked(quire_decode_chunks(&stored)));
      const double end = thread_seconds();
      if (round == 0) continue;  // warms pages and clocks
      floors.push_back(bytes / (middle - start));
      rates.push_back(bytes / (end - middle));
    }
    report("attention.decode", codec.name, rates, floors, 1e9, "GB/s", "bf16 pages");
    return Status::ok();
  }

  Status rows() {
    std::mt19937 random(5);
    std::vector<int64_t> all(kRowTokens);
    std::vector<int64_t> some;
    for (uint32_t i = 0; i < kRowTokens; ++i) {
      all[i] = i;
      if (random() < kRecomputedShare * 4294967296.0) some.push_back(i);
    }
    Sequence sequence(kRowTokens, kRowTokens);
    std::vector<double> rates;
    std::vector<double> floors;
    for (uint32_t round = 0; round <= std::min(options_.rounds, kRowRoundsMax); ++round) {
      QUIRE_RETURN_IF_ERROR(options_.common.check_stop());
      QUIRE_ASSIGN_OR_RETURN(const double floor, row_rate(sequence, all));
      QUIRE_ASSIGN_OR_RETURN(const double rate, row_rate(sequence, some));
      if (round == 0) continue;
      floors.push_back(floor);
      rates.push_back(rate);
    }
    report("attention.rows", "bf16 pages", rates, floors, 1e9, "GFLOP/s", "full causal");
    return Status::ok();
  }

 private:
  static constexpr uint32_t kRowRoundsMax = 3;

  quire_decode_chunks_params params() {
    quire_decode_chunks_params p{};
    p.struct_bytes = sizeof(p);
    p.n_requests = 1;
    p.n_query_heads = kKvHeads * kGroup;
    p.n_kv_heads = kKvHeads;
    p.dims = kHeadDim;
    p.query = sequence_.rows(sequence_.query);
    p.out = sequence_.rows(sequence_.out);
    p.scale = 1 / std::sqrt(static_cast<float>(kHeadDim));
    p.rope_style = QUIRE_ROPE_STYLE_NEOX;
    p.rotary_dims = kHeadDim;
    p.inverse_frequencies = frequencies_.data();
    return p;
  }

  Expected<double> row_rate(Sequence& sequence, const std::vector<int64_t>& positions) {
    quire_attend_rows_params p{};
    p.struct_bytes = sizeof(p);
    p.n_rows = static_cast<uint32_t>(positions.size());
    p.n_query_heads = kKvHeads * kGroup;
    p.n_kv_heads = kKvHeads;
    p.key_dims = p.value_dims = kHeadDim;
    p.query = sequence.rows(sequence.query);
    p.out = sequence.rows(sequence.out);
    p.q_pos = positions.data();
    p.kv = sequence.pages();
    p.kv_tokens = sequence.tokens;
    p.scale = 1 / std::sqrt(static_cast<float>(kHeadDim));
    const double start = thread_seconds();
    QUIRE_RETURN_IF_ERROR(checked(quire_attend_rows(&p)));
    const double seconds = thread_seconds() - start;
    double products = 0;
    for (int64_t position : positions) products += static_cast<double>(position + 1);
    return 4 * products * kKvHeads * kGroup * kHeadDim / seconds;
  }

  void report(const char* bench, std::string_view what, const std::vector<double>& rates,
              const std::vector<double>& floors, double unit_size, const char* unit,
              const char* floor_name) {
    Result result;
    result.bench = bench;
    result.params = {
        {"kv", what}, {"head_dim", kHeadDim}, {"group", kGroup}, {"isa", quire_kernel_isa_name()}};
    result.value = median(rates) / unit_size;
    result.unit = unit;
    result.floor = median(floors) / unit_size;
    result.floor_name = floor_name;
    for (size_t i = 0; i < rates.size(); ++i) result.round_ratios.push_back(rates[i] / floors[i]);
    sink_(std::move(result));
  }

  const AttentionBenchOptions& options_;
  const ResultSink& sink_;
  Sequence sequence_;
  std::vector<float> frequencies_;
};

// Those whose sections have one size: the decode kernel takes no others.
bool decodable(const CodecInfo& codec) {
  return quire_section_bytes(static_cast<int32_t>(codec.id), QUIRE_PLANE_KEY, kChunkTokens,
                             kKvHeads, kHeadDim) != 0;
}

}  // namespace

Status run_attention(const AttentionBenchOptions& options, const ResultSink& sink) {
  AttentionBench bench(options, sink);
  for (const CodecInfo& codec : codecs()) {
    if (!decodable(codec)) continue;
    options.common.say(std::string(codec.name));
    QUIRE_RETURN_IF_ERROR(bench.decode(codec));
  }
  options.common.say("rows");
  return bench.rows();
}

}  // namespace quire::bench
