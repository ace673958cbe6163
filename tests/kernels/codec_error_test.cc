// Quantised codecs: what a store followed by a load may change, for every shape of tails, and that
// rotations commute with it.
#include "tests/kernels/reference_decoder.h"

namespace quire_kernels_test {
namespace {

class CodecErrorTest : public BothImplementations {};
INSTANTIATE_TEST_SUITE_P(Isa, CodecErrorTest,
                         ::testing::Values(QUIRE_ISA_SCALAR, QUIRE_ISA_AVX2, QUIRE_ISA_AVX512));

Section stored(int32_t codec, int32_t plane, Engine& source, Shape shape) {
  Section section(codec, plane, shape);
  quire_store_params p = store_params(source, section);
  const std::vector<uint8_t> marks = salient_tokens(shape.tokens);
  p.salient = marks.data();
  EXPECT_EQ(quire_store(&p), QUIRE_KERNEL_OK) << codec << " plane " << plane;
  return section;
}

// Errors of a block of one Hadamard transform have the norm that the codes' errors have, at most
// half a step each; blocks of one element are the plain bound.
void expect_within_bounds(int32_t codec, int32_t plane, Engine& source, Section& section,
                          Engine& back) {
  const Shape shape = section.shape;
  const auto want = ReferenceDecoder::decode(codec, plane, shape, section.data());
  for (uint32_t head = 0; head < shape.heads; ++head)
    for (uint32_t token = 0; token < shape.tokens; ++token) {
      const DecodedElement* row = &want[(uint64_t{head} * shape.tokens + token) * shape.dims];
      double largest = 0;
      for (uint32_t dim = 0; dim < shape.dims; ++dim)
        largest = std::max(largest, std::fabs(static_cast<double>(source.value(token, head, dim))));
      for (uint32_t begin = 0; begin < shape.dims; begin += row[begin].order) {
        double error = 0;
        double bound = 0;
        for (uint32_t dim = begin; dim < begin + row[begin].order; ++dim) {
          ASSERT_EQ(back.value(token, head, dim), row[dim].value)
              << codec << " plane " << plane << " token " << token << " dim " << dim << " of "
              << shape.dims;
          const double x = source.value(token, head, dim);
          const double difference = (static_cast<double>(row[dim].value) - x) / row[dim].weight;
          double most = 0.5001 * row[dim].step + half_step(QUIRE_DTYPE_F32, x) * 2;
          if (row[dim].fp8)
            most = std::max(std::fabs(x) * 0x1p-4, row[dim].step * 0x1p-10) * 1.0001;
          if (row[dim].order > 1) most += largest * 0x1p-20;
          if (row[dim].weight != 1) most += (largest + std::fabs(x)) / row[dim].weight * 0x1p-20;
          error += difference * difference;
          bound += most * most;
        }
        ASSERT_LE(std::sqrt(error), std::sqrt(bound))
            << codec << " plane " << plane << " tokens " << shape.tokens << " dims " << shape.dims
            << " head " << head << " token " << token << " block " << begin << " seed " << kSeed;
      }
    }
}

void expect_good(int32_t codec, int32_t plane, Shape shape, std::mt19937_64& random) {
  Engine source(QUIRE_DTYPE_F32, shape, shape.tokens, false);
  fill_like_keys(source, random);
  Section section = stored(codec, plane, source, shape);
  Engine back(QUIRE_DTYPE_F32, shape, shape.tokens, false);
  const quire_load_params p = load_params(section, back);
  ASSERT_EQ(quire_load(&p), QUIRE_KERNEL_OK);
  expect_within_bounds(codec, plane, source, section, back);
}

TEST_P(CodecErrorTest, StaysWithinHalfAStepForEveryNumberOfTokens) {
  for (const CodecName& codec : kQuantised)
    for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
      for (uint32_t tokens = 1; tokens <= 257; tokens += tokens < 70 || tokens > 252 ? 1 : 9)
        expect_good(codec.codec, plane, {tokens, 1, 16}, random_);
}

TEST_P(CodecErrorTest, StaysWithinHalfAStepForEveryHeadSize) {
  for (const CodecName& codec : kQuantised)
    for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
      for (uint32_t dims = 1; dims <= 260; ++dims)
        expect_good(codec.codec, plane, {3, 2, dims}, random_);
}

TEST_P(CodecErrorTest, StaysWithinHalfAStepForRealShapes) {
  for (const CodecName& codec : kQuantised)
    for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
      for (const Shape& shape :
           {Shape{256, 2, 64}, Shape{300, 1, 128}, Shape{70, 1, 80}, Shape{65, 1, 96},
            Shape{33, 1, 192}, Shape{129, 1, 256}, Shape{2, 1, 1024}})
        expect_good(codec.codec, plane, shape, random_);
}

// Constant channels of any size, ranges of one unit in the last place, denormals, zeros of both
// signs, and the largest halves.
TEST_P(CodecErrorTest, AdversarialValuesStayWithinBounds) {
  const Shape shape{67, 1, 64};
  for (const CodecName& codec : kQuantised)
    for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
      for (int kind = 0; kind < 6; ++kind) {
        Engine source(QUIRE_DTYPE_F32, shape, shape.tokens, false);
        std::uniform_real_distribution<float> uniform(-1, 1);
        for (uint32_t token = 0; token < shape.tokens; ++token)
          for (uint32_t dim = 0; dim < shape.dims; ++dim) {
            float value = dim % 2 ? 217.0f : -0.0f;
            if (kind == 1) value = 1000.0f + 0x1p-13f * static_cast<float>(random_() % 3);
            if (kind == 2) value = uniform(random_) * 1e-39f;
            if (kind == 3) value = random_() % 2 ? 0.0f : -0.0f;
            if (kind == 4) value = random_() % 16 ? 0.0f : (random_() % 2 ? 8000.0f : -8000.0f);
            if (kind == 5) value = uniform(random_) * 0x1p-24f;
            source.set(token, 0, dim, value);
          }
        Section section = stored(codec.codec, plane, source, shape);
        Engine back(QUIRE_DTYPE_F32, shape, shape.tokens, false);
        const quire_load_params p = load_params(section, back);
        ASSERT_EQ(quire_load(&p), QUIRE_KERNEL_OK);
        // Below the range of halves a step is a denormal half: 2^-24.
        expect_within_bounds(codec.codec, plane, source, section, back);
      }
}

// The largest finite halves are stored, and what is beyond them refused, where sides are fp16.
TEST_P(CodecErrorTest, RefusesWhatTheSideDataCannotHold) {
  const Shape shape{5, 1, 1};  // no Hadamard block
  for (const CodecName& codec : kQuantised)
    for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE}) {
      if (codec.codec == 16 && plane == QUIRE_PLANE_KEY) continue;
      const float beyond = codec.codec == 17 ? 65520.0f * 448 : 65520.0f;
      for (const float value : {65504.0f, beyond, -beyond}) {
        Engine source(QUIRE_DTYPE_F32, shape, shape.tokens, false);
        for (uint32_t token = 0; token < shape.tokens; ++token) source.set(token, 0, 0, value);
        Section section(codec.codec, plane, shape);
        const quire_store_params p = store_params(source, section);
        EXPECT_EQ(quire_store(&p), value == 65504.0f ? QUIRE_KERNEL_OK : QUIRE_KERNEL_OUT_OF_RANGE)
            << codec.name << " plane " << plane << " " << value;
      }
    }
}

