// quire-ask: a question over documents, answered from stored KV; and the connector's worked
// example.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <fstream>
#include <iostream>

#include "client/client.h"
#include "client/llama/session.h"
#include "client/reuse/policy.h"
#include "codecs/registry.h"
#include "tools/quire-ask/documents.h"
#include "tools/quire-ask/options.h"
#include "tools/quire-ask/report.h"

namespace quire::ask {

namespace {

std::atomic<bool> interrupted{false};

void on_signal(int) {
  interrupted.store(true, std::memory_order_relaxed);
  std::signal(SIGINT, SIG_DFL);  // a second one ends at once
}

int fail(const Status& status) {
  if (status.code() == StatusCode::kCancelled) {
    std::cerr << "\nquire-ask: interrupted; what was stored is kept\n";
    return kExitInterrupted;
  }
  std::cerr << "quire-ask: " << status.to_string() << "\n";
  if (status.code() == StatusCode::kUnavailable) {
    std::cerr << "Is quired running? Start it, name its socket with --socket, or use --no-store.\n";
  }
  return kExitFailed;
}

struct Store {
  std::unique_ptr<Client> client;
  std::unique_ptr<KvSource> source;
};

Expected<Store> open_store(const Options& options, const LlamaEngine& engine) {
  Store store;
  if (options.no_store) {
    store.source = make_memory_source();
    return store;
  }
  ClientOptions wanted;
  wanted.socket_path = options.socket_path;
  wanted.client_name = "quire-ask";
  wanted.tenant = options.tenant;
  QUIRE_ASSIGN_OR_RETURN(store.client, Client::connect(wanted));
  QUIRE_RETURN_IF_ERROR(
      store.client->register_model(engine.model_name(), engine.descriptor()).status());
  store.source = make_server_source(*store.client);
  return store;
}

Status dump_attention(const Options& options, const LlamaEngine& engine, const PolicyRun& run) {
  if (options.attention_path.empty()) return Status::ok();
  QUIRE_RETURN_IF_ERROR(
      write_attention(options.attention_path, engine.attention(), run.prompt_tokens));
  std::ofstream rows(options.attention_path + ".rows");
  for (const uint32_t row : run.start.rows) rows << row << "\n";
  return rows ? Status::ok() : Status(StatusCode::kIoError, "cannot write the rows");
}

Expected<std::vector<std::unique_ptr<reuse::RowPolicy>>> parse_policies(
    const std::vector<std::string>& names) {
  std::vector<std::unique_ptr<reuse::RowPolicy>> policies;
  for (const std::string& name : names) {
    QUIRE_ASSIGN_OR_RETURN(auto policy, reuse::parse_policy(name));
    policies.push_back(std::move(policy));
  }
  return policies;
}

Status run(const Options& options) {
  const bool compares = !options.compare.empty();
  QUIRE_ASSIGN_OR_RETURN(
      const auto policies,
      parse_policies(compares ? options.compare : std::vector<std::string>{options.policy}));
  LlamaOptions engine_options;
  engine_options.model_path = options.model_path;
  engine_options.n_ctx = options.n_ctx;
  engine_options.n_threads = options.threads;
  engine_options.kv_type = options.kv_type == "f32" ? LlamaKvType::kF32 : LlamaKvType::kF16;
  engine_options.self_test = options.self_test;
  engine_options.abort_flag = &interrupted;
  QUIRE_ASSIGN_OR_RETURN(const auto engine, LlamaEngine::open(engine_options));
  engine->keep_attention(!options.attention_path.empty());
  QUIRE_ASSIGN_OR_RETURN(const auto chunks, load_chunks(*engine, options));
  QUIRE_ASSIGN_OR_RETURN(const Store store, open_store(options, *engine));
  QUIRE_ASSIGN_OR_RETURN(const CodecInfo* codec, find_codec(options.codec));
  QUIRE_RETURN_IF_ERROR(check_codec(*engine, codec->id));

  SessionOptions session_options;
  session_options.system_text = options.system_text;
  session_options.codec = codec->id;
  session_options.answer_tokens_max = options.answer_tokens_max;
  QUIRE_ASSIGN_OR_RETURN(LlamaSession session,
                         LlamaSession::make(*engine, *store.source, session_options));
  std::vector<std::vector<TokenId>> tokens;
  for (const PromptChunk& chunk : chunks) tokens.push_back(chunk.tokens);
  bool uses_store = false;
  bool link0 = false;
  for (const auto& policy : policies) {
    uses_store |= policy->needs().uses_chunks;
    link0 |= policy->needs().dummy_sink_only;
  }
  StoreSummary stored;
  if (uses_store) {
    QUIRE_ASSIGN_OR_RETURN(stored, session.store(tokens, link0, [&](uint32_t done, uint32_t all) {
      if (!options.quiet && isatty(STDERR_FILENO) == 1)
        std::cerr << "\rchunk " << done + 1 << "/" << all << std::flush;
      return !interrupted.load(std::memory_order_relaxed);
    }));
    if (!options.quiet) {
      std::cerr << "\r" << stored.found << " chunks found, " << stored.computed
                << " computed and stored\n";
    }
  }
  QUIRE_ASSIGN_OR_RETURN(const ChunkedPrompt prompt, session.prompt(tokens, options.question));
  const bool json = options.output == "json";
  if (compares) {
    QUIRE_ASSIGN_OR_RETURN(const auto comparisons, session.compare(prompt, policies));
    if (json) {
      std::cout << comparison_json(comparisons, stored, options.question) << "\n";
    } else {
      print_comparison(std::cout, comparisons);
    }
    // The engine keeps the attention of the last look.
    const auto looked =
        std::find_if(comparisons.rbegin(), comparisons.rend(),
                     [](const Comparison& one) { return !one.run.start.column_mass.empty(); });
    const auto& dumped = looked == comparisons.rend() ? comparisons.back() : *looked;
    return dump_attention(options, *engine, dumped.run);
  }
  QUIRE_ASSIGN_OR_RETURN(const PolicyRun answer, session.ask(prompt, *policies.front()));
  if (json) {
    std::cout << run_json(answer, stored, options.question) << "\n";
  } else {
    print_run(std::cout, answer);
  }
  return dump_attention(options, *engine, answer);
}

}  // namespace

}  // namespace quire::ask

int main(int argc, char** argv) {
  using namespace quire::ask;
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
  const ParsedOptions parsed = parse_options(argc, argv);
  if (!parsed.options) return parsed.exit_code;
  const quire::Status status = run(*parsed.options);
  return status.is_ok() ? kExitOk : fail(status);
}
