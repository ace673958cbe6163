// Load and store kernels of CUDA, run by the executor, against the element-by-element reference and
// against the CPU's kernels: equal bytes.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "kernels/cuda/transfer.h"
#include "kernels/executor/executor.h"
#include "kernels/quire_cuda.h"
#include "tests/kernels/cuda/section_reference.h"

namespace {

using quire_reference::Bytes;
using namespace quire_kernels;

constexpr int32_t kCodecs[] = {
    QUIRE_CODEC_RAW_F16,         QUIRE_CODEC_RAW_BF16,       QUIRE_CODEC_RAW_F32,
    QUIRE_CODEC_INT8_CHANNEL,    QUIRE_CODEC_FP8_TOKEN,      QUIRE_CODEC_INT4_CHANNEL64,
    QUIRE_CODEC_INT4_CHANNEL128, QUIRE_CODEC_INT4_KIVI,      QUIRE_CODEC_INT4_HADAMARD,
    QUIRE_CODEC_INT4_CENTRED,    QUIRE_CODEC_INT3_CHANNEL64, QUIRE_CODEC_INT2_CHANNEL32,
    QUIRE_CODEC_INT2_KIVI};
constexpr unsigned char kPoison = 0xa5;

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
  uint32_t token_begin = 0;
  uint32_t token_end = ~0u;
  bool masked = false;
  bool shuffled_rows = true;
  uint32_t max_ctas = 0;
};

// Engine memory with room for `rows` tokens, the section, and both parameter structs.
class Fixture {
 public:
  explicit Fixture(const Case& c, uint32_t seed = 1)
      : c_(c),
        random_(seed),
        rows_(c.n_tokens + 13),
        element_(element_bytes(c.dtype)),
        engine_bytes_(uint64_t{rows_} * c.n_heads * c.head_dim * element_),
        section_bytes_(plain_section_bytes(c.codec, c.plane, c.n_tokens, c.n_heads, c.head_dim)),
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
  std::vector<int64_t> rows_of_tokens_;
  std::vector<uint8_t> mask_;
  std::vector<float> table_;
};

quire_cuda_launch launch_on(int32_t* status, int32_t path = QUIRE_CUDA_PATH_DIRECT) {
  quire_cuda_launch launch = {};
  launch.struct_bytes = sizeof(launch);
  launch.device_status = status;
  launch.path = path;
  return launch;
}

size_t first_difference(const unsigned char* a, const unsigned char* b, size_t n) {
  return static_cast<size_t>(std::mismatch(a, a + n, b).first - a);
}

std::string name_of(const Case& c) {
  return "codec " + std::to_string(c.codec) + " plane " + std::to_string(c.plane) + " dtype " +
         std::to_string(c.dtype) + " tokens " + std::to_string(c.n_tokens) + " dims " +
         std::to_string(c.head_dim) + " style " + std::to_string(c.style) + " rotary " +
         std::to_string(c.rotary_dims) + " path " + std::to_string(c.path) + " range " +
         std::to_string(c.token_begin) + ".." + std::to_string(c.token_end);
}

bool has_store(const Case& c) {
  return plane_spec(c.codec, c.plane).kind != SectionKind::kNormalised;
}

// Fills section as the reference does; random codes where there is no store.
void make_section(Fixture* fixture, const Case& c, Aligned* engine, Aligned* section) {
  if (has_store(c)) {
    quire_reference::store(fixture->store_params(engine->data(), section->data()));
    return;
  }
  std::mt19937 random(5);
  for (uint64_t i = 0; i < fixture->section_bytes(); i += 2) {
    // As halves: 0.25 .. 0.5 or negative; as codes: anything.
    const uint16_t bits = static_cast<uint16_t>(0x3400 | (random() & 0x83ff));
    memcpy(section->data() + i, &bits, 2);
  }
}

