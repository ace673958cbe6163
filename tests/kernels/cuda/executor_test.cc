#include "kernels/executor/executor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/executor/block.h"
#include "tests/kernels/cuda/primitives.h"

namespace {

using quire_executor::Order;
using quire_executor::Schedule;

uint16_t bf16_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return static_cast<uint16_t>(bits >> 16);
}

template <typename Body>
void under_every_schedule(Body body) {
  for (const Schedule& schedule : quire_executor::schedules()) {
    SCOPED_TRACE(static_cast<int>(schedule.order));
    quire_executor::set_schedule(schedule);
    body();
  }
  quire_executor::set_schedule({});
}

TEST(Executor, WarpOperations) {
  under_every_schedule([] {
    std::vector<uint32_t> out(256);
    ASSERT_EQ(run_warp_operations(out.data(), nullptr), 0);
    uint32_t thirds = 0;
    for (uint32_t lane = 0; lane < 32; ++lane) thirds |= lane % 3 == 0 ? 1u << lane : 0;
    for (uint32_t lane = 0; lane < 32; ++lane) {
      const uint32_t* row = &out[lane * 8];
      EXPECT_EQ(row[0], 15u);
      EXPECT_EQ(row[1], lane ^ 9);
      EXPECT_EQ(row[2], lane < 4 ? lane : lane - 4);
      EXPECT_EQ(row[3], lane + 7 > 31 ? lane : lane + 7);
      EXPECT_EQ(row[4], thirds);
      EXPECT_EQ(row[5], 5u);
      EXPECT_EQ(row[6], 496u + 2000u);
      EXPECT_EQ(row[7], 31u);
    }
  });
}

TEST(Executor, MatrixProductIsThatOfTheMatrices) {
  std::mt19937 random(7);
  std::vector<float> a(256), b(128), start(128);
  std::vector<uint16_t> a_bits(256), b_bits(128);
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(random() % 17) - 8;
  for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(random() % 17) - 8;
  for (size_t i = 0; i < a.size(); ++i) a_bits[i] = bf16_of(a[i]);
  for (size_t i = 0; i < b.size(); ++i) b_bits[i] = bf16_of(b[i]);
  for (float& value : start) value = static_cast<float>(random() % 5);
  under_every_schedule([&] {
    std::vector<float> d = start;
    ASSERT_EQ(run_matrix_product(a_bits.data(), b_bits.data(), d.data(), true, nullptr), 0);
    for (size_t row = 0; row < 16; ++row)
      for (size_t column = 0; column < 8; ++column) {
        float sum = start[row * 8 + column];
        for (size_t k = 0; k < 16; ++k) sum += a[row * 16 + k] * b[k * 8 + column];
        EXPECT_EQ(d[row * 8 + column], sum) << row << "," << column;
      }
  });
}

TEST(Executor, HalfProduct) {
  // 1.0 and 2.0 in IEEE half: bf16 would read other numbers.
  std::vector<uint16_t> a(256, 0x3c00), b(128, 0x4000);
  std::vector<float> d(128, 0.5f);
  ASSERT_EQ(run_matrix_product(a.data(), b.data(), d.data(), false, nullptr), 0);
  for (float value : d) EXPECT_EQ(value, 32.5f);
}

TEST(Executor, AsyncCopyOfAnyLength) {
  under_every_schedule([] {
    for (uint32_t n : {1u, 63u, 64u, 65u, 300u}) {
      std::vector<uint32_t> storage(4 * n + 4), to_storage(4 * n + 4, 7);
      for (size_t i = 0; i < storage.size(); ++i)
        storage[i] = static_cast<uint32_t>(i * 2654435761);
      ASSERT_EQ(run_async_copy(storage.data(), to_storage.data(), n, nullptr), 0);
      EXPECT_EQ(memcmp(storage.data(), to_storage.data(), 16ull * n), 0) << n;
      EXPECT_EQ(to_storage[4 * n], 7u);
    }
  });
}

TEST(Executor, BulkCopyThroughARing) {
  under_every_schedule([] {
    std::vector<uint32_t> from(256 * 9), to(256 * 9);
    for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<uint32_t>(i * 2654435761);
    ASSERT_EQ(run_bulk_copy(from.data(), to.data(), 9 * 1024, nullptr), 0);
    EXPECT_EQ(from, to);
  });
}

