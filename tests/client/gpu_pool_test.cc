// The import of a GPU pool from a server that lies, changes its mind, or is older.
#include "client/gpu_pool.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/gpu/fake_driver.h"
#include "client/gpu_manifest.h"
#include "tests/client/fake_server.h"

namespace quire {
namespace {

constexpr uint64_t kChunk = 2ull << 20;

class GpuPoolTest : public testing::Test {
 protected:
  GpuPoolTest() {
    chunk_.emplace(::memfd_create("chunk", MFD_CLOEXEC));
    EXPECT_EQ(::ftruncate(chunk_->get(), kChunk), 0);
    layout_.layout_version = 5;
    layout_.capacity_bytes = 4 * kChunk;
    layout_.chunk_bytes = kChunk;
    layout_.n_chunks = 1;
    layout_.n_here = 1;
    layout_.driver = wire::GpuDriverKind::kFake;
    layout_.device_uuid = driver_->device_info(0)->uuid;
    lease_.lease = {.index = 0,
                    .lease_ms = 1000,
                    .lease_id = 7,
                    .generation = 3,
                    .slab_offset = 16 << 10,
                    .bytes = 100};
    lease_.layout_version = 5;
    lease_.tier = wire::TierId::kGpu;
  }
  static std::vector<std::byte> body_of(const wire::GpuLayoutReply& layout) {
    ByteWriter body;
    body.write(layout);
    body.write(uint64_t{41});
    return body.take();
  }
  // Answers a layout with these bytes and that many descriptors, an acquire with lease_.
  Status open_with(std::vector<std::byte> body, size_t fds = 1) {
    server_ =
        std::make_unique<FakeServer>([this, body = std::move(body), fds](
                                         FakeServer& server, const FakeServer::Request& request) {
          const std::vector<int> all(fds, chunk_->get());
          if (request.op() == wire::Op::kGpuLayout) server.send_hello(request, body, all);
          if (request.op() == wire::Op::kAcquireGpu) server.reply_with(request, lease_);
        });
    server_->features = wire::kFeatureGpu;
    client_ = std::move(*server_->connect());
    driver_ = std::make_shared<gpu::FakeDriver>();
    auto pool = GpuPool::open(*client_, driver_);
    if (!pool) return pool.status();
    pool_ = std::move(*pool);
    return Status::ok();
  }
  void close() {
    pool_.reset();
    client_.reset();
    server_.reset();
    EXPECT_EQ(driver_->live(), gpu::FakeLive{});
  }

