// The shared memory that launches ask for: limits belong to kernels, not to calls.
#include "kernels/cuda/shared_limit.h"

#include <gtest/gtest.h>

namespace quire_cuda {
namespace {

// A kernel as the CUDA runtime has it.
struct FakeKernel {
  size_t device_bytes = 227u << 10;
  size_t static_bytes = 12u << 10;
  size_t dynamic_bytes = (48u << 10) - (12u << 10);
  int asked = 0;
  int error = 0;

  int limit(SharedLimit* limit) const {
    *limit = {static_bytes, dynamic_bytes};
    return error;
  }
  int block_bytes(size_t* bytes) const {
    *bytes = device_bytes;
    return 0;
  }
  int allow(size_t bytes) {
    ++asked;
    if (bytes + static_bytes > device_bytes) return 1;
    dynamic_bytes = bytes;
    return 0;
  }
  bool launches(size_t bytes) const { return bytes <= dynamic_bytes; }
};

TEST(SharedLimit, ASmallerCallTakesNothingFromALarger) {
  FakeKernel kernel;
  ASSERT_EQ(allow_shared_bytes(kernel, 100u << 10), 0);
  ASSERT_EQ(allow_shared_bytes(kernel, 60u << 10), 0);  // another thread's, before the launch
  EXPECT_TRUE(kernel.launches(100u << 10));
  ASSERT_EQ(allow_shared_bytes(kernel, 104u << 10), 0);
  EXPECT_TRUE(kernel.launches(104u << 10));
  EXPECT_EQ(kernel.asked, 1);
}

TEST(SharedLimit, WhoeverAsksFirstTheLimitIsTheSame) {
  FakeKernel small, large;
  ASSERT_EQ(allow_shared_bytes(small, 50u << 10), 0);
  ASSERT_EQ(allow_shared_bytes(large, 200u << 10), 0);
  EXPECT_EQ(small.dynamic_bytes, large.dynamic_bytes);
}

// What a kernel has without asking is 48 KB less its own.
TEST(SharedLimit, StaticMemoryCounts) {
  FakeKernel kernel;
  ASSERT_EQ(allow_shared_bytes(kernel, 36u << 10), 0);
  EXPECT_EQ(kernel.asked, 0);
  ASSERT_EQ(allow_shared_bytes(kernel, 40u << 10), 0);
  EXPECT_TRUE(kernel.launches(40u << 10));
  EXPECT_EQ(kernel.dynamic_bytes, 215u << 10);
}

TEST(SharedLimit, SmallDevicesGiveWhatTheyHave) {
  FakeKernel kernel;
  kernel.device_bytes = 99u << 10;
  ASSERT_EQ(allow_shared_bytes(kernel, 100u << 10), 0);
  EXPECT_FALSE(kernel.launches(100u << 10));
  EXPECT_EQ(kernel.dynamic_bytes, 87u << 10);
  ASSERT_EQ(allow_shared_bytes(kernel, 100u << 10), 0);
  EXPECT_EQ(kernel.asked, 1);
  kernel.device_bytes = 4u << 10;
  kernel.dynamic_bytes = 0;
  EXPECT_EQ(allow_shared_bytes(kernel, 1u << 10), 0);
  EXPECT_EQ(kernel.asked, 1);
}

TEST(SharedLimit, ErrorsAreTheRuntimes) {
  FakeKernel kernel;
  kernel.error = 7;
  EXPECT_EQ(allow_shared_bytes(kernel, 100u << 10), 7);
  EXPECT_EQ(kernel.asked, 0);
}

}  // namespace
}  // namespace quire_cuda
