// quire-codec-kl: KL(full || codec) of a model's output, the context's KV kept in each codec.
#include <signal.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

#include "bench/answers/handbook.h"
#include "bench/codec/end_to_end.h"
#include "bench/codec/handbook_prompts.h"

namespace quire::bench {
namespace {

using nlohmann::ordered_json;

constexpr uint32_t kBootstrapSeed = 1;

std::atomic<bool> stop_requested{false};

void on_stop_signal(int signal_number) {
  stop_requested.store(true);
  ::signal(signal_number, SIG_DFL);
}

struct Options {
  std::string model_path;
  HandbookPromptOptions prompts;
  std::vector<std::string> codecs;
  std::string frame = "pre_rope";
  std::string kv_type = "f32";
  uint32_t slice_tokens = 256;
  uint32_t answer_tokens_max = 8;
  double salient_share = reuse::kSalientShareDefault;
  uint32_t threads = 1;
  std::string json_path;
};

// What a codec must reach on every model; none: it is only measured.
std::optional<double> goal_of(CodecId codec) {
  switch (codec) {
    case CodecId::kInt8Channel:
      return 2e-4;
    case CodecId::kInt4Channel64:
      return 0.010;
    case CodecId::kInt4Channel128:
      return 0.015;
    default:
      return std::nullopt;
  }
}

ordered_json line_of(const std::string& model, const CodecInfo& codec, const KlSummary& summary,
                     const Options& options) {
  ordered_json line = {{"bench", "codec.kl"},
                       {"params",
                        {{"model", model},
                         {"codec", codec.name},
                         {"frame", options.frame},
                         {"kv_type", options.kv_type},
                         {"slice_tokens", options.slice_tokens},
                         {"prompts", summary.prompts},
                         {"positions", summary.positions},
                         {"bits_per_element", summary.bits_per_element},
                         {"kl_low", summary.kl_low},
                         {"kl_high", summary.kl_high},
                         {"top1", summary.top1}}},
                       {"value", summary.kl},
                       {"unit", "nats"},
                       {"floor", 0},
                       {"ratio", 0}};
  if (const auto goal = goal_of(codec.id))
    line["goal"] = {{"kind", "value_max"}, {"bound", *goal}, {"met", summary.kl <= *goal}};
  return line;
}

Status report(const LlamaEngine& engine, const KlOptions& kl, const Options& options,
              const std::vector<std::vector<PromptDistance>>& distances) {
  std::ofstream json;
  if (!options.json_path.empty()) json.open(options.json_path);
  std::printf("%s: %zu prompts\n%-18s %6s  %-9s %-22s %6s\n", engine.model_name().c_str(),
              distances.size(), "codec", "bits", "KL", "95 % of prompts", "top-1");
  for (size_t i = 0; i < kl.codecs.size(); ++i) {
    std::vector<PromptDistance> of_codec;
    for (const auto& prompt : distances) of_codec.push_back(prompt[i]);
    const KlSummary summary = summarize(of_codec, kBootstrapSeed);
    const auto goal = goal_of(kl.codecs[i]->id);
    std::printf("%-18s %6.2f  %-9.2g [%-9.2g, %-9.2g] %6.3f%s\n", kl.codecs[i]->name.data(),
                summary.bits_per_element, summary.kl, summary.kl_low, summary.kl_high, summary.top1,
                !goal                 ? ""
                : summary.kl <= *goal ? "  met"
                                      : "  MISSED");
    if (json.is_open())
      json << line_of(engine.model_name(), *kl.codecs[i], summary, options).dump() << "\n";
  }
  if (!options.json_path.empty() && !json)
    return {StatusCode::kIoError, "cannot write " + options.json_path};
  return Status::ok();
}

Status run(const Options& options) {
  KlOptions kl;
  kl.frame = options.frame == "local" ? PositionFrame::kLocal : PositionFrame::kPreRope;
  kl.slice_tokens = options.slice_tokens;
  kl.answer_tokens_max = options.answer_tokens_max;
  kl.salient_share = options.salient_share;
  for (const std::string& name : options.codecs) {
    QUIRE_ASSIGN_OR_RETURN(const CodecInfo* codec, find_codec(name));
    kl.codecs.push_back(codec);
  }
  if (options.codecs.empty())
    for (const CodecInfo& codec : codecs()) kl.codecs.push_back(&codec);
  LlamaOptions engine_options;
  engine_options.model_path = options.model_path;
  engine_options.n_ctx = options.prompts.context_tokens + 1024;
  engine_options.n_threads = options.threads;
  engine_options.kv_type = options.kv_type == "f16" ? LlamaKvType::kF16 : LlamaKvType::kF32;
  engine_options.self_test = false;
  engine_options.skip_digest = true;
  engine_options.abort_flag = &stop_requested;
  QUIRE_ASSIGN_OR_RETURN(const auto engine, LlamaEngine::open(engine_options));
  QUIRE_ASSIGN_OR_RETURN(const std::vector<KlPrompt> prompts,
                         handbook_prompts(*engine, options.prompts));
  std::vector<std::vector<PromptDistance>> distances;
  Status status;
  for (const KlPrompt& prompt : prompts) {
    std::cerr << prompt.name << ": " << prompt.context.size() << " tokens\n";
    auto of_prompt = compare_prompt(*engine, prompt, kl);
    status = of_prompt.status();
    if (!status.is_ok()) break;
    distances.push_back(std::move(*of_prompt));
  }
  // An interrupted run reports the prompts that it finished.
  if (!distances.empty()) QUIRE_RETURN_IF_ERROR(report(*engine, kl, options, distances));
  return status;
}

}  // namespace
}  // namespace quire::bench

