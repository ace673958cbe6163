// gpu_check [--check | --tiny] [--csv FILE]: checks the CUDA kernels on this machine's GPU, then
// times them. --check: no timing; --tiny: the smallest shapes only, for compute-sanitizer.
#include <cstdio>
#include <cstring>

#include "bench/gpu/gpu.h"
#include "kernels/quire_cuda.h"

namespace {

void print_calibration() {
  static quire_cuda_table table = {};
  table.struct_bytes = sizeof(table);
  if (quire_cuda_calibrate(&table) != QUIRE_KERNEL_OK) {
    printf("calibration failed\n");
    return;
  }
  const char* const names[] = {"?", "direct", "ring", "copy"};
  printf("\nFastest path from pinned memory (bytes per run x runs; us of direct/ring/copy):\n\n");
  printf("| KiB | 1 | 8 | 64 | 512 |\n|---|---|---|---|---|\n");
  for (uint32_t row = 0; row < QUIRE_CUDA_TABLE_BYTES; ++row) {
    printf("| %u |", 4u << (2 * row));
    for (uint32_t column = 0; column < QUIRE_CUDA_TABLE_RUNS; ++column)
      printf(" %s (%.0f/%.0f/%.0f) |", names[table.from_host[row][column]],
             static_cast<double>(table.microseconds[0][row][column]),
             static_cast<double>(table.microseconds[1][row][column]),
             static_cast<double>(table.microseconds[2][row][column]));
    printf("\n");
  }
  printf("\nCTAs that reach 95 %% of the best zero-copy rate: %u\n", table.host_ctas);
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
