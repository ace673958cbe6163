// Times of load and store for one 256-token chunk of an 8B model (32 layers, 8 KV heads of 128
// dims), pages of 16 rows in random order, against the bytes each must move.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>

#include "bench/gpu/codecs.h"
#include "bench/gpu/gpu.h"

namespace quire_gpu {
namespace {

constexpr uint32_t kLayers = 32;
constexpr uint32_t kTokens = 256;
constexpr uint32_t kHeads = 8;
constexpr uint32_t kDims = 128;
constexpr uint32_t kPageRows = 16;
constexpr uint32_t kRows = 1024;  // of an engine's layer
// Sets of buffers used in turn: together over the 60 MB of an H200's L2 cache.
constexpr int kSets = 4;
constexpr uint32_t kPinnedCtas = 8;

struct Bench {
  Bench()
      : engine(uint64_t{kSets} * kLayers * 2 * kRows * kHeads * kDims * 2, Where::kDevice),
        sections(uint64_t{kSets} * kLayers * 2 * kTokens * kHeads * kDims * 4, Where::kDevice),
        pinned(sections.bytes(), Where::kPinned),
        rows(kTokens * 8, Where::kDevice),
        table(kDims * 4, Where::kDevice),
        marks(kTokens, Where::kDevice),
        written(uint64_t{kSets} * kLayers * 2 * 8, Where::kDevice),
        status(4, Where::kDevice) {
    std::vector<uint8_t> salient(kTokens);
    for (uint32_t token = 0; token < kTokens; ++token) salient[token] = token % 5 == 0;
    marks.put(salient.data(), marks.bytes());
    std::vector<uint32_t> pages(kRows / kPageRows);
    std::iota(pages.begin(), pages.end(), 0u);
    std::shuffle(pages.begin(), pages.end(), std::mt19937(4));
    std::vector<int64_t> numbers(kTokens);
    for (uint32_t i = 0; i < kTokens; ++i)
      numbers[i] = int64_t{pages[i / kPageRows]} * kPageRows + i % kPageRows;
    rows.put(numbers.data(), rows.bytes());
    std::vector<float> turn(kDims);
    for (uint32_t j = 0; j < kDims / 2; ++j) {
      turn[2 * j] = static_cast<float>(std::cos(0.1 * j));
      turn[2 * j + 1] = static_cast<float>(std::sin(0.1 * j));
    }
    table.put(turn.data(), table.bytes());
    status.fill(0);
    std::vector<uint16_t> noise(1 << 20);
    std::mt19937 random(6);
    // bf16 of magnitudes 2^-3 .. 2.
    for (uint16_t& one : noise)
      one = static_cast<uint16_t>(0x3e00 + random() % 0x200 + (random() % 2) * 0x8000);
    for (uint64_t at = 0; at < engine.bytes(); at += noise.size() * 2)
      check_cuda(
          cudaMemcpy(engine.data() + at, noise.data(),
                     std::min<uint64_t>(noise.size() * 2, engine.bytes() - at), cudaMemcpyDefault),
          "filling");
  }

  quire_rotation rotation() const {
    return {QUIRE_ROPE_STYLE_NEOX, kDims, reinterpret_cast<const float*>(table.data()), 0};
  }
  unsigned char* engine_of(int set, uint32_t plane_of_layer) const {
    return engine.data() +
           (uint64_t(set) * kLayers * 2 + plane_of_layer) * kRows * kHeads * kDims * 2;
  }
  // Where the kernel leaves a section's size.
  uint64_t* size_of(int set, uint32_t plane_of_layer) const {
    return reinterpret_cast<uint64_t*>(written.data()) + uint64_t(set) * kLayers * 2 +
           plane_of_layer;
  }
  // Sections of a set follow each other, 64-byte aligned, with room for the largest.
  template <typename Make>
  auto batch(int32_t codec, int set, const Buffer& where, Make make) const {
    const bool variable = quire_kernels::variable_size(codec);
    std::vector<decltype(make(SectionShape{}, nullptr, nullptr, 0u))> calls;
    uint64_t at = where.bytes() / kSets * static_cast<uint64_t>(set);
    for (uint32_t i = 0; i < 2 * kLayers; ++i) {
      SectionShape shape{codec, static_cast<int32_t>(i % 2), kTokens, kHeads, kDims};
      shape.salient = marks.data();
      if (variable && !sizes.empty()) shape.stored_bytes = sizes[uint64_t(set) * kLayers * 2 + i];
      calls.push_back(make(shape, where.data() + at, engine_of(set, i), i));
      at += (shape.section_bytes() + 63) / 64 * 64;
    }
    return calls;
  }

