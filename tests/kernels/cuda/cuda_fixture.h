// Sections of every codec with random engine memory around them, and checks of one store or load
// against the reference and the CPU.
#ifndef QUIRE_TESTS_KERNELS_CUDA_CUDA_FIXTURE_H_
#define QUIRE_TESTS_KERNELS_CUDA_CUDA_FIXTURE_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <string>

#include "kernels/executor/executor.h"
#include "kernels/quire_cuda.h"
#include "tests/kernels/cuda/section_reference.h"

namespace quire_kernels::cuda_test {

namespace quire_reference = reference;
using quire_reference::Bytes;

// Of fixed size; those of variable size: variable_fixture.h.
inline std::vector<int32_t> fixed_codecs() {
  std::vector<int32_t> codecs;
  for (const NamedCodec& codec : kKernelCodecs)
    if (!variable_size(codec.codec)) codecs.push_back(codec.codec);
  return codecs;
}
inline constexpr unsigned char kPoison = 0xa5;

struct Aligned {
  explicit Aligned(size_t bytes, unsigned char fill = 0) : storage(bytes + 256, fill) {}
  unsigned char* data() {
    return reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(storage.data()) + 127) /
                                            128 * 128);
  }
  // All from data() on, what lies beyond the object included.
  bool operator==(Aligned& other) {
    return storage.size() == other.storage.size() &&
           memcmp(data(), other.data(), storage.size() - 128) == 0;
  }
  Bytes storage;
};

enum class Salient { kNone, kAll, kFew, kMost, kFirst, kAlternating };
inline constexpr Salient kAllSalient[] = {Salient::kNone, Salient::kAll,   Salient::kFew,
                                          Salient::kMost, Salient::kFirst, Salient::kAlternating};

struct Case {
  int32_t codec = QUIRE_CODEC_RAW_BF16;
  int32_t plane = QUIRE_PLANE_KEY;
  int32_t dtype = QUIRE_DTYPE_BF16;
  uint32_t n_tokens = 70;
  uint32_t n_heads = 2;
  uint32_t head_dim = 64;
  int32_t style = QUIRE_ROPE_STYLE_NONE;
  uint32_t rotary_dims = 0;
  bool table_per_token = false;
  bool heads_first = false;  // engine memory [head][row][dim], else [row][head][dim]
  bool transposed = false;   // engine memory [head][dim][row]
  int32_t path = QUIRE_CUDA_PATH_DIRECT;
  int32_t store_path = QUIRE_CUDA_STORE_PLAIN;
  uint32_t section_offset = 0;  // from 128-byte alignment, a multiple of 4
  uint32_t token_begin = 0;
  uint32_t token_end = ~0u;
  bool masked = false;
  bool shuffled_rows = true;
  uint32_t max_ctas = 0;
  Salient salient = Salient::kFew;  // mixed precision
};

inline std::vector<uint8_t> marks_of(Salient salient, uint32_t n_tokens) {
  std::mt19937 random(23);
  std::vector<uint8_t> marks(n_tokens);
  for (uint32_t token = 0; token < n_tokens; ++token) {
    const bool few = random() % 5 == 0;
    marks[token] = salient == Salient::kAll || (salient == Salient::kFew && few) ||
                   (salient == Salient::kMost && !few) ||
                   (salient == Salient::kFirst && token < 40) ||
                   (salient == Salient::kAlternating && token % 2 == 1);
  }
  return marks;
}

// Engine memory with room for `rows` tokens, the section, and both parameter structs.
class Fixture {
 public:
  explicit Fixture(const Case& c, uint32_t seed = 1)
      : c_(c),
        random_(seed),
        rows_(c.n_tokens + 13),
        element_(element_bytes(c.dtype)),
        engine_bytes_(uint64_t{rows_} * c.n_heads * c.head_dim * element_),
        section_bytes_(section_bytes_max(c.codec, c.plane, c.n_tokens, c.n_heads, c.head_dim)),
        marks_(marks_of(c.salient, c.n_tokens)),
        rows_of_tokens_(rows_),
        mask_(c.n_tokens, 1),
        table_(size_t{c.n_tokens} * std::max(c.rotary_dims, 2u)) {
    std::iota(rows_of_tokens_.begin(), rows_of_tokens_.end(), 0);
    if (c.shuffled_rows) std::shuffle(rows_of_tokens_.begin(), rows_of_tokens_.end(), random_);
    if (c.masked)
      for (auto& one : mask_) one = random_() % 3 != 0;
    std::uniform_real_distribution<float> angle(-3.1f, 3.1f);
    for (size_t i = 0; i + 1 < table_.size(); i += 2) {
      const float a = angle(random_);
      table_[i] = std::cos(a);
      table_[i + 1] = std::sin(a);
    }
  }

