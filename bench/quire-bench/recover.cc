// quire-bench recover: what a SIGKILL costs, and that it costs no acknowledged object.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <iterator>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "bench/quire-bench/benches.h"
#include "bench/quire-bench/server_process.h"
#include "bench/quire-bench/temp_directory.h"
#include "bench/synthetic.h"

namespace quire::bench {
namespace {

constexpr SyntheticShape kShape{.layers = 1, .kv_heads = 1, .head_dims = 16};
constexpr uint64_t kModelSeed = 3;
constexpr uint32_t kAcquireBatch = 64;
// A writer's window: each has one object under way.
constexpr uint64_t kStagingBytes = 32ull << 20;
constexpr uint32_t kSayEvery = 100'000;
// What is aimed at: starts with up to so many objects, and the memory to find one.
constexpr uint64_t kManyObjects = 100'000;
constexpr double kManyReadyMs = 2'000;
constexpr uint64_t kMostObjects = 1'000'000;
constexpr double kMostReadyMs = 12'000;
constexpr double kIndexBytesMax = 160;
// From kManyObjects on, where the options say nothing.
constexpr uint32_t kRoundsFew = 20;
constexpr uint32_t kRoundsMany = 3;
constexpr uint64_t kObjectBytesFew = 8 << 10;
constexpr uint64_t kObjectBytesMany = 2 << 10;
constexpr uint32_t kLargeEveryFew = 100;
constexpr uint32_t kLargeEveryMany = 1'000;
constexpr uint32_t kWritersFew = 4;
constexpr uint32_t kWritersMany = 32;
constexpr uint32_t kSampleMany = 1'000;

RecoverOptions with_defaults(RecoverOptions options) {
  const bool many = options.objects >= kManyObjects;
  const auto choose = [many](auto& value, auto few, auto most) {
    if (!value) value = many ? most : few;
  };
  choose(options.rounds, kRoundsFew, kRoundsMany);
  choose(options.writers, kWritersFew, kWritersMany);
  choose(options.object_bytes, kObjectBytesFew, kObjectBytesMany);
  choose(options.large_every, kLargeEveryFew, kLargeEveryMany);
  choose(options.sample, 0u, kSampleMany);
  return options;
}

// What a start told about itself.
struct Started {
  std::vector<double> ready_ms;     // start of the process to its first answer
  std::vector<double> recovery_ms;  // of it, in Store::open
};
constexpr uint32_t kCleanStarts = 3;
// The server is killed this long after the first write of a round was acknowledged.
constexpr uint32_t kKillAfterMsMin = 100;
constexpr uint32_t kKillAfterMsMax = 900;
constexpr uint32_t kFirstWriteMs = 20'000;

// The two sizes of object; which one a number has follows from the number.
class Objects {
 public:
  static Expected<Objects> make(const RecoverOptions& options) {
    QUIRE_ASSIGN_OR_RETURN(SyntheticObject small,
                           SyntheticObject::make(kShape, kModelSeed, options.object_bytes));
    QUIRE_ASSIGN_OR_RETURN(SyntheticObject large,
                           SyntheticObject::make(kShape, kModelSeed, options.large_object_bytes));
    return Objects(std::move(small), std::move(large), options.large_every);
  }

  Expected<const SyntheticObject*> get(uint64_t number) {
    SyntheticObject& object = large_every_ > 0 && number % large_every_ == 0 ? large_ : small_;
    QUIRE_RETURN_IF_ERROR(object.fill(number, true));
    return &object;
  }
  const ModelDescriptor& model() const { return small_.model(); }

 private:
  Objects(SyntheticObject small, SyntheticObject large, uint32_t large_every)
      : small_(std::move(small)), large_(std::move(large)), large_every_(large_every) {}
  SyntheticObject small_;
  SyntheticObject large_;
  uint32_t large_every_;
};

class RecoverBench {
 public:
  RecoverBench(const RecoverOptions& options, const ResultSink& sink)
      : options_(with_defaults(options)), sink_(sink), random_(options.seed) {}

