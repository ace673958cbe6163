// The GPU tier end to end with the fake driver: a server that keeps copies there, clients that
// import the pool and load from it.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bit>
#include <map>

#include "base/gpu/cuda_driver.h"
#include "base/gpu/fake_driver.h"
#include "client/client.h"
#include "client/gpu_pool.h"
#include "codecs/representation.h"
#include "kernels/quire_kernels.h"
#include "tests/server/store_fixture.h"

namespace quire::server {
namespace {

constexpr uint64_t kMiB = 1ull << 20;

struct GpuClient {
  std::unique_ptr<Client> client;
  std::shared_ptr<gpu::FakeDriver> driver;
  std::unique_ptr<GpuPool> pool;
};

ByteSpan on_device(const GpuLease& lease) {
  return {std::bit_cast<const std::byte*>(lease.device().device_pointer), lease.device().bytes};
}

class GpuTest : public ServerTest {
 protected:
  GpuTest() {
    config_.gpu_enabled = true;
    config_.gpu_driver = "fake";
    config_.gpu_pool_bytes = 8 * kMiB;
    config_.gpu_shrink_after_ms = 0;
  }
  std::unique_ptr<Client> connect_client(const std::string& tenant = "") {
    ClientOptions options;
    options.tenant = tenant;
    options.socket_path = config_.socket_path;
    options.staging_bytes = 8 << 20;
    auto client = Client::connect(options);
    EXPECT_TRUE(client.is_ok()) << client.status().to_string();
    return client ? std::move(*client) : nullptr;
  }
  GpuClient connect_gpu(const gpu::FakeOptions& options = {}, const std::string& tenant = "") {
    GpuClient out;
    out.client = connect_client(tenant);
    out.driver = std::make_shared<gpu::FakeDriver>(options);
    auto pool = GpuPool::open(*out.client, out.driver);
    EXPECT_TRUE(pool.is_ok()) << pool.status().to_string();
    if (pool) out.pool = std::move(*pool);
    return out;
  }
  // Acquires and releases until the object is leased on the device.
  Expected<GpuLease> acquire_on_device(GpuPool& pool, const Digest& id) {
    Expected<GpuLease> lease = Status(StatusCode::kNotFound, "");
    eventually([&] {
      lease = pool.acquire(id);
      return lease.is_ok() && lease->on_device();
    });
    return lease;
  }
  TestObject put(uint64_t seed, uint32_t n_tokens = 1024) {
    TestObject object = make_object(model_, seed, n_tokens);
    const Status status = put_patiently(*client_, object);
    EXPECT_TRUE(status.is_ok()) << status.to_string();
    return object;
  }
  TierStats gpu_stats() {
    for (const TierStats& tier : stats().tiers) {
      if (tier.tier == wire::TierId::kGpu) return tier;
    }
    return {};
  }
  // Of the pool, as the server has them now.
  uint32_t chunks() {
    const auto reply = client_->call(wire::Op::kGpuLayout, bytes_of(wire::GpuLayoutRequest{}));
    EXPECT_TRUE(reply.is_ok() && reply->code() == StatusCode::kOk);
    return reply ? reply->read<wire::GpuLayoutReply>().n_chunks : 0;
  }
  static void expect_equal(const GpuLease& lease, const TestObject& object) {
    const ByteSpan bytes = lease.on_device() ? on_device(lease) : lease.bytes();
    ASSERT_EQ(bytes.size(), object.bytes.size());
    EXPECT_EQ(std::memcmp(bytes.data(), object.bytes.data(), bytes.size()), 0);
    EXPECT_TRUE(lease.check().is_ok());
  }
};

// fp32 rows of one section, as an engine's kernel would load them.
std::vector<float> load_section(const RepresentationView& view, uint32_t layer, Plane plane) {
  const auto section = view.section(layer, plane);
  const auto n_tokens = static_cast<uint32_t>(view.header().tokens.size());
  std::vector<float> out(n_tokens * 2 * 64);
  quire_load_params params{};
  params.struct_bytes = sizeof(params);
  params.codec = QUIRE_CODEC_RAW_F16;
  params.plane = plane == Plane::kKey ? QUIRE_PLANE_KEY : QUIRE_PLANE_VALUE;
  params.n_tokens = n_tokens;
  params.n_heads = 2;
  params.head_dim = 64;
  params.token_end = n_tokens;
  params.dst_dtype = QUIRE_DTYPE_F32;
  params.src = section->data();
  params.src_bytes = section->size();
  params.dst = out.data();
  params.dst_tokens = n_tokens;
  params.dst_token_stride = 2 * 64 * 4;
  params.dst_head_stride = 64 * 4;
  params.dst_dim_stride = 4;
  EXPECT_EQ(quire_load(&params), QUIRE_KERNEL_OK);
  return out;
}

TEST_F(GpuTest, TheThirdAcquireComesFromTheGpu) {
  start();
  GpuClient gpu = connect_gpu();
  const TestObject object = put(1);
  for (int i = 0; i < 2; ++i) {
    auto lease = gpu.pool->acquire(object.id);
    ASSERT_TRUE(lease.is_ok()) << lease.status().to_string();
    EXPECT_FALSE(lease->on_device());
    expect_equal(*lease, object);
  }
  ASSERT_TRUE(eventually([&] { return gpu_stats().objects == 1; }));
  auto lease = gpu.pool->acquire(object.id);
  ASSERT_TRUE(lease.is_ok() && lease->on_device());
  EXPECT_EQ(lease->device().device_pointer % (16 << 10), 0u);
  EXPECT_TRUE(lease->bytes().empty());
  expect_equal(*lease, object);
  EXPECT_EQ(gpu_stats().hits, 1u);
  EXPECT_EQ(gpu_stats().written_bytes, object.bytes.size());
  EXPECT_EQ(stats().tiers.front().tier, wire::TierId::kGpu);

  const auto view = RepresentationView::parse(on_device(*lease));
  ASSERT_TRUE(view.is_ok()) << view.status().to_string();
  EXPECT_TRUE(view->verify_sections().is_ok());
  const auto original = RepresentationView::parse(object.bytes);
  for (const Plane plane : {Plane::kKey, Plane::kValue}) {
    EXPECT_EQ(load_section(*view, 1, plane), load_section(*original, 1, plane));
  }
  const auto info = server_->admin().stat(object.id, kPatienceMs);
  EXPECT_EQ(info->tiers.front(), wire::TierId::kGpu);
  EXPECT_EQ(info->leases, 1u);
  // Only who reads the pool is told of it.
  EXPECT_EQ(client_->resolve(model_id(model_), object.tokens)->front().tier, wire::TierId::kHost);
  EXPECT_EQ(gpu.client->resolve(model_id(model_), object.tokens)->front().tier, wire::TierId::kGpu);
  expect_stored(*client_, object);
}

TEST_F(GpuTest, OffByDefaultWithoutAnyEffect) {
  config_.gpu_enabled = false;
  start();
  EXPECT_EQ(stats().tiers.size(), 3u);
  EXPECT_EQ(gpu_stats().tier, wire::TierId::kNone);
  auto client = connect_client();
  EXPECT_EQ(GpuPool::open(*client, std::make_shared<gpu::FakeDriver>()).status().code(),
            StatusCode::kUnsupported);
  const wire::GpuLayoutRequest request;
  EXPECT_EQ(client_->call(wire::Op::kGpuLayout, bytes_of(request))->code(),
            StatusCode::kUnavailable);
}

TEST_F(GpuTest, WhoDoesNotImportThePoolGetsHostMemory) {
  start();
  const TestObject object = put(1);
  // The op alone is no attachment.
  struct {
    wire::AcquireRequest head{1, 0};
    wire::Id id{};
  } request;
  request.id = object.id.bytes;
  for (int i = 0; i < 5; ++i) {
    const auto reply = client_->call(wire::Op::kAcquireGpu, bytes_of(request));
    ASSERT_TRUE(reply.is_ok());
    ASSERT_EQ(reply->code(), StatusCode::kOk);
    ASSERT_EQ(reply->body.size(), sizeof(wire::AcquireGpuReply));
    const auto lease = reply->read<wire::AcquireGpuReply>();
    EXPECT_EQ(lease.tier, wire::TierId::kHost);
    EXPECT_EQ(
        std::memcmp(client_->leased(lease.lease).data(), object.bytes.data(), object.bytes.size()),
        0);
  }
  EXPECT_EQ(gpu_stats().written_bytes, 0u);
  request.id[0] ^= 1;
  EXPECT_EQ(client_->call(wire::Op::kAcquireGpu, bytes_of(request))->code(), StatusCode::kNotFound);
}

TEST_F(GpuTest, ThePoolGrowsUnderItsClients) {
  start();
  GpuClient gpu = connect_gpu();
  EXPECT_EQ(gpu.pool->mapped_bytes(), 0u);
  EXPECT_TRUE(gpu.pool->read_only());
  std::vector<TestObject> objects;
  std::vector<GpuLease> leases;
  for (int i = 0; i < 5; ++i) {
    objects.push_back(put(10 + i));
    auto lease = acquire_on_device(*gpu.pool, objects.back().id);
    ASSERT_TRUE(lease.is_ok() && lease->on_device()) << i;
    leases.push_back(std::move(*lease));
  }
  EXPECT_EQ(gpu.pool->mapped_bytes(), 6 * kMiB);
  for (int i = 0; i < 5; ++i) expect_equal(leases[i], objects[i]);
  // Another client gets it all at once; an object may lie across chunks.
  GpuClient other = connect_gpu({.read_only_access = false});
  EXPECT_EQ(other.pool->mapped_bytes(), 6 * kMiB);
  EXPECT_FALSE(other.pool->read_only());
  std::vector<Digest> ids;
  for (const TestObject& object : objects) ids.push_back(object.id);
  auto all = other.pool->acquire(ids);
  ASSERT_TRUE(all.is_ok());
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE((*all)[i].is_ok() && (*all)[i]->on_device());
    expect_equal(*(*all)[i], objects[i]);
    EXPECT_EQ((*all)[i]->generation(), leases[i].generation());
  }
  EXPECT_EQ(stats().leases, 10u);
  all->clear();
  other.pool.reset();
  EXPECT_EQ(other.driver->live(), gpu::FakeLive{});
}

// Far more than fits: copies come and go, leased ones stay, and a slot's next life has another
// generation.
TEST_F(GpuTest, EvictionUnderPressure) {
  start();
  GpuClient gpu = connect_gpu();
  const TestObject kept = put(1);
  auto pinned = acquire_on_device(*gpu.pool, kept.id);
  ASSERT_TRUE(pinned.is_ok() && pinned->on_device());
  std::map<uint64_t, uint64_t> generations;  // by address
  int reused = 0;
  for (int i = 0; i < 16; ++i) {
    const TestObject object = put(100 + i);
    auto lease = acquire_on_device(*gpu.pool, object.id);
    ASSERT_TRUE(lease.is_ok() && lease->on_device()) << i;
    expect_equal(*lease, object);
    uint64_t& generation = generations[lease->device().device_pointer];
    EXPECT_GT(lease->generation(), generation);
    reused += generation != 0;
    generation = lease->generation();
  }
  EXPECT_GT(reused, 0);
  EXPECT_GT(gpu_stats().evictions, 0u);
  EXPECT_LE(gpu_stats().used_bytes, 8 * kMiB);
  expect_equal(*pinned, kept);
}

// The soft quota is a share of this tier, too.
TEST_F(GpuTest, ABurstOfOneTenantLeavesTheQuotaOfAnother) {
  config_.tenants.push_back({"blue", {}, {}, {}});
  config_.tenants.push_back({"green", {}, {}, {}});
  start();
  ASSERT_TRUE(server_->admin().set_quota("green", 5 * kMiB, 0, kPatienceMs).is_ok());
  const auto copied = [&](GpuClient& gpu, const std::string& tenant, uint64_t seed) {
    auto plain = TestClient::connect(config_.socket_path, tenant);
    const TestObject object = make_object(model_, seed, 1024, gpu.client->tenant_salt());
    EXPECT_TRUE(put_patiently(*plain, object).is_ok());
    const auto lease = acquire_on_device(*gpu.pool, object.id);
    EXPECT_TRUE(lease.is_ok() && lease->on_device()) << tenant << " " << seed;
    return object;
  };
  GpuClient green = connect_gpu({}, "green");
  GpuClient blue = connect_gpu({}, "blue");
  std::vector<TestObject> own;
  for (uint64_t i = 0; i < 4; ++i) own.push_back(copied(green, "green", i));
  for (uint64_t i = 0; i < 12; ++i) copied(blue, "blue", 100 + i);
  EXPECT_GT(gpu_stats().evictions, 0u);
  for (const TestObject& object : own) {
    const auto lease = green.pool->acquire(object.id);
    ASSERT_TRUE(lease.is_ok());
    EXPECT_TRUE(lease->on_device()) << "still there";
    expect_equal(*lease, object);
  }
}

TEST_F(GpuTest, ACopyOutlivesItsHostSlotAndItsObject) {
  config_.host_bytes = 8 << 20;
  start();
  GpuClient gpu = connect_gpu();
  const TestObject object = put(1);
  auto lease = acquire_on_device(*gpu.pool, object.id);
  ASSERT_TRUE(lease.is_ok() && lease->on_device());
  // Its host slot goes to others; the copy is served on, and acquired anew without a read.
  for (int i = 0; i < 30; ++i) put(200 + i);
  const auto info = server_->admin().stat(object.id, kPatienceMs);
  ASSERT_TRUE(info.is_ok());
  EXPECT_EQ(info->tiers, (std::vector{wire::TierId::kGpu, wire::TierId::kNvme}));
  auto again = gpu.pool->acquire(object.id);
  ASSERT_TRUE(again.is_ok() && again->on_device());
  EXPECT_EQ(again->generation(), lease->generation());
  expect_equal(*lease, object);
  // A plain client reads it back from below.
  expect_stored(*client_, object);
  EXPECT_EQ(server_->admin().remove(object.id, true, kPatienceMs).code(),
            StatusCode::kFailedPrecondition);
  lease->release();
  again->release();
  EXPECT_TRUE(eventually([&] { return stats().leases == 0; }));
  EXPECT_TRUE(server_->admin().remove(object.id, true, kPatienceMs).is_ok());
  EXPECT_EQ(gpu_stats().objects, 0u);
  EXPECT_EQ(gpu_stats().used_bytes, 0u);
  EXPECT_EQ(gpu.pool->acquire(object.id).status().code(), StatusCode::kNotFound);
}

// Its segment is overwritten and its host slot went before: the object is gone, what is leased on
// the GPU is not.
TEST_F(GpuTest, AnObjectThatGoesLeavesItsLeasedCopy) {
  config_.host_bytes = 8 << 20;
  config_.nvme_bytes = 32 << 20;
  config_.nvme_segment_bytes = 4 << 20;
  start();
  GpuClient gpu = connect_gpu();
  const TestObject object = put(1, 900);
  auto lease = acquire_on_device(*gpu.pool, object.id);
  ASSERT_TRUE(lease.is_ok() && lease->on_device());
  const uint64_t used_bytes = gpu_stats().used_bytes;
  bool gone = false;
  for (int i = 0; i < 300 && !gone; ++i) {
    put(500 + i, 900);
    gone = server_->admin().stat(object.id, kPatienceMs).status().code() == StatusCode::kNotFound;
  }
  ASSERT_TRUE(gone);
  expect_equal(*lease, object);
  EXPECT_EQ(gpu_stats().used_bytes, used_bytes);
  EXPECT_EQ(gpu.pool->acquire(object.id).status().code(), StatusCode::kNotFound);
  // It can be stored anew meanwhile, and the old lease does not hold the new object.
  ASSERT_TRUE(put_patiently(*client_, object).is_ok());
  EXPECT_TRUE(
      eventually([&] { return server_->admin().remove(object.id, true, kPatienceMs).is_ok(); }));
  expect_equal(*lease, object);
  lease->release();
  EXPECT_TRUE(eventually([&] { return gpu_stats().used_bytes == 0; }));
  EXPECT_EQ(gpu_stats().objects, 0u);
}

// Without a tier below, memory that is evicted takes the copy along: never the only one.
TEST_F(GpuTest, ACopyIsNeverTheOnlyOne) {
  config_.nvme_bytes = 0;
  config_.host_bytes = 8 << 20;
  start();
  GpuClient gpu = connect_gpu();
  const TestObject object = put(1);
  auto lease = acquire_on_device(*gpu.pool, object.id);
  ASSERT_TRUE(lease.is_ok() && lease->on_device());
  for (int i = 0; i < 20; ++i) put(300 + i);
  expect_equal(*lease, object);
  EXPECT_TRUE(server_->admin().stat(object.id, kPatienceMs).is_ok())
      << "a lease holds it in memory";
  lease->release();
  EXPECT_TRUE(eventually([&] {
    put(1000 + stats().puts);
    return gpu_stats().objects == 0;
  }));
  EXPECT_EQ(gpu.pool->acquire(object.id).status().code(), StatusCode::kNotFound);
}

TEST_F(GpuTest, AKilledClientsLeasesGo) {
  start();
  const TestObject object = put(1);
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    // A process of its own: it sees nothing of the server's memory but what it imports.
    ClientOptions options;
    options.socket_path = config_.socket_path;
    auto client = Client::connect(options);
    if (!client) ::_exit(1);
    auto pool = GpuPool::open(**client, std::make_shared<gpu::FakeDriver>());
    if (!pool) ::_exit(2);
    for (int i = 0; i < 1000; ++i) {
      auto lease = (*pool)->acquire(object.id);
      if (!lease) ::_exit(3);
      if (!lease->on_device()) {
        ::usleep(2000);
        continue;
      }
      const ByteSpan bytes = on_device(*lease);
      const bool equal = bytes.size() == object.bytes.size() &&
                         std::memcmp(bytes.data(), object.bytes.data(), bytes.size()) == 0;
      const char answer = equal ? 'y' : 'n';
      if (::write(ready[1], &answer, 1) != 1) ::_exit(4);
      ::pause();
    }
    ::_exit(5);
  }
  ::close(ready[1]);
  char answer = 0;
  ASSERT_EQ(::read(ready[0], &answer, 1), 1);
  ::close(ready[0]);
  EXPECT_EQ(answer, 'y');
  EXPECT_EQ(stats().leases, 1u);
  EXPECT_EQ(server_->admin().remove(object.id, true, kPatienceMs).code(),
            StatusCode::kFailedPrecondition);
  ::kill(pid, SIGKILL);
  int status = 0;
  ::waitpid(pid, &status, 0);
  EXPECT_TRUE(eventually([&] { return stats().leases == 0; }));
  EXPECT_TRUE(server_->admin().remove(object.id, true, kPatienceMs).is_ok());
  EXPECT_EQ(gpu_stats().used_bytes, 0u);
}

