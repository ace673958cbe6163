// quire-warm: documents -> chunks -> KV -> store, before anybody asks.
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <iostream>

#include "base/clock.h"
#include "client/client.h"
#include "client/llama/prompt.h"
#include "codecs/registry.h"
#include "tools/quire-warm/embed_command.h"
#include "tools/quire-warm/llama_target.h"
#include "tools/quire-warm/options.h"
#include "tools/quire-warm/report.h"
#include "tools/quire-warm/warmer.h"

namespace quire::warm {
namespace {

// Context cells for the chat template around the system text.
constexpr uint64_t kTemplateTokens = 512;
constexpr uint64_t kContextStep = 256;

std::atomic<bool> stop_requested{false};

// The first signal ends the run in order; the next one ends the process.
void on_stop_signal(int signal_number) {
  stop_requested.store(true);
  ::signal(signal_number, SIG_DFL);
}

WarmVariant variant_of(const std::string& name) {
  if (name == "fixed_prefix_filler") return WarmVariant::kFixedPrefixFiller;
  if (name == "isolated") return WarmVariant::kIsolated;
  if (name == "dummy_sink") return WarmVariant::kDummySink;
  return WarmVariant::kFixedPrefix;
}

ProgressStyle progress_style(bool quiet) {
  ProgressStyle style;
  style.quiet = quiet;
  style.terminal = isatty(STDERR_FILENO) == 1;
  winsize size{};
  if (style.terminal && ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
    style.columns = size.ws_col;
  return style;
}

Expected<std::unique_ptr<LlamaEngine>> open_engine(const Options& options,
                                                   std::string_view system_text) {
  LlamaOptions engine;
  engine.model_path = options.model_path;
  engine.n_threads = options.threads;
  engine.self_test = options.self_test && !options.dry_run;
  engine.skip_digest = options.dry_run;
  engine.abort_flag = &stop_requested;
  // A token is at least a byte of text, so this holds the longest prompt of the run.
  const uint64_t chunks =
      options.neighbours > 0 ? kGroupLeads + group_members(options.neighbours) : 1;
  const uint64_t tokens =
      chunks * (options.chunking.target_tokens + options.chunking.overlap_tokens) +
      system_text.size() + 2 * kTemplateTokens;
  engine.n_ctx = static_cast<uint32_t>(align_up(tokens, kContextStep));
  engine.n_ubatch = 512;
  return LlamaEngine::open(engine);
}

ManifestHeader settings_of(const Options& options, const LlamaEngine& engine,
                           const LlamaTarget& target) {
  ManifestHeader header;
  header.model = engine.model_id();
  header.model_name = engine.model_name();
  header.tenant = options.tenant;
  header.variant = options.variant;
  header.codec = options.codec;
  header.context_reference = target.context().reference;
  header.prefix_tokens = static_cast<uint32_t>(target.prefix_tokens().size());
  header.chunk_tokens = options.chunking.target_tokens;
  header.overlap_tokens = options.chunking.overlap_tokens;
  header.neighbours = options.neighbours;
  header.scope = options.scope;
  return header;
}

// One run after its options are known. The members live as long as any of them needs another.
class Run {
 public:
  explicit Run(Options options)
      : options_(std::move(options)),
        progress_(std::cerr, progress_style(options_.quiet), system_clock()) {}

  Status go() {
    began_ns_ = system_clock().now_ns();
    QUIRE_RETURN_IF_ERROR(prepare());
    Warmer warmer(*target_, options_.chunking, manifest_.get(), progress_, stop_requested);
    use_neighbours(warmer);
    QUIRE_ASSIGN_OR_RETURN(report_.summary, warmer.scan(options_.paths));
    has_report_ = true;
    if (options_.dry_run) return estimate();
    // Summary of what was done, not of what was planned.
    const Status status = store_all(warmer);
    report_.summary = warmer.summary();
    report_.tokens_per_second = progress_.tokens_per_second();
    return status;
  }

  int finish(const Status& status) {
    report_.interrupted = status.code() == StatusCode::kCancelled;
    report_.wall_us = (system_clock().now_ns() - began_ns_) / 1000;
    report_.manifest_path = options_.manifest_path;
    report_.dry_run = options_.dry_run;
    if (!status && !report_.interrupted) std::cerr << "error: " << advice(status) << '\n';
    if (has_report_) (options_.output == "json" ? print_json : print_table)(report_, std::cout);
    std::cout.flush();
    if (report_.interrupted) return kExitInterrupted;
    if (!status) return kExitUsage;
    const bool failed = report_.summary.files_failed > 0 || report_.summary.chunks_failed > 0;
    return failed ? kExitSomeFailed : kExitOk;
  }

 private:
  Status prepare() {
    const std::string system_text = options_.system_text.value_or(std::string(kDefaultSystemText));
    if (!options_.dry_run) {
      ClientOptions client;
      client.socket_path = options_.socket_path;
      client.client_name = "quire-warm";
      client.tenant = options_.tenant;
      client.scope = options_.scope;
      client.timeout_ms = 60'000;
      QUIRE_ASSIGN_OR_RETURN(client_, Client::connect(client));
    }
    if (options_.neighbours > 0) QUIRE_RETURN_IF_ERROR(prepare_embedder());
    if (!options_.quiet) progress_.message("loading " + options_.model_path);
    QUIRE_ASSIGN_OR_RETURN(engine_, open_engine(options_, system_text));
    LlamaTargetOptions target;
    target.variant = variant_of(options_.variant);
    QUIRE_ASSIGN_OR_RETURN(const CodecInfo* codec, find_codec(options_.codec));
    target.codec = codec->id;
    report_.variable_size = codec->variable_size;
    target.salient_share = options_.salient_share;
    target.system_text = system_text;
    target.statistics = options_.statistics;
    report_.statistics = options_.statistics;
    target.ack = options_.durable ? wire::AckLevel::kDurable : wire::AckLevel::kMemory;
    QUIRE_ASSIGN_OR_RETURN(target_, LlamaTarget::make(*engine_, client_.get(), target));
    QUIRE_RETURN_IF_ERROR(check_length());
    report_.settings = settings_of(options_, *engine_, *target_);
    if (options_.dry_run || options_.manifest_path.empty()) return Status::ok();
    QUIRE_ASSIGN_OR_RETURN(manifest_, Manifest::open(options_.manifest_path, report_.settings));
    return Status::ok();
  }

  Status prepare_embedder() {
    embedder_ = std::make_unique<EmbedCommand>(
        EmbedCommandOptions{options_.embed_command, options_.embed_timeout_seconds},
        stop_requested);
    if (options_.dry_run) return Status::ok();
    // What is missing shows now, not when everything has been read.
    const std::vector<std::string> probe{"Does it answer?"};
    const Status status = embedder_->embed(probe).status();
    const bool missing = status.code() == StatusCode::kFailedPrecondition &&
                         status.message().find("quire[embed]") == std::string::npos &&
                         options_.embed_command == Options{}.embed_command;
    if (!missing) return status;
    return {status.code(), status.message() +
                               "\nThe default embedding model is installed with: "
                               "pip install 'quire[embed]'"};
  }

  // Of one prefill: no KV is stored from positions that the model has never seen.
  uint64_t tokens_max() const {
    const uint64_t trained = engine_->trained_tokens();
    return trained == 0 ? engine_->n_ctx() : std::min<uint64_t>(trained, engine_->n_ctx());
  }

  Status check_length() const {
    const uint64_t chunks = options_.neighbours > 0 ? kGroupLeads + 1 : 1;
    const uint64_t chunk = options_.chunking.target_tokens + options_.chunking.overlap_tokens;
    const uint64_t tokens = target_->prefix_tokens().size() + chunks * chunk;
    if (tokens <= tokens_max()) return Status::ok();
    return {StatusCode::kInvalidArgument,
            std::to_string(chunks) + " chunk(s) of " + std::to_string(chunk) +
                " tokens behind a prefix of " + std::to_string(target_->prefix_tokens().size()) +
                " are longer than the " + std::to_string(tokens_max()) +
                " tokens that the model was trained on: take shorter chunks (--chunk-tokens)"};
  }

  void use_neighbours(Warmer& warmer) {
    if (embedder_ == nullptr) return;
    NeighbourOptions neighbours;
    neighbours.groups.neighbours = options_.neighbours;
    neighbours.groups.tokens_max = tokens_max() - target_->prefix_tokens().size();
    neighbours.embedder = embedder_.get();
    warmer.use_neighbours(neighbours);
  }

  Status estimate() {
    report_.tokens_per_second = options_.tokens_per_second;
    if (report_.tokens_per_second > 0) return Status::ok();
    if (!options_.quiet) progress_.message("measuring the engine's speed");
    QUIRE_ASSIGN_OR_RETURN(report_.tokens_per_second, target_->measure_tokens_per_second(std::min(
                                                          options_.chunking.target_tokens, 256u)));
    return Status::ok();
  }

  Status store_all(Warmer& warmer) {
    QUIRE_RETURN_IF_ERROR(target_->register_model());
    QUIRE_RETURN_IF_ERROR(target_->store_system_prefix());
    return warmer.run();
  }

  static std::string advice(const Status& status) {
    std::string text = status.message().empty() ? status.to_string() : status.message();
    if (status.code() == StatusCode::kUnavailable)
      text += "; is quired running? What is stored stays, and the same command goes on from here";
    return text;
  }

  Options options_;
  Progress progress_;
  uint64_t began_ns_ = 0;
  std::unique_ptr<Client> client_;
  std::unique_ptr<LlamaEngine> engine_;
  std::unique_ptr<LlamaTarget> target_;
  std::unique_ptr<Manifest> manifest_;
  std::unique_ptr<EmbedCommand> embedder_;
  RunReport report_;
  bool has_report_ = false;
};

int run(int argc, const char* const* argv) {
  ParsedOptions parsed = parse_options(argc, argv);
  if (!parsed.options) return parsed.exit_code;
  ::signal(SIGINT, on_stop_signal);
  ::signal(SIGTERM, on_stop_signal);
  Run warm_up(std::move(*parsed.options));
  const Status status = warm_up.go();
  return warm_up.finish(status);
}

}  // namespace
}  // namespace quire::warm

int main(int argc, char** argv) {
  return quire::warm::run(argc, argv);
}
