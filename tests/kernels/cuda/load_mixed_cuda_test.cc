// Loads of mixed precision by the CUDA kernels: the CPU's bytes, and the CPU's answer to sections
// that are wrong.
#include "tests/kernels/cuda/variable_fixture.h"

namespace quire_kernels::cuda_test {
namespace {

void check_mixed_load(const Case& c, Salient salient = Salient::kFew) {
  Stored stored = stored_mixed(c, salient);
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
        Stored stored = stored_mixed(c, salient);
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
    Stored stored = stored_mixed(c, Salient::kFew);
    const Fixture fixture(c);
    const Bytes good = stored.exact();
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
  Stored stored = stored_mixed(c, Salient::kFirst);
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
    Stored stored = stored_mixed(c, Salient::kFew);
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
