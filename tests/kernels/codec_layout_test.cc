// Quantised codecs and the engine's memory: strides, ranges, masks, scattered rows. A plain load of
// everything is what the others are compared with.
#include <sys/mman.h>

#include <algorithm>
#include <numeric>

#include "tests/kernels/reference_decoder.h"

namespace quire_kernels_test {
namespace {

class CodecLayoutTest : public BothImplementations {};
INSTANTIATE_TEST_SUITE_P(Isa, CodecLayoutTest,
                         ::testing::Values(QUIRE_ISA_SCALAR, QUIRE_ISA_AVX2, QUIRE_ISA_AVX512));

Section stored(int32_t codec, int32_t plane, Shape shape, std::mt19937_64& random) {
  Engine source(QUIRE_DTYPE_F32, shape, shape.tokens, false);
  fill_like_keys(source, random);
  Section section(codec, plane, shape);
  quire_store_params p = store_params(source, section);
  const std::vector<uint8_t> marks = salient_tokens(shape.tokens);
  p.salient = marks.data();
  EXPECT_EQ(quire_store(&p), QUIRE_KERNEL_OK) << codec << " plane " << plane;
  return section;
}

// A memory with any order of axes and any sign of strides.
struct Strided {
  Strided(Engine& like, bool transposed, bool negative)
      : engine(like.dtype, {static_cast<uint32_t>(like.rows), like.heads, like.dims}, like.rows,
               transposed) {
    base = engine.data();
    strides[0] = engine.token_stride;
    strides[1] = engine.head_stride;
    strides[2] = engine.dim_stride;
    if (!negative) return;
    const int64_t counts[] = {engine.rows, engine.heads, engine.dims};
    for (int i = 0; i < 3; ++i) {
      base += (counts[i] - 1) * strides[i];
      strides[i] = -strides[i];
    }
  }
  uint8_t* at(int64_t row, uint32_t head, uint32_t dim) {
    return base + row * strides[0] + head * strides[1] + dim * strides[2];
  }
  Engine engine;
  uint8_t* base;
  int64_t strides[3];
};

TEST_P(CodecLayoutTest, LoadsAreTheSameUnderEveryLayoutMaskAndRange) {
  for (const CodecName& codec : kQuantised)
    for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
      for (const int32_t dtype : {QUIRE_DTYPE_F16, QUIRE_DTYPE_BF16, QUIRE_DTYPE_F32})
        for (const uint32_t dims : {80u, 64u, 7u})
          for (int layout = 0; layout < 4; ++layout) {
            const Shape shape{137, 2, dims};
            Section section = stored(codec.codec, plane, shape, random_);
            Engine plain(dtype, shape, shape.tokens, false);
            quire_load_params p = load_params(section, plain);
            ASSERT_EQ(quire_load(&p), QUIRE_KERNEL_OK) << codec.name;

            Engine wide(dtype, shape, shape.tokens + 9, false);
            Strided memory(wide, layout % 2 == 1, layout >= 2);
            std::vector<int64_t> rows(shape.tokens);
            std::iota(rows.begin(), rows.end(), 4);
            if (random_() % 2) std::shuffle(rows.begin(), rows.end(), random_);
            std::vector<uint8_t> mask(shape.tokens);
            for (uint8_t& keep : mask) keep = random_() % 6 != 0;
            std::fill(mask.begin() + 60, mask.begin() + 100, 1);
            for (uint32_t i = 0; i < shape.tokens; ++i)
              if (!mask[i]) rows[i] = INT64_MIN;  // never looked at
            p = load_params(section, memory.engine);
            p.dst = memory.base;
            p.dst_token_stride = memory.strides[0];
            p.dst_head_stride = memory.strides[1];
            p.dst_dim_stride = memory.strides[2];
            p.token_begin = static_cast<uint32_t>(random_() % 60);
            p.token_end = static_cast<uint32_t>(90 + random_() % 48);
            p.dst_token = rows.data();
            p.row_mask = mask.data();
            const std::vector<uint8_t> before = memory.engine.bytes;
            ASSERT_EQ(quire_load(&p), QUIRE_KERNEL_OK) << codec.name;
            const std::vector<uint8_t> got = memory.engine.bytes;
            memory.engine.bytes.assign(before.begin(), before.end());
            for (uint32_t token = p.token_begin; token < p.token_end; ++token)
              for (uint32_t head = 0; mask[token] && head < shape.heads; ++head)
                for (uint32_t dim = 0; dim < dims; ++dim)
                  std::memcpy(memory.at(rows[token], head, dim), plain.at(token, head, dim),
                              element_size(dtype));
            ASSERT_TRUE(got == memory.engine.bytes)
                << codec.name << " plane " << plane << " dtype " << dtype << " layout " << layout
                << " dims " << dims << " seed " << kSeed;
          }
}

TEST_P(CodecLayoutTest, StoresAreTheSameUnderEveryLayout) {
  for (const CodecName& codec : kQuantised)
    for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
      for (const int32_t dtype : {QUIRE_DTYPE_BF16, QUIRE_DTYPE_F32})
        for (int layout = 0; layout < 4; ++layout) {
          const Shape shape{75, 2, 48};
          const std::vector<uint8_t> marks = salient_tokens(shape.tokens);
          Engine plain(dtype, shape, shape.tokens, false);
          fill_like_keys(plain, random_);
          Section want(codec.codec, plane, shape);
          quire_store_params p = store_params(plain, want);
          p.salient = marks.data();
          ASSERT_EQ(quire_store(&p), QUIRE_KERNEL_OK);

          Engine wide(dtype, shape, shape.tokens + 5, false);
          Strided memory(wide, layout % 2 == 1, layout >= 2);
          std::vector<int64_t> rows(shape.tokens);
          std::iota(rows.begin(), rows.end(), 2);
          if (random_() % 2) std::shuffle(rows.begin(), rows.end(), random_);
          for (uint32_t token = 0; token < shape.tokens; ++token)
            for (uint32_t head = 0; head < shape.heads; ++head)
              for (uint32_t dim = 0; dim < shape.dims; ++dim)
                std::memcpy(memory.at(rows[token], head, dim), plain.at(token, head, dim),
                            element_size(dtype));
          Section got(codec.codec, plane, shape);
          std::fill(got.words.begin(), got.words.end(), 0x5a5a5a5a);
          const uint32_t guard = got.words.back();
          p = store_params(memory.engine, got);
          p.salient = marks.data();
          p.src = memory.base;
          p.src_token = rows.data();
          p.src_token_stride = memory.strides[0];
          p.src_head_stride = memory.strides[1];
          p.src_dim_stride = memory.strides[2];
          ASSERT_EQ(quire_store(&p), QUIRE_KERNEL_OK);
          ASSERT_TRUE(want.copy() == got.copy())
              << codec.name << " plane " << plane << " layout " << layout;
          ASSERT_EQ(guard, got.words.back());
        }
}

// Rows more than 2^31 bytes apart, in memory that is only reserved.
TEST_P(CodecLayoutTest, OffsetsBeyondTwoGibibytesReachTheirRows) {
  const Shape shape{3, 2, 64};
  const int64_t stride = INT64_C(5) << 30;
  const int64_t head_stride = INT64_C(3) << 30;
  const uint64_t bytes = static_cast<uint64_t>(2 * stride + head_stride) + 4096;
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    GTEST_SKIP() << "an address range beyond 2^31 bytes cannot be reserved here";
  for (const CodecName& codec : kQuantised) {
    Section section = stored(codec.codec, QUIRE_PLANE_KEY, shape, random_);
    Engine plain(QUIRE_DTYPE_BF16, shape, shape.tokens, false);
    quire_load_params p = load_params(section, plain);
    ASSERT_EQ(quire_load(&p), QUIRE_KERNEL_OK);
    for (const int sign : {1, -1}) {
      auto* base = static_cast<uint8_t*>(memory) + (sign < 0 ? 2 * stride : 0);
      quire_load_params far = p;
      far.dst = base;
      far.dst_token_stride = sign * stride;
      far.dst_head_stride = head_stride;
      far.dst_dim_stride = 2;
      ASSERT_EQ(quire_load(&far), QUIRE_KERNEL_OK);
      for (uint32_t token = 0; token < shape.tokens; ++token)
        for (uint32_t head = 0; head < shape.heads; ++head)
          ASSERT_EQ(std::memcmp(base + sign * stride * token + head_stride * head,
                                plain.at(token, head, 0), 2 * shape.dims),
                    0);
      Section again(codec.codec, QUIRE_PLANE_KEY, shape);
      Section near(codec.codec, QUIRE_PLANE_KEY, shape);
      quire_store_params store = store_params(plain, near);
      ASSERT_EQ(quire_store(&store), QUIRE_KERNEL_OK);
      store = store_params(plain, again);
      store.src = base;
      store.src_token_stride = sign * stride;
      store.src_head_stride = head_stride;
      ASSERT_EQ(quire_store(&store), QUIRE_KERNEL_OK);
      ASSERT_TRUE(near.copy() == again.copy()) << codec.name;
    }
  }
  ::munmap(memory, bytes);
}

}  // namespace
}  // namespace quire_kernels_test
