// quire-bench recover: what a SIGKILL costs, and that it costs no acknowledged object.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
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

constexpr SyntheticShape kShape{.layers = 1, .kv_heads = 1, .head_dims = 64};
constexpr uint64_t kModelSeed = 3;
constexpr uint32_t kAcquireBatch = 64;
constexpr uint32_t kCleanStarts = 3;
// The server is killed this long after the writers began.
constexpr uint32_t kKillAfterMsMin = 100;
constexpr uint32_t kKillAfterMsMax = 900;

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
      : options_(options), sink_(sink), random_(options.seed) {}

  Status run() {
    QUIRE_RETURN_IF_ERROR(prepare());
    std::vector<double> ready_ms;
    for (uint32_t round = 0; round < options_.rounds; ++round) {
      QUIRE_RETURN_IF_ERROR(options_.common.check_stop());
      QUIRE_RETURN_IF_ERROR(kill_under_load());
      QUIRE_ASSIGN_OR_RETURN(const uint64_t ready_us, server_->start());
      ready_ms.push_back(static_cast<double>(ready_us) / 1e3);
      QUIRE_RETURN_IF_ERROR(verify());
      options_.common.say("round " + std::to_string(round + 1) + " of " +
                          std::to_string(options_.rounds) + ": ready after " +
                          std::to_string(ready_us / 1000) + " ms, " +
                          std::to_string(acknowledged_.size()) + " objects checked, " +
                          std::to_string(lost_) + " lost, " + std::to_string(wrong_) + " wrong");
    }
    std::vector<double> clean_ms;
    for (uint32_t i = 0; i < kCleanStarts; ++i) {
      QUIRE_RETURN_IF_ERROR(server_->stop());
      QUIRE_ASSIGN_OR_RETURN(const uint64_t ready_us, server_->start());
      clean_ms.push_back(static_cast<double>(ready_us) / 1e3);
    }
    emit(ready_ms, clean_ms);
    return Status::ok();
  }

 private:
  Status prepare() {
    QUIRE_ASSIGN_OR_RETURN(directory_, TempDirectory::make(options_.common.directory));
    ServerOptions server;
    server.program = options_.common.quired;
    server.directory = directory_->path();
    server.host_bytes = options_.host_bytes;
    server.nvme_bytes = options_.nvme_bytes;
    server_ = std::make_unique<ServerProcess>(server);
    QUIRE_RETURN_IF_ERROR(server_->start().status());
    options_.common.say("storing " + std::to_string(options_.objects) + " objects");
    QUIRE_RETURN_IF_ERROR(write_until(options_.objects, [] {}));
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
    QUIRE_ASSIGN_OR_RETURN(const auto client, server_->connect());
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
    }
    const std::lock_guard lock(mutex_);
    acknowledged_.insert(acknowledged_.end(), acknowledged.begin(), acknowledged.end());
    return status;
  }

  Status kill_under_load() {
    const size_t before = acknowledged_.size();
    const uint32_t wait_ms =
        std::uniform_int_distribution<uint32_t>(kKillAfterMsMin, kKillAfterMsMax)(random_);
    QUIRE_RETURN_IF_ERROR(write_until(UINT64_MAX, [&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(wait_ms));
      server_->kill();
    }));
    written_under_load_ += acknowledged_.size() - before;
    return Status::ok();
  }

  Status verify() {
    QUIRE_ASSIGN_OR_RETURN(Objects objects, Objects::make(options_));
    QUIRE_ASSIGN_OR_RETURN(const auto client, server_->connect());
    for (size_t at = 0; at < acknowledged_.size(); at += kAcquireBatch) {
      QUIRE_RETURN_IF_ERROR(options_.common.check_stop());
      const size_t n = std::min<size_t>(kAcquireBatch, acknowledged_.size() - at);
      std::vector<Digest> ids;
      for (size_t i = 0; i < n; ++i) {
        QUIRE_ASSIGN_OR_RETURN(const SyntheticObject* object, objects.get(acknowledged_[at + i]));
        ids.push_back(object->representation());
      }
      QUIRE_ASSIGN_OR_RETURN(const auto leases, client->acquire(ids));
      for (size_t i = 0; i < n; ++i)
        QUIRE_RETURN_IF_ERROR(check(leases[i], objects, acknowledged_[at + i]));
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

  void emit(const std::vector<double>& ready_ms, const std::vector<double>& clean_ms) {
    const nlohmann::ordered_json params = {
        {"objects", options_.objects},
        {"rounds", options_.rounds},
        {"writers", options_.writers},
        {"acknowledged", acknowledged_.size()},
        {"acknowledged_under_load", written_under_load_},
        {"object_bytes", options_.object_bytes},
        {"large_object_bytes", options_.large_object_bytes},
        {"large_every", options_.large_every},
        {"seed", options_.seed},
    };
    Result ready;
    ready.bench = "recover.ready";
    ready.params = params;
    ready.params["max_ms"] = *std::max_element(ready_ms.begin(), ready_ms.end());
    ready.value = median(ready_ms);
    ready.floor = median(clean_ms);
    ready.unit = "ms";
    ready.floor_name = "start after a clean shutdown";
    ready.direction = Direction::kTime;
    sink_(ready);
    for (const auto& [name, count] : {std::pair<const char*, uint64_t>{"recover.lost", lost_},
                                      {"recover.wrong_bytes", wrong_}}) {
      Result faults;
      faults.bench = name;
      faults.params = params;
      faults.value = static_cast<double>(count);
      faults.unit = "objects";
      faults.floor_name = "none may be";
      faults.direction = Direction::kCount;
      sink_(faults);
    }
  }

  const RecoverOptions& options_;
  const ResultSink& sink_;
  std::mt19937_64 random_;
  std::unique_ptr<TempDirectory> directory_;
  std::unique_ptr<ServerProcess> server_;
  std::atomic<uint64_t> next_number_{0};
  std::mutex mutex_;
  std::vector<uint64_t> acknowledged_;
  Status writer_error_;
  uint64_t written_under_load_ = 0;
  uint64_t lost_ = 0;
  uint64_t wrong_ = 0;
};

}  // namespace

Status run_recover(const RecoverOptions& options, const ResultSink& sink) {
  return RecoverBench(options, sink).run();
}

}  // namespace quire::bench