  uint64_t engine_bytes() const { return engine_bytes_; }
  // The most, of codecs of variable size.
  uint64_t section_bytes() const { return section_bytes_; }

  // Keys have constant channels and outliers; all values fit every dtype.
  Aligned random_engine() {
    Aligned memory(engine_bytes_);
    std::normal_distribution<float> normal;
    const uint64_t n = engine_bytes_ / element_;
    for (uint64_t i = 0; i < n; ++i) {
      float value = normal(random_) * (i % 7 == 0 ? 12.0f : 1.0f);
      if (i % c_.head_dim == 3) value = 200.0f + value / 8;
      if (i % c_.head_dim == 5 && !c_.transposed) value = -2.5f;
      quire_reference::narrow(c_.dtype, value, memory.data() + i * element_);
    }
    return memory;
  }

  int64_t token_stride() const {
    if (c_.transposed) return element_;
    return int64_t{c_.head_dim} * element_ * (c_.heads_first ? 1 : c_.n_heads);
  }
  int64_t head_stride() const {
    const int64_t row = int64_t{c_.head_dim} * element_;
    return c_.transposed || c_.heads_first ? row * rows_ : row;
  }
  int64_t dim_stride() const { return c_.transposed ? int64_t{rows_} * element_ : element_; }

  quire_rotation rotation() const {
    if (c_.style == QUIRE_ROPE_STYLE_NONE || c_.plane != QUIRE_PLANE_KEY)
      return {QUIRE_ROPE_STYLE_NONE, 0, nullptr, 0};
    return {c_.style, c_.rotary_dims, table_.data(),
            c_.table_per_token ? int64_t{c_.rotary_dims} * 4 : 0};
  }

  quire_store_params store_params(const void* engine, void* section) const {
    quire_store_params p = {};
    p.struct_bytes = sizeof(p);
    p.codec = c_.codec;
    p.plane = c_.plane;
    p.n_tokens = c_.n_tokens;
    p.n_heads = c_.n_heads;
    p.head_dim = c_.head_dim;
    p.src_dtype = c_.dtype;
    p.src = engine;
    p.src_tokens = rows_;
    p.src_token_stride = token_stride();
    p.src_head_stride = head_stride();
    p.src_dim_stride = dim_stride();
    p.src_token = c_.shuffled_rows ? rows_of_tokens_.data() : nullptr;
    p.rotation = rotation();
    p.salient = c_.salient == Salient::kNone ? nullptr : marks_.data();
    p.dst = section;
    p.dst_bytes = section_bytes_;
    return p;
  }

  quire_load_params load_params(const void* section, void* engine) const {
    quire_load_params p = {};
    p.struct_bytes = sizeof(p);
    p.codec = c_.codec;
    p.plane = c_.plane;
    p.n_tokens = c_.n_tokens;
    p.n_heads = c_.n_heads;
    p.head_dim = c_.head_dim;
    p.token_begin = c_.token_begin;
    p.token_end = std::min(c_.token_end, c_.n_tokens);
    p.dst_dtype = c_.dtype;
    p.src = section;
    p.src_bytes = section_bytes_;
    p.dst = engine;
    p.dst_tokens = rows_;
    p.dst_token_stride = token_stride();
    p.dst_head_stride = head_stride();
    p.dst_dim_stride = dim_stride();
    p.dst_token = c_.shuffled_rows ? rows_of_tokens_.data() : nullptr;
    p.row_mask = c_.masked ? mask_.data() : nullptr;
    p.rotation = rotation();
    return p;
  }

  std::vector<int64_t>& rows() { return rows_of_tokens_; }

 private:
  Case c_;
  std::mt19937 random_;
  uint32_t rows_;
  uint32_t element_;
  uint64_t engine_bytes_;
  uint64_t section_bytes_;
  std::vector<uint8_t> marks_;
  std::vector<int64_t> rows_of_tokens_;
  std::vector<uint8_t> mask_;
  std::vector<float> table_;
};

inline quire_cuda_launch launch_on(int32_t* status, int32_t path = QUIRE_CUDA_PATH_DIRECT) {
  quire_cuda_launch launch = {};
  launch.struct_bytes = sizeof(launch);
  launch.device_status = status;
  launch.path = path;
  return launch;
}

inline size_t first_difference(const unsigned char* a, const unsigned char* b, size_t n) {
  return static_cast<size_t>(std::mismatch(a, a + n, b).first - a);
}

