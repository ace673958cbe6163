// Clients that abuse the protocol of a real quired: it answers in a typed way or drops them, its
// memory and descriptors stay bounded, and a normal client is served all the while.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <random>

#include "server/reactor/session.h"
#include "tests/server/store_fixture.h"

namespace quire::server {
namespace {

constexpr uint64_t kMiB = 1ull << 20;
constexpr uint64_t kGrowthBytesMax = 64 * kMiB;
// Of the normal client, whatever the others do; far above what a loaded test machine needs.
constexpr uint64_t kLatencyUsMax = 2'000'000;
constexpr size_t kRoundsAfterwards = 20;
constexpr uint64_t kSmallStaging = 8 * kMiB;

uint64_t now_us() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                   std::chrono::steady_clock::now().time_since_epoch())
                                   .count());
}

// The resident memory of a process, shared pages included.
uint64_t resident_bytes(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/statm");
  uint64_t total = 0;
  uint64_t resident = 0;
  file >> total >> resident;
  return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

uint64_t descriptors_of(pid_t pid) {
  std::error_code error;
  std::filesystem::directory_iterator all("/proc/" + std::to_string(pid) + "/fd", error);
  return error ? 0 : static_cast<uint64_t>(std::distance(begin(all), end(all)));
}

class AbuseTest : public testing::Test {
 protected:
  void SetUp() override {
    config_.host_prefault = true;  // so that growth is the abusers' doing
    server_ = std::make_unique<ServerProcess>(config_);
    ASSERT_TRUE(server_->ready()) << server_->log();
    client_ = TestClient::connect(config_.socket_path, "", 16 * kMiB);
    ASSERT_NE(client_, nullptr);
    ASSERT_TRUE(client_->register_model(model_).is_ok());
    object_ = make_object(model_, 1, 512);
    ASSERT_TRUE(client_->put(object_.id, object_.bytes, wire::AckLevel::kDurable).is_ok());
    serve_once();
    epoch_ = client_->epoch();
    resident_before_ = resident_bytes(server_->pid());
    descriptors_before_ = descriptors_of(server_->pid());
    normal_ = std::thread([this] {
      while (!stop_) {
        serve_once();
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
  }

  void TearDown() override {
    if (!normal_.joinable()) return;
    const size_t rounds = rounds_;
    eventually([&] { return rounds_ >= rounds + kRoundsAfterwards; });
    stop_ = true;
    normal_.join();
    EXPECT_EQ(failures_, 0u) << "the normal client was not served";
    EXPECT_GT(latencies_.size(), 0u);
    std::sort(latencies_.begin(), latencies_.end());
    const uint64_t worst = latencies_.empty() ? 0 : latencies_.back();
    const uint64_t resident = resident_bytes(server_->pid());
    peak_ = std::max(peak_, resident);
    std::printf(
        "normal client: %zu rounds, p50 %lu us, p99 %lu us, worst %lu us; server grew by %ld KiB "
        "at most\n",
        latencies_.size(), latencies_[latencies_.size() / 2],
        latencies_[latencies_.size() * 99 / 100], worst,
        static_cast<long>(peak_ - resident_before_) / 1024);
    EXPECT_LT(worst, kLatencyUsMax);
    EXPECT_LT(peak_, resident_before_ + kGrowthBytesMax);
    EXPECT_TRUE(eventually([&] {
      return descriptors_of(server_->pid()) <= descriptors_before_ + 4;
    })) << descriptors_of(server_->pid())
        << " descriptors, " << descriptors_before_ << " before";
    EXPECT_LT(server_->wait_for_exit(0), 0) << "the server ended: " << server_->log();
    auto fresh = TestClient::connect(config_.socket_path, "", kSmallStaging);
    ASSERT_NE(fresh, nullptr) << "a new client is not served";
    EXPECT_EQ(fresh->epoch(), epoch_) << "the server was restarted";
    EXPECT_EQ(server_->terminate(), 0) << server_->log();
  }

  template <typename Condition>
  bool eventually(Condition condition, int timeout_ms = 10'000) {
    for (int waited = 0; waited < timeout_ms; waited += 5) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
  }

  // What a well-behaved client does, checked to the byte.
  void serve_once() {
    const uint64_t begin = now_us();
    auto lease = client_->acquire(object_.id);
    const bool right =
        lease.is_ok() && lease->bytes == object_.bytes.size() &&
        std::memcmp(client_->leased(*lease).data(), object_.bytes.data(), lease->bytes) == 0 &&
        client_->release(lease->lease_id).is_ok();
    if (!right) ++failures_;
    latencies_.push_back(now_us() - begin);
    ++rounds_;
    peak_ = std::max(peak_, resident_bytes(server_->pid()));
  }

  std::unique_ptr<TestClient> connect() {
    return TestClient::connect(config_.socket_path, "", kSmallStaging);
  }
  // The session survives it with an error of one of these codes.
  void expect_refused(TestClient& client, ByteSpan frame, std::vector<StatusCode> codes) {
    ASSERT_TRUE(client.send(frame));
    auto reply = client.receive();
    ASSERT_TRUE(reply.is_ok()) << reply.status().to_string();
    EXPECT_TRUE(std::find(codes.begin(), codes.end(), reply->code()) != codes.end())
        << reply->status().to_string();
    EXPECT_FALSE(reply->message().empty());
  }

  TempDirectory directory_;
  Config config_ = test_config(directory_.path());
  ModelDescriptor model_ = test_model();
  TestObject object_;
  std::unique_ptr<ServerProcess> server_;
  std::unique_ptr<TestClient> client_;  // of the thread normal_ while that runs
  std::thread normal_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> failures_{0};
  std::atomic<size_t> rounds_{0};
  std::vector<uint64_t> latencies_;
  uint64_t epoch_ = 0;
  uint64_t resident_before_ = 0;
  uint64_t descriptors_before_ = 0;
  uint64_t peak_ = 0;
};

// Each of these costs credit; the session lives until the credit is gone.
TEST_F(AbuseTest, DamagedFrames) {
  const auto sound = make_frame(wire::Op::kPing, {});
  const auto with = [&](auto change) {
    std::vector<std::byte> frame = sound;
    wire::FrameHeader header;
    std::memcpy(&header, frame.data(), sizeof(header));
    change(header);
    std::memcpy(frame.data(), &header, sizeof(header));
    return frame;
  };
  const auto resealed = [&](auto change) {
    auto frame = with(change);
    reseal(frame);
    return frame;
  };
  using Header = wire::FrameHeader;
  const std::vector<std::vector<std::byte>> corrupt = {
      with([](Header& h) { h.magic = 0x31525752; }),
      with([](Header& h) { h.header_xxh3 ^= 1; }),
      resealed([](Header& h) { h.body_bytes = UINT32_MAX; }),
      resealed([](Header& h) { h.body_bytes = 1; }),
      std::vector<std::byte>(63),
      std::vector<std::byte>(wire::kFrameBytesMax + 1, std::byte{1}),
      std::vector<std::byte>(150'000, std::byte{2}),
  };
  for (size_t i = 0; i < corrupt.size(); ++i) {
    SCOPED_TRACE(i);
    auto client = connect();
    ASSERT_NE(client, nullptr);
    expect_refused(*client, corrupt[i], {StatusCode::kCorrupt});
    EXPECT_EQ(client->call(wire::Op::kPing, {})->code(), StatusCode::kOk);
  }
  auto client = connect();
  auto bad_body = make_frame(wire::Op::kAbort, bytes_of(wire::AbortRequest{1}));
  bad_body.back() ^= std::byte{1};
  expect_refused(*client, bad_body, {StatusCode::kCorrupt});
  expect_refused(*client, resealed([](Header& h) { h.version = 99; }),
                 {StatusCode::kVersionMismatch});
  expect_refused(*client, resealed([](Header& h) { h.deadline_ms = 0; }),
                 {StatusCode::kInvalidArgument});
  expect_refused(*client, resealed([](Header& h) { h.flags = wire::kFlagReply; }),
                 {StatusCode::kInvalidArgument});
  EXPECT_EQ(client->call(wire::Op::kPing, {})->code(), StatusCode::kOk);
}

TEST_F(AbuseTest, UnknownOpsAndTruncatedBodies) {
  for (const uint16_t op : {0, wire::kOpMax + 1, 255, 65535}) {
    auto client = connect();
    expect_refused(*client, make_frame(static_cast<wire::Op>(op), {}),
                   {StatusCode::kInvalidArgument});
  }
  const size_t whole[] = {0, 144, 48, 40, 16, 16, 48, 40, 8, 0, 104};
  for (uint16_t op = 1; op <= 10; ++op) {
    for (const size_t bytes : {size_t{1}, whole[op] / 2, whole[op] - 1, whole[op] + 1}) {
      // A ping has no body; a release of no leases is one.
      const bool sound = op == 9 || ((op == 4 || op == 5) && bytes == sizeof(wire::ReleaseRequest));
      if (sound || bytes > 60'000) continue;
      auto client = connect();
      ASSERT_NE(client, nullptr);
      const std::vector<std::byte> body(bytes);
      expect_refused(*client, make_frame(static_cast<wire::Op>(op), body),
                     {StatusCode::kInvalidArgument, StatusCode::kFailedPrecondition});
    }
  }
}

// Sizes and counts that reach beyond what the session owns.
TEST_F(AbuseTest, OutOfRangeRequests) {
  auto client = connect();
  wire::ResolveRequest resolve;
  for (const uint32_t n_tokens : {kPromptTokensMax + 1, UINT32_MAX}) {
    resolve.n_tokens = n_tokens;
    expect_refused(*client, make_frame(wire::Op::kResolve, bytes_of(resolve)),
                   {StatusCode::kInvalidArgument});
  }
  resolve.n_tokens = 10;
  resolve.start_token = 11;
  expect_refused(*client, make_frame(wire::Op::kResolve, bytes_of(resolve)),
                 {StatusCode::kInvalidArgument});
  wire::RegisterModelRequest model;
  for (const uint32_t bytes : {uint32_t{wire::kPromptScratchBytes} + 1, UINT32_MAX, 0u}) {
    model.descriptor_bytes = bytes;
    expect_refused(*client, make_frame(wire::Op::kRegisterModel, bytes_of(model)),
                   {StatusCode::kInvalidArgument, StatusCode::kCorrupt});
  }
  const TestObject object = make_object(model_, 5, 64);
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{1} << 40, UINT64_MAX, UINT64_MAX - 4095}) {
    const auto window = client->reserve(object.id, bytes);
    ASSERT_FALSE(window.is_ok()) << bytes;
    EXPECT_TRUE(window.status().code() == StatusCode::kInvalidArgument ||
                window.status().code() == StatusCode::kResourceExhausted)
        << window.status().to_string();
  }
  auto window = client->reserve(object.id, object.bytes.size());
  ASSERT_TRUE(window.is_ok());
  wire::CommitRequest commit;
  commit.reservation_id = window->reservation_id;
  for (const uint64_t bytes : {uint64_t{0}, object.bytes.size() + 1, UINT64_MAX}) {
    commit.bytes = bytes;
    expect_refused(*client, make_frame(wire::Op::kCommit, bytes_of(commit)),
                   {StatusCode::kInvalidArgument});
  }
  commit.bytes = object.bytes.size();
  commit.ack = static_cast<wire::AckLevel>(77);
  expect_refused(*client, make_frame(wire::Op::kCommit, bytes_of(commit)),
                 {StatusCode::kInvalidArgument});
}

TEST_F(AbuseTest, CommitTwiceAndForeignIds) {
  auto client = connect();
  auto other = connect();
  const TestObject object = make_object(model_, 6, 64);
  auto window = client->reserve(object.id, object.bytes.size());
  ASSERT_TRUE(window.is_ok());
  EXPECT_EQ(other->commit(window->reservation_id, object.bytes).code(), StatusCode::kNotFound);
  EXPECT_EQ(
      other->call(wire::Op::kAbort, bytes_of(wire::AbortRequest{window->reservation_id}))->code(),
      StatusCode::kNotFound);
  std::memcpy(client->staging().data() + window->staging_offset, object.bytes.data(),
              object.bytes.size());
  ASSERT_TRUE(client->commit(window->reservation_id, object.bytes).is_ok());
  EXPECT_EQ(client->commit(window->reservation_id, object.bytes).code(), StatusCode::kNotFound);
  auto lease = client->acquire(object.id);
  ASSERT_TRUE(lease.is_ok());
  EXPECT_EQ(other->release(lease->lease_id).code(), StatusCode::kStaleLease);
  for (uint64_t bit = 0; bit < 64; ++bit) {
    EXPECT_EQ(client->release(lease->lease_id ^ (1ull << bit)).code(), StatusCode::kStaleLease);
  }
  EXPECT_TRUE(client->release(lease->lease_id).is_ok());
}

// The same frame again and again, also while its first run is under way.
TEST_F(AbuseTest, ReplayedRequests) {
  auto client = connect();
  const TestObject object = make_object(model_, 7, 512);
  auto window = client->reserve(object.id, object.bytes.size());
  ASSERT_TRUE(window.is_ok());
  std::memcpy(client->staging().data() + window->staging_offset, object.bytes.data(),
              object.bytes.size());
  wire::CommitRequest commit;
  commit.reservation_id = window->reservation_id;
  commit.bytes = object.bytes.size();
  const Hash128 checksum = xxh3_128(object.bytes);
  commit.checksum_low = checksum.low;
  commit.checksum_high = checksum.high;
  commit.ack = wire::AckLevel::kDurable;
  const auto frame = make_frame(wire::Op::kCommit, bytes_of(commit), 42);
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(client->send(frame));
  int stored = 0;
  for (int i = 0; i < 20; ++i) {
    auto reply = client->receive();
    ASSERT_TRUE(reply.is_ok());
    EXPECT_EQ(reply->header.request_id, 42u);
    stored += reply->code() == StatusCode::kOk;
    EXPECT_TRUE(reply->code() == StatusCode::kOk || reply->code() == StatusCode::kNotFound ||
                reply->code() == StatusCode::kFailedPrecondition)
        << reply->status().to_string();
  }
  EXPECT_EQ(stored, 1);
  auto lease = client->acquire(object.id);
  ASSERT_TRUE(lease.is_ok());
  EXPECT_EQ(std::memcmp(client->leased(*lease).data(), object.bytes.data(), lease->bytes), 0);
}

TEST_F(AbuseTest, ThousandConnections) {
  std::vector<std::unique_ptr<TestClient>> said_hello;
  std::vector<std::unique_ptr<TestClient>> silent;
  int refused = 0;
  for (int i = 0; i < 1000; ++i) {
    if (i % 4 == 3) {
      silent.push_back(TestClient::open(config_.socket_path));
      continue;
    }
    auto client = connect();
    refused += client == nullptr;
    if (client != nullptr) said_hello.push_back(std::move(client));
  }
  EXPECT_GT(refused, 0);
  EXPECT_LT(said_hello.size(), config_.sessions_max);
  EXPECT_GE(said_hello.size(), config_.sessions_max / 2);
  for (const auto& client : said_hello) {
    EXPECT_EQ(client->call(wire::Op::kPing, {})->code(), StatusCode::kOk);
  }
  // Who never says a word does not keep others out.
  said_hello.clear();
  for (int i = 0; i < 300; ++i) silent.push_back(TestClient::open(config_.socket_path));
  std::unique_ptr<TestClient> late;
  EXPECT_TRUE(eventually([&] { return (late = connect()) != nullptr; }, 4000));
}

// They ask for much and read nothing: each is dropped before it costs much, all together too.
TEST_F(AbuseTest, ClientsThatNeverRead) {
  constexpr int kClients = 60;
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < kClients; ++i) clients.push_back(connect());
  const wire::AcquireRequest request{wire::kAcquireIdsMax, 1000};
  std::vector<std::byte> body(sizeof(request) + wire::kAcquireIdsMax * sizeof(wire::Id));
  std::memcpy(body.data(), &request, sizeof(request));
  for (uint32_t i = 0; i < wire::kAcquireIdsMax; ++i) {
    std::memcpy(body.data() + sizeof(request) + i * sizeof(wire::Id), object_.id.bytes.data(),
                sizeof(wire::Id));
  }
  const auto frame = make_frame(wire::Op::kAcquire, body);
  std::vector<bool> dropped(kClients, false);
  int alive = kClients;
  const uint64_t until = now_us() + 10'000'000;
  while (alive > 0 && now_us() < until) {
    for (int i = 0; i < kClients; ++i) {
      if (dropped[i]) continue;
      ASSERT_NE(clients[i], nullptr);
      const ssize_t sent =
          ::send(clients[i]->fd(), frame.data(), frame.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent >= 0 || errno == EAGAIN) continue;
      dropped[i] = true;
      --alive;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(alive, 0) << "clients that never read are still connected";
}

// Half-sent work, very slowly: one sound frame in a while from many sockets.
TEST_F(AbuseTest, SlowSenders) {
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < 40; ++i) clients.push_back(connect());
  const TestObject object = make_object(model_, 8, 64);
  for (int round = 0; round < 10; ++round) {
    for (size_t i = 0; i < clients.size(); ++i) {
      ASSERT_NE(clients[i], nullptr);
      // Reserved, never committed: half a put.
      const Digest id = make_object(model_, 1000 + i, 16).id;
      if (round == 0) {
        EXPECT_TRUE(clients[i]->reserve(id, object.bytes.size()).is_ok());
      }
      EXPECT_EQ(clients[i]->call(wire::Op::kPing, {})->code(), StatusCode::kOk);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

// Descriptors that nobody asked for are closed, not kept.
TEST_F(AbuseTest, UninvitedDescriptors) {
  constexpr size_t kDescriptors = 200;
  auto client = connect();
  for (int round = 0; round < 20; ++round) {
    const auto frame = make_frame(wire::Op::kPing, {}, static_cast<uint64_t>(round));
    std::vector<int> descriptors(kDescriptors, STDERR_FILENO);
    std::vector<char> control(CMSG_SPACE(kDescriptors * sizeof(int)));
    iovec part{const_cast<std::byte*>(frame.data()), frame.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(kDescriptors * sizeof(int));
    std::memcpy(CMSG_DATA(rights), descriptors.data(), kDescriptors * sizeof(int));
    ASSERT_GE(::sendmsg(client->fd(), &message, MSG_NOSIGNAL), 0) << std::strerror(errno);
    auto reply = client->receive();
    ASSERT_TRUE(reply.is_ok());
    EXPECT_EQ(reply->code(), StatusCode::kOk);
  }
  EXPECT_LE(descriptors_of(server_->pid()), descriptors_before_ + 4);
}

// Connect, say something or nothing, vanish: as fast as it goes.
TEST_F(AbuseTest, ConnectionStorm) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 1500; ++i) {
    auto client = TestClient::open(config_.socket_path);
    if (client == nullptr) continue;
    switch (random() % 4) {
      case 0:
        break;
      case 1:
        (void)client->send(std::vector<std::byte>(1 + random() % 200, std::byte{7}));
        break;
      case 2:
        (void)client->send(make_frame(wire::Op::kHello, bytes_of(wire::HelloRequest{})));
        break;
      default:
        (void)client->hello("", kSmallStaging);
        (void)client->reserve(make_object(model_, 5000 + i, 16).id, 10'000);
    }
  }
}

}  // namespace
}  // namespace quire::server
