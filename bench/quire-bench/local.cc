// quire-bench local: what a client on this machine pays.
#include <time.h>

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
// For objects that would be too few tokens of it.
constexpr SyntheticShape kSmallShape{.layers = 6, .kv_heads = 2, .head_dims = 64};
constexpr uint64_t kSmallBytes = 1ull << 20;
constexpr uint64_t kModelSeed = 2;
// What is aimed at: three ping-pongs, and so much of memcpy.
constexpr double kAcquireRatioMin = 1.0 / 3;
constexpr double kPutRatioMin = 0.4;
constexpr double kGetRatioMin = 0.8;
constexpr uint32_t kWarmUps = 50;
constexpr uint64_t kAcquireBytes[] = {64ull << 10, 8ull << 20, 63ull << 20};
// Of sources and of targets, used in turn: together more than the caches hold.
constexpr uint64_t kPoolBytes = 96ull << 20;
// Servers that are started for a first put each, and their memory.
constexpr uint32_t kFirstPuts = 5;
constexpr uint32_t kFloorCopies = 9;
constexpr uint64_t kFirstPutHostBytes = 256ull << 20;

double milliseconds_since(uint64_t began_ns) {
  return static_cast<double>(system_clock().now_ns() - began_ns) / 1e6;
}

double milliseconds(const timespec& time) {
  return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) / 1e6;
}

// User and system time of a whole process so far; of this one where pid is 0.
double process_cpu_ms(pid_t pid) {
  clockid_t clock = CLOCK_PROCESS_CPUTIME_ID;
  timespec time{};
  if (pid != 0 && clock_getcpuclockid(pid, &clock) != 0) return 0;
  return clock_gettime(clock, &time) == 0 ? milliseconds(time) : 0;
}

// Memory that memcpy moves: buffers used in turn, so that none of them is still in cache.
class CopyPool {
 public:
  explicit CopyPool(uint64_t bytes)
      : bytes_(bytes), count_(std::max<uint64_t>(2, kPoolBytes / bytes)) {
    // Touched here, so that no page fault is timed.
    source_.assign(count_ * bytes_, std::byte{1});
    target_.assign(count_ * bytes_, std::byte{2});
  }
  // A fork write-protects every page of this process: the first write to each would be timed.
  void touch() {
    constexpr uint64_t kPageBytes = 4096;
    for (uint64_t at = 0; at < target_.size(); at += kPageBytes) target_[at] = std::byte{2};
  }
  MutableByteSpan next_target() {
    return MutableByteSpan(target_).subspan((turn_++ % count_) * bytes_, bytes_);
  }
  double copy_ms() {
    const ByteSpan source =
        ByteSpan(source_).subspan((turn_ + count_ / 2) % count_ * bytes_, bytes_);
    return copy_ms(next_target(), source);
  }
  static double copy_ms(MutableByteSpan target, ByteSpan source) {
    const uint64_t began_ns = system_clock().now_ns();
    std::memcpy(target.data(), source.data(), source.size());
    asm volatile("" : : "r"(target.data()) : "memory");
    return milliseconds_since(began_ns);
  }

 private:
  const uint64_t bytes_;
  const uint64_t count_;
  uint64_t turn_ = 0;
  std::vector<std::byte> source_;
  std::vector<std::byte> target_;
};

// What was measured, and its floor right before or after, pair by pair.
struct Pairs {
  std::vector<double> values_ms;
  std::vector<double> floors_ms;