void check_store(const Case& c) {
  SCOPED_TRACE(name_of(c));
  Fixture fixture(c);
  Aligned engine = fixture.random_engine();
  Aligned expected(fixture.section_bytes());
  Aligned section(fixture.section_bytes(), kPoison);
  quire_reference::store(fixture.store_params(engine.data(), expected.data()));
  int32_t status = 0;
  quire_cuda_launch launch = launch_on(&status);
  launch.max_ctas = c.max_ctas;
  const quire_store_params params = fixture.store_params(engine.data(), section.data());
  ASSERT_EQ(quire_cuda_store_batch(&params, 1, &launch, nullptr), QUIRE_KERNEL_OK);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(first_difference(section.data(), expected.data(), fixture.section_bytes()),
            fixture.section_bytes());
  EXPECT_EQ(section.data()[fixture.section_bytes()], kPoison);
  Aligned cpu(fixture.section_bytes());
  const quire_store_params on_cpu = fixture.store_params(engine.data(), cpu.data());
  const int cpu_status = quire_store(&on_cpu);
  if (cpu_status == QUIRE_KERNEL_UNSUPPORTED) return;
  EXPECT_EQ(cpu_status, QUIRE_KERNEL_OK);
  EXPECT_EQ(first_difference(section.data(), cpu.data(), fixture.section_bytes()),
            fixture.section_bytes())
      << "against the CPU";
}

void check_load(const Case& c) {
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
  const int cpu_status = quire_load(&on_cpu);
  if (cpu_status == QUIRE_KERNEL_UNSUPPORTED) return;
  EXPECT_EQ(cpu_status, QUIRE_KERNEL_OK);
  EXPECT_TRUE(engine == cpu) << "against the CPU";
}

template <typename Body>
void for_every_format(Body body) {
  for (int32_t codec : kCodecs)
    for (int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
      for (int32_t dtype : {QUIRE_DTYPE_BF16, QUIRE_DTYPE_F16, QUIRE_DTYPE_F32}) {
        Case c;
        c.codec = codec;
        c.plane = plane;
        c.dtype = dtype;
        body(c);
      }
}

TEST(CudaStore, EveryCodecPlaneAndDtype) {
  for_every_format([](Case c) {
    if (!has_store(c)) return;
    check_store(c);
    c.style = QUIRE_ROPE_STYLE_NEOX;
    c.rotary_dims = 64;
    c.table_per_token = true;
    if (c.plane == QUIRE_PLANE_KEY) check_store(c);
  });
}

TEST(CudaLoad, EveryCodecPlaneAndDtype) {
  for_every_format([](Case c) {
    check_load(c);
    if (c.plane != QUIRE_PLANE_KEY) return;
    c.style = QUIRE_ROPE_STYLE_NEOX;
    c.rotary_dims = 64;
    check_load(c);
  });
}

TEST(CudaLoad, RingGivesTheSameBytes) {
  for_every_format([](Case c) {
    if (c.dtype == QUIRE_DTYPE_F16) return;
    c.path = QUIRE_CUDA_PATH_RING;
    c.head_dim = 128;
    c.n_tokens = 300;
    c.n_heads = 1;
    c.max_ctas = 2;
    check_load(c);
    c.token_begin = 77;
    c.token_end = 201;
    if (c.dtype == QUIRE_DTYPE_BF16) check_load(c);
  });
}

TEST(CudaLoadAndStore, RotationStyles) {
  struct {
    uint32_t head_dim, rotary_dims;
  } const shapes[] = {{64, 64}, {128, 128}, {80, 32}, {96, 96}, {64, 20}, {256, 64}, {20, 12}};
  for (int32_t codec : {QUIRE_CODEC_RAW_F32, QUIRE_CODEC_INT4_CHANNEL64, QUIRE_CODEC_INT8_CHANNEL})
    for (int32_t style : {QUIRE_ROPE_STYLE_NEOX, QUIRE_ROPE_STYLE_INTERLEAVED})
      for (bool per_token : {false, true})
        for (const auto& shape : shapes) {
          Case c;
          c.codec = codec;
          c.style = style;
          c.table_per_token = per_token;
          c.head_dim = shape.head_dim;
          c.rotary_dims = shape.rotary_dims;
          c.n_tokens = 37;
          check_load(c);
          check_store(c);
        }
}

TEST(CudaLoadAndStore, HeadDims) {
  for (uint32_t head_dim :
       {1u, 2u, 7u, 8u, 12u, 16u, 36u, 72u, 80u, 96u, 112u, 128u, 192u, 255u, 256u})
    for (int32_t codec : kCodecs)
      for (int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE}) {
        Case c;
        c.codec = codec;
        c.plane = plane;
        c.head_dim = head_dim;
        c.n_tokens = 33;
        check_load(c);
        if (has_store(c)) check_store(c);
      }
}