TEST_F(GpuTest, LeasesExpireAndRenew) {
  config_.lease_default_ms = 2000;  // long enough to be looked at on a loaded machine
  start();
  GpuClient gpu = connect_gpu();
  const TestObject object = put(1);
  auto lease = acquire_on_device(*gpu.pool, object.id);
  ASSERT_TRUE(lease.is_ok() && lease->on_device());
  EXPECT_TRUE(lease->check().is_ok());
  EXPECT_TRUE(lease->renew(2000).is_ok());
  EXPECT_TRUE(eventually([&] { return stats().leases == 0; }));
  EXPECT_EQ(lease->check().code(), StatusCode::kStaleLease);
  EXPECT_TRUE(server_->admin().remove(object.id, true, kPatienceMs).is_ok());
}

// What was given back and taken again has other chunks at the same addresses: a client must not go
// on reading the old ones.
TEST_F(GpuTest, AfterShrinkingTheClientMapsWhatIsThereNow) {
  config_.gpu_shrink_after_ms = 50;
  start();
  GpuClient gpu = connect_gpu();
  std::vector<TestObject> objects;
  for (int i = 0; i < 5; ++i) {
    objects.push_back(put(10 + i));
    ASSERT_TRUE(acquire_on_device(*gpu.pool, objects.back().id)->on_device());
  }
  EXPECT_EQ(gpu.pool->mapped_bytes(), 6 * kMiB);
  EXPECT_EQ(chunks(), 3u);
  for (const TestObject& object : objects) {
    EXPECT_TRUE(
        eventually([&] { return server_->admin().remove(object.id, true, kPatienceMs).is_ok(); }));
  }
  ASSERT_TRUE(eventually([&] { return chunks() == 0; }));
  const TestObject object = put(50);
  auto lease = acquire_on_device(*gpu.pool, object.id);
  ASSERT_TRUE(lease.is_ok() && lease->on_device());
  expect_equal(*lease, object);
  EXPECT_EQ(gpu.pool->mapped_bytes(), 2 * kMiB);
}

