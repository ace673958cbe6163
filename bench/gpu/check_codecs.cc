// The GPU's bytes against the CPU's for every codec, and the rotation against float64.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <string>

#include "bench/gpu/attention_data.h"
#include "bench/gpu/codecs.h"
#include "bench/gpu/gpu.h"

namespace quire_gpu {
namespace {

// Relative to the exact rotation; the rounding floor of bf16 is 1.66e-3.
constexpr double kRotationErrorMax = 1.7e-3;
constexpr unsigned char kPoison = 0xa5;

struct Data {
  explicit Data(const SectionShape& shape, uint32_t seed)
      : rows(shape.n_tokens + 11),
        marks(shape.n_tokens),
        table(size_t{shape.n_tokens} * shape.head_dim) {
    std::mt19937 random(seed);
    std::iota(rows.begin(), rows.end(), 0);
    std::shuffle(rows.begin(), rows.end(), random);
    std::normal_distribution<float> normal;
    engine.resize(rows.size() * shape.n_heads * shape.head_dim);
    for (size_t i = 0; i < engine.size(); ++i)
      engine[i] = bf16_bits(normal(random) + (i % shape.head_dim == 3 ? 100.0f : 0.0f));
    for (uint8_t& mark : marks) mark = random() % 5 == 0;
    std::uniform_real_distribution<double> angle(-3.0, 3.0);
    for (size_t i = 0; i + 1 < table.size(); i += 2) {
      const double a = angle(random);
      table[i] = static_cast<float>(std::cos(a));
      table[i + 1] = static_cast<float>(std::sin(a));
    }
  }
  quire_rotation rotation(const SectionShape& shape, const void* at) const {
    return {QUIRE_ROPE_STYLE_NEOX, shape.head_dim, static_cast<const float*>(at),
            int64_t{shape.head_dim} * 4};
  }
  std::vector<int64_t> rows;
  std::vector<uint8_t> marks;
  std::vector<uint16_t> engine;
  std::vector<float> table;
};

struct OnDevice {
  OnDevice(const SectionShape& shape, const Data& data)
      : engine(data.engine.size() * 2, Where::kDevice),
        section(shape.section_bytes() + 64, Where::kDevice),
        pinned(shape.section_bytes() + 64, Where::kPinned),
        rows(data.rows.size() * 8, Where::kDevice),
        table(data.table.size() * 4, Where::kDevice),
        marks(data.marks.size(), Where::kDevice),
        written(8, Where::kDevice),
        status(4, Where::kDevice) {
    marks.put(data.marks.data(), marks.bytes());
    engine.put(data.engine.data(), engine.bytes());
    rows.put(data.rows.data(), rows.bytes());
    table.put(data.table.data(), table.bytes());
    status.fill(0);
  }
  int32_t* status_word() const { return reinterpret_cast<int32_t*>(status.data()); }
  uint64_t* written_word() const { return reinterpret_cast<uint64_t*>(written.data()); }
  const int64_t* row_numbers() const { return reinterpret_cast<const int64_t*>(rows.data()); }
  Buffer engine, section, pinned, rows, table, marks, written, status;
};

bool equal(const std::vector<unsigned char>& got, const void* expected, uint64_t bytes,
           const char* what, const SectionShape& shape, const char* codec) {
  const auto* want = static_cast<const unsigned char*>(expected);
  const auto at = std::mismatch(want, want + bytes, got.begin()).first - want;
  if (static_cast<uint64_t>(at) == bytes) return true;
  fprintf(stderr, "WRONG %s %s plane %d tokens %u dims %u: byte %td of %llu\n", codec, what,
          shape.plane, shape.n_tokens, shape.head_dim, at, static_cast<unsigned long long>(bytes));
  return false;
}

// Behind the room of a section.
bool untouched_after(const std::vector<unsigned char>& got, uint64_t bytes, const char* what,
                     const SectionShape& shape, const char* codec) {
  for (uint64_t at = bytes; at < got.size(); ++at)
    if (got[at] != kPoison) {
      fprintf(stderr, "WRONG %s %s plane %d tokens %u dims %u: byte %llu behind the section\n",
              codec, what, shape.plane, shape.n_tokens, shape.head_dim,
              static_cast<unsigned long long>(at - bytes));
      return false;
    }
  return true;
}

bool check_status(const OnDevice& device, const char* what, const char* codec) {
  synchronize();
  int32_t status = 0;
  memcpy(&status, device.status.get().data(), 4);
  if (status == 0) return true;
  fprintf(stderr, "WRONG %s %s: status %s\n", codec, what, quire_kernel_status_name(status));
  return false;
}

// The GPU's store against the CPU's; leaves the section's size in the shape.
bool check_store(const NamedCodec& codec, const Data& data, OnDevice* device, SectionShape* shape,
                 std::vector<unsigned char>* section) {
  const uint64_t rows = data.rows.size();
  uint64_t bytes = section->size();
  shape->salient = data.marks.data();
  const quire_store_params host_store =
      store_of(*shape, data.engine.data(), section->data(), data.rows.data(), rows,
               data.rotation(*shape, data.table.data()), &bytes);
  bool good = quire_store(&host_store) == QUIRE_KERNEL_OK;
  const bool variable = quire_kernels::variable_size(codec.codec);
  shape->salient = device->marks.data();
  for (const NamedPath& path : store_paths(codec.codec))
    for (Buffer* to : {&device->section, &device->pinned}) {
      const std::string what = std::string("store, ") + path.name;
      to->fill(kPoison);
      const quire_store_params stored = store_of(
          *shape, device->engine.data(), to->data(), device->row_numbers(), rows,
          data.rotation(*shape, device->table.data()), variable ? device->written_word() : nullptr);
      quire_cuda_launch launch = launch_of(stream(), device->status_word(), QUIRE_CUDA_PATH_DIRECT);
      launch.store_path = path.path;
      good &= quire_cuda_store_batch(&stored, 1, &launch, nullptr) == QUIRE_KERNEL_OK;
      good &= check_status(*device, what.c_str(), codec.name);
      const std::vector<unsigned char> got = to->get();
      good &= equal(got, section->data(), bytes, what.c_str(), *shape, codec.name);
      good &= untouched_after(got, section->size(), what.c_str(), *shape, codec.name);
      if (variable)
        good &=
            equal(device->written.get(), &bytes, sizeof(bytes), "store's size", *shape, codec.name);
    }
  shape->stored_bytes = bytes;
  return good;
}

bool check_section(const NamedCodec& codec, SectionShape shape) {
  const Data data(shape, shape.n_tokens);
  OnDevice device(shape, data);
  const uint64_t rows = data.rows.size();
  std::vector<unsigned char> section(shape.section_bytes());
  bool good = check_store(codec, data, &device, &shape, &section);
  device.section.put(section.data(), section.size());
  memcpy(device.pinned.data(), section.data(), section.size());
  std::vector<uint16_t> loaded(data.engine.size());
  const quire_load_params host_load =
      load_of(shape, section.data(), loaded.data(), data.rows.data(), rows,
              data.rotation(shape, data.table.data()));
  good &= quire_load(&host_load) == QUIRE_KERNEL_OK;
  const quire_rotation rotation = data.rotation(shape, device.table.data());
  for (const NamedPath& path : load_paths(codec.codec))
    for (const Buffer* from : {&device.section, &device.pinned}) {
      device.engine.fill(0);
      const quire_cuda_launch launch = launch_of(stream(), device.status_word(), path.path);
      const std::string what = std::string("load, ") + path.name;
      const quire_load_params p =
          load_of(shape, from->data(), device.engine.data(), device.row_numbers(), rows, rotation);
      good &= quire_cuda_load_batch(&p, 1, &launch, nullptr) == QUIRE_KERNEL_OK;
      good &= check_status(device, what.c_str(), codec.name);
      good &= equal(device.engine.get(), loaded.data(), loaded.size() * 2, what.c_str(), shape,
                    codec.name);
    }
  return good;
}

// raw bf16, rotated: against cos and sin applied in float64.
bool check_rotation(uint32_t n_tokens) {
  const SectionShape shape{QUIRE_CODEC_RAW_BF16, QUIRE_PLANE_KEY, n_tokens, 2, 128};
  const Data data(shape, 9);
  OnDevice device(shape, data);
  const uint64_t rows = data.rows.size();
  std::vector<uint16_t> section(shape.section_bytes() / 2);
  for (size_t i = 0; i < section.size(); ++i) section[i] = data.engine[i];
  device.section.put(section.data(), section.size() * 2);
  const quire_cuda_launch launch =
      launch_of(stream(), device.status_word(), QUIRE_CUDA_PATH_DIRECT);
  const quire_load_params p =
      load_of(shape, device.section.data(), device.engine.data(), device.row_numbers(), rows,
              data.rotation(shape, device.table.data()));
  if (quire_cuda_load_batch(&p, 1, &launch, nullptr) != QUIRE_KERNEL_OK) return false;
  const std::vector<unsigned char> got = device.engine.get();
  double error = 0;
  double total = 0;
  for (uint32_t head = 0; head < shape.n_heads; ++head)
    for (uint32_t token = 0; token < n_tokens; ++token)
      for (uint32_t j = 0; j < 64; ++j) {
        const uint16_t* row = &section[(uint64_t{head} * n_tokens + token) * 128];
        const double x0 = bf16_value(row[j]);
        const double x1 = bf16_value(row[j + 64]);
        const double c = data.table[token * 128 + 2 * j];
        const double s = data.table[token * 128 + 2 * j + 1];
        const double exact[2] = {x0 * c - x1 * s, x1 * c + x0 * s};
        for (uint32_t half = 0; half < 2; ++half) {
          uint16_t bits;
          const auto engine_row = static_cast<uint64_t>(data.rows[token]);
          memcpy(&bits, &got[((engine_row * shape.n_heads + head) * 128 + j + 64 * half) * 2], 2);
          const double difference = bf16_value(bits) - exact[half];
          error += difference * difference;
          total += exact[half] * exact[half];
        }
      }
  const double relative = std::sqrt(error / total);
  fprintf(stderr, "rotation: relative error %.3e\n", relative);
  return relative <= kRotationErrorMax;
}

}  // namespace

bool check_codecs(bool tiny) {
  bool good = check_rotation(tiny ? 3 : 256);
  const std::vector<uint32_t> tokens =
      tiny ? std::vector<uint32_t>{3, 33} : std::vector<uint32_t>{1, 31, 64, 65, 256, 257, 700};
  const std::vector<uint32_t> dims =
      tiny ? std::vector<uint32_t>{64} : std::vector<uint32_t>{64, 80, 96, 128, 256};
  for (const NamedCodec& codec : quire_kernels::kKernelCodecs) {
    bool codec_good = true;
    for (int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
      for (uint32_t n_tokens : tokens)
        for (uint32_t head_dim : dims)
          codec_good &= check_section(codec, {codec.codec, plane, n_tokens, 3, head_dim});
    fprintf(stderr, "%-16s %s\n", codec.name, codec_good ? "equal to the CPU" : "WRONG");
    good &= codec_good;
  }
  return good;
}

}  // namespace quire_gpu
