// Loads of mixed precision by the CUDA kernels: the CPU's bytes, and the CPU's answer to sections
// that are wrong.
#include "tests/kernels/cuda/cuda_fixture.h"

namespace quire_kernels::cuda_test {
namespace {

constexpr int32_t kMixedCodecs[] = {QUIRE_CODEC_MIXED_INT8_INT4, QUIRE_CODEC_MIXED_INT8_INT2};

enum class Salient { kNone, kAll, kFew, kMost, kFirst, kAlternating };
constexpr Salient kAllSalient[] = {Salient::kNone, Salient::kAll,   Salient::kFew,
                                   Salient::kMost, Salient::kFirst, Salient::kAlternating};

std::vector<uint8_t> marks_of(Salient salient, uint32_t n_tokens) {
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

struct Stored {
  Stored(const Case& c, Salient salient) : section(0) {
    Case source = c;
    source.style = QUIRE_ROPE_STYLE_NONE;
    Fixture fixture(source, 5);
    Aligned engine = fixture.random_engine();
    section = Aligned(section_bytes_max(c.codec, c.plane, c.n_tokens, c.n_heads, c.head_dim));
    const std::vector<uint8_t> marks = marks_of(salient, c.n_tokens);
    quire_store_params params = fixture.store_params(engine.data(), section.data());
    params.dst_bytes = section_bytes_max(c.codec, c.plane, c.n_tokens, c.n_heads, c.head_dim);
    params.salient = marks.data();
    params.dst_written = &bytes;
    EXPECT_EQ(quire_store(&params), QUIRE_KERNEL_OK);
  }
  Aligned section;
  uint64_t bytes = 0;
};

struct Loaded {
  int status;
  Aligned engine;
};
Loaded load_by_cuda(const Case& c, const Fixture& fixture, const unsigned char* section,
                    uint64_t bytes) {
  Loaded loaded{0, Aligned(fixture.engine_bytes(), kPoison)};
  quire_load_params params = fixture.load_params(section, loaded.engine.data());
  params.src_bytes = bytes;
  int32_t status = 0;
  quire_cuda_launch launch = launch_on(&status, c.path);
  launch.max_ctas = c.max_ctas;
  loaded.status = quire_cuda_load_batch(&params, 1, &launch, nullptr);
  if (loaded.status == QUIRE_KERNEL_OK) loaded.status = status;
  return loaded;
}
Loaded load_by_cpu(const Fixture& fixture, const unsigned char* section, uint64_t bytes) {
  Loaded loaded{0, Aligned(fixture.engine_bytes(), kPoison)};
  quire_load_params params = fixture.load_params(section, loaded.engine.data());
  params.src_bytes = bytes;
  loaded.status = quire_load(&params);
  return loaded;
}

void expect_equal_load(const Case& c, Stored* stored) {
  SCOPED_TRACE(name_of(c));
  const Fixture fixture(c);
  Loaded cuda = load_by_cuda(c, fixture, stored->section.data(), stored->bytes);
  Loaded cpu = load_by_cpu(fixture, stored->section.data(), stored->bytes);
  ASSERT_EQ(cpu.status, QUIRE_KERNEL_OK);
  EXPECT_EQ(cuda.status, QUIRE_KERNEL_OK);
  EXPECT_TRUE(cuda.engine == cpu.engine)
      << first_difference(cuda.engine.data(), cpu.engine.data(), fixture.engine_bytes());
}
void check_mixed_load(const Case& c, Salient salient = Salient::kFew) {
  Stored stored(c, salient);
  expect_equal_load(c, &stored);
}

template <typename Body>
void for_every_plane(Body body) {
  for (int32_t codec : kMixedCodecs)
    for (int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE}) {
      Case c;
      c.codec = codec;
      c.plane = plane;
      body(c);
    }
}

TEST(CudaLoadMixed, EverySplitAndDtype) {
  for_every_plane([](Case c) {
    for (Salient salient : kAllSalient)
      for (int32_t dtype : {QUIRE_DTYPE_BF16, QUIRE_DTYPE_F16, QUIRE_DTYPE_F32}) {
        c.dtype = dtype;
        c.style = QUIRE_ROPE_STYLE_NONE;
        check_mixed_load(c, salient);
        if (c.plane != QUIRE_PLANE_KEY) continue;
        c.style = QUIRE_ROPE_STYLE_NEOX;
        c.rotary_dims = 64;
        c.table_per_token = dtype != QUIRE_DTYPE_F16;
        check_mixed_load(c, salient);
      }
  });
}

TEST(CudaLoadMixed, TokenCountsAndRanges) {
  for_every_plane([](Case c) {
    for (uint32_t n_tokens : {1u, 5u, 31u, 33u, 64u, 200u, 257u, 1100u}) {
      c.n_tokens = n_tokens;
      c.n_heads = n_tokens > 1000 ? 1 : 2;
      c.head_dim = 16;
      for (Salient salient : {Salient::kFew, Salient::kMost, Salient::kAlternating}) {
        c.token_begin = 0;
        c.token_end = ~0u;
        Stored stored(c, salient);
        expect_equal_load(c, &stored);
        for (uint32_t begin : {1u, 33u, 130u})
          for (uint32_t length : {1u, 31u, 100u, 2000u}) {
            if (begin >= n_tokens) continue;
            c.token_begin = begin;
            c.token_end = std::min(begin + length, n_tokens);
            expect_equal_load(c, &stored);
          }
      }
    }
  });
}

TEST(CudaLoadMixed, HeadDims) {
  for_every_plane([](Case c) {
    for (uint32_t head_dim : {1u, 7u, 8u, 12u, 36u, 80u, 96u, 128u, 255u, 256u}) {
      c.head_dim = head_dim;
      c.n_tokens = 45;
      check_mixed_load(c);
    }
  });
}

TEST(CudaLoadMixed, EngineLayoutsAndMasks) {
  for_every_plane([](Case c) {
    for (int layout = 0; layout < 3; ++layout)
      for (bool shuffled : {false, true})
        for (bool masked : {false, true}) {
          c.heads_first = layout == 1;
          c.transposed = layout == 2;
          c.shuffled_rows = shuffled;
          c.masked = masked;
          c.token_begin = masked ? 5 : 0;
          c.token_end = masked ? 66 : ~0u;
          check_mixed_load(c);
        }
  });
}

TEST(CudaLoadMixed, EveryScheduleAndRotationStyle) {
  for (const auto& schedule : quire_executor::schedules()) {
    quire_executor::set_schedule(schedule);
    for (int32_t codec : kMixedCodecs)
      for (int32_t style : {QUIRE_ROPE_STYLE_NEOX, QUIRE_ROPE_STYLE_INTERLEAVED}) {
        Case c;
        c.codec = codec;
        c.path = QUIRE_CUDA_PATH_RING;  // there is none: DIRECT is taken
        c.style = style;
        c.rotary_dims = 20;  // through shared memory
        c.table_per_token = true;
        c.n_tokens = 150;
        c.n_heads = 3;
        c.max_ctas = 1;
        check_mixed_load(c, Salient::kAlternating);
      }
  }
  quire_executor::set_schedule({});
}

// The section alone in its memory, so that ASan sees what is read beyond it. All of it is loaded:
// kernels and CPU refuse the same sections.
TEST(CudaLoadMixed, FlippedBytesGetTheCpusAnswer) {
  for_every_plane([](Case c) {
    c.n_tokens = 75;
    c.head_dim = 24;
    Stored stored(c, Salient::kFew);
    const Fixture fixture(c);
    const Bytes good(stored.section.data(), stored.section.data() + stored.bytes);
    std::mt19937 random(17);
    const auto try_one = [&](uint64_t at, unsigned char bits) {
      SCOPED_TRACE("codec " + std::to_string(c.codec) + " plane " + std::to_string(c.plane) +
                   " byte " + std::to_string(at) + " ^ " + std::to_string(bits));
      Bytes bad = good;
      bad[at] ^= bits;
      Loaded cuda = load_by_cuda(c, fixture, bad.data(), bad.size());
      Loaded cpu = load_by_cpu(fixture, bad.data(), bad.size());
      EXPECT_EQ(cuda.status, cpu.status);
      if (cpu.status == QUIRE_KERNEL_OK) {
        EXPECT_TRUE(cuda.engine == cpu.engine);
      }
    };
    for (uint64_t at = 0; at < 128; ++at)  // header and map
      for (unsigned char bits : {0x01, 0x80, 0xff}) try_one(at, bits);
    for (int i = 0; i < 200; ++i)
      try_one(random() % good.size(), static_cast<unsigned char>(1 + random() % 255));
  });
}

// Two bits of the map that swap their tokens' places: as many are salient as before.
TEST(CudaLoadMixed, AnotherMapOfTheSameCountLoads) {
  Case c;
  c.codec = QUIRE_CODEC_MIXED_INT8_INT4;
  Stored stored(c, Salient::kFirst);
  unsigned char* map = stored.section.data() + sizeof(MixedHeader);
  map[1] = 0x7f;
  map[8] = 0x20;
  expect_equal_load(c, &stored);
  map[8] = 0x40;  // token 70 of 70: the count is right, the token is not there
  const Fixture fixture(c);
  EXPECT_EQ(load_by_cpu(fixture, stored.section.data(), stored.bytes).status, QUIRE_KERNEL_CORRUPT);
  EXPECT_EQ(load_by_cuda(c, fixture, stored.section.data(), stored.bytes).status,
            QUIRE_KERNEL_CORRUPT);
}

TEST(CudaLoadMixed, WrongSizesAreCorrupt) {
  for_every_plane([](Case c) {
    Stored stored(c, Salient::kFew);
    const Fixture fixture(c);
    for (uint64_t bytes = 0; bytes + 64 <= stored.bytes; bytes += 64 * 7) {
      std::vector<uint32_t> cut((bytes + 4) / 4);
      if (bytes != 0) memcpy(cut.data(), stored.section.data(), bytes);
      Loaded cuda = load_by_cuda(c, fixture, reinterpret_cast<unsigned char*>(cut.data()), bytes);
      EXPECT_EQ(cuda.status, QUIRE_KERNEL_CORRUPT) << bytes;
      Aligned untouched(fixture.engine_bytes(), kPoison);
      EXPECT_TRUE(cuda.engine == untouched);
    }
    EXPECT_EQ(load_by_cuda(c, fixture, stored.section.data(), stored.bytes - 1).status,
              QUIRE_KERNEL_CORRUPT);
  });
}

}  // namespace
}  // namespace quire_kernels::cuda_test