TEST(CudaLoadAndStore, TokenCounts) {
  for (uint32_t n_tokens : {1u, 2u, 31u, 32u, 63u, 64u, 65u, 127u, 129u, 255u, 256u, 257u})
    for (int32_t codec :
         {QUIRE_CODEC_INT8_CHANNEL, QUIRE_CODEC_INT4_CHANNEL128, QUIRE_CODEC_INT3_CHANNEL64,
          QUIRE_CODEC_INT2_KIVI, QUIRE_CODEC_FP8_TOKEN, QUIRE_CODEC_INT4_CENTRED})
      for (int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE}) {
        Case c;
        c.codec = codec;
        c.plane = plane;
        c.n_tokens = n_tokens;
        c.n_heads = 3;
        c.head_dim = 32;
        check_load(c);
        if (has_store(c)) check_store(c);
      }
}

TEST(CudaLoadAndStore, EngineLayouts) {
  for (int32_t codec : {QUIRE_CODEC_RAW_BF16, QUIRE_CODEC_INT4_CHANNEL64})
    for (int layout = 0; layout < 3; ++layout)
      for (bool shuffled : {false, true})
        for (bool masked : {false, true}) {
          Case c;
          c.codec = codec;
          c.plane = QUIRE_PLANE_VALUE;
          c.heads_first = layout == 1;
          c.transposed = layout == 2;
          c.shuffled_rows = shuffled;
          c.masked = masked;
          c.token_begin = masked ? 5 : 0;
          c.token_end = masked ? 50 : ~0u;
          check_load(c);
          check_store(c);
        }
}

