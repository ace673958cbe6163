// Quantised codecs on damaged sections and bad arguments: a status, or junk inside the rows that
// were asked for; never anything else.
#include "tests/kernels/reference_decoder.h"

namespace quire_kernels_test {
namespace {

class CodecHostileTest : public BothImplementations {};
INSTANTIATE_TEST_SUITE_P(Isa, CodecHostileTest,
                         ::testing::Values(QUIRE_ISA_SCALAR, QUIRE_ISA_AVX2, QUIRE_ISA_AVX512));

constexpr Shape kShape{70, 2, 40};

// Exactly as many bytes as the section has, so that a sanitizer sees a read beyond it.
struct Exact {
  explicit Exact(Section& section)
      : bytes(section.size),
        memory(static_cast<uint8_t*>(std::aligned_alloc(4, (bytes + 3) / 4 * 4))) {
    std::memcpy(memory, section.data(), bytes);
  }
  ~Exact() { std::free(memory); }
  Exact(const Exact&) = delete;
  uint64_t bytes;
  uint8_t* memory;
};

Section stored(int32_t codec, int32_t plane, std::mt19937_64& random) {
  Engine source(QUIRE_DTYPE_F32, kShape, kShape.tokens, false);
  fill_like_keys(source, random);
  Section section(codec, plane, kShape);
  quire_store_params p = store_params(source, section);
  const std::vector<uint8_t> marks = salient_tokens(kShape.tokens);
  p.salient = marks.data();
  EXPECT_EQ(quire_store(&p), QUIRE_KERNEL_OK);
  return section;
}

// OK with finite elements in the wanted rows, or a status with nothing written.
void load_damaged(quire_load_params p, Engine& engine, const std::vector<uint8_t>& clean) {
  engine.bytes.assign(clean.begin(), clean.end());
  const int status = quire_load(&p);
  if (status != QUIRE_KERNEL_OK) {
    ASSERT_TRUE(engine.bytes == clean) << quire_kernel_status_name(status);
    return;
  }
  for (uint32_t token = 0; token < kShape.tokens; ++token)
    for (uint32_t head = 0; head < kShape.heads; ++head)
      for (uint32_t dim = 0; dim < kShape.dims; ++dim)
        ASSERT_TRUE(std::isfinite(engine.value(token, head, dim))) << p.codec << " " << token;
}

TEST_P(CodecHostileTest, FlippedBytesGiveAStatusOrFiniteJunk) {
  const std::vector<float> table = exact_table(40, QUIRE_ROPE_TO_DST, 0, 77, 1);
  for (const CodecName& codec : kQuantised)
    for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE}) {
      Section section = stored(codec.codec, plane, random_);
      Exact exact(section);
      for (const int32_t dtype : {QUIRE_DTYPE_F16, QUIRE_DTYPE_BF16}) {
        Engine engine(dtype, kShape, kShape.tokens, dtype == QUIRE_DTYPE_F16);
        const std::vector<uint8_t> clean = engine.bytes;
        quire_load_params p = load_params(section, engine);
        p.src = exact.memory;
        if (plane == QUIRE_PLANE_KEY && dtype == QUIRE_DTYPE_BF16)
          p.rotation = {QUIRE_ROPE_STYLE_NEOX, 40, table.data(), 0};
        for (int round = 0; round < 300; ++round) {
          // Headers and side data most of the time.
          const uint64_t offset =
              random_() % (round % 3 ? std::min<uint64_t>(exact.bytes, 512) : exact.bytes);
          const uint8_t old = exact.memory[offset];
          exact.memory[offset] = round % 2 ? static_cast<uint8_t>(random_()) : 0xff;
          load_damaged(p, engine, clean);
          exact.memory[offset] = old;
        }
      }
    }
}

