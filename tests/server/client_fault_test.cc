// Client processes that are killed or stopped in the middle of everything. The server runs in this
// process, the clients are this program started again with --fault-client. Whatever they did: no
// lease, no reservation and no byte of the slab is left behind, and a slot is never given away
// while somebody may read it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <random>
#include <sstream>

#include "tests/server/store_fixture.h"
#include "tiers/host/slot_allocator.h"

extern char** environ;

namespace quire::server {
namespace {

// Of the client that is stopped: long enough to be renewed and stopped on a loaded machine.
constexpr uint32_t kLeaseMs = 3000;
constexpr uint32_t kLongLeaseMs = 600'000;
constexpr int kCycles = 10'000;
constexpr uint64_t kFirstSharedSeed = 1;
constexpr uint64_t kSharedObjects = 4;
constexpr uint32_t kSharedTokens = 512;

// --- the client process ---

// Commands on stdin, answers on stdout, one line each.
class FaultClient {
 public:
  explicit FaultClient(const std::string& socket_path)
      : client_(TestClient::connect(socket_path, "", 16 << 20)), model_(test_model()) {}

  int run(const std::string& mode, uint64_t seed) {
    if (client_ == nullptr) return 3;
    random_.seed(seed);
    say("ready");
    if (mode == "lease") return hold_leases();
    for (;;) step(mode, seed++);
  }

 private:
  static void say(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
  }

  // One round of whatever shall be interrupted.
  void step(const std::string& mode, uint64_t seed) {
    const TestObject object = make_object(model_, 1'000'000 + seed, 64 + seed % 512);
    if (mode == "lease_storm" || (mode == "mixed" && random_() % 2)) {
      const TestObject shared =
          make_object(model_, kFirstSharedSeed + random_() % kSharedObjects, kSharedTokens);
      auto lease = client_->acquire(shared.id, kLongLeaseMs);
      if (lease && random_() % 2) (void)client_->release(lease->lease_id);
      return;
    }
    auto window = client_->reserve(object.id, object.bytes.size());
    if (!window) return;
    if (mode == "reserve") return;
    std::memcpy(client_->staging().data() + window->staging_offset, object.bytes.data(),
                object.bytes.size());
    if (mode == "fill" && random_() % 4 != 0) {
      (void)client_->call(wire::Op::kAbort, bytes_of(wire::AbortRequest{window->reservation_id}));
      return;
    }
    (void)client_->commit(window->reservation_id, object.bytes,
                          random_() % 2 ? wire::AckLevel::kMemory : wire::AckLevel::kDurable);
  }

  // "lease": takes one lease on the first shared object, then obeys.
  int hold_leases() {
    const TestObject shared = make_object(model_, kFirstSharedSeed, kSharedTokens);
    auto lease = client_->acquire(shared.id, kLeaseMs);
    if (!lease) return 4;
    say("leased " + std::to_string(lease->slab_offset));
    char command[64];
    while (std::fgets(command, sizeof(command), stdin) != nullptr) {
      struct {
        wire::ReleaseRequest request{1, kLeaseMs};
        uint64_t id = 0;
      } body;
      body.id = lease->lease_id;
      const bool renew = std::string_view(command).starts_with("renew");
      auto reply = client_->call(renew ? wire::Op::kRenew : wire::Op::kRelease, bytes_of(body));
      say(reply ? std::string(status_code_name(reply->code())) : "closed");
    }
    return 0;
  }

  std::unique_ptr<TestClient> client_;
  ModelDescriptor model_;
  std::mt19937_64 random_;
};

// --- the test's side of it ---

class ClientProcess {
 public:
  ClientProcess(const std::string& socket_path, const std::string& mode, uint64_t seed) {
    int in[2];
    int out[2];
    if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0) std::abort();
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    std::string words[] = {"client", "--fault-client", socket_path, mode, std::to_string(seed)};
    char* argv[] = {words[0].data(), words[1].data(), words[2].data(),
                    words[3].data(), words[4].data(), nullptr};
    if (::posix_spawn(&pid_, "/proc/self/exe", &actions, nullptr, argv, environ) != 0) pid_ = -1;
    ::posix_spawn_file_actions_destroy(&actions);
    ::close(in[0]);
    ::close(out[1]);
    commands_ = in[1];
    answers_ = out[0];
  }
  ~ClientProcess() { kill(); }
  ClientProcess(const ClientProcess&) = delete;
  ClientProcess& operator=(const ClientProcess&) = delete;