TEST(CudaLoadAndStore, EverySchedule) {
  for (const auto& schedule : quire_executor::schedules()) {
    quire_executor::set_schedule(schedule);
    for (int32_t codec : {QUIRE_CODEC_INT8_CHANNEL, QUIRE_CODEC_INT4_CHANNEL64})
      for (int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
        for (int32_t path : {QUIRE_CUDA_PATH_DIRECT, QUIRE_CUDA_PATH_RING}) {
          Case c;
          c.codec = codec;
          c.plane = plane;
          c.path = path;
          c.style = QUIRE_ROPE_STYLE_NEOX;
          c.rotary_dims = 20;  // through shared memory
          c.n_tokens = 300;
          c.n_heads = 3;
          c.max_ctas = 1;
          check_load(c);
          check_store(c);
        }
  }
  quire_executor::set_schedule({});
}

TEST(CudaLoad, CopyPathMovesRawRuns) {
  for (bool heads_first : {false, true})
    for (uint32_t n_heads : {1u, 3u}) {
      Case c;
      c.n_heads = n_heads;
      c.heads_first = heads_first;
      c.shuffled_rows = false;
      c.path = QUIRE_CUDA_PATH_COPY;
      c.token_begin = 3;
      const uint64_t before = quire_executor::launches();
      check_load(c);
      const bool contiguous = heads_first || n_heads == 1;
      EXPECT_EQ(quire_executor::launches() - before, contiguous ? 0u : 1u);
    }
}

// More sections than a pack holds, of two formats and both planes, in one call.
TEST(CudaLoadAndStore, BatchesOfManySections) {
  std::vector<Fixture> fixtures;
  std::vector<Aligned> engines, sections, expected, loaded;
  for (uint32_t i = 0; i < 70; ++i) {
    Case c;
    c.codec = i % 3 == 0 ? QUIRE_CODEC_INT8_CHANNEL : QUIRE_CODEC_INT4_CHANNEL64;
    c.plane = static_cast<int32_t>(i % 2);
    c.n_tokens = 1 + i * 3;
    c.n_heads = 1 + i % 2;
    c.head_dim = 16;
    fixtures.emplace_back(c, i);
    engines.push_back(fixtures.back().random_engine());
    sections.emplace_back(fixtures.back().section_bytes());
    expected.emplace_back(fixtures.back().section_bytes());
    loaded.emplace_back(fixtures.back().engine_bytes());
  }
  std::vector<quire_store_params> stores;
  std::vector<quire_load_params> loads;
  for (size_t i = 0; i < fixtures.size(); ++i) {
    quire_reference::store(fixtures[i].store_params(engines[i].data(), expected[i].data()));
    stores.push_back(fixtures[i].store_params(engines[i].data(), sections[i].data()));
    loads.push_back(fixtures[i].load_params(expected[i].data(), loaded[i].data()));
  }
  int32_t status = 0;
  const quire_cuda_launch launch = launch_on(&status);
  const uint64_t before = quire_executor::launches();
  ASSERT_EQ(quire_cuda_store_batch(stores.data(), stores.size(), &launch, nullptr),
            QUIRE_KERNEL_OK);
  ASSERT_EQ(quire_cuda_load_batch(loads.data(), loads.size(), &launch, nullptr), QUIRE_KERNEL_OK);
  EXPECT_LE(quire_executor::launches() - before, 12u);
  EXPECT_EQ(status, 0);
  for (size_t i = 0; i < fixtures.size(); ++i) {
    EXPECT_EQ(first_difference(sections[i].data(), expected[i].data(), fixtures[i].section_bytes()),
              fixtures[i].section_bytes())
        << i;
    Aligned reference(fixtures[i].engine_bytes());
    quire_reference::load(fixtures[i].load_params(expected[i].data(), reference.data()));
    EXPECT_TRUE(loaded[i] == reference) << i;
  }
}

TEST(CudaLoad, WrongRowNumbersAreLeftOut) {
  Case c;
  c.codec = QUIRE_CODEC_INT4_CHANNEL64;
  Fixture fixture(c);
  Aligned from = fixture.random_engine();
  Aligned section(fixture.section_bytes());
  make_section(&fixture, c, &from, &section);
  for (int64_t wrong : {int64_t{-1}, int64_t{83}, INT64_MIN, INT64_MAX}) {
    Aligned engine(fixture.engine_bytes(), kPoison);
    quire_load_params p = fixture.load_params(section.data(), engine.data());
    std::vector<int64_t> rows(p.dst_token, p.dst_token + c.n_tokens);
    const int64_t right = rows[40];
    rows[40] = wrong;
    p.dst_token = rows.data();
    int32_t status = 0;
    const quire_cuda_launch launch = launch_on(&status);
    ASSERT_EQ(quire_cuda_load_batch(&p, 1, &launch, nullptr), QUIRE_KERNEL_OK);
    EXPECT_EQ(status, QUIRE_KERNEL_INVALID_ARGUMENT);
    for (uint32_t i = 0; i < 256; ++i)
      ASSERT_EQ(engine.data()[right * p.dst_token_stride + i], kPoison);
  }
}

TEST(CudaLoad, BadPayloadsAreReported) {
  struct {
    int32_t codec, plane;
    uint64_t offset;  // in units of 2 bytes
    uint16_t bits;
    int expected;
  } const cases[] = {
      {QUIRE_CODEC_INT4_CHANNEL64, QUIRE_PLANE_KEY, 2, 0x7e00, QUIRE_KERNEL_NON_FINITE},
      {QUIRE_CODEC_INT4_CHANNEL64, QUIRE_PLANE_KEY, 3, 0x7bff, QUIRE_KERNEL_OUT_OF_RANGE},
      {QUIRE_CODEC_INT4_CHANNEL64, QUIRE_PLANE_VALUE, 4, 0x7c00, QUIRE_KERNEL_NON_FINITE},
      {QUIRE_CODEC_INT8_CHANNEL, QUIRE_PLANE_KEY, 1, 0x7f80, QUIRE_KERNEL_NON_FINITE},
      {QUIRE_CODEC_FP8_TOKEN, QUIRE_PLANE_VALUE, 0, 0x7c00, QUIRE_KERNEL_NON_FINITE},
      {QUIRE_CODEC_FP8_TOKEN, QUIRE_PLANE_VALUE, 64 + 7, 0x7f00, QUIRE_KERNEL_NON_FINITE},
      {QUIRE_CODEC_RAW_F16, QUIRE_PLANE_KEY, 9, 0xfc00, QUIRE_KERNEL_NON_FINITE},
  };
  for (const auto& one : cases) {
    Case c;
    c.codec = one.codec;
    c.plane = one.plane;
    c.dtype = QUIRE_DTYPE_F16;
    c.n_tokens = 64;
    Fixture fixture(c);
    Aligned from = fixture.random_engine();
    Aligned section(fixture.section_bytes());
    make_section(&fixture, c, &from, &section);
    memcpy(section.data() + 2 * one.offset, &one.bits, 2);
    Aligned engine(fixture.engine_bytes(), kPoison);
    const quire_load_params p = fixture.load_params(section.data(), engine.data());
    for (int32_t path : {QUIRE_CUDA_PATH_DIRECT, QUIRE_CUDA_PATH_RING}) {
      int32_t status = 0;
      const quire_cuda_launch launch = launch_on(&status, path);
      ASSERT_EQ(quire_cuda_load_batch(&p, 1, &launch, nullptr), QUIRE_KERNEL_OK);
      EXPECT_EQ(status, one.expected) << name_of(c);
    }
    const int cpu = quire_load(&p);
    if (cpu != QUIRE_KERNEL_UNSUPPORTED) {
      EXPECT_EQ(cpu, one.expected) << name_of(c);
    }
  }
}

TEST(CudaStore, ValuesThatDoNotFitAreReported) {
  for (const auto& [value, codec, expected] :
       {std::tuple{NAN, QUIRE_CODEC_INT4_CHANNEL64, QUIRE_KERNEL_NON_FINITE},
        std::tuple{INFINITY, QUIRE_CODEC_RAW_F32, QUIRE_KERNEL_NON_FINITE},
        std::tuple{1e6f, QUIRE_CODEC_INT4_CHANNEL64, QUIRE_KERNEL_OUT_OF_RANGE},
        std::tuple{1e6f, QUIRE_CODEC_RAW_F16, QUIRE_KERNEL_OUT_OF_RANGE},
        std::tuple{1e8f, QUIRE_CODEC_FP8_TOKEN, QUIRE_KERNEL_OUT_OF_RANGE}})
    for (int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE}) {
      Case c;
      c.codec = codec;
      c.plane = plane;
      c.dtype = QUIRE_DTYPE_F32;
      Fixture fixture(c);
      Aligned engine = fixture.random_engine();
      Aligned section(fixture.section_bytes());
      quire_store_params p = fixture.store_params(engine.data(), section.data());
      const float bad = value;
      memcpy(engine.data() + p.src_token[40] * p.src_token_stride + 4 * 9, &bad, 4);
      int32_t status = 0;
      const quire_cuda_launch launch = launch_on(&status);
      ASSERT_EQ(quire_cuda_store_batch(&p, 1, &launch, nullptr), QUIRE_KERNEL_OK);
      EXPECT_EQ(status, expected) << name_of(c);
    }
}

