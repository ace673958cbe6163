#include "tools/quire-ask/options.h"

#include <CLI/CLI.hpp>

#include "codecs/registry.h"

namespace quire::ask {

namespace {

constexpr const char* kFooter = R"(Examples:
  quire-ask --model m.gguf --doc handbook/*.html --question "Which daemon runs a command once?"
  quire-ask --model m.gguf --doc a.md --doc b.md#0-3 --question "..." --policy epic:16
  quire-ask --model m.gguf --doc a.md --question "..." --compare      (full, reuse, epic:16, query-value:0.15)
  quire-ask --model m.gguf --doc a.md --question "..." --compare full query-value:0.05 -o json
  quire-ask --model m.gguf --doc a.md --question "..." --no-store     (no server; nothing is kept)

Policies: full, prefix, reuse, epic:K, link0, query:B, query-value:B (the default, query-value:0.15: the
question looks at the reused KV first, and the document tokens whose values it would carry away most are
computed again with it; both together cost at most 15 % of computing the documents, but
where the engine cannot end a pass early: it says so, and what was charged).)";

std::vector<std::string> codec_names() {
  std::vector<std::string> names;
  for (const CodecInfo& codec : codecs()) names.emplace_back(codec.name);
  return names;
}

std::vector<std::string> default_comparison() {
  return {"full", "reuse", "epic:16", "query-value:0.15"};
}

}  // namespace

ParsedOptions parse_options(int argc, const char* const* argv) {
  Options options;
  CLI::App app(
      "Asks a model a question over documents whose KV is stored, or is stored on the way.",
      "quire-ask");
  app.footer(kFooter);
  app.set_version_flag("--version", "quire-ask 0.1.0");
  app.add_option("--model", options.model_path, "GGUF model file")->required();
  app.add_option("--doc", options.documents,
                 "Documents in the order of the prompt: files, folders, patterns, FILE#FIRST-LAST")
      ->allow_extra_args();
  app.add_option("--manifest", options.manifest_path,
                 "Manifest of quire-warm: its cutting of documents, and all of them without --doc");
  app.add_option("--question", options.question, "The question")->required();
  app.add_option("--policy", options.policy, "Which tokens are computed again")
      ->capture_default_str();
  auto* compare = app.add_option("--compare", options.compare,
                                 "Compare policies with full prefill on the same prompt")
                      ->expected(0, 16)
                      ->delimiter(',');
  app.add_option("--system", options.system_text, "System text, the same as quire-warm's")
      ->capture_default_str();
  app.add_option("--max-tokens", options.answer_tokens_max, "Tokens of the answer")
      ->capture_default_str();
  app.add_option("--chunk-tokens", options.chunking.target_tokens, "Tokens of a chunk")
      ->capture_default_str();
  app.add_option("--overlap-tokens", options.chunking.overlap_tokens, "Tokens chunks share")
      ->capture_default_str();
  app.add_option("--max-context", options.context_tokens_max,
                 "Leave out chunks beyond so many document tokens (0: none)")
      ->capture_default_str();
  app.add_option("--shuffle", options.shuffle_seed, "Shuffle the chunks with this seed");
  app.add_option("--codec", options.codec, "Codec of chunks stored on the way")
      ->check(CLI::IsMember(codec_names()))
      ->capture_default_str();
  app.add_option("--ctx", options.n_ctx, "Context of the engine: prompt, recomputed rows, answer")
      ->capture_default_str();
  app.add_option("--threads", options.threads, "Threads of the engine (0: at most 2)")
      ->capture_default_str();
  app.add_option("--kv-type", options.kv_type, "Element of the engine's KV cache")
      ->check(CLI::IsMember({"f16", "f32"}))
      ->capture_default_str();
  app.add_flag("!--no-self-test", options.self_test, "Skip the engine's check of itself");
  app.add_flag("--no-store", options.no_store, "Use this process's memory instead of a server");
  app.add_option("--dump-attention", options.attention_path,
                 "Write the question's attention as .npy [layer][head][token][cell], and FILE.rows "
                 "with the rows a query policy chose from it; with --compare of "
                 "the last policy that looks at it");
  app.add_option("--socket", options.socket_path, "Socket of quired");
  app.add_option("--tenant", options.tenant, "Tenant");
  app.add_option("-o,--output", options.output, "table or json")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  app.add_flag("-q,--quiet", options.quiet, "No progress on stderr");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return {std::nullopt, code == 0 ? kExitOk : kExitUsage};
  }
  if (compare->count() > 0) {
    std::erase(options.compare, "");
    std::erase(options.compare, "{}");
    if (options.compare.empty()) options.compare = default_comparison();
  }
  if (options.documents.empty() && options.manifest_path.empty()) {
    std::cerr << "quire-ask: give documents with --doc, or a --manifest of quire-warm\n";
    return {std::nullopt, kExitUsage};
  }
  return {options, kExitOk};
}

}  // namespace quire::ask
