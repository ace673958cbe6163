#include "bench/gpu/gpu.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace quire_gpu {

void check_cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  fprintf(stderr, "gpu_check: %s: %s\n", what, cudaGetErrorString(error));
  exit(1);
}

Buffer::Buffer(uint64_t bytes, Where where) : data_(nullptr), bytes_(bytes), where_(where) {
  void* memory = nullptr;
  if (where == Where::kDevice)
    check_cuda(cudaMalloc(&memory, bytes), "cudaMalloc");
  else
    check_cuda(cudaHostAlloc(&memory, bytes, cudaHostAllocMapped), "cudaHostAlloc");
  data_ = static_cast<unsigned char*>(memory);
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (where_ == Where::kDevice)
    cudaFree(data_);
  else
    cudaFreeHost(data_);
}

void Buffer::put(const void* host, uint64_t bytes) {
  check_cuda(cudaMemcpy(data_, host, bytes, cudaMemcpyDefault), "copy to a buffer");
}
std::vector<unsigned char> Buffer::get() const {
  std::vector<unsigned char> host(bytes_);
  check_cuda(cudaMemcpy(host.data(), data_, bytes_, cudaMemcpyDefault), "copy from a buffer");
  return host;
}
void Buffer::fill(unsigned char byte) {
  check_cuda(cudaMemset(data_, byte, bytes_), "cudaMemset");
}

cudaStream_t stream() {
  static const cudaStream_t one = [] {
    cudaStream_t made = nullptr;
    check_cuda(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "cudaStreamCreate");
    return made;
  }();
  return one;
}

void synchronize() {
  check_cuda(cudaStreamSynchronize(stream()), "a kernel");
}

bool has_bulk_copies() {
  int device = 0;
  int major = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
             "compute capability");
  return major >= 9;
}

double median_microseconds(const std::function<void(int)>& body, int repeats) {
  constexpr int kWarmUps = 3;
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  check_cuda(cudaEventCreate(&begin), "cudaEventCreate");
  check_cuda(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<double> times;
  for (int i = 0; i < kWarmUps + repeats; ++i) {
    check_cuda(cudaEventRecord(begin, stream()), "cudaEventRecord");
    body(i);
    check_cuda(cudaEventRecord(end, stream()), "cudaEventRecord");
    check_cuda(cudaEventSynchronize(end), "a timed kernel");
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    if (i >= kWarmUps) times.push_back(milliseconds * 1000.0);
  }
  check_cuda(cudaEventDestroy(begin), "cudaEventDestroy");
  check_cuda(cudaEventDestroy(end), "cudaEventDestroy");
  std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
  return times[static_cast<size_t>(repeats / 2)];
}

void Table::add(Line line) {
  fprintf(stderr, "%-10s %-46s %10.1f us\n", line.group.c_str(), line.what.c_str(),
          line.microseconds);
  lines_.push_back(std::move(line));
}

void Table::write(const std::string& csv_path) const {
  FILE* csv = csv_path.empty() ? nullptr : fopen(csv_path.c_str(), "w");
  if (csv != nullptr) fprintf(csv, "group,what,us,floor_us,share_of_floor,note\n");
  printf("| group | what | us | floor us | floor / time | note |\n|---|---|---|---|---|---|\n");
  for (const Line& line : lines_) {
    char floor[64] = "|";
    if (line.floor_microseconds > 0)
      snprintf(floor, sizeof(floor), "%.1f | %.2f", line.floor_microseconds,
               line.floor_microseconds / line.microseconds);
    printf("| %s | %s | %.1f | %s | %s |\n", line.group.c_str(), line.what.c_str(),
           line.microseconds, floor, line.note.c_str());
    if (csv != nullptr)
      fprintf(csv, "%s,%s,%.2f,%.2f,%.4f,%s\n", line.group.c_str(), line.what.c_str(),
              line.microseconds, line.floor_microseconds,
              line.floor_microseconds / line.microseconds, line.note.c_str());
  }
  if (csv != nullptr) fclose(csv);
}

}  // namespace quire_gpu