// Sums of such values overflow inside the transform.
TEST_P(CodecErrorTest, HugeValuesAreRefusedBeforeTheyAreTurned) {
  const Shape shape{3, 1, 64};
  for (const CodecName& codec : kQuantised)
    for (const int32_t dtype : {QUIRE_DTYPE_BF16, QUIRE_DTYPE_F32})
      for (const float most : {3e38f, 1e37f, 6e5f * 448}) {
        Engine source(dtype, shape, shape.tokens, false);
        for (uint32_t token = 0; token < shape.tokens; ++token)
          for (uint32_t dim = 0; dim < shape.dims; ++dim)
            source.set(token, 0, dim, random_() % 2 ? most : -most);
        Section section(codec.codec, QUIRE_PLANE_VALUE, shape);
        const quire_store_params p = store_params(source, section);
        EXPECT_EQ(quire_store(&p), QUIRE_KERNEL_OUT_OF_RANGE) << codec.name << " " << most;
      }
}

TEST_P(CodecErrorTest, NonFiniteElementsAreRefused) {
  const Shape shape{40, 2, 24};
  for (const CodecName& codec : kQuantised)
    for (const int32_t plane : {QUIRE_PLANE_KEY, QUIRE_PLANE_VALUE})
      for (const float bad : {NAN, INFINITY, -INFINITY}) {
        Engine source(QUIRE_DTYPE_F32, shape, shape.tokens, false);
        fill_like_keys(source, random_);
        source.set(37, 1, 23, bad);
        Section section(codec.codec, plane, shape);
        const quire_store_params p = store_params(source, section);
        EXPECT_EQ(quire_store(&p), QUIRE_KERNEL_NON_FINITE) << codec.name;
      }
}