// An expired lease that is still held keeps its mapping, and what would need it anew is refused.
TEST_F(GpuTest, AMappingIsNotTakenAwayFromUnderALease) {
  config_.gpu_shrink_after_ms = 50;
  config_.lease_default_ms = 2000;  // long enough to be looked at on a loaded machine
  start();
  GpuClient gpu = connect_gpu();
  const TestObject object = put(1);
  auto lease = acquire_on_device(*gpu.pool, object.id);
  ASSERT_TRUE(lease.is_ok() && lease->on_device());
  EXPECT_TRUE(eventually([&] { return stats().leases == 0; }));
  ASSERT_TRUE(server_->admin().remove(object.id, true, kPatienceMs).is_ok());
  ASSERT_TRUE(eventually([&] { return chunks() == 0; }));
  EXPECT_EQ(std::memcmp(on_device(*lease).data(), object.bytes.data(), object.bytes.size()), 0);
  const TestObject next = put(2);
  StatusCode code = StatusCode::kOk;
  EXPECT_TRUE(eventually([&] {
    code = gpu.pool->acquire(next.id).status().code();
    return code != StatusCode::kOk;
  }));
  EXPECT_EQ(code, StatusCode::kBusy);
  lease->release();
  auto found = acquire_on_device(*gpu.pool, next.id);
  ASSERT_TRUE(found.is_ok() && found->on_device());
  expect_equal(*found, next);
}