  // The next line; empty where none came in time.
  std::string read_line() {
    std::string line;
    for (;;) {
      pollfd wait{answers_, POLLIN, 0};
      char c = 0;
      if (::poll(&wait, 1, kPatienceMs) <= 0 || ::read(answers_, &c, 1) != 1) return {};
      if (c == '\n') return line;
      line += c;
    }
  }
  std::string ask(const std::string& command) {
    const std::string line = command + "\n";
    if (::write(commands_, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
      return {};
    return read_line();
  }
  void signal(int number) { ::kill(pid_, number); }
  // Stopped for sure, not just told to.
  void stop() {
    signal(SIGSTOP);
    int status = 0;
    ::waitpid(pid_, &status, WUNTRACED);
  }
  void kill() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
      ::close(commands_);
      ::close(answers_);
    }
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
  int commands_ = -1;
  int answers_ = -1;
};

uint64_t test_seed() {
  const char* value = std::getenv("QUIRE_FAULT_SEED");
  return value == nullptr ? 1 : std::strtoull(value, nullptr, 10);
}

class ClientFaultTest : public ServerTest {
 protected:
  void SetUp() override {
    std::printf("QUIRE_FAULT_SEED=%lu server_client_fault_test\n", test_seed());
    config_.lease_max_ms = kLongLeaseMs;
    config_.reservation_ms = 3'600'000;  // nothing here may be saved by its expiry
    start();
    for (uint64_t i = 0; i < kSharedObjects; ++i) {
      shared_.push_back(make_object(model_, kFirstSharedSeed + i, kSharedTokens));
      ASSERT_TRUE(client_->put(shared_[i].id, shared_[i].bytes, wire::AckLevel::kDurable).is_ok());
    }
  }
  void TearDown() override {
    if (HasFatalFailure()) return;
    expect_nothing_left();
    // The books are right down to the last byte.
    for (const ObjectInfo& object : stored()) {
      // What reclaiming took meanwhile is gone as well.
      Status removed;
      const auto gone = [&] {
        removed = server_->admin().remove(object.representation, true, kPatienceMs);
        return removed.is_ok() || removed.code() == StatusCode::kNotFound;
      };
      EXPECT_TRUE(eventually(gone)) << removed.to_string();
    }
    EXPECT_TRUE(eventually([&] { return host().used_bytes == 0; }))
        << host().used_bytes << " bytes of the slab leaked";
  }
  TierStats host() { return stats().tiers.at(0); }
  std::vector<ObjectInfo> stored() {
    std::vector<ObjectInfo> all;
    std::string token;
    do {
      auto page = server_->admin().list({}, 1000, token, kPatienceMs);
      EXPECT_TRUE(page.is_ok());
      all.insert(all.end(), page->objects.begin(), page->objects.end());
      token = page->next_page_token;
    } while (!token.empty());
    return all;
  }
  uint64_t expected_slab_bytes() {
    uint64_t bytes = 0;
    for (const ObjectInfo& object : stored()) {
      const auto& tiers = object.tiers;
      if (std::find(tiers.begin(), tiers.end(), wire::TierId::kHost) == tiers.end()) continue;
      bytes += align_up(object.bytes, tiers::kSlotGranuleBytes);
    }
    return bytes;
  }
  // Of others than client_, once the server has seen the end of their sockets.
  void expect_nothing_left() {
    EXPECT_TRUE(eventually([&] { return stats().sessions == 1; })) << stats().sessions;
    EXPECT_TRUE(eventually([&] { return stats().reservations == 0; }))
        << stats().reservations << " reservations leaked";
    EXPECT_EQ(stats().leases, 0u);
    EXPECT_TRUE(eventually([&] { return host().used_bytes == expected_slab_bytes(); }))
        << host().used_bytes << " bytes used, " << expected_slab_bytes() << " accounted for";
    for (const TestObject& object : shared_) expect_stored(*client_, object);
  }
  void kill_in_the_middle(const std::string& mode, int rounds, uint32_t wait_us_max) {
    std::mt19937_64 random(test_seed());
    for (int round = 0; round < rounds; ++round) {
      SCOPED_TRACE(mode + " round " + std::to_string(round));
      ClientProcess process(config_.socket_path, mode, random());
      ASSERT_EQ(process.read_line(), "ready");
      ::usleep(static_cast<useconds_t>(random() % wait_us_max));
      process.kill();
      ASSERT_NO_FATAL_FAILURE(expect_nothing_left());
    }
  }
  std::vector<TestObject> shared_;
};

TEST_F(ClientFaultTest, KilledWhileReserving) {
  kill_in_the_middle("reserve", 10, 20'000);
}

TEST_F(ClientFaultTest, KilledWhileFillingAndCommitting) {
  kill_in_the_middle("fill", 10, 50'000);
}

TEST_F(ClientFaultTest, KilledWhileLeasing) {
  kill_in_the_middle("lease_storm", 10, 20'000);
}

TEST_F(ClientFaultTest, KilledInTheMiddleOfEverything) {
  kill_in_the_middle("mixed", 15, 60'000);
}

TEST_F(ClientFaultTest, ManyAreKilledAtOnce) {
  std::mt19937_64 random(test_seed());
  for (int round = 0; round < 3; ++round) {
    std::vector<std::unique_ptr<ClientProcess>> processes;
    for (int i = 0; i < 8; ++i) {
      processes.push_back(std::make_unique<ClientProcess>(config_.socket_path, "mixed", random()));
    }
    for (const auto& process : processes) ASSERT_EQ(process->read_line(), "ready");
    ::usleep(50'000);
    for (const auto& process : processes) process->signal(SIGKILL);
    processes.clear();
    ASSERT_NO_FATAL_FAILURE(expect_nothing_left());
  }
}

// A stopped client keeps its slot until its lease ends, and not a moment longer: then the slot is
// reused, and all the client hears is that its lease is stale.
TEST_F(ClientFaultTest, StoppedPastItsLease) {
  ClientProcess process(config_.socket_path, "lease", 1);
  ASSERT_EQ(process.read_line(), "ready");
  std::istringstream answer(process.read_line());
  std::string word;
  uint64_t offset = 0;
  ASSERT_TRUE(answer >> word >> offset);
  ASSERT_EQ(process.ask("renew"), "OK");
  process.stop();
  EXPECT_EQ(server_->admin().remove(shared_[0].id, true, kPatienceMs).code(),
            StatusCode::kFailedPrecondition)
      << "leased by a client that is stopped, but not expired";
  ASSERT_TRUE(eventually([&] { return stats().leases == 0; }));
  EXPECT_EQ(stats().sessions, 2u) << "a stopped client stays connected";
  ASSERT_TRUE(server_->admin().remove(shared_[0].id, true, kPatienceMs).is_ok());

  // Others of the same size follow until one lies in the same place.
  bool reused = false;
  for (uint64_t seed = 500; seed < 700 && !reused; ++seed) {
    const TestObject object = make_object(model_, seed, kSharedTokens);
    ASSERT_TRUE(put_patiently(*client_, object, wire::AckLevel::kDurable).is_ok());
    auto lease = client_->acquire(object.id);
    ASSERT_TRUE(lease.is_ok());
    reused = lease->slab_offset == offset;
    EXPECT_TRUE(client_->release(lease->lease_id).is_ok());
  }
  EXPECT_TRUE(reused);
  process.signal(SIGCONT);
  EXPECT_EQ(process.ask("renew"), "STALE_LEASE");
  EXPECT_EQ(process.ask("release"), "STALE_LEASE");
  process.kill();
  shared_.erase(shared_.begin());
}

class SmallSlabTest : public ClientFaultTest {
 protected:
  static constexpr uint32_t kTokens = 1536;  // 1.5 MiB: ten objects fill the slab
  // A lease is held while twice as many objects pass through the slab as it has room for.
  static constexpr uint64_t kPutsUnderLease = 20;
  SmallSlabTest() { config_.host_bytes = 16 << 20; }

  TestObject streamed(uint64_t number) { return make_object(model_, 10'000 + number, kTokens); }
  // Leases one of the newest objects for as long as kPutsUnderLease and looks at it all the while.
  // False where a byte changed.
  bool look_under_lease(TestClient& client, const TestObject& object) {
    auto lease = client.acquire(object.id, kLongLeaseMs);
    if (!lease) return true;
    const uint64_t until = newest_ + kPutsUnderLease;
    bool same = true;
    while (same && !stop_ && newest_ < until) {
      same =
          std::memcmp(client.leased(*lease).data(), object.bytes.data(), object.bytes.size()) == 0;
      ++looks_;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    leases_outlived_ += newest_ >= until;
    return client.release(lease->lease_id).is_ok() && same;
  }

  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> newest_{0};
  std::atomic<uint64_t> looks_{0};
  std::atomic<uint64_t> leases_outlived_{0};
  std::atomic<uint64_t> changed_{0};
};

// A writer pushes objects through the slab while readers hold leases on some: what a lease shows
// never changes, however many others pass. On a slow disk fewer leases are seen; their number is
// printed.
TEST_F(SmallSlabTest, LeasedSlotsAreNeverReused) {
  constexpr int kReaders = 3;
  constexpr uint64_t kLeasesWanted = 60;
  constexpr int kWaitMsMax = 60'000;
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    auto writer = TestClient::connect(config_.socket_path, "", 32 << 20);
    for (uint64_t i = 1; !stop_; ++i) {
      if (put_patiently(*writer, streamed(i)).is_ok()) newest_ = i;
    }
  });
  for (int reader = 0; reader < kReaders; ++reader) {
    threads.emplace_back([&] {
      auto client = TestClient::connect(config_.socket_path, "", 8 << 20);
      while (!stop_) {
        const uint64_t last = newest_;
        if (last != 0 && !look_under_lease(*client, streamed(last))) ++changed_;
      }
    });
  }
  (void)eventually([&] { return changed_ != 0 || leases_outlived_ >= kLeasesWanted; }, kWaitMsMax);
  stop_ = true;
  for (std::thread& thread : threads) thread.join();
  shared_.clear();  // reclaiming may have taken them
  std::printf("%lu puts, %lu looks, %lu leases that outlived the slab twice\n", newest_.load(),
              looks_.load(), leases_outlived_.load());
  EXPECT_EQ(changed_, 0u) << "a leased slot changed";
  EXPECT_GE(leases_outlived_, uint64_t{kReaders});
}

TEST_F(ClientFaultTest, TenThousandCyclesWithoutDrift) {
  ASSERT_NO_FATAL_FAILURE(expect_nothing_left());
  const TierStats before = host();
  const TestObject object = make_object(model_, 77, 64);
  for (int cycle = 0; cycle < kCycles; ++cycle) {
    auto window = client_->reserve(object.id, object.bytes.size() + cycle % 100'000);
    ASSERT_TRUE(window.is_ok()) << window.status().to_string();
    auto aborted =
        client_->call(wire::Op::kAbort, bytes_of(wire::AbortRequest{window->reservation_id}));
    ASSERT_EQ(aborted->code(), StatusCode::kOk);
    auto lease = client_->acquire(shared_[cycle % kSharedObjects].id);
    ASSERT_TRUE(lease.is_ok()) << lease.status().to_string();
    if (cycle % 500 == 0) {
      // Now and then the socket goes instead.
      ASSERT_TRUE(client_->reserve(object.id, object.bytes.size()).is_ok());
      client_.reset();
      ASSERT_TRUE(eventually([&] { return stats().sessions == 0; }));
      client_ = TestClient::connect(config_.socket_path);
      ASSERT_NE(client_, nullptr);
    } else {
      ASSERT_TRUE(client_->release(lease->lease_id).is_ok());
    }
  }
  EXPECT_EQ(stats().leases, 0u);
  EXPECT_EQ(stats().reservations, 0u);
  EXPECT_EQ(host().used_bytes, before.used_bytes);
  EXPECT_EQ(host().objects, before.objects);
}

int run_fault_client(char** argv) {
  return FaultClient(argv[2]).run(argv[3], std::strtoull(argv[4], nullptr, 10));
}

}  // namespace
}  // namespace quire::server

int main(int argc, char** argv) {
  if (argc == 5 && std::string_view(argv[1]) == "--fault-client") {
    return quire::server::run_fault_client(argv);
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