  void add(double value_ms, double floor_ms) {
    values_ms.push_back(value_ms);
    floors_ms.push_back(floor_ms);
  }
  // Rates of so many bytes; the spread of values, floors and ratios goes into the parameters.
  Result rate(const char* name, uint64_t bytes, double ratio_min) const {
    const auto gigabytes_per_second = [bytes](double ms) {
      return static_cast<double>(bytes) / 1e6 / ms;
    };
    std::vector<double> ratios;
    for (size_t i = 0; i < values_ms.size(); ++i) ratios.push_back(floors_ms[i] / values_ms[i]);
    Result result;
    result.bench = name;
    result.unit = "GB/s";
    result.goal = {GoalKind::kRatioMin, ratio_min};
    result.round_ratios = ratios;
    result.value = gigabytes_per_second(median(values_ms));
    result.floor = gigabytes_per_second(median(floors_ms));
    result.floor_name = "memcpy between buffers that are not in cache";
    result.params = {{"object_bytes", bytes}, {"samples", values_ms.size()}};
    const auto spread = [](const std::vector<double>& values) {
      return nlohmann::ordered_json{percentile(values, 0.1), percentile(values, 0.9)};
    };
    result.params["value_ms_p10_p90"] = spread(values_ms);
    result.params["floor_ms_p10_p90"] = spread(floors_ms);
    result.params["paired_ratio_median"] = median(ratios);
    result.params["paired_ratio_p10_p90"] = spread(ratios);
    return result;
  }
};

class LocalBench {
 public:
  LocalBench(const LocalOptions& options, const ResultSink& sink)
      : options_(options), sink_(sink) {}

  Status run() {
    // Before anything that starts threads.
    QUIRE_ASSIGN_OR_RETURN(ping_pong_, PingPong::start());
    // Numbers no earlier run used, where the server is not ours.
    next_number_ = system_clock().wall_ms() << 16;
    QUIRE_ASSIGN_OR_RETURN(SyntheticObject object,
                           SyntheticObject::make(kShape, kModelSeed, options_.object_bytes));
    QUIRE_RETURN_IF_ERROR(object.fill(next_number_++, true));
    object_bytes_ = object.bytes().size();
    pool_ = std::make_unique<CopyPool>(object_bytes_);
    while (objects_.size() * object_bytes_ < kPoolBytes) objects_.push_back(object);
    if (options_.socket_path.empty()) QUIRE_RETURN_IF_ERROR(first_put_bench());
    QUIRE_RETURN_IF_ERROR(connect());
    for (const uint64_t bytes : kAcquireBytes) QUIRE_RETURN_IF_ERROR(acquire_bench(bytes));
    QUIRE_RETURN_IF_ERROR(put_bench());
    return get_bench();
  }

 private:
  // A server of its own below directory_, with so much memory.
  Status start_server(uint64_t host_bytes) {
    client_.reset();
    server_.reset();
    QUIRE_ASSIGN_OR_RETURN(directory_, TempDirectory::make(options_.common.directory));
    ServerOptions server;
    server.program = options_.common.quired;
    server.directory = directory_->path();
    server.host_bytes = host_bytes;
    server.nvme_bytes = options_.nvme_bytes;
    server_ = std::make_unique<ServerProcess>(server);
    QUIRE_RETURN_IF_ERROR(server_->start().status());
    pool_->touch();
    QUIRE_ASSIGN_OR_RETURN(client_, server_->connect());
    return client_->register_model("quire-bench", objects_.front().model()).status();
  }

  Status connect() {
    if (options_.socket_path.empty()) {
      options_.common.say("starting a quired");
      return start_server(options_.host_bytes);
    }
    ClientOptions client;
    client.socket_path = options_.socket_path;
    client.client_name = "quire-bench";
    QUIRE_ASSIGN_OR_RETURN(client_, Client::connect(client));
    return client_->register_model("quire-bench", objects_.front().model()).status();
  }

  // New objects in all of objects_; the first ones are out of the caches when the last is filled.
  Status fill_objects() {
    for (SyntheticObject& object : objects_) {
      QUIRE_RETURN_IF_ERROR(options_.common.check_stop());
      QUIRE_RETURN_IF_ERROR(object.fill(next_number_++, false));
    }
    return Status::ok();
  }