TEST_F(GpuTest, AClientWhoseDriverFailsLosesNothing) {
  start();
  const TestObject object = put(1);
  GpuClient first = connect_gpu();
  ASSERT_TRUE(acquire_on_device(*first.pool, object.id)->on_device());
  const Status wanted(StatusCode::kIoError, "wanted");
  for (uint32_t call = 0; call < gpu::kFakeCallCount; ++call) {
    SCOPED_TRACE(gpu::fake_call_name(gpu::FakeCall{call}));
    auto client = connect_client();
    auto driver = std::make_shared<gpu::FakeDriver>();
    driver->fail(gpu::FakeCall{call}, wanted);
    auto pool = GpuPool::open(*client, driver);
    if (pool) {
      auto lease = (*pool)->acquire(object.id);
      ASSERT_TRUE(lease.is_ok());
      expect_equal(*lease, object);
      lease->release();
      pool->reset();
    } else {
      EXPECT_TRUE(pool.status().code() == StatusCode::kIoError ||
                  pool.status().code() == StatusCode::kNotFound)
          << pool.status().to_string();
      EXPECT_EQ(driver->live(), gpu::FakeLive{});
    }
    // The session goes on, with or without the pool.
    auto host = client->acquire(object.id);
    ASSERT_TRUE(host.is_ok()) << host.status().to_string();
    EXPECT_TRUE(eventually([&] { return stats().leases == 1; }));
  }
}