TEST(CudaLoadAndStore, BadArgumentsLaunchNothing) {
  Case c;
  c.codec = QUIRE_CODEC_INT4_CHANNEL64;
  Fixture fixture(c);
  Aligned engine = fixture.random_engine();
  Aligned section(fixture.section_bytes());
  make_section(&fixture, c, &engine, &section);
  const quire_load_params good = fixture.load_params(section.data(), engine.data());
  const quire_store_params good_store = fixture.store_params(engine.data(), section.data());
  int32_t status = 0;
  const quire_cuda_launch launch = launch_on(&status);
  const uint64_t before = quire_executor::launches();
  const auto load = [&](auto change, int expected) {
    quire_load_params two[2] = {good, good};
    change(two[1]);
    size_t failed = 7;
    EXPECT_EQ(quire_cuda_load_batch(two, 2, &launch, &failed), expected);
    EXPECT_EQ(failed, 1u);
  };
  const auto store = [&](auto change, int expected) {
    quire_store_params two[2] = {good_store, good_store};
    change(two[1]);
    size_t failed = 7;
    EXPECT_EQ(quire_cuda_store_batch(two, 2, &launch, &failed), expected);
    EXPECT_EQ(failed, 1u);
  };
  const int invalid = QUIRE_KERNEL_INVALID_ARGUMENT;
  load([](auto& p) { p.src = nullptr; }, invalid);
  load([](auto& p) { p.dst = nullptr; }, invalid);
  load([](auto& p) { p.src_bytes += 64; }, invalid);
  load([](auto& p) { p.dst_token_stride = 0; }, invalid);
  load([](auto& p) { p.dst_token_stride += 1; }, invalid);
  load([](auto& p) { p.dst_head_stride = INT64_MAX; }, invalid);
  load([](auto& p) { p.dst = static_cast<unsigned char*>(p.dst) + 1; }, invalid);
  load([](auto& p) { p.src = static_cast<const unsigned char*>(p.src) + 2; }, invalid);
  load([](auto& p) { p.token_begin = 9, p.token_end = 8; }, invalid);
  load([](auto& p) { p.token_end = p.n_tokens + 1; }, invalid);
  load([](auto& p) { p.dst_tokens = 0; }, invalid);
  load([](auto& p) { p.dst_token = nullptr, p.dst_tokens = 69; }, invalid);
  load([](auto& p) { p.flags = QUIRE_KERNEL_KEEP_NON_FINITE; }, invalid);
  load([](auto& p) { p.flags = 64; }, QUIRE_KERNEL_UNSUPPORTED);
  load([](auto& p) { p.struct_bytes = 8; }, QUIRE_KERNEL_BAD_STRUCT);
  load([](auto& p) { p.codec = 99; }, QUIRE_KERNEL_UNSUPPORTED);
  load([](auto& p) { p.codec = QUIRE_CODEC_BF16_EXP4; }, QUIRE_KERNEL_UNSUPPORTED);
  load([](auto& p) { p.plane = 2; }, QUIRE_KERNEL_UNSUPPORTED);
  load([](auto& p) { p.dst_dtype = 9; }, QUIRE_KERNEL_UNSUPPORTED);
  load([](auto& p) { p.head_dim = 512; }, QUIRE_KERNEL_UNSUPPORTED);
  store([](auto& p) { p.src = nullptr; }, invalid);
  store([](auto& p) { p.dst_bytes -= 1; }, invalid);
  store([](auto& p) { p.src_token = nullptr, p.src_tokens = 3; }, invalid);
  store([](auto& p) { p.src_dim_stride = 1; }, invalid);
  store([](auto& p) { p.struct_bytes = 0; }, QUIRE_KERNEL_BAD_STRUCT);
  store([](auto& p) { p.codec = QUIRE_CODEC_INT4_CENTRED; }, QUIRE_KERNEL_UNSUPPORTED);
  for (auto change : {+[](quire_cuda_launch& l) { l.struct_bytes = 1; },
                      +[](quire_cuda_launch& l) { l.device_status = nullptr; },
                      +[](quire_cuda_launch& l) { l.path = 17; }}) {
    quire_cuda_launch bad = launch;
    change(bad);
    EXPECT_NE(quire_cuda_load_batch(&good, 1, &bad, nullptr), QUIRE_KERNEL_OK);
    EXPECT_NE(quire_cuda_store_batch(&good_store, 1, &bad, nullptr), QUIRE_KERNEL_OK);
  }
  EXPECT_NE(quire_cuda_load_batch(&good, 1, nullptr, nullptr), QUIRE_KERNEL_OK);
  EXPECT_NE(quire_cuda_load_batch(nullptr, 1, &launch, nullptr), QUIRE_KERNEL_OK);
  EXPECT_EQ(quire_cuda_load_batch(nullptr, 0, &launch, nullptr), QUIRE_KERNEL_OK);
  EXPECT_EQ(quire_executor::launches(), before);
}