  Status run() {
    QUIRE_RETURN_IF_ERROR(prepare());
    Started killed;
    for (uint32_t round = 0; round < options_.rounds; ++round) {
      QUIRE_RETURN_IF_ERROR(options_.common.check_stop());
      QUIRE_RETURN_IF_ERROR(kill_under_load());
      QUIRE_RETURN_IF_ERROR(start(killed));
      QUIRE_RETURN_IF_ERROR(verify());
      options_.common.say("round " + std::to_string(round + 1) + " of " +
                          std::to_string(options_.rounds) + ": ready after " +
                          std::to_string(static_cast<uint64_t>(killed.ready_ms.back())) + " ms, " +
                          std::to_string(acknowledged_.size()) + " objects acknowledged, " +
                          std::to_string(checked_) + " checks, " + std::to_string(lost_) +
                          " lost, " + std::to_string(wrong_) + " wrong");
    }
    Started clean;
    for (uint32_t i = 0; i < kCleanStarts; ++i) {
      QUIRE_RETURN_IF_ERROR(server_->stop());
      QUIRE_RETURN_IF_ERROR(start(clean));
    }
    emit_starts(killed, clean);
    emit_counts();
    return Status::ok();
  }

 private:
  Status start(Started& started) {
    QUIRE_ASSIGN_OR_RETURN(const uint64_t ready_us, server_->start());
    started.ready_ms.push_back(static_cast<double>(ready_us) / 1e3);
    QUIRE_ASSIGN_OR_RETURN(const ServerMetrics metrics, server_->metrics());
    QUIRE_ASSIGN_OR_RETURN(const double seconds, metric(metrics, "quire_recovery_seconds"));
    started.recovery_ms.push_back(seconds * 1e3);
    QUIRE_ASSIGN_OR_RETURN(stored_, metric(metrics, "quire_objects"));
    QUIRE_ASSIGN_OR_RETURN(const double index_bytes, metric(metrics, "quire_index_bytes"));
    index_bytes_per_object_ = stored_ > 0 ? index_bytes / stored_ : 0;
    // Whatever a sample misses.
    if (stored_ < static_cast<double>(acknowledged_.size())) {
      lost_uncounted_ =
          std::max(lost_uncounted_, acknowledged_.size() - static_cast<uint64_t>(stored_));
    }
    return Status::ok();
  }

  Status prepare() {
    QUIRE_ASSIGN_OR_RETURN(directory_, TempDirectory::make(options_.common.directory));
    ServerOptions server;
    server.program = options_.common.quired;
    server.directory = directory_->path();
    server.host_bytes = options_.host_bytes;
    server.nvme_bytes = options_.nvme_bytes;
    server.http = true;
    server_ = std::make_unique<ServerProcess>(server);
    QUIRE_RETURN_IF_ERROR(server_->start().status());
    options_.common.say("storing " + std::to_string(options_.objects) + " objects");
    const uint64_t began_ns = system_clock().now_ns();
    QUIRE_RETURN_IF_ERROR(write_until(options_.objects, [] {}));
    stored_seconds_ = static_cast<double>(system_clock().now_ns() - began_ns) / 1e9;
    if (acknowledged_.size() < options_.objects)
      return {StatusCode::kInternal,
              "storing the first objects failed: " + writer_error_.to_string()};
    return Status::ok();
  }

  // Writers put durably until the number is reached or the server is gone; meanwhile() runs beside
  // them.
  template <typename Meanwhile>
  Status write_until(uint64_t last_number, const Meanwhile& meanwhile) {
    writer_error_ = Status::ok();
    std::vector<std::thread> writers;
    for (uint32_t i = 0; i < options_.writers; ++i)
      writers.emplace_back([this, last_number] {
        const Status status = write(last_number);
        const std::lock_guard lock(mutex_);
        if (!status && writer_error_.is_ok()) writer_error_ = status;
      });
    meanwhile();
    for (std::thread& writer : writers) writer.join();
    return options_.common.check_stop();
  }

