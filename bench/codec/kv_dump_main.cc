// quire-kv-dump: real KV of a model over real text, for quire-bench codec.
#include <CLI/CLI.hpp>
#include <iostream>

#include "bench/codec/capture_dump.h"
#include "bench/codec/safetensors.h"

namespace quire::bench {
namespace {

struct Options {
  std::string model_path;
  std::vector<std::string> texts = {"/usr/share/doc/debian-handbook/html/en-US/sect.syslog.html",
                                    "/usr/share/doc/debian-handbook/html/en-US"};
  std::string output_path;
  uint32_t tokens = 768;
  uint32_t queries = 64;
  uint32_t threads = 1;
};

Status run(const Options& options) {
  LlamaOptions engine_options;
  engine_options.model_path = options.model_path;
  engine_options.n_ctx = options.tokens;
  engine_options.n_threads = options.threads;
  engine_options.kv_type = LlamaKvType::kF32;
  engine_options.self_test = false;
  engine_options.skip_digest = true;
  QUIRE_ASSIGN_OR_RETURN(const auto engine, LlamaEngine::open(engine_options));
  QUIRE_ASSIGN_OR_RETURN(const auto tokens, text_tokens(*engine, options.texts, options.tokens));
  QUIRE_ASSIGN_OR_RETURN(const KvDump dump, capture_dump(*engine, tokens, options.queries));
  const std::vector<std::byte> bytes = encode_dump(dump);
  QUIRE_RETURN_IF_ERROR(write_file(options.output_path, bytes));
  std::cerr << dump.model << ": " << dump.n_tokens << " tokens, " << dump.layers.size()
            << " layers, " << bytes.size() << " bytes\n";
  return Status::ok();
}

}  // namespace
}  // namespace quire::bench

int main(int argc, char** argv) {
  quire::bench::Options options;
  CLI::App app{"Writes a model's KV over text, K before rope, and the queries of the last tokens.",
               "quire-kv-dump"};
  app.add_option("--model", options.model_path, "GGUF file")->required()->check(CLI::ExistingFile);
  app.add_option("--text", options.texts, "Files, folders or patterns, in this order")
      ->capture_default_str();
  app.add_option("--tokens", options.tokens)->check(CLI::Range(16, 32'768))->capture_default_str();
  app.add_option("--queries", options.queries, "Of the last tokens")
      ->check(CLI::Range(2, 512))
      ->capture_default_str();
  app.add_option("--threads", options.threads)->check(CLI::Range(1, 64))->capture_default_str();
  app.add_option("-o,--out", options.output_path, "A safetensors file")->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const quire::Status status = quire::bench::run(options);
  if (status.is_ok()) return 0;
  std::cerr << "quire-kv-dump: " << status.to_string() << "\n";
  return 1;
}