inline std::string name_of(const Case& c) {
  return "codec " + std::to_string(c.codec) + " plane " + std::to_string(c.plane) + " dtype " +
         std::to_string(c.dtype) + " tokens " + std::to_string(c.n_tokens) + " dims " +
         std::to_string(c.head_dim) + " style " + std::to_string(c.style) + " rotary " +
         std::to_string(c.rotary_dims) + " path " + std::to_string(c.path) + " store path " +
         std::to_string(c.store_path) + " offset " + std::to_string(c.section_offset) + " range " +
         std::to_string(c.token_begin) + ".." + std::to_string(c.token_end);
}

// The reference has no store of INT4_CENTRED's K: there the CPU's kernels stand for it.
inline bool has_reference(const Case& c) {
  return plane_spec(c.codec, c.plane).kind != SectionKind::kNormalised;
}

inline void make_section(Fixture* fixture, const Case& c, Aligned* engine, Aligned* section) {
  const quire_store_params params = fixture->store_params(engine->data(), section->data());
  if (has_reference(c))
    quire_reference::store(params);
  else
    ASSERT_EQ(quire_store(&params), QUIRE_KERNEL_OK);
}

inline void check_store(const Case& c) {
  SCOPED_TRACE(name_of(c));
  Fixture fixture(c);
  Aligned engine = fixture.random_engine();
  Aligned expected(fixture.section_bytes());
  Aligned memory(fixture.section_bytes() + c.section_offset, kPoison);
  unsigned char* section = memory.data() + c.section_offset;
  make_section(&fixture, c, &engine, &expected);
  int32_t status = 0;
  quire_cuda_launch launch = launch_on(&status);
  launch.max_ctas = c.max_ctas;
  launch.store_path = c.store_path;
  const quire_store_params params = fixture.store_params(engine.data(), section);
  ASSERT_EQ(quire_cuda_store_batch(&params, 1, &launch, nullptr), QUIRE_KERNEL_OK);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(first_difference(section, expected.data(), fixture.section_bytes()),
            fixture.section_bytes());
  for (uint32_t i = 0; i < 16; ++i) EXPECT_EQ(section[fixture.section_bytes() + i], kPoison);
  for (uint32_t i = 0; i < c.section_offset; ++i) EXPECT_EQ(memory.data()[i], kPoison);
  Aligned cpu(fixture.section_bytes());
  const quire_store_params on_cpu = fixture.store_params(engine.data(), cpu.data());
  EXPECT_EQ(quire_store(&on_cpu), QUIRE_KERNEL_OK);
  EXPECT_EQ(first_difference(section, cpu.data(), fixture.section_bytes()), fixture.section_bytes())
      << "against the CPU";
}

// By lanes and by bulk copies.
inline void check_stores(Case c) {
  check_store(c);
  c.store_path = QUIRE_CUDA_STORE_BULK;
  check_store(c);
}

inline void check_load(const Case& c) {
  SCOPED_TRACE(name_of(c));
  Fixture fixture(c);
  Aligned from = fixture.random_engine();
  Aligned section(fixture.section_bytes() + 64);
  make_section(&fixture, c, &from, &section);
  Aligned expected(fixture.engine_bytes(), kPoison);
  Aligned engine(fixture.engine_bytes(), kPoison);
  quire_reference::load(fixture.load_params(section.data(), expected.data()));
  int32_t status = 0;
  quire_cuda_launch launch = launch_on(&status, c.path);
  launch.max_ctas = c.max_ctas;
  const quire_load_params params = fixture.load_params(section.data(), engine.data());
  ASSERT_EQ(quire_cuda_load_batch(&params, 1, &launch, nullptr), QUIRE_KERNEL_OK);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(engine == expected) << first_difference(engine.data(), expected.data(),
                                                      fixture.engine_bytes());
  Aligned cpu(fixture.engine_bytes(), kPoison);
  const quire_load_params on_cpu = fixture.load_params(section.data(), cpu.data());
  EXPECT_EQ(quire_load(&on_cpu), QUIRE_KERNEL_OK);
  EXPECT_TRUE(engine == cpu) << "against the CPU";
}

template <typename Body>
void for_every_format(Body body) {
  for (int32_t codec : fixed_codecs())
    for (int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
      for (int32_t dtype : {QUIRE_DTYPE_BF16, QUIRE_DTYPE_F16, QUIRE_DTYPE_F32}) {
        Case c;
        c.codec = codec;
        c.plane = plane;
        c.dtype = dtype;
        body(c);
      }
}

}  // namespace quire_kernels::cuda_test

#endif  // QUIRE_TESTS_KERNELS_CUDA_CUDA_FIXTURE_H_