TEST(Executor, AsyncRingIntoBulkStores) {
  under_every_schedule([] {
    std::vector<uint32_t> from(256 * 9), to(256 * 9);
    for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<uint32_t>(i * 2654435761);
    ASSERT_EQ(run_async_ring(from.data(), to.data(), 9 * 1024, nullptr), 0);
    EXPECT_EQ(from, to);
  });
}

TEST(Executor, Arithmetic) {
  uint32_t out[8];
  ASSERT_EQ(run_arithmetic(3.0f, 4.0f, out, nullptr), 0);
  EXPECT_EQ(out[0], 0x40804040u);
  EXPECT_EQ(out[1], 0x44004200u);
  EXPECT_EQ(out[2], 0x45804700u);  // 5.5, 7
  EXPECT_EQ(out[3], 0x4100bc00u);  // 2.5, -1
  EXPECT_EQ(out[4], 0x4d804d40u);  // 4 * 1.5 + 16 = 22, 3 * 4 + 9 = 21
  EXPECT_EQ(out[5], (0x44004200u & 0x000f000fu) | 0x64006400u);
  EXPECT_EQ(out[6], 0x3e004200u);
  EXPECT_EQ(out[7], 0x40004100u);  // log2(4) = 2, 2^3 = 8
}

TEST(Executor, ReductionsOverSeveralBlocks) {
  std::vector<float> values(3 * 256);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 101);
  under_every_schedule([&] {
    std::vector<float> sums(3);
    int32_t largest = 0;
    ASSERT_EQ(run_reductions(values.data(), 3, sums.data(), &largest, nullptr), 0);
    for (size_t block = 0; block < 3; ++block) {
      float sum = 0;
      for (size_t i = 0; i < 256; ++i) sum += values[block * 256 + i];
      EXPECT_EQ(sums[block], sum);
    }
    EXPECT_EQ(largest, 100);
  });
}

// What a wrong kernel gets past: true where some schedule shows the mistake in the output.
bool some_schedule_differs(WrongKernel which, size_t words) {
  bool differs = false;
  for (Schedule schedule : quire_executor::schedules()) {
    schedule.find_races = false;
    quire_executor::set_schedule(schedule);
    std::vector<uint32_t> in(words), out(words), expected(words);
    for (size_t i = 0; i < words; ++i) in[i] = static_cast<uint32_t>(i + 1);
    for (size_t i = 0; i < words; ++i)
      expected[i] = which == kMissingSync ? in[words - 1 - i] : in[i];
    run_wrong(which, out.data(), in.data(), nullptr);
    differs |= out != expected;
  }
  quire_executor::set_schedule({});
  return differs;
}

TEST(Executor, ShowsMissingBarriersAndWaits) {
  EXPECT_TRUE(some_schedule_differs(kMissingSync, 64));
  EXPECT_TRUE(some_schedule_differs(kMissingCopyWait, 64));
}

class ExecutorDeath : public testing::Test {
 protected:
  void expect(WrongKernel which, const char* message) {
    std::vector<uint32_t> in(65), out(64);
    EXPECT_DEATH(run_wrong(which, out.data(), in.data(), nullptr), message);
  }
};