  std::optional<UniqueFd> chunk_;
  std::shared_ptr<gpu::FakeDriver> driver_ = std::make_shared<gpu::FakeDriver>();
  wire::GpuLayoutReply layout_;
  wire::AcquireGpuReply lease_;
  std::unique_ptr<FakeServer> server_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<GpuPool> pool_;
};

TEST_F(GpuPoolTest, ImportsAndLeases) {
  ASSERT_TRUE(open_with(body_of(layout_)).is_ok());
  EXPECT_EQ(pool_->mapped_bytes(), kChunk);
  {
    auto lease = pool_->acquire(Digest{});
    ASSERT_TRUE(lease.is_ok()) << lease.status().to_string();
    ASSERT_TRUE(lease->on_device());
    EXPECT_EQ(lease->device().bytes, 100u);
    EXPECT_EQ(lease->generation(), 3u);
    GpuLease moved = std::move(*lease);
    EXPECT_FALSE(lease->on_device());
    EXPECT_TRUE(moved.check().is_ok());
    moved.release();
    EXPECT_EQ(moved.check().code(), StatusCode::kStaleLease);
    EXPECT_TRUE(server_->wait_seen(4)) << "hello, layout, acquire, release";
  }
  close();
}

TEST_F(GpuPoolTest, ReadsWhatIsLeased) {
  const std::vector<std::byte> on_chunk(100, std::byte{7});
  ASSERT_EQ(::pwrite(chunk_->get(), on_chunk.data(), 100, 16 << 10), 100);
  ASSERT_TRUE(open_with(body_of(layout_)).is_ok());
  {
    auto lease = pool_->acquire(Digest{});
    ASSERT_TRUE(lease.is_ok()) << lease.status().to_string();
    std::vector<std::byte> bytes(90);
    ASSERT_TRUE(pool_->read(*lease, 10, bytes).is_ok());
    EXPECT_EQ(bytes, std::vector<std::byte>(90, std::byte{7}));
    EXPECT_TRUE(pool_->read(*lease, 100, {}).is_ok());
    EXPECT_EQ(pool_->read(*lease, 11, bytes).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(pool_->read(*lease, UINT64_MAX, bytes).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(read_manifest(*pool_, *lease).status().code(), StatusCode::kCorrupt);
    driver_->fail(gpu::FakeCall::kCopyToHost, {StatusCode::kIoError, "scripted"});
    EXPECT_EQ(pool_->read(*lease, 0, bytes).code(), StatusCode::kIoError);
    EXPECT_TRUE(pool_->read(*lease, 0, bytes).is_ok()) << "nothing was under way";
    driver_->fail(gpu::FakeCall::kQuery, {StatusCode::kIoError, "scripted"});
    EXPECT_EQ(pool_->read(*lease, 0, bytes).code(), StatusCode::kIoError);
    EXPECT_EQ(pool_->read(*lease, 0, bytes).code(), StatusCode::kUnavailable)
        << "the copy may still run";
    lease->release();
    EXPECT_EQ(pool_->read(*lease, 0, bytes).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(read_manifest(*pool_, *lease).status().code(), StatusCode::kStaleLease);
  }
  close();
}

// Every truncation and flipped bit of a manifest in device memory: refused, or the same manifest.
TEST_F(GpuPoolTest, DamagedManifests) {
  RepresentationHeader header;
  header.model.bytes[0] = 1;
  header.coverage = {.layer_begin = 0, .layer_end = 1, .head_begin = 0, .head_end = 1};
  header.tokens = {5, 6, 7};
  fill_ids(header, {});
  const auto writer = RepresentationWriter::plan(header, std::vector<uint64_t>{24, 24});
  ASSERT_TRUE(writer.is_ok());
  std::vector<std::byte> sound(writer->total_bytes());
  writer->finish(sound);
  lease_.lease.bytes = sound.size();
  ASSERT_TRUE(open_with(body_of(layout_)).is_ok());
  {
    auto lease = pool_->acquire(Digest{});
    ASSERT_TRUE(lease.is_ok()) << lease.status().to_string();
    const auto put = [&](std::span<const std::byte> bytes) {
      ASSERT_EQ(::pwrite(chunk_->get(), bytes.data(), bytes.size(), 16 << 10),
                static_cast<ssize_t>(bytes.size()));
    };
    put(sound);
    const auto manifest = read_manifest(*pool_, *lease);
    ASSERT_TRUE(manifest.is_ok()) << manifest.status().to_string();
    EXPECT_EQ(manifest->header.tokens, header.tokens);
    ASSERT_EQ(manifest->sections.size(), 2u);
    EXPECT_EQ(manifest->sections[1].bytes, 24u);
    const uint64_t manifest_bytes = manifest->sections[0].offset;
    std::vector<std::byte> damaged = sound;
    for (size_t bit = 0; bit < manifest_bytes * 8; bit += 7) {
      damaged[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
      put(damaged);
      EXPECT_FALSE(read_manifest(*pool_, *lease).is_ok()) << bit;
      damaged[bit / 8] = sound[bit / 8];
    }
    for (size_t bytes = 0; bytes < manifest_bytes; bytes += 5) {
      std::fill(damaged.begin() + static_cast<ptrdiff_t>(bytes), damaged.end(), std::byte{0});
      put(damaged);
      EXPECT_FALSE(read_manifest(*pool_, *lease).is_ok()) << bytes;
      damaged = sound;
    }
  }
  close();
}

TEST_F(GpuPoolTest, AnOlderServerHasNone) {
  server_ = std::make_unique<FakeServer>([](FakeServer&, const FakeServer::Request&) {});
  client_ = std::move(*server_->connect());
  EXPECT_EQ(GpuPool::open(*client_, driver_).status().code(), StatusCode::kUnsupported);
}

TEST_F(GpuPoolTest, LayoutsThatAreNoneEndTheSession) {
  const auto refuses = [&](const std::function<void(wire::GpuLayoutReply&)>& change,
                           size_t fds = 1) {
    wire::GpuLayoutReply layout = layout_;
    change(layout);
    const Status status = open_with(body_of(layout), fds);
    EXPECT_EQ(status.code(), StatusCode::kCorrupt) << status.to_string();
    EXPECT_EQ(client_->ping().code(), StatusCode::kUnavailable);
    close();
  };
  refuses([](auto&) {}, 0);
  refuses([](auto&) {}, 2);
  refuses([](auto& layout) { layout.chunk_bytes = 0; });
  refuses([](auto& layout) { layout.chunk_bytes = 1; });
  refuses([](auto& layout) { layout.chunk_bytes = kChunk + 1; });
  refuses([](auto& layout) { layout.capacity_bytes = kChunk / 2; });
  refuses([](auto& layout) { layout.capacity_bytes = 1ull << 60; });
  refuses([](auto& layout) { layout.n_here = 2; });
  refuses([](auto& layout) { layout.n_chunks = 0; });
  refuses([](auto& layout) { layout.n_chunks = 5; });
  refuses([](auto& layout) { layout.n_chunks = UINT32_MAX; });
  refuses([](auto& layout) { layout.first_chunk = 1; });
}

TEST_F(GpuPoolTest, OfAnotherKindOrDevice) {
  wire::GpuLayoutReply layout = layout_;
  layout.driver = wire::GpuDriverKind::kCuda;
  EXPECT_EQ(open_with(body_of(layout)).code(), StatusCode::kFailedPrecondition);
  close();
  layout = layout_;
  layout.device_uuid[0] ^= 1;
  EXPECT_EQ(open_with(body_of(layout)).code(), StatusCode::kNotFound);
  close();
  // A descriptor of another size than a chunk's.
  ASSERT_EQ(::ftruncate(chunk_->get(), kChunk / 2), 0);
  EXPECT_EQ(open_with(body_of(layout_)).code(), StatusCode::kInvalidArgument);
  close();
}

// Every truncation and every flipped bit of the layout and of the lease: an error with a type, or a
// sound answer; nothing is left behind.
TEST_F(GpuPoolTest, DamagedLayouts) {
  const std::vector<std::byte> sound = body_of(layout_);
  for (size_t bytes = 0; bytes < sound.size(); ++bytes) {
    const Status status = open_with({sound.begin(), sound.begin() + static_cast<ptrdiff_t>(bytes)});
    EXPECT_EQ(status.code(), StatusCode::kCorrupt) << bytes;
    close();
  }
  for (size_t bit = 0; bit < sound.size() * 8; bit += 3) {
    std::vector<std::byte> damaged = sound;
    damaged[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    (void)open_with(damaged);
    close();
  }
}

TEST_F(GpuPoolTest, DamagedLeases) {
  const auto refused = [&](const wire::AcquireGpuReply& lease) {
    lease_ = lease;
    ASSERT_TRUE(open_with(body_of(layout_)).is_ok());
    const auto result = pool_->acquire(Digest{});
    EXPECT_EQ(result.status().code(), StatusCode::kCorrupt) << result.status().to_string();
    close();
  };
  wire::AcquireGpuReply lease = lease_;
  const wire::AcquireGpuReply sound = lease_;
  lease.lease.slab_offset = kChunk - (16 << 10);
  lease.lease.bytes = (16 << 10) + 1;
  refused(lease);  // beyond what backs the pool
  lease = sound;
  lease.lease.slab_offset = 4 * kChunk;
  refused(lease);
  lease = sound;
  lease.lease.bytes = UINT64_MAX;
  refused(lease);
  lease = sound;
  lease.lease.bytes = 0;
  refused(lease);
  lease = sound;
  lease.lease.slab_offset = 1;
  refused(lease);
  lease = sound;
  lease.lease.index = 1;
  refused(lease);
  lease = sound;
  lease.tier = wire::TierId::kNvme;
  refused(lease);
  lease = sound;
  lease.tier = wire::TierId::kHost;
  lease.lease.bytes = FakeServer::kSlabBytes + 1;
  refused(lease);
  lease = sound;
  lease.layout_version = 6;  // that no layout ever has
  refused(lease);
}

}  // namespace
}  // namespace quire