  Status write(uint64_t last_number) {
    QUIRE_ASSIGN_OR_RETURN(Objects objects, Objects::make(options_));
    QUIRE_ASSIGN_OR_RETURN(const auto client, server_->connect(kStagingBytes));
    QUIRE_RETURN_IF_ERROR(client->register_model("quire-bench", objects.model()).status());
    std::vector<uint64_t> acknowledged;
    Status status;
    while (!options_.common.stopped()) {
      const uint64_t number = next_number_.fetch_add(1);
      if (number >= last_number) break;
      const auto object = objects.get(number);
      status = object ? client->put((*object)->representation(), (*object)->bytes(),
                                    wire::AckLevel::kDurable)
                      : object.status();
      if (!status) break;
      acknowledged.push_back(number);
      acknowledgements_.fetch_add(1);
      if (number > 0 && number % kSayEvery == 0)
        options_.common.say(std::to_string(number) + " objects stored");
    }
    const std::lock_guard lock(mutex_);
    acknowledged_.insert(acknowledged_.end(), acknowledged.begin(), acknowledged.end());
    return status;
  }

  Status kill_under_load() {
    const size_t before = acknowledged_.size();
    const uint64_t acknowledgements = acknowledgements_.load();
    const uint32_t wait_ms =
        std::uniform_int_distribution<uint32_t>(kKillAfterMsMin, kKillAfterMsMax)(random_);
    QUIRE_RETURN_IF_ERROR(write_until(UINT64_MAX, [&] {
      // Once the writers are at work: connecting takes its time on a busy machine.
      const uint64_t deadline_ns = system_clock().now_ns() + kFirstWriteMs * 1'000'000ull;
      while (acknowledgements_.load() == acknowledgements && system_clock().now_ns() < deadline_ns)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      std::this_thread::sleep_for(std::chrono::milliseconds(wait_ms));
      server_->kill();
    }));
    options_.common.say("killed after " + std::to_string(wait_ms) + " ms of writing, " +
                        std::to_string(acknowledged_.size() - before) +
                        " objects acknowledged; the writers saw: " + writer_error_.to_string());
    written_under_load_ += acknowledged_.size() - before;
    return Status::ok();
  }

  std::vector<uint64_t> numbers_to_check() {
    if (options_.sample == 0) return acknowledged_;
    std::vector<uint64_t> numbers;
    std::sample(acknowledged_.begin(), acknowledged_.end(), std::back_inserter(numbers),
                options_.sample, random_);
    return numbers;
  }

  Status verify() {
    QUIRE_ASSIGN_OR_RETURN(Objects objects, Objects::make(options_));
    QUIRE_ASSIGN_OR_RETURN(const auto client, server_->connect());
    const std::vector<uint64_t> numbers = numbers_to_check();
    checked_ += numbers.size();
    for (size_t at = 0; at < numbers.size(); at += kAcquireBatch) {
      QUIRE_RETURN_IF_ERROR(options_.common.check_stop());
      const size_t n = std::min<size_t>(kAcquireBatch, numbers.size() - at);
      std::vector<Digest> ids;
      for (size_t i = 0; i < n; ++i) {
        QUIRE_ASSIGN_OR_RETURN(const SyntheticObject* object, objects.get(numbers[at + i]));
        ids.push_back(object->representation());
      }
      QUIRE_ASSIGN_OR_RETURN(const auto leases, client->acquire(ids));
      for (size_t i = 0; i < n; ++i)
        QUIRE_RETURN_IF_ERROR(check(leases[i], objects, numbers[at + i]));
    }
    return Status::ok();
  }

