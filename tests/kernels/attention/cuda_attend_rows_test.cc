// The CUDA recompute kernel, run by the executor under its schedules, against the fp64 reference.
#include "kernels/executor/executor.h"
#include "kernels/quire_cuda_attention.h"
#include "tests/kernels/attention/cases.h"
#include "tests/kernels/attention/cuda_launch.h"

namespace quire_kernels_test {
namespace {

int attend_rows(const quire_attend_rows_params& p) {
  CudaLaunch launch(quire_cuda_attend_rows_workspace_bytes(&p));
  const int status = quire_cuda_attend_rows(&p, launch.get());
  return status != QUIRE_KERNEL_OK ? status : launch.device_status();
}

RowsCase small_case() {
  RowsCase c;
  c.kv_heads = 1;
  c.tokens = 70;
  c.pages = {QUIRE_DTYPE_F16, 16, false};
  c.query_dtype = QUIRE_DTYPE_F16;
  c.q_pos = {3, 40, 69};
  return c;
}

TEST(CudaAttendRows, EverySchedule) {
  Errors errors;
  for (const quire_executor::Schedule& schedule : quire_executor::schedules()) {
    quire_executor::set_schedule(schedule);
    RowsCase c = small_case();
    c.side_outputs = true;
    expect_rows(Engines::kCuda, c, attend_rows, &errors);
  }
  quire_executor::set_schedule({});
}

TEST(CudaAttendRows, Shapes) {
  Errors errors;
  const uint32_t dims[] = {64, 80, 96, 128, 256};
  for (uint64_t round = 0; round < 10; ++round) {
    std::mt19937_64 random(kSeed + round);
    RowsCase c = small_case();
    c.seed = kSeed + round;
    c.key_dims = c.value_dims = dims[round % 5];
    c.kv_heads = 1 + round % 2;
    c.group = 1 + random() % 8;
    c.tokens = 1 + random() % 150;
    c.pages = {round % 2 == 0 ? QUIRE_DTYPE_BF16 : QUIRE_DTYPE_F16,
               static_cast<uint32_t>(1 + random() % 80), random() % 2 == 0};
    c.query_dtype = c.pages.dtype;
    c.out_dtype = round % 3 == 0 ? QUIRE_DTYPE_F32 : c.pages.dtype;
    c.q_pos = scattered(c.tokens, 0.15, random);
    if (round % 4 == 1) std::shuffle(c.q_pos.begin(), c.q_pos.end(), random);
    c.window = round % 3 == 2 ? 1 + random() % 64 : 0;
    c.softcap = round % 4 == 3 ? 2.0f : 0;
    c.side_outputs = round % 2 == 1;
    expect_rows(Engines::kCuda, c, attend_rows, &errors);
  }
}

// More packed rows than one tile holds, and lengths around the tile of 64 tokens.
TEST(CudaAttendRows, TilesAndTails) {
  Errors errors;
  for (uint32_t tokens : {1u, 63u, 64u, 65u, 129u}) {
    RowsCase c = small_case();
    c.tokens = tokens;
    c.pages.page_tokens = 7;
    c.group = 8;
    c.q_pos.clear();
    for (uint32_t token = 0; token < tokens; token += 1 + tokens / 20) c.q_pos.push_back(token);
    expect_rows(Engines::kCuda, c, attend_rows, &errors);
  }
}

TEST(CudaAttendRows, LeakedMaskIsCaught) {
  RowsCase c = small_case();
  RowsRun run(c);
  ASSERT_EQ(attend_rows(run.params()), QUIRE_KERNEL_OK);
  Errors ignored;
  EXPECT_TRUE(rows_match(Engines::kCuda, run, 0, &ignored));
  EXPECT_FALSE(rows_match(Engines::kCuda, run, 1, &ignored));
  EXPECT_FALSE(rows_match(Engines::kCuda, run, -1, &ignored));
  ignored.out = 0;
}

// Tokens outside of what a tile of rows sees are never read.
TEST(CudaAttendRows, HiddenTokensAreNotRead) {
  RowsCase c = small_case();
  c.q_pos = {30, 33};
  c.window = 8;
  RowsRun run(c);
  for (uint32_t token = 0; token < c.tokens; ++token)
    if (token < 23 || token > 33) run.pages.set_key_nan(0, token);
  ASSERT_EQ(attend_rows(run.params()), QUIRE_KERNEL_OK);
  Errors errors;
  EXPECT_TRUE(rows_match(Engines::kCuda, run, 0, &errors));
}

TEST(CudaAttendRows, WhatOnlyTheDeviceSeesIsRefusedThere) {
  const RowsCase c = small_case();
  using Change = std::function<void(quire_attend_rows_params&, RowsRun&)>;
  static const int64_t bad_position[] = {3, 70, 5};
  const std::vector<Change> mistakes = {
      [](quire_attend_rows_params& p, RowsRun&) { p.q_pos = bad_position; },
      [](quire_attend_rows_params&, RowsRun& r) { r.pages.table()[1] = 1000; },
      [](quire_attend_rows_params&, RowsRun& r) { r.pages.table()[1] = -1; },
  };
  for (const Change& change : mistakes) {
    RowsRun run(c);
    quire_attend_rows_params p = run.params();
    change(p, run);
    EXPECT_EQ(attend_rows(p), QUIRE_KERNEL_INVALID_ARGUMENT);
    EXPECT_TRUE(run.out.untouched());
    EXPECT_EQ(run.lse[0], 1e30f);
  }
}

TEST(CudaAttendRows, WhatTheHostSeesLaunchesNothing) {
  RowsCase c = small_case();
  RowsRun run(c);
  const uint64_t launches = quire_executor::launches();
  quire_attend_rows_params p = run.params();
  CudaLaunch launch(quire_cuda_attend_rows_workspace_bytes(&p));
  p.kv.key_token_stride += 2;
  EXPECT_EQ(quire_cuda_attend_rows(&p, launch.get()), QUIRE_KERNEL_INVALID_ARGUMENT);
  p = run.params();
  p.kv.dtype = QUIRE_DTYPE_F32;
  EXPECT_NE(quire_cuda_attend_rows(&p, launch.get()), QUIRE_KERNEL_OK);
  p = run.params();
  p.value_dims = 32;
  EXPECT_EQ(quire_cuda_attend_rows(&p, launch.get()), QUIRE_KERNEL_UNSUPPORTED);
  p = run.params();
  launch.get()->workspace_bytes = 0;
  EXPECT_EQ(quire_cuda_attend_rows(&p, launch.get()), QUIRE_KERNEL_INVALID_ARGUMENT);
  launch.get()->struct_bytes = 0;
  EXPECT_EQ(quire_cuda_attend_rows(&p, launch.get()), QUIRE_KERNEL_BAD_STRUCT);
  EXPECT_EQ(quire_cuda_attend_rows(&p, nullptr), QUIRE_KERNEL_INVALID_ARGUMENT);
  EXPECT_EQ(quire_executor::launches(), launches);
  EXPECT_TRUE(run.out.untouched());
}

}  // namespace
}  // namespace quire_kernels_test