  // What the last store of variable size made.
  void read_sizes() {
    sizes.resize(written.bytes() / 8);
    check_cuda(cudaMemcpy(sizes.data(), written.data(), written.bytes(), cudaMemcpyDefault),
               "sizes of sections");
  }

  Buffer engine, sections, pinned, rows, table, marks, written, status;
  std::vector<uint64_t> sizes;
};

uint64_t chunk_bytes(const Bench& bench, int32_t codec) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < 2 * kLayers; ++i)
    bytes += quire_kernels::variable_size(codec)
                 ? bench.sizes[i]
                 : quire_section_bytes(codec, static_cast<int32_t>(i % 2), kTokens, kHeads, kDims);
  return bytes;
}
constexpr uint64_t kEngineBytes = uint64_t{2} * kLayers * kTokens * kHeads * kDims * 2;

double time_store(const Bench& bench, const NamedCodec& codec, const Buffer& where, int32_t path) {
  const auto* rows = reinterpret_cast<const int64_t*>(bench.rows.data());
  std::vector<std::vector<quire_store_params>> sets;
  for (int set = 0; set < kSets; ++set)
    sets.push_back(bench.batch(
        codec.codec, set, where,
        [&](const SectionShape& shape, void* section, void* engine, uint32_t i) {
          return store_of(
              shape, engine, section, rows, kRows, bench.rotation(),
              quire_kernels::variable_size(codec.codec) ? bench.size_of(set, i) : nullptr);
        }));
  quire_cuda_launch launch =
      launch_of(stream(), reinterpret_cast<int32_t*>(bench.status.data()), QUIRE_CUDA_PATH_DIRECT);
  launch.store_path = path;
  return median_microseconds([&](int i) {
    const auto& calls = sets[static_cast<size_t>(i % kSets)];
    quire_cuda_store_batch(calls.data(), calls.size(), &launch, nullptr);
  });
}

double time_load(const Bench& bench, const NamedCodec& codec, const Buffer& where, int32_t path,
                 uint32_t ctas, bool rotated = true) {
  const auto* rows = reinterpret_cast<const int64_t*>(bench.rows.data());
  std::vector<std::vector<quire_load_params>> sets;
  for (int set = 0; set < kSets; ++set)
    sets.push_back(bench.batch(
        codec.codec, set, where,
        [&](const SectionShape& shape, void* section, void* engine, uint32_t) {
          quire_load_params p = load_of(shape, section, engine, rows, kRows,
                                        rotated ? bench.rotation() : quire_rotation{});
          if (path ==
              QUIRE_CUDA_PATH_COPY) {  // what plain copies can do: heads first, rows in order
            p.dst_token = nullptr;
            p.dst_token_stride = kDims * 2;
            p.dst_head_stride = int64_t{kRows} * kDims * 2;
          }
          return p;
        }));
  const quire_cuda_launch launch =
      launch_of(stream(), reinterpret_cast<int32_t*>(bench.status.data()), path, ctas);
  return median_microseconds([&](int i) {
    const auto& calls = sets[static_cast<size_t>(i % kSets)];
    quire_cuda_load_batch(calls.data(), calls.size(), &launch, nullptr);
  });
}