TEST_P(CodecHostileTest, OtherSizesAreRefused) {
  for (const CodecName& codec : kQuantised)
    for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE}) {
      Section section = stored(codec.codec, plane, random_);
      Engine engine(QUIRE_DTYPE_F16, kShape, kShape.tokens, false);
      const std::vector<uint8_t> clean = engine.bytes;
      for (uint64_t bytes = 0; bytes <= section.size + 64; bytes += bytes < 200 ? 1 : 37) {
        if (bytes == section.size) continue;
        Section part = section;
        part.size = bytes;
        part.words.resize(bytes / 4 + 1);
        Exact exact(part);
        quire_load_params p = load_params(part, engine);
        p.src = exact.memory;
        EXPECT_NE(quire_load(&p), QUIRE_KERNEL_OK) << codec.name << " " << bytes;
        EXPECT_NE(quire_section_check(codec.codec, plane, kShape.tokens, kShape.heads, kShape.dims,
                                      exact.memory, bytes),
                  QUIRE_KERNEL_OK);
      }
      EXPECT_TRUE(engine.bytes == clean);
    }
}

// NaN and infinity in any side datum, at the offsets of the format page.
TEST_P(CodecHostileTest, NonFiniteSideDataIsRefused) {
  for (const CodecName& codec : kQuantised) {
    if (codec.codec == 16 || codec.codec >= 64) continue;  // fp32 sides: load_test; parts of others
    for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
      for (const float bad : {NAN, INFINITY, -INFINITY})
        for (const uint32_t offset : {0u, 2u, 4u, 78u}) {
          if (codec.codec == 17 && offset >= 2 * kShape.tokens) continue;
          Section section = stored(codec.codec, plane, random_);
          narrow(QUIRE_DTYPE_F16, bad, section.data() + offset);
          Engine engine(QUIRE_DTYPE_BF16, kShape, kShape.tokens, false);
          const std::vector<uint8_t> clean = engine.bytes;
          const quire_load_params p = load_params(section, engine);
          EXPECT_EQ(quire_load(&p), QUIRE_KERNEL_NON_FINITE) << codec.name << " " << offset;
          EXPECT_TRUE(engine.bytes == clean);
        }
  }
}

TEST_P(CodecHostileTest, Fp8NanCodesAreRefusedWhereTheyAreLoaded) {
  for (const uint8_t nan : {0x7f, 0xff})
    for (const uint32_t token : {0u, 31u, 69u}) {
      Section section = stored(QUIRE_CODEC_FP8_TOKEN, QUIRE_PLANE_VALUE, random_);
      section.data()[192 + token * 40 + 39] = nan;  // pad64(2 * 70), head 0
      Engine engine(QUIRE_DTYPE_F32, kShape, kShape.tokens, false);
      quire_load_params p = load_params(section, engine);
      EXPECT_EQ(quire_load(&p), QUIRE_KERNEL_NON_FINITE);
      p.token_begin = token + 1;
      EXPECT_EQ(quire_load(&p), QUIRE_KERNEL_OK);
    }
}