int main(int argc, char** argv) {
  quire::bench::Options options;
  CLI::App app{
      "Replaces a context's KV by what each codec makes of it and compares the model's output.",
      "quire-codec-kl"};
  app.add_option("--model", options.model_path, "GGUF file")->required()->check(CLI::ExistingFile);
  app.add_option("--questions", options.prompts.questions_path, "bench/answers/questions.json")
      ->required()
      ->check(CLI::ExistingFile);
  app.add_option("--documents", options.prompts.documents)->capture_default_str();
  app.add_option("--codecs", options.codecs, "Names (default: every codec there is)")
      ->delimiter(',');
  app.add_option("--prompts", options.prompts.prompts_max, "At most")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--context", options.prompts.context_tokens, "Tokens")
      ->check(CLI::Range(256, 32'768))
      ->capture_default_str();
  app.add_option("--questions-per-prompt", options.prompts.questions_per_prompt)
      ->check(CLI::Range(0, 32))
      ->capture_default_str();
  app.add_option("--continuation", options.prompts.continuation_tokens, "Tokens of real text")
      ->check(CLI::Range(1, 512))
      ->capture_default_str();
  app.add_option("--answer", options.answer_tokens_max, "Tokens of an answer")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--frame", options.frame, "How K is stored")
      ->check(CLI::IsMember({"pre_rope", "local"}))
      ->capture_default_str();
  app.add_option("--kv-type", options.kv_type, "Element of the engine's KV")
      ->check(CLI::IsMember({"f16", "f32"}))
      ->capture_default_str();
  app.add_option("--slice-tokens", options.slice_tokens)
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  app.add_option("--salient-share", options.salient_share, "Of mixed codecs: tokens at 8 bits")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--seed", options.prompts.seed, "Of the chunks' order")->capture_default_str();
  app.add_option("--threads", options.threads)->check(CLI::Range(1, 64))->capture_default_str();
  app.add_option("--json", options.json_path, "A line per codec, for quire-bench codec");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  ::signal(SIGINT, quire::bench::on_stop_signal);
  const quire::Status status = quire::bench::run(options);
  if (status.is_ok()) return 0;
  std::cerr << "quire-codec-kl: " << status.to_string() << "\n";
  return status.code() == quire::StatusCode::kCancelled ? 130 : 1;
}
