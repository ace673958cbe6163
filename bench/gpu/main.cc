// gpu_check [--check | --tiny] [--csv FILE]: checks the CUDA kernels on this machine's GPU, then
// times them. --check: no timing; --tiny: the smallest shapes only, for compute-sanitizer.
#include <cstdio>
#include <cstring>

#include "bench/gpu/gpu.h"
#include "kernels/quire_cuda.h"

namespace {

// Microseconds of the paths of a cell; 0: not measured.
void print_cells(const quire_cuda_table& table, bool from_host) {
  const char* const names[] = {"?", "direct", "ring-bulk", "copy", "ring-cp.async"};
  printf(
      "\nFastest path from %s memory (KiB per run x runs; us of direct / ring-bulk / copy / "
      "ring-cp.async):\n\n",
      from_host ? "pinned" : "device");
  printf("| KiB | 1 | 8 | 64 | 512 |\n|---|---|---|---|---|\n");
  for (uint32_t row = 0; row < QUIRE_CUDA_TABLE_BYTES; ++row) {
    printf("| %u |", 4u << (2 * row));
    for (uint32_t column = 0; column < QUIRE_CUDA_TABLE_RUNS; ++column) {
      const uint8_t path = (from_host ? table.from_host : table.from_device)[row][column];
      const auto time = [&](uint32_t index) {
        if (!from_host) return static_cast<double>(table.device_microseconds[index][row][column]);
        return static_cast<double>(index == 3 ? table.async_microseconds[row][column]
                                              : table.microseconds[index][row][column]);
      };
      printf(" %s (%.0f / %.0f / %.0f / %.0f) |", names[path], time(0), time(1), time(2), time(3));
    }
    printf("\n");
  }
}

void print_calibration() {
  static quire_cuda_table table = {};
  table.struct_bytes = sizeof(table);
  if (quire_cuda_calibrate(&table) != QUIRE_KERNEL_OK) {
    printf("calibration failed\n");
    return;
  }
  for (const bool from_host : {true, false}) print_cells(table, from_host);
  printf("\nCTAs that reach 95 %% of the best zero-copy rate: %u\n\n", table.host_ctas);
  for (const bool to_host : {false, true})
    for (const bool runs : {false, true})
      printf("stores of %s to %s memory: %s (plain %.0f us, bulk %.0f us)\n",
             runs ? "int4 runs" : "raw rows", to_host ? "pinned" : "device",
             table.store_path[to_host][runs] == QUIRE_CUDA_STORE_BULK ? "bulk" : "plain",
             static_cast<double>(table.store_microseconds[0][to_host][runs]),
             static_cast<double>(table.store_microseconds[1][to_host][runs]));
}

}  // namespace

int main(int argc, char** argv) {
  bool check_only = false;
  bool tiny = false;
  const char* csv = "";
  for (int i = 1; i < argc; ++i) {
    if (strcmp(argv[i], "--check") == 0)
      check_only = true;
    else if (strcmp(argv[i], "--tiny") == 0)
      tiny = true;
    else if (strcmp(argv[i], "--csv") == 0 && i + 1 < argc)
      csv = argv[++i];
    else {
      fprintf(stderr, "usage: gpu_check [--check | --tiny] [--csv FILE]\n");
      return 2;
    }
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    fprintf(stderr, "gpu_check: no GPU\n");
    return 3;
  }
  cudaDeviceProp properties;
  quire_gpu::check_cuda(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  printf("%s, sm_%d%d, %d multiprocessors, %zu GiB\n\n", properties.name, properties.major,
         properties.minor, properties.multiProcessorCount, properties.totalGlobalMem >> 30);
  if (!quire_gpu::check_codecs(tiny) || !quire_gpu::check_attention(tiny)) return 1;
  if (tiny || check_only) return 0;
  quire_gpu::Table table;
  const quire_gpu::Ceilings ceilings = quire_gpu::measure_ceilings(&table);
  quire_gpu::time_codecs(ceilings, &table);
  quire_gpu::time_attention(ceilings, &table);
  table.write(csv);
  print_calibration();
  return 0;
}
