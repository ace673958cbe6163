#include "tests/server/server_fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <random>
#include <sstream>

#include "codecs/registry.h"
#include "codecs/representation.h"

namespace quire::server {
namespace {

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream out;
  out << file.rdbuf();
  return out.str();
}

pid_t spawn_quired(const SpawnOptions& options, const std::string& log_path) {
  std::vector<std::string> words = {std::string(QUIRE_BIN_DIR) + "/quired"};
  words.insert(words.end(), options.arguments.begin(), options.arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::vector<std::string> variables = options.environment;
  for (char** entry = environ; *entry != nullptr; ++entry) variables.emplace_back(*entry);
  std::vector<char*> environment;
  for (std::string& variable : variables) environment.push_back(variable.data());
  environment.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  const int log = ::open(log_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  ::dup2(log, STDOUT_FILENO);
  ::dup2(log, STDERR_FILENO);
  if (options.before_exec && !options.before_exec()) ::_exit(kSpawnRefused);
  ::execve(argv[0], argv.data(), environment.data());
  ::_exit(127);
}

int wait_exit(pid_t pid) {
  int status = 0;
  if (::waitpid(pid, &status, 0) != pid) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

TempDirectory::TempDirectory() {
  std::string pattern = std::filesystem::temp_directory_path().string() + "/quire-test-XXXXXX";
  path_ = ::mkdtemp(pattern.data());
}

TempDirectory::~TempDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

Config test_config(const std::string& directory) {
  Config config = Config::defaults();
  config.data_directory = directory + "/data";
  config.socket_path = directory + "/quired.sock";
  config.log_level = "warn";
  config.host_bytes = 64ull << 20;
  config.host_bytes_explicit = true;
  config.host_prefault = false;
  config.nvme_bytes = 64ull << 20;
  config.nvme_bytes_explicit = true;
  config.nvme_segment_bytes = 8ull << 20;
  config.rocks_blob_bytes_max = 256ull << 10;
  config.staging_default_bytes = 32ull << 20;
  config.control_address = "";
  config.http_address = "";
  config.fit_to_machine();
  return config;
}

InProcessServer::InProcessServer(const Config& config) {
  std::promise<void> opened;
  thread_ = std::thread([this, config, &opened] {
    auto server = Server::open(config);
    status_ = server.status();
    if (server) server_ = server->get();
    opened.set_value();
    if (!server) return;
    exit_status_ = server_->run();
    // Whoever asked it to stop may still be inside the call.
    released_.get_future().wait();
  });
  opened.get_future().wait();
}

InProcessServer::~InProcessServer() {
  if (!thread_.joinable()) return;
  if (status_.is_ok()) {
    server_->request_drain();
    released_.set_value();
  }
  thread_.join();
}

void InProcessServer::stop_fast() {
  server_->stop_fast();
  released_.set_value();
  thread_.join();
}

Status InProcessServer::drain() {
  server_->request_drain();
  released_.set_value();
  thread_.join();
  return exit_status_;
}

ServerProcess::ServerProcess(const Config& config, const SpawnOptions& options) {
  const std::string directory = std::filesystem::path(config.data_directory).parent_path();
  log_path_ = directory + "/quired.log";
  const std::string config_path = directory + "/quire.toml";
  std::ofstream(config_path) << config.to_toml();
  SpawnOptions spawn = options;
  spawn.arguments = {"--config", config_path};
  spawn.arguments.insert(spawn.arguments.end(), options.arguments.begin(), options.arguments.end());
  const auto begin = std::chrono::steady_clock::now();
  pid_ = spawn_quired(spawn, log_path_);
  while (std::chrono::steady_clock::now() <
         begin + std::chrono::milliseconds(options.ready_wait_ms)) {
    if (TestClient::connect(config.socket_path, "", 8 << 20) != nullptr) {
      ready_ = true;
      ready_us_ = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                            std::chrono::steady_clock::now() - begin)
                                            .count());
      return;
    }
    if (wait_for_exit(0) >= 0) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

int ServerProcess::wait_for_exit(int timeout_ms) {
  for (int waited_ms = 0; pid_ >= 0; waited_ms += 5) {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == pid_) {
      pid_ = -1;
      exit_status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      break;
    }
    if (waited_ms >= timeout_ms) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return exit_status_;
}

ServerProcess::~ServerProcess() {
  kill();
}

void ServerProcess::kill() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  wait_exit(pid_);
  pid_ = -1;
}

int ServerProcess::terminate() {
  ::kill(pid_, SIGTERM);
  const int status = wait_exit(pid_);
  pid_ = -1;
  return status;
}

std::string ServerProcess::log() const {
  return read_text(log_path_);
}

std::pair<int, std::string> run_quired(const std::vector<std::string>& arguments) {
  const TempDirectory directory;
  const std::string log_path = directory.path() + "/out";
  const pid_t pid = spawn_quired({arguments, {}, nullptr, 0}, log_path);
  // One that came up instead of refusing must not hang the test.
  int status = 0;
  for (int waited_ms = 0; waited_ms < kPatienceMs; waited_ms += 10) {
    if (::waitpid(pid, &status, WNOHANG) == pid) {
      return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
              read_text(log_path)};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  ::kill(pid, SIGKILL);
  wait_exit(pid);
  return {-1, "did not exit by itself\n" + read_text(log_path)};
}

ModelDescriptor test_model(uint32_t seed) {
  ModelDescriptor model;
  model.weights.bytes[0] = static_cast<uint8_t>(seed);
  for (int i = 0; i < 2; ++i) {
    LayerDescriptor layer;
    layer.rope_style = RopeStyle::kNeox;
    layer.kv_heads = 2;
    layer.key_dims = 64;
    layer.value_dims = 64;
    layer.rotary_dims = 64;
    for (int d = 0; d < 32; ++d) {
      layer.inverse_frequencies.push_back(1.0f / static_cast<float>(1 + d));
    }
    model.layers.push_back(layer);
  }
  return model;
}

TestObject make_object(const ModelDescriptor& model, uint64_t seed, uint32_t n_tokens,
                       const TenantSalt& salt, const VariantContext& context,
                       uint64_t base_position) {
  std::mt19937_64 random(seed);
  RepresentationHeader header;
  header.codec = CodecId::kRawF16;
  header.context = context;
  header.base_position = base_position;
  header.model = model_id(model);
  header.coverage = {0, 2, 0, 2};
  for (uint32_t i = 0; i < n_tokens; ++i) {
    header.tokens.push_back(static_cast<TokenId>(random() % 50'000));
  }
  fill_ids(header, salt);
  const auto sizes = section_sizes(header.codec, model, header.coverage, n_tokens);
  const auto writer = RepresentationWriter::plan(header, *sizes);
  TestObject object;
  object.id = header.representation;
  object.tokens = header.tokens;
  object.bytes.resize(writer->total_bytes());
  for (uint32_t layer = 0; layer < 2; ++layer) {
    for (const Plane plane : {Plane::kKey, Plane::kValue}) {
      const MutableByteSpan section = writer->section(object.bytes, layer, plane);
      for (size_t i = 0; i + 8 <= section.size(); i += 8) {
        // Finite halves: the top exponent bit stays clear.
        const uint64_t word = random() & 0xbfffbfffbfffbfffull;
        std::memcpy(section.data() + i, &word, sizeof(word));
      }
    }
  }
  writer->finish(object.bytes);
  return object;
}

}  // namespace quire::server
