// Device memory, timing and the result table of the GPU check.
#ifndef QUIRE_BENCH_GPU_GPU_H_
#define QUIRE_BENCH_GPU_GPU_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace quire_gpu {

// Ends the program with the runtime's words where a call fails.
void check_cuda(cudaError_t error, const char* what);

enum class Where { kDevice, kPinned };

class Buffer {
 public:
  Buffer(uint64_t bytes, Where where);
  ~Buffer();
  Buffer(Buffer&& other) noexcept : data_(other.data_), bytes_(other.bytes_), where_(other.where_) {
    other.data_ = nullptr;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  unsigned char* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  void put(const void* host, uint64_t bytes);
  std::vector<unsigned char> get() const;
  void fill(unsigned char byte);

 private:
  unsigned char* data_;
  uint64_t bytes_;
  Where where_;
};

cudaStream_t stream();
void synchronize();

// Whether the device has bulk copies (sm_90): where not, the paths that need them are others.
bool has_bulk_copies();

// Median microseconds of body(i), i counting up so that callers rotate over buffers that do not fit
// in the L2 cache together.
double median_microseconds(const std::function<void(int)>& body, int repeats = 21);

// A line of the result: what, measured time, the least time that bytes and ceiling allow.
struct Line {
  std::string group;
  std::string what;
  double microseconds = 0;
  double floor_microseconds = 0;  // 0: none
  std::string note;
};

class Table {
 public:
  void add(Line line);
  // Markdown on stdout, and CSV into the file where the path is not empty.
  void write(const std::string& csv_path) const;

 private:
  std::vector<Line> lines_;
};

// Bytes per microsecond, measured once.
struct Ceilings {
  double device_copy = 0;     // read and written bytes
  double host_to_device = 0;  // the best of all sizes
  double device_to_host = 0;
};
Ceilings measure_ceilings(Table* table);

// Each is one topic of the program. False where a result is wrong.
bool check_codecs(bool tiny);
bool check_attention(bool tiny);
void time_codecs(const Ceilings& ceilings, Table* table);
void time_attention(const Ceilings& ceilings, Table* table);

// A load as it is done elsewhere: copy to staging, rotate K in place, scatter to pages. bf16, pairs
// (j, j + dims / 2); cos_sin [tokens][dims / 2][2] in bf16; rows: token -> page row.
struct ThreePass {
  const void* host;
  void* staging;
  void* pages;
  const int64_t* rows;
  const uint16_t* cos_sin;
  uint32_t n_tokens;
  uint32_t n_heads;
  uint32_t head_dim;
};
int run_three_pass(const ThreePass& job, cudaStream_t stream);

}  // namespace quire_gpu

#endif  // QUIRE_BENCH_GPU_GPU_H_
