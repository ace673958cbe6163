// Files of named arrays in the safetensors form: u64 length of a JSON header, the header, the
// arrays' bytes. Reading is safe on hostile bytes; arrays must tile the bytes behind the header, as
// the format demands.
#ifndef QUIRE_BENCH_CODEC_SAFETENSORS_H_
#define QUIRE_BENCH_CODEC_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"

namespace quire::bench {

inline constexpr uint64_t kSafetensorsHeaderBytesMax = 16ull << 20;
inline constexpr uint64_t kSafetensorsFileBytesMax = 16ull << 30;
inline constexpr size_t kTensorsMax = 65'536;
inline constexpr size_t kTensorRankMax = 8;
inline constexpr uint64_t kTensorAlignment = 64;

struct Tensor {
  std::string name;
  std::string dtype;  // "F32", "F16", "BF16", ...
  std::vector<uint64_t> shape;
  ByteSpan data;  // little-endian, row-major; perhaps not aligned
};

// Over bytes that outlive it.
class SafetensorsView {
 public:
  // kCorrupt: anything the format does not allow; kUnsupported: a dtype it does not name;
  // kResourceExhausted: beyond the limits above.
  static Expected<SafetensorsView> parse(ByteSpan bytes);

  const std::vector<Tensor>& tensors() const { return tensors_; }  // in the order of their bytes
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // kNotFound.
  Expected<const Tensor*> find(std::string_view name) const;
  // The values of an F32, F16 or BF16 tensor of this shape. kNotFound, kCorrupt: another shape or
  // dtype.
  Expected<std::vector<float>> floats(std::string_view name, std::span<const uint64_t> shape) const;

 private:
  std::vector<Tensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

class SafetensorsWriter {
 public:
  void set_metadata(const std::string& key, const std::string& value) { metadata_[key] = value; }
  // values.size() is the product of shape. Written in the order they were added.
  void add(const std::string& name, std::vector<uint64_t> shape, std::vector<float> values);
  // The first array begins at a multiple of kTensorAlignment.
  std::vector<std::byte> encode() const;

 private:
  struct Entry {
    std::string name;
    std::vector<uint64_t> shape;
    std::vector<float> values;
  };
  std::vector<Entry> entries_;
  std::map<std::string, std::string> metadata_;
};

// Whole files. kIoError, kResourceExhausted beyond kSafetensorsFileBytesMax.
Expected<std::vector<std::byte>> read_file(const std::string& path);
Status write_file(const std::string& path, ByteSpan bytes);

}  // namespace quire::bench

#endif  // QUIRE_BENCH_CODEC_SAFETENSORS_H_
