// Measures which path moves a section fastest, from pinned and from device memory, by size of a run
// and number of runs, and which way of storing is the fastest. The times decide, never a constant:
// the crossover between copy engines and kernels moves with the bus, the driver and the number of
// runs.
#include <vector>

#include "kernels/cuda/runtime.cuh"
#include "kernels/cuda/transfer.h"

#ifdef QUIRE_ON_CPU

extern "C" int quire_cuda_calibrate(struct quire_cuda_table*) {
  return QUIRE_KERNEL_UNSUPPORTED;  // times of the executor mean nothing
}

#else

namespace quire_cuda {
namespace {

constexpr uint64_t kScratchBytes = 96ull << 20;
constexpr uint64_t kCellBytesMax = 64ull << 20;
constexpr uint64_t kRunBytesLeast = 4096;
constexpr uint32_t kHeadDim = 128;
constexpr uint64_t kRowBytes = 2 * kHeadDim;
constexpr uint32_t kStoreTokens = 256;
constexpr uint32_t kStoreHeads = 8;
constexpr uint64_t kStoreEngineBytes = kStoreTokens * kStoreHeads * kRowBytes;
constexpr uint64_t kStores = 64;
static_assert(kStores * kStoreEngineBytes <= kScratchBytes);
constexpr int kRepeats = 3;
constexpr uint32_t kCtasTried[] = {1, 2, 4, 8, 16, 32};
constexpr float kEnoughOfBest = 0.95f;

class Scratch {
 public:
  Scratch() {
    ok_ = cudaHostAlloc(&host, kScratchBytes, cudaHostAllocMapped) == cudaSuccess &&
          cudaMalloc(&device, kScratchBytes) == cudaSuccess &&
          cudaMalloc(&device_source, kScratchBytes) == cudaSuccess &&
          cudaMemset(device_source, 0, kScratchBytes) == cudaSuccess &&
          cudaMalloc(&status, sizeof(int32_t)) == cudaSuccess &&
          cudaMemset(status, 0, sizeof(int32_t)) == cudaSuccess &&
          cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess &&
          cudaEventCreate(&begin) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess;
    if (ok_) memset(host, 0, kScratchBytes);
  }
  ~Scratch() {
    if (begin != nullptr) cudaEventDestroy(begin);
    if (end != nullptr) cudaEventDestroy(end);
    if (stream != nullptr) cudaStreamDestroy(stream);
    cudaFree(status);
    cudaFree(device);
    cudaFree(device_source);
    cudaFreeHost(host);
    cudaGetLastError();
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  bool ok() const { return ok_; }

  void* host = nullptr;
  void* device = nullptr;
  void* device_source = nullptr;
  int32_t* status = nullptr;
  cudaStream_t stream = nullptr;
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;

 private:
  bool ok_ = false;
};

std::vector<quire_load_params> make_runs(const Scratch& scratch, bool from_host, uint64_t run_bytes,
                                         uint64_t n) {
  std::vector<quire_load_params> runs(n);
  for (uint64_t i = 0; i < n; ++i) {
    quire_load_params& p = runs[i];
    p = {};
    p.struct_bytes = sizeof(p);
    p.codec = QUIRE_CODEC_RAW_BF16;
    p.dst_dtype = QUIRE_DTYPE_BF16;
    p.n_tokens = static_cast<uint32_t>(run_bytes / kRowBytes);
    p.n_heads = 1;
    p.head_dim = kHeadDim;
    p.token_end = p.n_tokens;
    p.src = static_cast<unsigned char*>(from_host ? scratch.host : scratch.device_source) +
            i * run_bytes;
    p.src_bytes = run_bytes;
    p.dst = static_cast<unsigned char*>(scratch.device) + i * run_bytes;
    p.dst_tokens = p.n_tokens;
    p.dst_token_stride = kRowBytes;
    p.dst_head_stride = kRowBytes;
    p.dst_dim_stride = 2;
  }
  return runs;
}

quire_cuda_launch launch_of(const Scratch& scratch) {
  quire_cuda_launch launch = {};
  launch.struct_bytes = sizeof(launch);
  launch.stream = scratch.stream;
  launch.device_status = scratch.status;
  return launch;
}

// Microseconds of the fastest of some repeats of queue(); 0 where it fails.
template <typename Queue>
float time_of(const Scratch& scratch, Queue queue) {
  float best = 0.0f;
  for (int repeat = 0; repeat <= kRepeats; ++repeat) {
    float milliseconds = 0.0f;
    if (cudaEventRecord(scratch.begin, scratch.stream) != cudaSuccess ||
        queue() != QUIRE_KERNEL_OK || cudaEventRecord(scratch.end, scratch.stream) != cudaSuccess ||
        cudaEventSynchronize(scratch.end) != cudaSuccess ||
        cudaEventElapsedTime(&milliseconds, scratch.begin, scratch.end) != cudaSuccess)
      return 0.0f;
    const float microseconds = milliseconds * 1000.0f;
    if (repeat > 0 && (best == 0.0f || microseconds < best)) best = microseconds;
  }
  return best;
}

float time_runs(const Scratch& scratch, const std::vector<quire_load_params>& runs, int32_t path,
                uint32_t max_ctas) {
  quire_cuda_launch launch = launch_of(scratch);
  launch.max_ctas = max_ctas;
  launch.path = path;
  return time_of(scratch,
                 [&] { return quire_cuda_load_batch(runs.data(), runs.size(), &launch, nullptr); });
}

void measure_ctas(const Scratch& scratch, quire_cuda_table* table) {
  const auto runs = make_runs(scratch, true, 1 << 20, kCellBytesMax >> 20);
  float times[sizeof(kCtasTried) / sizeof(kCtasTried[0])];
  float best = 0.0f;
  uint32_t n = 0;
  for (uint32_t ctas : kCtasTried) {
    times[n] = time_runs(scratch, runs, QUIRE_CUDA_PATH_RING, ctas);
    if (times[n] > 0.0f && (best == 0.0f || times[n] < best)) best = times[n];
    ++n;
  }
  for (uint32_t i = 0; i < n; ++i)
    if (times[i] > 0.0f && best >= kEnoughOfBest * times[i]) {
      table->host_ctas = kCtasTried[i];
      return;
    }
}

bool has_bulk() {
  DeviceTraits traits;
  return device_traits(&traits) == 0 && traits.compute_capability >= 90;
}

void measure_paths(const Scratch& scratch, bool from_host, quire_cuda_table* table) {
  const bool bulk = has_bulk();
  uint64_t run_bytes = kRunBytesLeast;
  for (uint32_t row = 0; row < QUIRE_CUDA_TABLE_BYTES; ++row, run_bytes *= 4) {
    uint64_t n = 1;
    for (uint32_t column = 0; column < QUIRE_CUDA_TABLE_RUNS; ++column, n *= 8) {
      if (run_bytes * n > kCellBytesMax) break;
      const auto runs = make_runs(scratch, from_host, run_bytes, n);
      for (int32_t path = QUIRE_CUDA_PATH_DIRECT; path <= QUIRE_CUDA_PATH_RING_ASYNC; ++path) {
        if (path == QUIRE_CUDA_PATH_COPY && !from_host) continue;
        if (path == QUIRE_CUDA_PATH_RING && !bulk) continue;  // it would be RING_ASYNC
        *path_time(table, from_host, path, row, column) = time_runs(scratch, runs, path, 0);
      }
    }
  }
}

std::vector<quire_store_params> make_stores(const Scratch& scratch, bool to_host, bool runs) {
  std::vector<quire_store_params> stores(kStores);
  for (uint64_t i = 0; i < kStores; ++i) {
    quire_store_params& p = stores[i];
    p = {};
    p.struct_bytes = sizeof(p);
    p.codec = runs ? QUIRE_CODEC_INT4_CHANNEL64 : QUIRE_CODEC_RAW_BF16;
    p.plane = QUIRE_PLANE_KEY;
    p.n_tokens = kStoreTokens;
    p.n_heads = kStoreHeads;
    p.head_dim = kHeadDim;
    p.src_dtype = QUIRE_DTYPE_BF16;
    p.src = static_cast<unsigned char*>(scratch.device_source) + i * kStoreEngineBytes;
    p.src_tokens = kStoreTokens;
    p.src_token_stride = kStoreHeads * kRowBytes;
    p.src_head_stride = kRowBytes;
    p.src_dim_stride = 2;
    p.dst = static_cast<unsigned char*>(to_host ? scratch.host : scratch.device) +
            i * kStoreEngineBytes;
    p.dst_bytes = quire_section_bytes_max(p.codec, p.plane, p.n_tokens, p.n_heads, p.head_dim);
  }
  return stores;
}

void measure_stores(const Scratch& scratch, quire_cuda_table* table) {
  const bool bulk = has_bulk();
  for (const bool to_host : {false, true})
    for (const bool runs : {false, true}) {
      const auto stores = make_stores(scratch, to_host, runs);
      for (int32_t path = QUIRE_CUDA_STORE_PLAIN; path <= QUIRE_CUDA_STORE_BULK; ++path) {
        if (path == QUIRE_CUDA_STORE_BULK && !bulk) continue;  // it would be PLAIN
        quire_cuda_launch launch = launch_of(scratch);
        launch.store_path = path;
        table->store_microseconds[path - 1][to_host][runs] = time_of(scratch, [&] {
          return quire_cuda_store_batch(stores.data(), stores.size(), &launch, nullptr);
        });
      }
    }
}

}  // namespace
}  // namespace quire_cuda

extern "C" int quire_cuda_calibrate(struct quire_cuda_table* table) {
  using namespace quire_cuda;
  if (table == nullptr) return QUIRE_KERNEL_INVALID_ARGUMENT;
  if (table->struct_bytes != sizeof(*table)) return QUIRE_KERNEL_BAD_STRUCT;
  *table = {};
  table->struct_bytes = sizeof(*table);
  const Scratch scratch;
  if (!scratch.ok()) return QUIRE_KERNEL_UNSUPPORTED;
  for (const bool from_host : {true, false}) measure_paths(scratch, from_host, table);
  measure_stores(scratch, table);
  choose_paths(table);
  measure_ctas(scratch, table);
  return QUIRE_KERNEL_OK;
}

#endif