TEST_F(ExecutorDeath, NamesTheBarrierThatDiverges) {
  expect(kDivergentBarrier, "primitives.cu.*divergent sync_block.*primitives.cu");
}
TEST_F(ExecutorDeath, NamesBothWaitsOfADeadlock) {
  expect(kBarrierOneThreadMisses,
         "deadlock, 64 of 64 threads(.|\n)*sync_block at .*primitives.cu(.|\n)*shfl_xor");
}
TEST_F(ExecutorDeath, DivergentWarp) {
  expect(kDivergentWarp, "divergent warp: in shfl_xor");
}
TEST_F(ExecutorDeath, SharedIndex) {
  expect(kSharedIndex, "primitives.cu:.*index 64 of 64 elements");
}
TEST_F(ExecutorDeath, SharedWriteThroughAPointer) {
  expect(kSharedWrite, "a write outside shared memory|AddressSanitizer");
}
TEST_F(ExecutorDeath, Misaligned) {
  expect(kMisaligned, "ld_nc_16: address .* is not a multiple of 16");
}
TEST_F(ExecutorDeath, NobodyArrives) {
  expect(kNobodyArrives, "deadlock(.|\n)*mbarrier_wait at .*primitives.cu");
}
TEST_F(ExecutorDeath, ExitsWithCopies) {
  expect(kExitsWithCopies, "asynchronous copies it never waited for");
}
TEST_F(ExecutorDeath, RingThatOverrunsItself) {
  std::vector<uint32_t> in(8 * 256), out(8 * 256);
  EXPECT_DEATH(run_wrong(kRingWithoutEmptyBarrier, out.data(), in.data(), nullptr),
               "primitives.cu:.*mbarrier_arrive: more arrivals than its count");
}
TEST_F(ExecutorDeath, AsyncRings) {
  std::vector<uint32_t> in(8 * 256), out(8 * 256);
  const auto dies = [&](WrongKernel which, const char* message) {
    EXPECT_DEATH(run_wrong(which, out.data(), in.data(), nullptr), message);
  };
  dies(kAsyncArrivesEarly, "asynchronous copies it never waited for|race on shared memory");
  dies(kAsyncExitsEarly, "exits with asynchronous copies it never waited for");
  dies(kAsyncNeverArrives, "deadlock(.|\n)*mbarrier_wait at .*primitives.cu");
  if (!quire_executor::finds_races()) return;
  for (const Schedule& schedule : quire_executor::schedules()) {
    quire_executor::set_schedule(schedule);
    dies(kBulkStoreWithoutFence, "a bulk copy reads byte 0 .* without a fence_async_shared");
    dies(kBulkStoreFencedEarly, "a bulk copy reads byte .* without a fence_async_shared");
    dies(kBulkTileWithoutWait, "race on shared memory.* an asynchronous copy read");
  }
  quire_executor::set_schedule({});
}
TEST_F(ExecutorDeath, BulkCopiesBeforeSm90) {
  quire_executor::Device device;
  device.compute_capability = 80;
  quire_executor::set_device(device);
  std::vector<uint32_t> in(8 * 256), out(8 * 256);
  EXPECT_DEATH(run_bulk_copy(in.data(), out.data(), 1024, nullptr),
               "bulk_g2s on a device of compute capability 80");
  EXPECT_DEATH(run_async_ring(in.data(), out.data(), 1024, nullptr),
               "bulk_s2g on a device of compute capability 80");
  quire_executor::set_device({});
}
// Under any one schedule, also where the output is right.
TEST_F(ExecutorDeath, Races) {
#if defined(__clang__) || defined(__SANITIZE_ADDRESS__)
  return;  // another build's matter
#endif
  ASSERT_TRUE(quire_executor::finds_races());
  for (const Schedule& schedule : quire_executor::schedules()) {
    quire_executor::set_schedule(schedule);
    for (WrongKernel which :
         {kMissingSync, kReadBeforeOverwrite, kArrivalIsNoWait, kLanesOutOfStep})
      expect(which, "race on shared memory, byte .* of an array of 256: .* warp [01] ");
  }
  quire_executor::set_schedule({});
}
TEST_F(ExecutorDeath, StaticAndDynamicSharedMemoryTogether) {
  const auto kernel = [] {
    static const char tag = 0;
    quire_executor::static_shared(&tag, 12u << 10, {"", 0});
  };
  quire_executor::Device device;
  device.shared_bytes_max = 99u << 10;
  quire_executor::set_device(device);
  quire_executor::launch("k", 1, 32, 87u << 10, kernel);
  EXPECT_DEATH(quire_executor::launch("k", 1, 32, (87u << 10) + 1, kernel),
               "12288 bytes of static and 89089 of dynamic shared memory: at most 101376");
  quire_executor::set_device({});
}
TEST_F(ExecutorDeath, Limits) {
  const auto nothing = [] {};
  EXPECT_DEATH(quire_executor::launch("k", 1u << 17, 32, 0, nothing), "grid of 131072 blocks");
  EXPECT_DEATH(quire_executor::launch("k", 1, 2048, 0, nothing), "2048 threads");
  EXPECT_DEATH(quire_executor::launch("k", 1, 32, 300 << 10, nothing), "bytes of shared memory");
}

}  // namespace