// Scales whose ends fit a half on their own, but not after a transform that may enlarge them.
TEST_P(CodecHostileTest, TransformsWidenTheBoundOfValues) {
  const Shape shape{1, 1, 64};
  const auto status = [&](int32_t codec, int32_t plane, float zero, bool rotates) {
    Section section(codec, plane, shape);
    std::memset(section.data(), 0, section.size);
    for (uint32_t i = 0; i < (plane == QUIRE_PLANE_KEY && codec != 35 ? 64u : 1u); ++i)
      narrow(QUIRE_DTYPE_F16, zero, section.data() + 4ull * i);
    Engine engine(QUIRE_DTYPE_F16, shape, 1, false);
    quire_load_params p = load_params(section, engine);
    const std::vector<float> table = exact_table(64, QUIRE_ROPE_TO_DST, 0, 1, 1);
    if (rotates) p.rotation = {QUIRE_ROPE_STYLE_NEOX, 64, table.data(), 0};
    const int result = quire_load(&p);
    for (uint32_t dim = 0; result == QUIRE_KERNEL_OK && dim < 64; ++dim)
      EXPECT_TRUE(std::isfinite(engine.value(0, 0, dim)));
    return result;
  };
  EXPECT_EQ(status(32, QUIRE_PLANE_KEY, 60'000, false), QUIRE_KERNEL_OK);
  EXPECT_EQ(status(32, QUIRE_PLANE_KEY, 60'000, true), QUIRE_KERNEL_OUT_OF_RANGE);
  EXPECT_EQ(status(32, QUIRE_PLANE_KEY, 46'000, true), QUIRE_KERNEL_OK);
  EXPECT_EQ(status(32, QUIRE_PLANE_VALUE, 8'000, false), QUIRE_KERNEL_OK);
  EXPECT_EQ(status(32, QUIRE_PLANE_VALUE, 8'200, false), QUIRE_KERNEL_OUT_OF_RANGE);
  EXPECT_EQ(status(34, QUIRE_PLANE_VALUE, 60'000, false), QUIRE_KERNEL_OK);
  EXPECT_EQ(status(35, QUIRE_PLANE_KEY, 6'000, true), QUIRE_KERNEL_OUT_OF_RANGE);
}

TEST_P(CodecHostileTest, MixedHeadersThatContradictTheMapAreCorrupt) {
  const auto check = [&](auto change) {
    Section section = stored(QUIRE_CODEC_MIXED_INT8_INT4, QUIRE_PLANE_KEY, random_);
    change(section.data());
    Engine engine(QUIRE_DTYPE_F16, kShape, kShape.tokens, false);
    const std::vector<uint8_t> clean = engine.bytes;
    const quire_load_params p = load_params(section, engine);
    EXPECT_TRUE(engine.bytes == clean);
    return quire_load(&p);
  };
  EXPECT_EQ(check([](uint8_t*) {}), QUIRE_KERNEL_OK);
  EXPECT_EQ(check([](uint8_t* s) { s[0] += 1; }), QUIRE_KERNEL_CORRUPT);
  EXPECT_EQ(check([](uint8_t* s) { s[3] = 0xff; }), QUIRE_KERNEL_CORRUPT);
  EXPECT_EQ(check([](uint8_t* s) { s[4] = 1; }), QUIRE_KERNEL_CORRUPT);
  EXPECT_EQ(check([](uint8_t* s) { s[63] = 1; }), QUIRE_KERNEL_CORRUPT);
  EXPECT_EQ(check([](uint8_t* s) { s[64] ^= 1; }), QUIRE_KERNEL_CORRUPT);
  EXPECT_EQ(check([](uint8_t* s) { s[64 + 8] ^= 0x40; }), QUIRE_KERNEL_CORRUPT);  // token 70
  EXPECT_EQ(check([](uint8_t* s) { s[127] = 1; }), QUIRE_KERNEL_CORRUPT);
  // As many bits as before, one of them for a token that is not there.
  const auto move_bit = [](uint8_t* s) {
    for (uint32_t i = 0; i < 8; ++i)
      if (s[64 + i] != 0) {
        s[64 + i] &= static_cast<uint8_t>(s[64 + i] - 1);
        break;
      }
    s[64 + 8] |= 0x40;
  };
  EXPECT_EQ(check(move_bit), QUIRE_KERNEL_CORRUPT);
}

TEST_P(CodecHostileTest, AllOrNoTokensMayBeSalient) {
  for (const int32_t codec : {QUIRE_CODEC_MIXED_INT8_INT4, QUIRE_CODEC_MIXED_INT8_INT2})
    for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
      for (const int kind : {0, 1, 2}) {
        Engine source(QUIRE_DTYPE_F32, kShape, kShape.tokens, false);
        fill_like_keys(source, random_);
        const std::vector<uint8_t> marks(kShape.tokens, kind == 1 ? 1 : 0);
        Section mixed(codec, plane, kShape);
        quire_store_params p = store_params(source, mixed);
        p.salient = kind == 2 ? nullptr : marks.data();
        ASSERT_EQ(quire_store(&p), QUIRE_KERNEL_OK);
        const int32_t other = codec == QUIRE_CODEC_MIXED_INT8_INT4 ? QUIRE_CODEC_INT4_CHANNEL64
                                                                   : QUIRE_CODEC_INT2_CHANNEL32;
        Section alone(kind == 1 ? static_cast<int32_t>(QUIRE_CODEC_INT8_CHANNEL) : other, plane,
                      kShape);
        p = store_params(source, alone);
        ASSERT_EQ(quire_store(&p), QUIRE_KERNEL_OK);
        ASSERT_EQ(mixed.size, alone.size + 128);
        EXPECT_EQ(std::memcmp(mixed.data() + 128, alone.data(), alone.size), 0);
      }
}

TEST_P(CodecHostileTest, BadArgumentsAreRefusedAndNothingIsWritten) {
  for (const CodecName& codec : kQuantised) {
    Section section = stored(codec.codec, QUIRE_PLANE_VALUE, random_);
    Engine engine(QUIRE_DTYPE_F16, kShape, kShape.tokens, false);
    const std::vector<uint8_t> clean = engine.bytes;
    const quire_load_params good = load_params(section, engine);
    const auto load_with = [&](auto change) {
      quire_load_params p = good;
      change(p);
      return quire_load(&p);
    };
    const int invalid = QUIRE_KERNEL_INVALID_ARGUMENT;
    std::vector<int64_t> rows(kShape.tokens, 0);
    rows[69] = -1;
    EXPECT_EQ(load_with([](auto& p) { p.src = nullptr; }), invalid);
    EXPECT_EQ(load_with([](auto& p) { p.src = static_cast<const char*>(p.src) + 1; }), invalid);
    EXPECT_EQ(load_with([](auto& p) { p.dst = nullptr; }), invalid);
    EXPECT_EQ(load_with([&](auto& p) { p.dst_token = rows.data(); }), invalid);
    EXPECT_EQ(load_with([](auto& p) { p.dst_token_stride = INT64_MAX / 3; }), invalid);
    EXPECT_EQ(load_with([](auto& p) { p.flags = 2; }), invalid);
    EXPECT_EQ(load_with([](auto& p) { p.n_tokens = 1u << 30; }), invalid);
    EXPECT_EQ(load_with([](auto& p) { p.dst = const_cast<void*>(p.src); }), invalid);
    EXPECT_EQ(load_with([&](auto& p) { p.dst = section.data() + section.size - 2; }), invalid);
    EXPECT_TRUE(engine.bytes == clean);

    Section target(codec.codec, QUIRE_PLANE_VALUE, kShape);
    const quire_store_params fine = store_params(engine, target);
    const auto store_with = [&](auto change) {
      quire_store_params p = fine;
      change(p);
      return quire_store(&p);
    };
    const std::vector<uint8_t> before = target.copy();
    EXPECT_EQ(store_with([](auto& p) { p.dst = nullptr; }), invalid);
    EXPECT_EQ(store_with([](auto& p) { p.dst_bytes += 64; }), invalid);
    EXPECT_EQ(store_with([](auto& p) { p.flags = 4; }), invalid);
    EXPECT_EQ(store_with([&](auto& p) { p.src_token = rows.data(); }), invalid);
    EXPECT_EQ(store_with([](auto& p) { p.src = p.dst; }), invalid);
    if (codec.codec >= 64) {
      EXPECT_EQ(store_with([](auto& p) { p.dst_written = nullptr; }), invalid);
    }
    EXPECT_TRUE(target.copy() == before);
  }
}

// A section between the rows of the engine, touching none, is no overlap.
TEST_P(CodecHostileTest, ASectionBetweenTheEnginesRowsIsAccepted) {
  const Shape shape{2, 1, 8};
  Engine source(QUIRE_DTYPE_F16, shape, 2, false);
  fill_like_keys(source, random_);
  std::vector<uint32_t> memory(4096);
  auto* bytes = reinterpret_cast<uint8_t*>(memory.data());
  Section section(QUIRE_CODEC_INT4_KIVI, QUIRE_PLANE_VALUE, shape);
  quire_store_params store = store_params(source, section);
  ASSERT_EQ(quire_store(&store), QUIRE_KERNEL_OK);
  std::memcpy(bytes + 1024, section.data(), section.size);
  Engine engine(QUIRE_DTYPE_F16, shape, 2, false);
  quire_load_params p = load_params(section, engine);
  p.src = bytes + 1024;
  p.dst = bytes;
  p.dst_token_stride = 8192;
  EXPECT_EQ(quire_load(&p), QUIRE_KERNEL_OK);
  p.dst_token_stride = 1024;
  EXPECT_EQ(quire_load(&p), QUIRE_KERNEL_INVALID_ARGUMENT);
  const uint8_t mask[] = {1, 0};
  p.row_mask = mask;  // the row that would hit it is not written
  EXPECT_EQ(quire_load(&p), QUIRE_KERNEL_OK);
}

}  // namespace
}  // namespace quire_kernels_test