TEST_F(GpuTest, WithoutADriverTheServerServes) {
  if (gpu::open_cuda_driver().is_ok()) GTEST_SKIP() << "this machine has a GPU";
  config_.gpu_driver = "cuda";
  start();
  ASSERT_TRUE(eventually([&] { return gpu_stats().state.starts_with("absent: "); }));
  EXPECT_NE(gpu_stats().state.find("CUDA"), std::string::npos) << gpu_stats().state;
  EXPECT_EQ(std::ranges::count_if(stats().degraded,
                                  [](const std::string& sentence) {
                                    return sentence.find("GPU tier") != std::string::npos;
                                  }),
            1);
  const TestObject object = put(1);
  for (int i = 0; i < 3; ++i) expect_stored(*client_, object);
  auto client = connect_client();
  EXPECT_EQ(GpuPool::open(*client, std::make_shared<gpu::FakeDriver>()).status().code(),
            StatusCode::kUnsupported);
}

TEST_F(GpuTest, AnotherDriverOrDeviceIsRefused) {
  start();
  auto client = connect_client();
  auto none = std::make_shared<gpu::FakeDriver>(gpu::FakeOptions{.devices = 0});
  ASSERT_TRUE(eventually(
      [&] { return GpuPool::open(*client, none).status().code() == StatusCode::kNotFound; }));
}

}  // namespace
}  // namespace quire::server
