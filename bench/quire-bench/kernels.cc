// Loads and stores of every codec against memcpy, one thread, engine memory beyond the cache.
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <random>

#include "bench/quire-bench/benches.h"
#include "codecs/registry.h"

namespace quire::bench {
namespace {

constexpr uint32_t kSectionTokens = 256;
constexpr uint32_t kHeads = 8;
constexpr uint32_t kHeadDims[] = {128, 64};
constexpr int64_t kMovePositions = 1000;
constexpr double kSalientShare = 0.2;
// A section begins on a page, as in the tiers.
constexpr uint64_t kSectionAlignment = 4096;

struct Goals {
  double load;
  double store;
};
// Of int8 and int4 (which K and V share); the others are for comparison.
Goals goals_of(CodecId codec) {
  switch (codec) {
    case CodecId::kInt8Channel:
      return {0.60, 0.40};
    case CodecId::kInt4Channel64:
    case CodecId::kInt4Channel128:
      return {0.60, 0.35};
    case CodecId::kBf16Exp4:
    case CodecId::kBf16Window3:
      return {0.50, 0.50};
    default:
      return {0, 0};
  }
}

// Time that this thread ran: other processes do not count.
double thread_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct FreeAligned {
  void operator()(std::byte* memory) const {
    ::operator delete[](memory, std::align_val_t{kSectionAlignment});
  }
};
using Memory = std::unique_ptr<std::byte[], FreeAligned>;
Memory allocate(uint64_t bytes) {
  Memory memory(
      static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{kSectionAlignment})));
  std::memset(memory.get(), 1, bytes);
  return memory;
}

// Engine memory [token][head][dim] of bf16: channels with a constant part, as real keys have.
void fill_like_keys(std::byte* memory, uint64_t bytes, uint32_t head_dim) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const uint64_t row = uint64_t{kHeads} * head_dim;
  const uint64_t section_bytes = kSectionTokens * row * 2;
  std::vector<float> means(row);
  std::vector<float> spreads(row);
  for (uint64_t i = 0; i < row; ++i) {
    means[i] = 4 * normal(random);
    spreads[i] = std::exp(normal(random));
  }
  for (uint64_t i = 0; i < kSectionTokens * row; ++i) {
    const float value = means[i % row] + spreads[i % row] * normal(random);
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const auto narrow = static_cast<uint16_t>(bits >> 16);
    std::memcpy(memory + 2 * i, &narrow, 2);
  }
  for (uint64_t at = section_bytes; at < bytes; at += section_bytes)
    std::memcpy(memory + at, memory, std::min(section_bytes, bytes - at));
}

// The two engine memories and the sections between them.
class KernelBench {
 public:
  KernelBench(const KernelBenchOptions& options, const ResultSink& sink, uint32_t head_dim)
      : options_(options),
        sink_(sink),
        head_dim_(head_dim),
        engine_bytes_(uint64_t{kSectionTokens} * kHeads * head_dim * 2),
        sections_(std::max<uint64_t>(1, options.bytes / engine_bytes_)),
        bytes_(sections_ * engine_bytes_),
        source_(allocate(bytes_)),
        target_(allocate(bytes_)),
        salient_(kSectionTokens) {
    fill_like_keys(source_.get(), bytes_, head_dim);
    for (uint32_t i = 0; i < kSectionTokens; ++i)
      salient_[i] = i * 2654435761u < kSalientShare * 4294967296.0 ? 1 : 0;
  }

  Status run(const CodecInfo& codec, Plane plane) {
    QUIRE_RETURN_IF_ERROR(make_tables());
    QUIRE_ASSIGN_OR_RETURN(const uint64_t most,
                           section_bytes(codec.id, plane, kSectionTokens, kHeads, head_dim_));
    const uint64_t stride = (most + kSectionAlignment - 1) / kSectionAlignment * kSectionAlignment;
    Memory stored = allocate(sections_ * stride);
    sizes_.assign(sections_, most);
    std::vector<double> copies;
    std::vector<double> loads;
    std::vector<double> stores;
    for (uint32_t round = 0; round <= options_.rounds; ++round) {
      QUIRE_RETURN_IF_ERROR(options_.common.check_stop());
      const double start = thread_seconds();
      std::memcpy(target_.get(), source_.get(), bytes_);
      const double copied = thread_seconds();
      QUIRE_RETURN_IF_ERROR(store_all(codec.id, plane, stored.get(), stride, most));
      const double written = thread_seconds();
      QUIRE_RETURN_IF_ERROR(load_all(codec.id, plane, stored.get(), stride));
      const double loaded = thread_seconds();
      if (round == 0) continue;  // warms pages and clocks
      copies.push_back(static_cast<double>(bytes_) / (copied - start));
      stores.push_back(static_cast<double>(bytes_) / (written - copied));
      loads.push_back(static_cast<double>(bytes_) / (loaded - written));
    }
    const Goals goals = goals_of(codec.id);
    report("kernels.load", codec, plane, loads, copies, goals.load);
    report("kernels.store", codec, plane, stores, copies, goals.store);
    return Status::ok();
  }