void time_peers(const Bench& bench, const Ceilings& ceilings, Table* table) {
  const double floor = static_cast<double>(kEngineBytes) / ceilings.host_to_device;
  const uint64_t plane_bytes = kEngineBytes / kLayers / 2;
  const double loop = median_microseconds([&](int i) {
    const uint64_t from = bench.pinned.bytes() / kSets * static_cast<uint64_t>(i % kSets);
    for (uint32_t plane = 0; plane < 2 * kLayers; ++plane)
      for (uint32_t page = 0; page < kTokens / kPageRows; ++page) {
        const uint64_t page_bytes = plane_bytes / (kTokens / kPageRows);
        check_cuda(
            cudaMemcpyAsync(bench.engine_of(i % kSets, plane) + page * page_bytes,
                            bench.pinned.data() + from + plane * plane_bytes + page * page_bytes,
                            page_bytes, cudaMemcpyDefault, stream()),
            "cudaMemcpyAsync");
      }
  });
  table->add({"peer", "raw-bf16: cudaMemcpyAsync per page", loop, floor, "no rotation"});
  Buffer staging(kEngineBytes, Where::kDevice);
  Buffer cos_sin(uint64_t{kTokens} * kDims * 2, Where::kDevice);
  cos_sin.fill(0x3f);
  const double passes = median_microseconds([&](int i) {
    const uint64_t from = bench.pinned.bytes() / kSets * static_cast<uint64_t>(i % kSets);
    for (uint32_t plane = 0; plane < 2 * kLayers; ++plane)
      check_cuda(static_cast<cudaError_t>(run_three_pass(
                     {bench.pinned.data() + from + plane * plane_bytes,
                      staging.data() + plane * plane_bytes, bench.engine_of(i % kSets, plane),
                      reinterpret_cast<const int64_t*>(bench.rows.data()),
                      plane % 2 == 0 ? reinterpret_cast<const uint16_t*>(cos_sin.data()) : nullptr,
                      kTokens, kHeads, kDims},
                     stream())),
                 "three passes");
  });
  table->add({"peer", "raw-bf16: copy + rotate + scatter", passes, floor, "three passes"});
}

// Each way of storing beside the others, to the device and to pinned memory.
void time_stores(Bench* bench, const NamedCodec& codec, const Ceilings& ceilings, Table* table) {
  struct {
    const Buffer* where;
    const char* name;
    double rate;
  } const places[] = {{&bench->pinned, "pinned", ceilings.device_to_host},
                      {&bench->sections, "device", ceilings.device_copy}};
  for (const auto& place : places) {
    std::vector<std::pair<std::string, double>> times;
    for (const NamedPath& path : store_paths(codec.codec))
      times.emplace_back(std::string(codec.name) + " to " + place.name + ", " + path.name,
                         time_store(*bench, codec, *place.where, path.path));
    if (quire_kernels::variable_size(codec.codec)) bench->read_sizes();
    const double bytes = static_cast<double>(chunk_bytes(*bench, codec.codec));
    const bool pinned = place.where == &bench->pinned;
    const double moved = pinned ? bytes : bytes + static_cast<double>(kEngineBytes);
    char note[32];
    snprintf(note, sizeof(note), "%.3f of bf16", bytes / static_cast<double>(kEngineBytes));
    for (const auto& [name, time] : times)
      table->add({"store", name, time, moved / place.rate, note});
  }
}

// Sections lie on the device and in pinned memory.
void time_loads(const Bench& bench, const NamedCodec& codec, const Ceilings& ceilings,
                Table* table) {
  const double bytes = static_cast<double>(chunk_bytes(bench, codec.codec));
  const double floor = (bytes + static_cast<double>(kEngineBytes)) / ceilings.device_copy;
  const double bus_floor = bytes / ceilings.host_to_device;
  const std::string name = codec.name;
  for (const NamedPath& path : load_paths(codec.codec))
    table->add({"load", name + " from device, " + path.name,
                time_load(bench, codec, bench.sections, path.path, 0), floor, ""});
  for (const NamedPath& path : load_paths(codec.codec))
    table->add({"load", name + " from pinned, " + path.name + ", 8 CTAs",
                time_load(bench, codec, bench.pinned, path.path, kPinnedCtas), bus_floor, ""});
}

}  // namespace

void time_codecs(const Ceilings& ceilings, Table* table) {
  Bench bench;
  for (const NamedCodec& codec : quire_kernels::kKernelCodecs) {
    time_stores(&bench, codec, ceilings, table);
    check_cuda(cudaMemcpy(bench.pinned.data(), bench.sections.data(), bench.sections.bytes(),
                          cudaMemcpyDefault),
               "sections to the host");
    time_loads(bench, codec, ceilings, table);
  }
  table->add({"load", "raw-bf16 from pinned, batched copy",
              time_load(bench, NamedCodec{QUIRE_CODEC_RAW_BF16, "raw-bf16"}, bench.pinned,
                        QUIRE_CUDA_PATH_COPY, 0, false),
              static_cast<double>(kEngineBytes) / ceilings.host_to_device, "no rotation"});
  time_peers(bench, ceilings, table);
  int32_t status = 0;
  check_cuda(cudaMemcpy(&status, bench.status.data(), 4, cudaMemcpyDefault), "status");
  if (status != 0)
    fprintf(stderr, "gpu_check: a timed kernel reported %s\n", quire_kernel_status_name(status));
}

}  // namespace quire_gpu
