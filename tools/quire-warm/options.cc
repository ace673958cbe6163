#include "tools/quire-warm/options.h"

#include <CLI/CLI.hpp>
#include <fstream>
#include <iostream>
#include <sstream>

#include "codecs/registry.h"
#include "tools/quire-warm/embed_command.h"

namespace quire::warm {
namespace {

constexpr const char* kExamples = R"(Examples:
  # What would it cost? Touches no store.
  quire-warm --model model.gguf --dry-run docs/
  # Store the documents behind the deployment's own system prompt.
  quire-warm --model model.gguf --system-file system.txt --manifest docs.manifest docs/
  # Interrupted? The same command goes on where it stopped.
  quire-warm --model model.gguf --system-file system.txt --manifest docs.manifest docs/
  # Lossless, 512 tokens a chunk, Markdown below src and lines of a JSONL file.
  quire-warm --model model.gguf --codec raw-f16 --chunk-tokens 512 'src/**/*.md' faq.jsonl
  # Each chunk behind near ones, two in the mean (pip install 'quire[embed]'), with attention statistics.
  quire-warm --model model.gguf --neighbours 2 --stats --manifest near.manifest docs/
  # The same with an embedding model of your own, for the sessions of one scope only.
  quire-warm --model model.gguf --neighbours 2 --embed-command './embed --fast' --scope alice docs/

Paths are files, folders or patterns (*, ?, [...], **). Text, Markdown, HTML and JSONL
({"id": ..., "text": ...} a line) are read; encodings other than UTF-8 must be declared.
Exit status: 0 all stored, 1 some files failed, 2 usage or nothing could be done, 130 Ctrl-C.)";

// Runs CLI11, whose exceptions end here.
template <typename Parse>
std::optional<int> run_parser(CLI::App& app, const Parse& parse) {
  try {
    parse();
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
}

std::vector<std::string> codec_names() {
  std::vector<std::string> names;
  for (const CodecInfo& codec : codecs()) names.emplace_back(codec.name);
  return names;
}

Expected<std::string> read_system_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  if (!stream || !(text << stream.rdbuf()))
    return Status(StatusCode::kNotFound, "--system-file " + path + ": cannot be read or is empty");
  if (text.str().size() > kSystemTextBytesMax)
    return Status(StatusCode::kInvalidArgument, "--system-file " + path + ": more than 1 MiB");
  return text.str();
}

void add_options(CLI::App& app, Options& options, std::string& system_text,
                 std::string& system_file) {
  app.add_option("paths", options.paths, "Files, folders, patterns")->required();
  app.add_option("-m,--model", options.model_path, "GGUF model the KV is computed with")
      ->required()
      ->check(CLI::ExistingFile);
  auto* text = app.add_option("--system", system_text, "System prompt of the deployment");
  app.add_option("--system-file", system_file, "The same from a file")->excludes(text);
  app.add_option("--variant", options.variant, "Context chunks are computed in")
      ->check(CLI::IsMember({"fixed_prefix", "fixed_prefix_filler", "isolated", "dummy_sink"}))
      ->capture_default_str();
  app.add_option("--neighbours", options.neighbours,
                 "Compute chunks behind the fixed text and near chunks, this many in the mean")
      ->check(CLI::Range(0u, kNeighboursMax))
      ->capture_default_str();
  app.add_option("--embed-command", options.embed_command,
                 R"(Says how near chunks are: reads {"id","text"} lines, writes {"id","vector"})")
      ->capture_default_str();
  app.add_option("--embed-timeout", options.embed_timeout_seconds,
                 "Longest time without an answer of the embed command, in seconds")
      ->check(CLI::Range(1u, kEmbedTimeoutSecondsMax))
      ->capture_default_str();
  app.add_flag("--stats", options.statistics,
               "Store attention statistics beside each chunk, for policies that choose by them");
  app.add_option("--codec", options.codec, "How KV is stored")
      ->check(CLI::IsMember(codec_names()))
      ->capture_default_str();
  app.add_option(
         "--salient-share", options.salient_share,
         "Mixed codecs: share of a chunk's tokens kept at 8 bits, those that its own tokens "
         "attend to most")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--chunk-tokens", options.chunking.target_tokens, "Tokens of a chunk, at most")
      ->capture_default_str();
  app.add_option("--min-tokens", options.chunking.min_tokens,
                 "Tokens of a chunk, at least (0: a quarter of --chunk-tokens)")
      ->capture_default_str();
  app.add_option("--overlap", options.chunking.overlap_tokens,
                 "Tokens repeated from the chunk before, on top of --chunk-tokens")
      ->capture_default_str();
  app.add_option("--manifest", options.manifest_path, "JSONL file: which KV belongs to what text");
  app.add_flag("--dry-run", options.dry_run, "Only tell tokens, bytes and time");
  app.add_option("--tokens-per-second", options.tokens_per_second,
                 "Dry run: this speed instead of measuring the engine")
      ->check(CLI::PositiveNumber);
  app.add_flag("--durable,!--no-durable", options.durable,
               "Wait until each chunk is on disk (default)");
  app.add_flag("!--no-self-test", options.self_test, "Skip the engine's check of itself");
  app.add_option("--threads", options.threads, "Engine threads (0: at most two)");
  app.add_option("--socket", options.socket_path,
                 "Socket of quired (default: quired's own default)");
  app.add_option("--tenant", options.tenant, "Tenant the KV belongs to");
  app.add_option("--scope", options.scope,
                 "Only sessions in this scope find chunks behind neighbours (the tenant's own)");
  app.add_option("-o,--output", options.output, "Summary on stdout")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  app.add_flag("-q,--quiet", options.quiet, "No progress, only errors and the summary");
}

}  // namespace

ParsedOptions parse_options(int argc, const char* const* argv) {
  Options options;
  std::string system_text;
  std::string system_file;
  CLI::App app{
      "Computes the KV of documents once and stores it in quired, for reuse in any prompt.",
      "quire-warm"};
  app.footer(kExamples);
  add_options(app, options, system_text, system_file);
  if (const auto exit_code = run_parser(app, [&] { app.parse(argc, argv); }))
    return {std::nullopt, *exit_code};
  if (app.count("--system") > 0) options.system_text = system_text;
  if (!system_file.empty()) {
    auto text = read_system_file(system_file);
    if (!text) {
      std::cerr << "error: " << text.status().message() << '\n';
      return {std::nullopt, kExitUsage};
    }
    options.system_text = std::move(*text);
  }
  if (const Status valid = options.chunking.validate(); !valid) {
    std::cerr << "error: " << valid.message() << '\n';
    return {std::nullopt, kExitUsage};
  }
  if (options.neighbours > 0 && options.variant == "dummy_sink") {
    std::cerr << "error: --neighbours: chunks stand behind a fixed text or nothing, not behind "
                 "dummy_sink\n";
    return {std::nullopt, kExitUsage};
  }
  return {std::move(options), kExitOk};
}

}  // namespace quire::warm