TEST(CudaLoad, KeepsNonFiniteBitsWhenAsked) {
  Case c;
  Fixture fixture(c);
  Aligned section(fixture.section_bytes());
  for (uint64_t i = 0; i < fixture.section_bytes(); i += 2) {
    const auto bits = static_cast<uint16_t>(0x7f80 + i);
    memcpy(section.data() + i, &bits, 2);
  }
  Aligned engine(fixture.engine_bytes());
  quire_load_params p = fixture.load_params(section.data(), engine.data());
  p.flags = QUIRE_KERNEL_KEEP_NON_FINITE;
  int32_t status = 0;
  const quire_cuda_launch launch = launch_on(&status);
  ASSERT_EQ(quire_cuda_load_batch(&p, 1, &launch, nullptr), QUIRE_KERNEL_OK);
  EXPECT_EQ(status, 0);
  for (uint32_t token = 0; token < c.n_tokens; ++token)
    ASSERT_EQ(memcmp(engine.data() + p.dst_token[token] * p.dst_token_stride,
                     section.data() + token * 128, 128),
              0);
}

TEST(CudaTable, NearestCellDecides) {
  quire_cuda_table table = {};
  table.struct_bytes = sizeof(table);
  for (auto& path : table.microseconds)
    for (auto& row : path)
      for (float& time : row) time = 9.0f;
  // Kernels win where runs are short and many, copies where they are long; the last column of the
  // longest runs was not measured.
  table.microseconds[QUIRE_CUDA_PATH_RING - 1][0][3] = 2.0f;
  table.microseconds[QUIRE_CUDA_PATH_COPY - 1][5][2] = 1.0f;
  for (auto& path : table.microseconds) path[5][3] = 0.0f;
  quire_cuda::choose_paths(&table);
  EXPECT_EQ(quire_cuda::path_from_table(table, 4096, 512), QUIRE_CUDA_PATH_RING);
  EXPECT_EQ(quire_cuda::path_from_table(table, 1, UINT64_MAX), QUIRE_CUDA_PATH_RING);
  EXPECT_EQ(quire_cuda::path_from_table(table, 8191, 512), QUIRE_CUDA_PATH_RING);
  EXPECT_EQ(quire_cuda::path_from_table(table, 8193, 512), QUIRE_CUDA_PATH_DIRECT);
  EXPECT_EQ(quire_cuda::path_from_table(table, 4 << 20, 64), QUIRE_CUDA_PATH_COPY);
  EXPECT_EQ(quire_cuda::path_from_table(table, UINT64_MAX, 512), QUIRE_CUDA_PATH_COPY);
  EXPECT_EQ(quire_cuda::path_from_table(table, 0, 0), QUIRE_CUDA_PATH_DIRECT);
}