  Status check(const Expected<Lease>& lease, Objects& objects, uint64_t number) {
    if (!lease) {
      // Only the store itself can lose an object; a server that does not answer ends the bench.
      const StatusCode code = lease.status().code();
      if (code != StatusCode::kNotFound && code != StatusCode::kCorrupt &&
          code != StatusCode::kIoError)
        return lease.status();
      ++lost_;
      return Status::ok();
    }
    QUIRE_ASSIGN_OR_RETURN(const SyntheticObject* object, objects.get(number));
    const ByteSpan stored = lease->bytes();
    const ByteSpan wanted = object->bytes();
    if (stored.size() != wanted.size() ||
        std::memcmp(stored.data(), wanted.data(), wanted.size()) != 0)
      ++wrong_;
    return Status::ok();
  }

  nlohmann::ordered_json params() const {
    return {
        {"objects", options_.objects},
        {"rounds", options_.rounds},
        {"writers", options_.writers},
        {"acknowledged", acknowledged_.size()},
        {"stored_after_start", stored_},
        {"checks", checked_},
        {"sample", options_.sample},
        {"stored_seconds", stored_seconds_},
        {"acknowledged_under_load", written_under_load_},
        {"object_bytes", options_.object_bytes},
        {"large_object_bytes", options_.large_object_bytes},
        {"large_every", options_.large_every},
        {"seed", options_.seed},
    };
  }

  void emit_start(const char* name, const std::vector<double>& killed,
                  const std::vector<double>& clean) {
    Result result;
    result.bench = name;
    result.params = params();
    result.params["max_ms"] = *std::max_element(killed.begin(), killed.end());
    result.value = median(killed);
    result.floor = median(clean);
    for (const double ms : killed) result.round_ratios.push_back(result.floor / ms);
    result.unit = "ms";
    result.floor_name = "start after a clean shutdown";
    result.direction = Direction::kTime;
    if (options_.objects <= kMostObjects)
      result.goal = {GoalKind::kValueMax,
                     options_.objects <= kManyObjects ? kManyReadyMs : kMostReadyMs};
    sink_(result);
  }

  void emit_starts(const Started& killed, const Started& clean) {
    emit_start("recover.ready", killed.ready_ms, clean.ready_ms);
    emit_start("recover.recovery", killed.recovery_ms, clean.recovery_ms);
    Result index;
    index.bench = "recover.index_per_object";
    index.params = params();
    index.value = index_bytes_per_object_;
    index.floor = kIndexBytesMax;
    index.unit = "B";
    index.floor_name = "what is aimed at";
    index.direction = Direction::kTime;
    // Few objects pay for the first size of every table.
    if (options_.objects >= kManyObjects) index.goal = {GoalKind::kValueMax, kIndexBytesMax};
    sink_(index);
  }

  void emit_counts() {
    const uint64_t lost = std::max(lost_, lost_uncounted_);
    for (const auto& [name, count] : {std::pair<const char*, uint64_t>{"recover.lost", lost},
                                      {"recover.wrong_bytes", wrong_}}) {
      Result faults;
      faults.bench = name;
      faults.params = params();
      faults.value = static_cast<double>(count);
      faults.unit = "objects";
      faults.floor_name = "none may be";
      faults.direction = Direction::kCount;
      faults.goal = {GoalKind::kValueMax, 0};
      sink_(faults);
    }
  }

  const RecoverOptions options_;
  const ResultSink& sink_;
  std::mt19937_64 random_;
  std::unique_ptr<TempDirectory> directory_;
  std::unique_ptr<ServerProcess> server_;
  std::atomic<uint64_t> next_number_{0};
  std::atomic<uint64_t> acknowledgements_{0};
  std::mutex mutex_;
  std::vector<uint64_t> acknowledged_;
  Status writer_error_;
  uint64_t written_under_load_ = 0;
  uint64_t lost_ = 0;
  uint64_t wrong_ = 0;
  uint64_t checked_ = 0;
  uint64_t lost_uncounted_ = 0;  // acknowledged, but more than the server says it has
  double stored_ = 0;            // that the server had when it last started
  double index_bytes_per_object_ = 0;
  double stored_seconds_ = 0;
};

}  // namespace

Status run_recover(const RecoverOptions& options, const ResultSink& sink) {
  return RecoverBench(options, sink).run();
}

}  // namespace quire::bench