  Status put(const SyntheticObject& object, Pairs& pairs) {
    const double before_ms = pool_->copy_ms();
    const uint64_t began_ns = system_clock().now_ns();
    QUIRE_RETURN_IF_ERROR(client_->put(object.representation(), object.bytes()));
    const double put_ms = milliseconds_since(began_ns);
    pairs.add(put_ms, (before_ms + pool_->copy_ms()) / 2);
    return Status::ok();
  }

  Status check_stored(const SyntheticObject& object) {
    QUIRE_ASSIGN_OR_RETURN(const Lease lease, client_->acquire(object.representation()));
    if (lease.bytes().size() != object.bytes().size() ||
        std::memcmp(lease.bytes().data(), object.bytes().data(), lease.bytes().size()) != 0)
      return Status(StatusCode::kInternal, "the store gave other bytes than it got");
    return Status::ok();
  }

  Status first_put_bench() {
    options_.common.say("first put of a server, of several servers");
    Pairs pairs;
    for (uint32_t i = 0; i < kFirstPuts; ++i) {
      QUIRE_RETURN_IF_ERROR(fill_objects());
      QUIRE_RETURN_IF_ERROR(start_server(kFirstPutHostBytes));
      const uint64_t began_ns = system_clock().now_ns();
      QUIRE_RETURN_IF_ERROR(
          client_->put(objects_.front().representation(), objects_.front().bytes()));
      const double put_ms = milliseconds_since(began_ns);
      // Of one copy alone, the first after a long wait, nothing can be told.
      std::vector<double> copies_ms;
      for (uint32_t copy = 0; copy < kFloorCopies; ++copy) copies_ms.push_back(pool_->copy_ms());
      pairs.add(put_ms, median(copies_ms));
      QUIRE_RETURN_IF_ERROR(check_stored(objects_.front()));
    }
    sink_(pairs.rate("local.put_memory_first", object_bytes_, kPutRatioMin));
    return Status::ok();
  }

  Status acquire_once(const Digest& id) {
    QUIRE_ASSIGN_OR_RETURN(Lease lease, client_->acquire(id));
    lease.release();
    return Status::ok();
  }

