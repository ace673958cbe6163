// quire-bench local: what a client on this machine pays.
#include <algorithm>
#include <cstring>
#include <memory>

#include "base/clock.h"
#include "bench/quire-bench/benches.h"
#include "bench/quire-bench/ping_pong.h"
#include "bench/quire-bench/server_process.h"
#include "bench/quire-bench/temp_directory.h"
#include "bench/synthetic.h"

namespace quire::bench {
namespace {

// 0.5B parameters' shape: 8 MiB are about 680 tokens.
constexpr SyntheticShape kShape{.layers = 24, .kv_heads = 2, .head_dims = 64};
constexpr uint64_t kModelSeed = 2;
constexpr uint32_t kWarmUps = 50;

double gigabytes_per_second(uint64_t bytes, double seconds) {
  return static_cast<double>(bytes) / 1e9 / seconds;
}

class LocalBench {
 public:
  LocalBench(const LocalOptions& options, const ResultSink& sink)
      : options_(options), sink_(sink) {}

  Status run() {
    // Before anything that starts threads.
    QUIRE_ASSIGN_OR_RETURN(ping_pong_, PingPong::start());
    QUIRE_RETURN_IF_ERROR(connect());
    QUIRE_ASSIGN_OR_RETURN(SyntheticObject object,
                           SyntheticObject::make(kShape, kModelSeed, options_.object_bytes));
    object_ = std::make_unique<SyntheticObject>(std::move(object));
    QUIRE_RETURN_IF_ERROR(client_->register_model("quire-bench", object_->model()).status());
    // Numbers no earlier run used, where the server is not ours.
    next_number_ = system_clock().wall_ms() << 16;
    QUIRE_RETURN_IF_ERROR(acquire_bench());
    return put_bench();
  }

 private:
  Status connect() {
    if (!options_.socket_path.empty()) {
      ClientOptions client;
      client.socket_path = options_.socket_path;
      client.client_name = "quire-bench";
      QUIRE_ASSIGN_OR_RETURN(client_, Client::connect(client));
      return Status::ok();
    }
    options_.common.say("starting a quired");
    QUIRE_ASSIGN_OR_RETURN(directory_, TempDirectory::make(options_.common.directory));
    ServerOptions server;
    server.program = options_.common.quired;
    server.directory = directory_->path();
    server.host_bytes = options_.host_bytes;
    server.nvme_bytes = options_.nvme_bytes;
    server_ = std::make_unique<ServerProcess>(server);
    QUIRE_RETURN_IF_ERROR(server_->start().status());
    QUIRE_ASSIGN_OR_RETURN(client_, server_->connect());
    return Status::ok();
  }

  Status acquire_once(const Digest& id) {
    QUIRE_ASSIGN_OR_RETURN(Lease lease, client_->acquire(id));
    lease.release();
    return Status::ok();
  }

  Status acquire_bench() {
    QUIRE_RETURN_IF_ERROR(object_->fill(next_number_++, true));
    QUIRE_RETURN_IF_ERROR(client_->put(object_->representation(), object_->bytes()));
    const Digest id = object_->representation();
    QUIRE_ASSIGN_OR_RETURN(const Lease lease, client_->acquire(id));
    if (lease.bytes().size() != object_->bytes().size() ||
        std::memcmp(lease.bytes().data(), object_->bytes().data(), lease.bytes().size()) != 0)
      return Status(StatusCode::kInternal, "the store gave other bytes than it got");
    options_.common.say("acquire + release against ping-pong");
    std::vector<double> values;
    std::vector<double> floors;
    for (uint32_t round = 0; round < options_.rounds; ++round) {
      QUIRE_RETURN_IF_ERROR(options_.common.check_stop());
      std::vector<double> trips;
      std::vector<double> acquires;
      for (uint32_t i = 0; i < kWarmUps + options_.acquires; ++i) {
        QUIRE_ASSIGN_OR_RETURN(const uint64_t trip_ns, ping_pong_->round_trip_ns());
        if (i >= kWarmUps) trips.push_back(static_cast<double>(trip_ns) / 1e3);
      }
      for (uint32_t i = 0; i < kWarmUps + options_.acquires; ++i) {
        const uint64_t began_ns = system_clock().now_ns();
        QUIRE_RETURN_IF_ERROR(acquire_once(id));
        const uint64_t took_ns = system_clock().now_ns() - began_ns;
        if (i >= kWarmUps) acquires.push_back(static_cast<double>(took_ns) / 1e3);
      }
      floors.push_back(percentile(trips, 0.5));
      values.push_back(percentile(acquires, 0.5));
    }
    Result result;
    result.bench = "local.acquire_release_p50";
    result.params = {{"object_bytes", object_->bytes().size()},
                     {"acquires", options_.acquires},
                     {"rounds", options_.rounds}};
    result.value = median(values);
    result.floor = median(floors);
    result.unit = "us";
    result.floor_name = "seqpacket ping-pong of 64 B, two processes";
    result.direction = Direction::kTime;
    sink_(result);
    return Status::ok();
  }

  Status put_bench() {
    options_.common.say("put against memcpy");
    // Touched before it is timed.
    std::vector<std::byte> target(object_->bytes().size(), std::byte{1});
    std::vector<double> values;
    std::vector<double> floors;
    // The first round grows the server's and our own buffers.
    for (uint32_t round = 0; round < options_.rounds + 1; ++round) {
      QUIRE_RETURN_IF_ERROR(options_.common.check_stop());
      std::vector<double> puts;
      std::vector<double> copies;
      for (uint32_t i = 0; i < options_.puts; ++i) {
        QUIRE_RETURN_IF_ERROR(object_->fill(next_number_++, false));
        uint64_t began_ns = system_clock().now_ns();
        std::memcpy(target.data(), object_->bytes().data(), target.size());
        asm volatile("" : : "r"(target.data()) : "memory");
        copies.push_back(static_cast<double>(system_clock().now_ns() - began_ns) / 1e9);
        began_ns = system_clock().now_ns();
        QUIRE_RETURN_IF_ERROR(client_->put(object_->representation(), object_->bytes()));
        puts.push_back(static_cast<double>(system_clock().now_ns() - began_ns) / 1e9);
      }
      if (round == 0) continue;
      values.push_back(gigabytes_per_second(target.size(), median(puts)));
      floors.push_back(gigabytes_per_second(target.size(), median(copies)));
    }
    Result result;
    result.bench = "local.put_memory";
    result.params = {{"object_bytes", target.size()},     {"puts", options_.puts},
                     {"rounds", options_.rounds},         {"ack", "memory"},
                     {"host_bytes", options_.host_bytes}, {"nvme_bytes", options_.nvme_bytes}};
    result.value = median(values);
    result.floor = median(floors);
    result.unit = "GB/s";
    result.floor_name = "memcpy of the same bytes, one thread";
    sink_(result);
    return Status::ok();
  }

  const LocalOptions& options_;
  const ResultSink& sink_;
  std::unique_ptr<PingPong> ping_pong_;
  std::unique_ptr<TempDirectory> directory_;
  std::unique_ptr<ServerProcess> server_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<SyntheticObject> object_;
  uint64_t next_number_ = 0;
};

}  // namespace

Status run_local(const LocalOptions& options, const ResultSink& sink) {
  return LocalBench(options, sink).run();
}

}  // namespace quire::bench
