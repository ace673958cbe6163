// The code that talks to CUDA, against a library that stands for libcuda (cuda_stub.cc): which
// functions it looks for, what it fills in, how errors come back. That a real driver agrees with
// the stand-in only a machine with a GPU can show.
#include "base/gpu/cuda_driver.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <bit>
#include <cstring>
#include <vector>

#include "tiers/gpu/device_pool.h"

namespace quire::gpu {
namespace {

constexpr uint64_t kChunk = 2ull << 20;

class CudaDriverTest : public testing::Test {
 protected:
  void SetUp() override {
    stub_ = ::dlopen(QUIRE_CUDA_STUB, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(stub_, nullptr) << ::dlerror();
    fail("", 0);
    function<void(bool)>("stub_refuse_read_only")(false);
  }
  void TearDown() override {
    fail("", 0);
    EXPECT_EQ(function<int()>("stub_left_over")(), 0);
  }
  template <typename Signature>
  Signature* function(const char* name) {
    return reinterpret_cast<Signature*>(::dlsym(stub_, name));
  }
  void fail(const char* call, int code) {
    function<void(const char*, int)>("stub_fail")(call, code);
  }
  std::unique_ptr<Driver> open() {
    auto driver = open_cuda_driver(QUIRE_CUDA_STUB);
    EXPECT_TRUE(driver.is_ok()) << driver.status().to_string();
    return driver ? std::move(*driver) : nullptr;
  }
  void* stub_ = nullptr;
};

TEST_F(CudaDriverTest, WithoutADriverItSaysSo) {
  const auto driver = open_cuda_driver("libcuda-that-is-not-there.so.1");
  EXPECT_EQ(driver.status().code(), StatusCode::kUnavailable);
  EXPECT_NE(driver.status().message().find("no CUDA driver"), std::string::npos);
  EXPECT_EQ(open_cuda_driver("libc.so.6").status().code(), StatusCode::kUnsupported);
}

TEST_F(CudaDriverTest, AnOldDriverAndADeadOneAreTyped) {
  fail("missing cuMemMap", 0);
  const auto old = open_cuda_driver(QUIRE_CUDA_STUB);
  EXPECT_EQ(old.status().code(), StatusCode::kUnsupported);
  EXPECT_NE(old.status().message().find("cuMemMap"), std::string::npos);
  fail("cuInit", 100);
  EXPECT_EQ(open_cuda_driver(QUIRE_CUDA_STUB).status().code(), StatusCode::kUnavailable);
  fail("vmm", 0);
  EXPECT_EQ(open()->device_info(0).status().code(), StatusCode::kUnsupported);
}

TEST_F(CudaDriverTest, DescribesTheDevice) {
  auto driver = open();
  EXPECT_EQ(driver->describe(), "cuda 12.4");
  EXPECT_EQ(*driver->device_count(), 1u);
  const auto info = driver->device_info(0);
  ASSERT_TRUE(info.is_ok()) << info.status().to_string();
  EXPECT_EQ(info->name, "stand-in");
  EXPECT_EQ(info->uuid[15], 15);
  EXPECT_EQ(info->granularity_bytes, kChunk);
  EXPECT_EQ(driver->device_info(1).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(*find_device(*driver, info->uuid), 0u);
  EXPECT_EQ(find_device(*driver, DeviceUuid{}).status().code(), StatusCode::kNotFound);
}

TEST_F(CudaDriverTest, CarriesAPool) {
  auto pool = tiers::DevicePool::create(open(), {.capacity_bytes = 4 * kChunk});
  ASSERT_TRUE(pool.is_ok()) << pool.status().to_string();
  ASSERT_TRUE((*pool)->grow(2 * kChunk).is_ok());
  const auto slot = (*pool)->allocate(kChunk + 5);
  ASSERT_TRUE(slot);
  Driver& driver = (*pool)->driver();
  std::vector<std::byte> bytes(kChunk + 5, std::byte{3});
  std::vector<std::byte> back(bytes.size());
  ASSERT_TRUE(driver.register_host(bytes).is_ok());
  ASSERT_TRUE(driver.copy_to_device((*pool)->address(*slot), bytes, (*pool)->stream()).is_ok());
  ASSERT_TRUE(driver.copy_to_host(back, (*pool)->address(*slot), (*pool)->stream()).is_ok());
  const auto event = driver.record((*pool)->stream());
  ASSERT_TRUE(event.is_ok()) << event.status().to_string();
  EXPECT_FALSE(*driver.query(*event));
  EXPECT_TRUE(*driver.query(*event));
  EXPECT_TRUE(driver.destroy_event(*event).is_ok());
  EXPECT_EQ(back, bytes);
  EXPECT_TRUE(driver.unregister_host(bytes).is_ok());
}

TEST_F(CudaDriverTest, ImportsReadOnlyWhereTheDeviceCan) {
  auto driver = open();
  ASSERT_TRUE(driver->use_device(0).is_ok());
  const Memory made = *driver->create(kChunk);
  EXPECT_NE(made, 0u);
  const int fd = *driver->export_fd(made);
  const Memory imported = *driver->import_fd(fd, kChunk);
  ::close(fd);
  const Address range = *driver->reserve_range(kChunk);
  ASSERT_TRUE(driver->map(range, imported, kChunk).is_ok());
  EXPECT_TRUE(driver->set_access(range, kChunk, Access::kRead).is_ok());
  function<void(bool)>("stub_refuse_read_only")(true);
  EXPECT_EQ(driver->set_access(range, kChunk, Access::kRead).code(), StatusCode::kUnsupported);
  EXPECT_TRUE(driver->set_access(range, kChunk, Access::kReadWrite).is_ok());
  EXPECT_TRUE(driver->unmap(range, kChunk).is_ok());
  EXPECT_TRUE(driver->release_range(range, kChunk).is_ok());
  EXPECT_TRUE(driver->release(imported).is_ok());
  EXPECT_TRUE(driver->release(made).is_ok());
}

TEST_F(CudaDriverTest, ErrorsNameTheCallAndTheDriversWord) {
  auto driver = open();
  EXPECT_EQ(driver->create(kChunk).status().code(), StatusCode::kFailedPrecondition);
  ASSERT_TRUE(driver->use_device(0).is_ok());
  fail("cuMemCreate", 2);
  const Status full = driver->create(kChunk).status();
  EXPECT_EQ(full.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(full.message(), "cuMemCreate: CUDA_ERROR_OUT_OF_MEMORY (2)");
  fail("cuMemAddressReserve", 801);
  EXPECT_EQ(driver->reserve_range(kChunk).status().code(), StatusCode::kUnsupported);
  fail("cuStreamCreate", 800);
  EXPECT_EQ(driver->create_stream().status().code(), StatusCode::kPermissionDenied);
  fail("", 0);
  const Stream stream = *driver->create_stream();
  fail("cuEventRecord", 700);
  EXPECT_EQ(driver->record(stream).status().code(), StatusCode::kIoError);
  fail("", 0);
  const Event event = *driver->record(stream);
  fail("cuEventQuery", 700);
  EXPECT_EQ(driver->query(event).status().code(), StatusCode::kIoError);
  fail("", 0);
  EXPECT_TRUE(driver->destroy_event(event).is_ok());
  EXPECT_TRUE(driver->destroy_stream(stream).is_ok());
}

}  // namespace
}  // namespace quire::gpu