  Status acquire_bench(uint64_t bytes) {
    options_.common.say("acquire + release against ping-pong, " + std::to_string(bytes >> 10) +
                        " KiB");
    const SyntheticShape& shape = bytes < kSmallBytes ? kSmallShape : kShape;
    QUIRE_ASSIGN_OR_RETURN(SyntheticObject object, SyntheticObject::make(shape, kModelSeed, bytes));
    QUIRE_RETURN_IF_ERROR(client_->register_model("quire-bench", object.model()).status());
    QUIRE_RETURN_IF_ERROR(object.fill(next_number_++, true));
    QUIRE_RETURN_IF_ERROR(client_->put(object.representation(), object.bytes()));
    QUIRE_RETURN_IF_ERROR(check_stored(object));
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
        QUIRE_RETURN_IF_ERROR(acquire_once(object.representation()));
        const uint64_t took_ns = system_clock().now_ns() - began_ns;
        if (i >= kWarmUps) acquires.push_back(static_cast<double>(took_ns) / 1e3);
      }
      floors.push_back(percentile(trips, 0.5));
      values.push_back(percentile(acquires, 0.5));
    }
    Result result;
    result.bench = "local.acquire_release_p50";
    result.params = {{"object_bytes", object.bytes().size()},
                     {"acquires", options_.acquires},
                     {"rounds", options_.rounds},
                     {"value_us_min_max", {percentile(values, 0), percentile(values, 1)}},
                     {"floor_us_min_max", {percentile(floors, 0), percentile(floors, 1)}}};
    result.value = median(values);
    result.floor = median(floors);
    result.unit = "us";
    result.floor_name = "seqpacket ping-pong of 64 B, two processes";
    result.goal = {GoalKind::kRatioMin, kAcquireRatioMin};
    for (size_t i = 0; i < values.size(); ++i) result.round_ratios.push_back(floors[i] / values[i]);
    result.direction = Direction::kTime;
    sink_(result);
    return Status::ok();
  }

  Status put_bench() {
    options_.common.say("put against memcpy");
    Pairs pairs;
    const pid_t server = server_ ? server_->pid() : 0;
    double client_cpu_ms = 0;
    double server_cpu_ms = 0;
    // The first round grows the server's and our own buffers.
    for (uint32_t round = 0; round < options_.rounds + 1; ++round) {
      if (round == 1) pairs = {};
      for (uint32_t i = 0; i < options_.puts; ++i) {
        if (i % objects_.size() == 0) QUIRE_RETURN_IF_ERROR(fill_objects());
        const double server_before_ms = server != 0 ? process_cpu_ms(server) : 0;
        const double client_before_ms = process_cpu_ms(0);
        QUIRE_RETURN_IF_ERROR(put(objects_[i % objects_.size()], pairs));
        if (round == 0) continue;
        client_cpu_ms += process_cpu_ms(0) - client_before_ms - 2 * pairs.floors_ms.back();
        server_cpu_ms += server != 0 ? process_cpu_ms(server) - server_before_ms : 0;
      }
    }
    Result result = pairs.rate("local.put_memory", object_bytes_, kPutRatioMin);
    result.params["ack"] = "memory";
    result.params["host_bytes"] = options_.host_bytes;
    result.params["nvme_bytes"] = options_.nvme_bytes;
    sink_(result);
    if (server == 0) return Status::ok();
    const double puts = static_cast<double>(pairs.values_ms.size());
    Result cpu;
    cpu.bench = "local.put_memory_cpu";
    cpu.params = {{"object_bytes", object_bytes_},
                  {"samples", pairs.values_ms.size()},
                  {"client_ms", client_cpu_ms / puts},
                  {"server_ms", server_cpu_ms / puts}};
    cpu.value = (client_cpu_ms + server_cpu_ms) / puts;
    cpu.floor = median(pairs.floors_ms);
    cpu.unit = "ms";
    cpu.floor_name = "memcpy; value: CPU time of both processes for a put";
    cpu.direction = Direction::kTime;
    sink_(cpu);
    return Status::ok();
  }

  Status get_bench() {
    options_.common.say("get with copy-out against memcpy");
    QUIRE_RETURN_IF_ERROR(fill_objects());
    for (const SyntheticObject& object : objects_) {
      QUIRE_RETURN_IF_ERROR(client_->put(object.representation(), object.bytes()));
      // Maps the pages too.
      QUIRE_RETURN_IF_ERROR(check_stored(object));
    }
    Pairs pairs;
    for (uint32_t i = 0; i < options_.rounds * options_.puts; ++i) {
      QUIRE_RETURN_IF_ERROR(options_.common.check_stop());
      const double before_ms = pool_->copy_ms();
      const MutableByteSpan target = pool_->next_target();
      const uint64_t began_ns = system_clock().now_ns();
      QUIRE_ASSIGN_OR_RETURN(Lease lease,
                             client_->acquire(objects_[i % objects_.size()].representation()));
      CopyPool::copy_ms(target, lease.bytes());
      QUIRE_RETURN_IF_ERROR(lease.check());
      lease.release();
      const double get_ms = milliseconds_since(began_ns);
      pairs.add(get_ms, (before_ms + pool_->copy_ms()) / 2);
    }
    sink_(pairs.rate("local.get_copy_out", object_bytes_, kGetRatioMin));
    return Status::ok();
  }

  const LocalOptions& options_;
  const ResultSink& sink_;
  std::unique_ptr<PingPong> ping_pong_;
  std::unique_ptr<TempDirectory> directory_;
  std::unique_ptr<ServerProcess> server_;
  std::unique_ptr<Client> client_;
  std::vector<SyntheticObject> objects_;
  std::unique_ptr<CopyPool> pool_;
  uint64_t object_bytes_ = 0;
  uint64_t next_number_ = 0;
};

}  // namespace

Status run_local(const LocalOptions& options, const ResultSink& sink) {
  return LocalBench(options, sink).run();
}

}  // namespace quire::bench