// Keys stored un-rotated and loaded back to their positions, or moved forwards and backwards.
TEST_P(CodecErrorTest, RotationsAroundTheCodesAreUndone) {
  for (const CodecName& codec : kQuantised)
    for (const int32_t style : {QUIRE_ROPE_STYLE_NEOX, QUIRE_ROPE_STYLE_INTERLEAVED})
      for (const Shape& shape : {Shape{70, 2, 128}, Shape{40, 1, 64}, Shape{33, 1, 80}})
        for (const uint32_t rotary : {shape.dims, shape.dims / 2})
          for (const int64_t move : {int64_t{0}, int64_t{-500}, int64_t{100'000}}) {
            Engine source(QUIRE_DTYPE_F32, shape, shape.tokens, false);
            std::normal_distribution<float> normal;
            for (uint32_t token = 0; token < shape.tokens; ++token)
              for (uint32_t head = 0; head < shape.heads; ++head)
                for (uint32_t dim = 0; dim < shape.dims; ++dim)
                  source.set(token, head, dim, normal(random_));
            const int64_t position = 1000;
            const auto undo = exact_table(rotary, QUIRE_ROPE_FROM_SRC, position, 0, shape.tokens);
            const auto redo =
                exact_table(rotary, QUIRE_ROPE_TO_DST, 0, position + move, shape.tokens);
            Section section(codec.codec, QUIRE_PLANE_KEY, shape);
            quire_store_params store = store_params(source, section);
            store.rotation = {style, rotary, undo.data(), rotary * 4};
            ASSERT_EQ(quire_store(&store), QUIRE_KERNEL_OK) << codec.name;
            Engine back(QUIRE_DTYPE_F32, shape, shape.tokens, false);
            quire_load_params load = load_params(section, back);
            load.rotation = {style, rotary, redo.data(), rotary * 4};
            ASSERT_EQ(quire_load(&load), QUIRE_KERNEL_OK) << codec.name;
            const auto plain =
                ReferenceDecoder::decode(codec.codec, QUIRE_PLANE_KEY, shape, section.data());
            for (uint32_t head = 0; head < shape.heads; ++head)
              for (uint32_t token = 0; token < shape.tokens; ++token) {
                std::vector<double> x(shape.dims);
                std::vector<double> decoded(shape.dims);
                const DecodedElement* row =
                    &plain[(uint64_t{head} * shape.tokens + token) * shape.dims];
                for (uint32_t dim = 0; dim < shape.dims; ++dim) {
                  x[dim] = source.value(token, head, dim);
                  decoded[dim] = row[dim].value;
                }
                const auto want = rotated(decoded, style, rotary, position + move + token);
                const auto moved = rotated(x, style, rotary, move);
                double error = 0;
                for (uint32_t dim = 0; dim < shape.dims; ++dim) {
                  const double got = back.value(token, head, dim);
                  ASSERT_NEAR(got, want[dim], 1e-5) << codec.name << " dim " << dim;
                  error += (got - moved[dim]) * (got - moved[dim]);
                }
                // Quantising loses a share of the norm, never the direction.
                const double share = codec.codec == 56 || codec.codec == 57 || codec.codec == 65
                                         ? 0.75
                                         : (codec.codec == 48 ? 0.3 : 0.2);
                ASSERT_LE(std::sqrt(error), share * std::sqrt(shape.dims * 1.0) * 1.5)
                    << codec.name;
              }
          }
}

}  // namespace
}  // namespace quire_kernels_test
