#include "kernels/cuda/runtime.cuh"
#include "kernels/cuda/transfer.h"
#ifndef QUIRE_ON_CPU
#include <cuda.h>
#endif

namespace quire_cuda {
namespace {

#ifndef QUIRE_ON_CPU
constexpr unsigned int kBatchVersion = 12080;  // the first CUDA with cuMemcpyBatchAsync
using BatchFunction = CUresult (*)(CUdeviceptr*, CUdeviceptr*, size_t*, size_t, CUmemcpyAttributes*,
                                   size_t*, size_t, size_t*, CUstream);

BatchFunction batch_function() {
  static const BatchFunction function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    if (cudaGetDriverEntryPointByVersion("cuMemcpyBatchAsync", &found, kBatchVersion,
                                         cudaEnableDefault, &result) != cudaSuccess ||
        result != cudaDriverEntryPointSuccess) {
      cudaGetLastError();  // an old driver is not an error of a later call
      found = nullptr;
    }
    return reinterpret_cast<BatchFunction>(found);
  }();
  return function;
}

bool copy_as_batch(void** to, const void** from, size_t* bytes, size_t n, void* stream) {
  const BatchFunction function = batch_function();
  if (function == nullptr || stream == nullptr || stream == cudaStreamLegacy) return false;
  CUmemcpyAttributes attributes = {};
  attributes.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
  attributes.flags = CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE;
  size_t first = 0;
  size_t failed = 0;
  return function(reinterpret_cast<CUdeviceptr*>(to),
                  reinterpret_cast<CUdeviceptr*>(const_cast<void**>(from)), bytes, n, &attributes,
                  &first, 1, &failed, static_cast<CUstream>(stream)) == CUDA_SUCCESS;
}
#else
bool copy_as_batch(void**, const void**, size_t*, size_t, void*) {
  return false;
}
#endif

// The step of the table's axis, start * factor^step, that is nearest in ratio.
uint32_t nearest_step(uint64_t value, uint64_t start, uint64_t factor, uint32_t steps) {
  uint32_t step = 0;
  for (uint64_t at = start; step + 1 < steps && value * value > at * at * factor; ++step)
    at *= factor;
  return step;
}

}  // namespace

int CopyBatch::add(void* to, const void* from, uint64_t bytes) {
  if (n_ == kCopiesMax)
    if (int error = flush()) return error;
  to_[n_] = to;
  from_[n_] = from;
  bytes_[n_] = bytes;
  ++n_;
  return 0;
}

int CopyBatch::flush() {
  const uint32_t n = n_;
  n_ = 0;
  if (n == 0 || copy_as_batch(to_, from_, bytes_, n, stream_)) return 0;
  for (uint32_t i = 0; i < n; ++i)
    if (int error = copy_async(to_[i], from_[i], bytes_[i], stream_)) return error;
  return 0;
}

bool is_host_memory(const void* pointer) {
#ifdef QUIRE_ON_CPU
  return pointer != nullptr && ::quire_executor::device().host_memory;
#else
  cudaPointerAttributes attributes;
  if (cudaPointerGetAttributes(&attributes, pointer) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return attributes.type == cudaMemoryTypeHost;
#endif
}

namespace {

float time_of(const quire_cuda_table& table, bool from_host, int32_t path, uint32_t row,
              uint32_t column) {
  return *path_time(const_cast<quire_cuda_table*>(&table), from_host, path, row, column);
}

// The fastest path that was measured; 0 where none was.
int32_t fastest_path(const quire_cuda_table& table, bool from_host, bool copies, uint32_t row,
                     uint32_t column) {
  int32_t best = 0;
  for (int32_t path = QUIRE_CUDA_PATH_DIRECT; path <= QUIRE_CUDA_PATH_RING_ASYNC; ++path) {
    if (path == QUIRE_CUDA_PATH_COPY && !copies) continue;
    const float time = time_of(table, from_host, path, row, column);
    if (time > 0 && (best == 0 || time < time_of(table, from_host, best, row, column))) best = path;
  }
  return best;
}

}  // namespace

float* path_time(quire_cuda_table* table, bool from_host, int32_t path, uint32_t row,
                 uint32_t column) {
  if (!from_host) return &table->device_microseconds[path - 1][row][column];
  return path == QUIRE_CUDA_PATH_RING_ASYNC ? &table->async_microseconds[row][column]
                                            : &table->microseconds[path - 1][row][column];
}

int32_t path_from_table(const quire_cuda_table& table, const Transfer& transfer) {
  if (!transfer.from_host && !transfer.raw) return QUIRE_CUDA_PATH_DIRECT;
  constexpr uint64_t kBytesMost = 1ull << 31;  // squares fit
  const uint64_t run_bytes = transfer.run_bytes < kBytesMost ? transfer.run_bytes : kBytesMost;
  const uint64_t runs = transfer.runs < kBytesMost ? transfer.runs : kBytesMost;
  const uint32_t row = nearest_step(run_bytes, 4096, 4, QUIRE_CUDA_TABLE_BYTES);
  const uint32_t column = nearest_step(runs, 1, 8, QUIRE_CUDA_TABLE_RUNS);
  const int32_t path =
      transfer.from_host ? table.from_host[row][column] : table.from_device[row][column];
  if (path < QUIRE_CUDA_PATH_DIRECT || path > QUIRE_CUDA_PATH_RING_ASYNC)
    return QUIRE_CUDA_PATH_DIRECT;
  if (path != QUIRE_CUDA_PATH_COPY || transfer.copies) return path;
  const int32_t other = fastest_path(table, transfer.from_host, false, row, column);
  return other != 0 ? other : static_cast<int32_t>(QUIRE_CUDA_PATH_RING);
}

int32_t store_path_from_table(const quire_cuda_table& table, bool to_host, bool runs) {
  const bool bulk = table.store_path[to_host][runs] == QUIRE_CUDA_STORE_BULK;
  return bulk ? QUIRE_CUDA_STORE_BULK : QUIRE_CUDA_STORE_PLAIN;
}

static void choose_store_paths(quire_cuda_table* table) {
  for (const bool to_host : {false, true})
    for (const bool runs : {false, true}) {
      const float plain = table->store_microseconds[QUIRE_CUDA_STORE_PLAIN - 1][to_host][runs];
      const float bulk = table->store_microseconds[QUIRE_CUDA_STORE_BULK - 1][to_host][runs];
      const bool faster = bulk > 0 && (plain == 0 || bulk < plain);
      table->store_path[to_host][runs] =
          static_cast<uint8_t>(faster ? QUIRE_CUDA_STORE_BULK : QUIRE_CUDA_STORE_PLAIN);
    }
}

void choose_paths(quire_cuda_table* table) {
  choose_store_paths(table);
  for (const bool from_host : {true, false})
    for (uint32_t row = 0; row < QUIRE_CUDA_TABLE_BYTES; ++row) {
      uint8_t* chosen = from_host ? table->from_host[row] : table->from_device[row];
      for (uint32_t column = 0; column < QUIRE_CUDA_TABLE_RUNS; ++column) {
        const int32_t best = fastest_path(*table, from_host, true, row, column);
        // Too much for the scratch memory: as with fewer runs.
        const uint8_t before =
            column == 0 ? static_cast<uint8_t>(QUIRE_CUDA_PATH_DIRECT) : chosen[column - 1];
        chosen[column] = best == 0 ? before : static_cast<uint8_t>(best);
      }
    }
}

}  // namespace quire_cuda
