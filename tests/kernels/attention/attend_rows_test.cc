#include "tests/kernels/attention/cases.h"

namespace quire_kernels_test {
namespace {

int attend_rows(const quire_attend_rows_params& p) {
  return quire_attend_rows(&p);
}

class AttendRowsTest : public BothImplementations {
 protected:
  Engines engine() const {
    return GetParam() == QUIRE_ISA_SCALAR ? Engines::kScalar : Engines::kAvx512;
  }
};
INSTANTIATE_TEST_SUITE_P(Implementations, AttendRowsTest,
                         ::testing::Values(QUIRE_ISA_SCALAR, QUIRE_ISA_AVX512));

TEST_P(AttendRowsTest, RandomShapes) {
  Errors errors;
  const uint32_t dims[] = {64, 80, 96, 128, 256, 40, 7};
  const int32_t dtypes[] = {QUIRE_DTYPE_F16, QUIRE_DTYPE_BF16, QUIRE_DTYPE_F32};
  for (uint64_t round = 0; round < 42; ++round) {
    std::mt19937_64 random(kSeed + round);
    RowsCase c;
    c.seed = kSeed + round;
    c.kv_heads = 1 + random() % 2;
    c.group = 1 + random() % 8;
    c.key_dims = dims[round % 7];
    c.value_dims = round % 5 == 4 ? 32 : c.key_dims;
    c.tokens = 1 + random() % 257;
    c.pages = {dtypes[random() % 3], static_cast<uint32_t>(1 + random() % 256), random() % 2 == 0};
    c.query_dtype = dtypes[random() % 3];
    c.out_dtype = dtypes[random() % 3];
    c.q_pos = scattered(c.tokens, 0.15, random);
    if (round % 3 == 1) std::shuffle(c.q_pos.begin(), c.q_pos.end(), random);
    c.window = round % 4 == 2 ? 1 + random() % 64 : 0;
    c.softcap = round % 4 == 3 ? 2.0f : 0;
    c.side_outputs = round % 2 == 0;
    expect_rows(engine(), c, attend_rows, &errors);
  }
}

TEST_P(AttendRowsTest, EveryLengthAndPageSize) {
  Errors errors;
  for (uint32_t tokens : {1u, 2u, 15u, 16u, 63u, 64u, 65u, 127u, 129u, 255u, 256u, 257u})
    for (uint32_t page : {1u, 3u, 16u, 64u, 256u}) {
      RowsCase c;
      c.tokens = tokens;
      c.pages.page_tokens = page;
      c.kv_heads = 1;
      c.q_pos = {0, tokens / 2, tokens - 1};
      c.side_outputs = true;
      expect_rows(engine(), c, attend_rows, &errors);
    }
}

// A row that sees one token gives that token's value, whatever the logit.
TEST_P(AttendRowsTest, OneVisibleToken) {
  RowsCase c;
  c.q_pos = {0, 50};
  c.window = 1;
  RowsRun run(c);
  ASSERT_EQ(attend_rows(run.params()), QUIRE_KERNEL_OK);
  for (uint32_t row = 0; row < 2; ++row)
    for (uint32_t head = 0; head < 4; ++head) {
      EXPECT_EQ(run.out.values(row, head),
                run.pages.value(0, head / 2, static_cast<uint32_t>(c.q_pos[row])));
      EXPECT_TRUE(std::isfinite(run.lse_of(row, head)));
    }
}

// An exact cache: a recomputed row is the row of the full causal attention, bit for bit.
TEST_P(AttendRowsTest, SubsetEqualsFullAttention) {
  RowsCase full;
  full.tokens = 150;
  for (uint32_t token = 0; token < full.tokens; ++token) full.q_pos.push_back(token);
  RowsRun all(full);
  ASSERT_EQ(attend_rows(all.params()), QUIRE_KERNEL_OK);
  std::mt19937_64 random(5);
  const std::vector<int64_t> some = scattered(full.tokens, 0.2, random);
  HeadRows out(QUIRE_DTYPE_F32, static_cast<uint32_t>(some.size()), 4, 64);
  HeadRows query(full.query_dtype, static_cast<uint32_t>(some.size()), 4, 64);
  for (uint32_t i = 0; i < some.size(); ++i) {
    const auto bytes = all.query.row_bytes(static_cast<uint32_t>(some[i]));
    std::copy(bytes.begin(), bytes.end(), query.at(i, 0, 0));
  }
  quire_attend_rows_params p = all.params();
  p.n_rows = static_cast<uint32_t>(some.size());
  p.q_pos = some.data();
  p.query = query.view();
  p.out = out.view();
  p.lse = nullptr;
  ASSERT_EQ(attend_rows(p), QUIRE_KERNEL_OK);
  for (uint32_t i = 0; i < some.size(); ++i)
    EXPECT_EQ(out.row_bytes(i), all.out.row_bytes(static_cast<uint32_t>(some[i])));
}

// The comparison is worth something: one visible token more or less is far outside of the bound.
TEST_P(AttendRowsTest, LeakedMaskIsCaught) {
  RowsCase c;
  c.q_pos = {20, 60, 98};
  RowsRun run(c);
  ASSERT_EQ(attend_rows(run.params()), QUIRE_KERNEL_OK);
  Errors ignored;
  EXPECT_TRUE(rows_match(engine(), run, 0, &ignored));
  EXPECT_FALSE(rows_match(engine(), run, 1, &ignored));
  EXPECT_FALSE(rows_match(engine(), run, -1, &ignored));
  ignored.out = 0;
}

// Tokens that no row may see are NaN: nothing of them arrives.
TEST_P(AttendRowsTest, HiddenTokensAreNeverUsed) {
  RowsCase c;
  c.q_pos = {10, 40, 70};
  c.window = 5;
  c.side_outputs = true;
  RowsRun run(c);
  for (uint32_t token = 0; token < c.tokens; ++token) {
    bool seen = false;
    for (int64_t position : c.q_pos) seen |= token <= position && token + c.window > position;
    if (!seen) run.pages.set_key_nan(0, token);
  }
  ASSERT_EQ(attend_rows(run.params()), QUIRE_KERNEL_OK);
  Errors errors;
  EXPECT_TRUE(rows_match(engine(), run, 0, &errors));
  expect_side_outputs(engine(), run);
}

// What one row of a tile may see does not reach the others.
TEST_P(AttendRowsTest, NanStaysWithTheRowsThatSeeIt) {
  RowsCase c;
  c.q_pos = {10, 70, 40};
  RowsRun run(c);
  run.pages.set_key_nan(0, 50);
  ASSERT_EQ(attend_rows(run.params()), QUIRE_KERNEL_OK);
  Errors errors;
  for (uint32_t head = 0; head < 4; ++head) {
    for (uint32_t row : {0u, 2u})
      EXPECT_TRUE(within(engine(), run.exact(row, head), run.out.values(row, head),
                         run.lse_of(row, head), 100, c.pages.dtype, c.out_dtype, &errors));
    EXPECT_TRUE(std::isnan(run.out.values(1, head)[0]));
  }
}

TEST_P(AttendRowsTest, LargeLogitsStayFinite) {
  RowsCase c;
  c.q_pos = {99};
  RowsRun run(c);
  quire_attend_rows_params p = run.params();
  p.scale = 3e4f;
  ASSERT_EQ(attend_rows(p), QUIRE_KERNEL_OK);
  for (double value : run.out.values(0, 0)) EXPECT_TRUE(std::isfinite(value));
  EXPECT_TRUE(std::isfinite(run.lse_of(0, 0)));
}

TEST_P(AttendRowsTest, BadArgumentsChangeNothing) {
  RowsCase c;
  c.q_pos = {5, 99};
  c.side_outputs = true;
  using Params = quire_attend_rows_params;
  static const int64_t bad_positions[][2] = {{5, 100}, {-1, 3}};
  const std::vector<std::pair<int, std::function<void(Params&, RowsRun&)>>> mistakes = {
      {QUIRE_KERNEL_BAD_STRUCT, [](Params& p, RowsRun&) { p.struct_bytes -= 8; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT, [](Params& p, RowsRun&) { p.query.data = nullptr; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT, [](Params& p, RowsRun&) { p.out.data = nullptr; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT, [](Params& p, RowsRun&) { p.q_pos = nullptr; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT, [](Params& p, RowsRun&) { p.q_pos = bad_positions[0]; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT, [](Params& p, RowsRun&) { p.q_pos = bad_positions[1]; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT, [](Params& p, RowsRun&) { p.kv.key = nullptr; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT, [](Params& p, RowsRun&) { p.kv.block_table = nullptr; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT, [](Params& p, RowsRun&) { p.kv.block_table_entries = 6; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT, [](Params&, RowsRun& r) { r.pages.table()[2] = -1; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT, [](Params&, RowsRun& r) { r.pages.table()[2] = 99; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT, [](Params& p, RowsRun&) { p.kv.page_tokens = 0; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT, [](Params& p, RowsRun&) { p.kv.key_head_stride = 3; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT,
       [](Params& p, RowsRun&) { p.kv.key_page_stride = INT64_MAX / 4 * 2; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT, [](Params& p, RowsRun&) { p.query.row_stride = INT64_MIN; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT, [](Params& p, RowsRun&) { p.out.head_stride = 4; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT,
       [](Params& p, RowsRun&) { p.out.data = static_cast<char*>(p.out.data) + 1; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT, [](Params& p, RowsRun&) { p.n_query_heads = 3; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT, [](Params& p, RowsRun&) { p.kv_tokens = 0; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT, [](Params& p, RowsRun&) { p.scale = NAN; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT, [](Params& p, RowsRun&) { p.softcap = -1; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT, [](Params&, RowsRun& r) { r.token_chunk[7] = 4; }},
      {QUIRE_KERNEL_INVALID_ARGUMENT, [](Params& p, RowsRun&) { p.token_chunk = nullptr; }},
      {QUIRE_KERNEL_UNSUPPORTED, [](Params& p, RowsRun&) { p.key_dims = 576; }},
      {QUIRE_KERNEL_UNSUPPORTED, [](Params& p, RowsRun&) { p.kv.dtype = 9; }},
      {QUIRE_KERNEL_UNSUPPORTED, [](Params& p, RowsRun&) { p.out.dtype = 0; }},
  };
  for (size_t i = 0; i < mistakes.size(); ++i) {
    RowsRun run(c);
    Params p = run.params();
    mistakes[i].second(p, run);
    EXPECT_EQ(attend_rows(p), mistakes[i].first) << "mistake " << i;
    EXPECT_TRUE(run.out.untouched());
    EXPECT_EQ(run.lse[0], 1e30f);
    EXPECT_EQ(run.column_sums[0], 1e30);
    EXPECT_EQ(run.chunk_mass[0], 1e30);
  }
  EXPECT_EQ(quire_attend_rows(nullptr), QUIRE_KERNEL_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace quire_kernels_test