 private:
  Status make_tables() {
    if (!undo_.empty()) return Status::ok();
    std::vector<float> frequencies(head_dim_ / 2);
    for (uint32_t i = 0; i < frequencies.size(); ++i)
      frequencies[i] = static_cast<float>(std::pow(1e4, -2.0 * i / head_dim_));
    undo_.resize(uint64_t{kSectionTokens} * head_dim_);
    move_.resize(head_dim_);
    quire_rope_params p{};
    p.struct_bytes = sizeof(p);
    p.mode = QUIRE_ROPE_MODE_EXACT;
    p.flags = QUIRE_ROPE_FROM_SRC;
    p.n_tokens = kSectionTokens;
    p.rotary_dims = head_dim_;
    p.inverse_frequencies = frequencies.data();
    p.table = undo_.data();
    p.table_bytes = undo_.size() * 4;
    QUIRE_RETURN_IF_ERROR(make_rope_table(p));
    p.flags = QUIRE_ROPE_FROM_SRC | QUIRE_ROPE_TO_DST;
    p.dst_pos = kMovePositions;
    p.n_tokens = 1;
    p.table = move_.data();
    p.table_bytes = move_.size() * 4;
    return make_rope_table(p);
  }

  // K is un-rotated by a rotation of its own for each token.
  Status store_all(CodecId codec, Plane plane, std::byte* stored, uint64_t stride, uint64_t most) {
    quire_store_params p{};
    p.struct_bytes = sizeof(p);
    p.codec = static_cast<int32_t>(codec);
    p.plane = static_cast<int32_t>(plane);
    p.n_tokens = kSectionTokens;
    p.n_heads = kHeads;
    p.head_dim = head_dim_;
    p.src_dtype = QUIRE_DTYPE_BF16;
    p.src_tokens = kSectionTokens;
    p.src_token_stride = int64_t{kHeads} * head_dim_ * 2;
    p.src_head_stride = int64_t{head_dim_} * 2;
    p.src_dim_stride = 2;
    if (plane == Plane::kKey)
      p.rotation = {QUIRE_ROPE_STYLE_NEOX, head_dim_, undo_.data(), int64_t{head_dim_} * 4};
    p.salient = salient_.data();
    p.dst_bytes = most;
    for (uint64_t i = 0; i < sections_; ++i) {
      p.src = source_.get() + i * engine_bytes_;
      p.dst = stored + i * stride;
      p.dst_written = &sizes_[i];
      QUIRE_RETURN_IF_ERROR(encode_section(p));
    }
    return Status::ok();
  }

  // K moves to another position by one rotation.
  Status load_all(CodecId codec, Plane plane, const std::byte* stored, uint64_t stride) {
    quire_load_params p{};
    p.struct_bytes = sizeof(p);
    p.codec = static_cast<int32_t>(codec);
    p.plane = static_cast<int32_t>(plane);
    p.n_tokens = p.token_end = kSectionTokens;
    p.n_heads = kHeads;
    p.head_dim = head_dim_;
    p.dst_dtype = QUIRE_DTYPE_BF16;
    p.dst_tokens = kSectionTokens;
    p.dst_token_stride = int64_t{kHeads} * head_dim_ * 2;
    p.dst_head_stride = int64_t{head_dim_} * 2;
    p.dst_dim_stride = 2;
    if (plane == Plane::kKey) p.rotation = {QUIRE_ROPE_STYLE_NEOX, head_dim_, move_.data(), 0};
    loads_.clear();
    for (uint64_t i = 0; i < sections_; ++i) {
      p.src = stored + i * stride;
      p.src_bytes = sizes_[i];
      p.dst = target_.get() + i * engine_bytes_;
      loads_.push_back(p);
    }
    // In one call, as the layers of a representation are.
    return decode_sections(loads_);
  }

  void report(const char* bench, const CodecInfo& codec, Plane plane,
              const std::vector<double>& rates, const std::vector<double>& copies, double goal) {
    Result result;
    result.bench = bench;
    const double bits =
        8.0 * static_cast<double>(sizes_[0]) * 2 / static_cast<double>(engine_bytes_);
    result.params = {{"codec", codec.name},
                     {"plane", plane == Plane::kKey ? "k" : "v"},
                     {"head_dim", head_dim_},
                     {"bits_per_element", std::round(bits * 1000) / 1000},
                     {"isa", quire_kernel_isa_name()}};
    result.value = median(rates) / 1e9;
    result.unit = "GB/s";
    result.floor = median(copies) / 1e9;
    result.floor_name = "memcpy";
    for (size_t i = 0; i < rates.size(); ++i) result.round_ratios.push_back(rates[i] / copies[i]);
    if (goal > 0) result.goal = {GoalKind::kRatioMin, goal};
    sink_(std::move(result));
  }

  const KernelBenchOptions& options_;
  const ResultSink& sink_;
  uint32_t head_dim_;
  uint64_t engine_bytes_;  // of one section
  uint64_t sections_;
  uint64_t bytes_;
  Memory source_;
  Memory target_;
  std::vector<quire_load_params> loads_;
  std::vector<uint8_t> salient_;
  std::vector<uint64_t> sizes_;
  std::vector<float> undo_;
  std::vector<float> move_;
};

}  // namespace

Status run_kernels(const KernelBenchOptions& options, const ResultSink& sink) {
  for (const std::string& name : options.codecs) QUIRE_RETURN_IF_ERROR(find_codec(name).status());
  for (const uint32_t head_dim : kHeadDims) {
    KernelBench bench(options, sink, head_dim);
    for (const CodecInfo& codec : codecs()) {
      const auto& wanted = options.codecs;
      if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), codec.name) == wanted.end())
        continue;
      options.common.say(std::string(codec.name) + ", " + std::to_string(head_dim) + " dims");
      for (const Plane plane : {Plane::kKey, Plane::kValue})
        QUIRE_RETURN_IF_ERROR(bench.run(codec, plane));
    }
  }
  return Status::ok();
}

}  // namespace quire::bench