TEST(CudaTable, AutoTakesThePathOfTheTable) {
  quire_cuda_table table = {};
  table.struct_bytes = sizeof(table);
  for (auto& row : table.from_host)
    for (auto& path : row) path = QUIRE_CUDA_PATH_COPY;
  for (int32_t codec : {QUIRE_CODEC_RAW_BF16, QUIRE_CODEC_INT8_CHANNEL}) {
    Case c;
    c.codec = codec;
    c.n_heads = 1;
    c.shuffled_rows = false;
    Fixture fixture(c);
    Aligned from = fixture.random_engine();
    Aligned section(fixture.section_bytes());
    make_section(&fixture, c, &from, &section);
    Aligned engine(fixture.engine_bytes());
    Aligned expected(fixture.engine_bytes());
    quire_reference::load(fixture.load_params(section.data(), expected.data()));
    const quire_load_params p = fixture.load_params(section.data(), engine.data());
    int32_t status = 0;
    quire_cuda_launch launch = launch_on(&status, QUIRE_CUDA_PATH_AUTO);
    launch.table = &table;
    const uint64_t before = quire_executor::launches();
    ASSERT_EQ(quire_cuda_load_batch(&p, 1, &launch, nullptr), QUIRE_KERNEL_OK);
    EXPECT_EQ(quire_executor::launches() - before, codec == QUIRE_CODEC_RAW_BF16 ? 0u : 1u);
    EXPECT_TRUE(engine == expected);
  }
}

}  // namespace
