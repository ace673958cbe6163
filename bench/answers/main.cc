// quire-answers: does reuse keep a model's answers? Short questions with checkable answers over
// chunks of real documents, in an order never computed together, under several row policies. In
// this process alone; the last lines are the table of docs. Questions of a group share one context,
// so full prefill of the context is done once per group and extended by each question.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cmath>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "bench/answers/handbook.h"
#include "client/llama/session.h"
#include "client/reuse/policy.h"

namespace quire::answers {

namespace {

using nlohmann::ordered_json;

constexpr uint32_t kNeighboursMax = 4;  // with the prefix they must fit the engine's context
constexpr CodecId kChunkCodec = CodecId::kInt8Channel;

struct Options {
  std::string model_path;
  std::string questions_path;
  std::string documents = "/usr/share/doc/debian-handbook/html/en-US";
  std::vector<std::string> policies = {"reuse", "epic:16", "query:0.15", "query-value:0.15"};
  uint32_t context_tokens = 1600;
  uint32_t chunk_tokens = 200;
  uint32_t answer_tokens_max = 12;
  uint32_t seed = 1;
  uint32_t threads = 0;
  uint32_t groups_max = 0;
  uint32_t neighbours = 0;
  std::string json_path;
};

using ChunkList = std::vector<const TextChunk*>;

std::vector<std::vector<TokenId>> tokens_of(const ChunkList& chunks) {
  std::vector<std::vector<TokenId>> result;
  for (const TextChunk* chunk : chunks) result.push_back(chunk->tokens);
  return result;
}

struct Result {
  std::string policy;
  bool correct = false;
  std::string answer;
  LogitDistance distance;
  double ttft_ms = 0;
};

// As whole words: "ln" is not in "vulnerable".
bool contains_words(const std::string& text, const std::string& wanted) {
  const auto is_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; };
  for (size_t at = text.find(wanted); at != std::string::npos; at = text.find(wanted, at + 1)) {
    const size_t end = at + wanted.size();
    const bool starts = at == 0 || !is_word(text[at - 1]) || !is_word(wanted.front());
    const bool ends = end == text.size() || !is_word(text[end]) || !is_word(wanted.back());
    if (starts && ends) return true;
  }
  return false;
}

bool is_correct(const Question& question, const std::string& answer) {
  const std::string text = squeeze(answer);
  return std::any_of(question.answers.begin(), question.answers.end(),
                     [&](const std::string& a) { return contains_words(text, squeeze(a)); });
}

// The chunks that hold the group's answers, filled up with others of the same documents, shuffled.
Expected<ChunkList> group_chunks(Corpus& corpus, const Group& group, const Options& options) {
  ChunkList chosen;
  ChunkList others;
  size_t tokens = 0;
  const auto choose = [&](const TextChunk* chunk) {
    if (std::find(chosen.begin(), chosen.end(), chunk) != chosen.end()) return;
    chosen.push_back(chunk);
    tokens += chunk->tokens.size();
  };
  for (const Question& question : group.questions) {
    QUIRE_ASSIGN_OR_RETURN(const TextChunk* found, corpus.find_evidence(question));
    choose(found);
    QUIRE_ASSIGN_OR_RETURN(const auto* chunks, corpus.chunks(question.document));
    for (const TextChunk& chunk : *chunks) others.push_back(&chunk);
  }
  std::mt19937 random(options.seed);
  std::shuffle(others.begin(), others.end(), random);
  for (const TextChunk* chunk : others) {
    if (tokens + chunk->tokens.size() <= options.context_tokens) choose(chunk);
  }
  std::shuffle(chosen.begin(), chosen.end(), random);
  return chosen;
}

// The next chunks of its document, from its beginning again behind its end, that are not of the
// prompt: what stands beside a chunk when it is warmed up is not what stands beside it here.
Expected<ChunkList> neighbours_of(Corpus& corpus, const TextChunk& chunk, const ChunkList& prompt,
                                  uint32_t count) {
  QUIRE_ASSIGN_OR_RETURN(const auto* all, corpus.chunks(chunk.document));
  ChunkList found;
  const auto own = static_cast<size_t>(&chunk - all->data());
  for (size_t step = 1; step < all->size() && found.size() < count; ++step) {
    const TextChunk* other = &(*all)[(own + step) % all->size()];
    if (std::find(prompt.begin(), prompt.end(), other) == prompt.end()) found.push_back(other);
  }
  return found;
}

class Bench {
 public:
  Bench(LlamaEngine& engine, KvSource& source, LlamaSession& session, const Options& options)
      : engine_(engine),
        source_(source),
        session_(session),
        options_(options),
        corpus_(engine, options.documents, options.chunk_tokens) {}

  Status run(const std::vector<Group>& groups) {
    for (const std::string& name : options_.policies) {
      QUIRE_ASSIGN_OR_RETURN(auto policy, reuse::parse_policy(name));
      policies_.push_back(std::move(policy));
    }
    for (size_t i = 0; i < groups.size(); ++i) {
      if (options_.groups_max != 0 && i >= options_.groups_max) break;
      QUIRE_RETURN_IF_ERROR(run_group(groups[i]));
    }
    return Status::ok();
  }

  const std::vector<std::vector<Result>>& results() const { return results_; }
  const std::vector<std::string>& ids() const { return ids_; }

 private:
  struct Full {
    Result result;
    std::vector<TokenId> tokens;
    std::vector<std::vector<float>> rows;
  };

  Expected<Full> full_answer(const Question& question, const ChunkedPrompt& prompt) {
    const std::span<const TokenId> tokens = prompt.tokens;
    QUIRE_RETURN_IF_ERROR(engine_.append(tokens.subspan(prompt.question_begin), true));
    QUIRE_ASSIGN_OR_RETURN(const std::span<const float> logits, engine_.logits());
    PolicyRun run;
    run.first_logits.assign(logits.begin(), logits.end());
    Full full;
    QUIRE_ASSIGN_OR_RETURN(full.tokens, engine_.generate(options_.answer_tokens_max));
    QUIRE_ASSIGN_OR_RETURN(full.rows, session_.forced_logits(run, prompt, full.tokens));
    full.result.policy = "full";
    full.result.answer = engine_.detokenize(full.tokens);
    full.result.correct = is_correct(question, full.result.answer);
    QUIRE_RETURN_IF_ERROR(engine_.truncate(prompt.question_begin));
    return full;
  }

  // Besides the variant behind the system prefix; named as quire-warm --neighbours names its own.
  Status store_behind_neighbours(const ChunkList& chunks) {
    const std::vector<TokenId>& prefix = session_.system_prefix();
    for (const TextChunk* chunk : chunks) {
      QUIRE_ASSIGN_OR_RETURN(const ChunkList neighbours,
                             neighbours_of(corpus_, *chunk, chunks, options_.neighbours));
      std::vector<TokenId> front = prefix;
      std::vector<Digest> names;
      const auto name = [&](const std::vector<TokenId>& tokens) {
        names.push_back(object_id(engine_.model_id(), tokens, source_.tenant_salt()));
      };
      if (!prefix.empty()) name(prefix);
      for (const TextChunk* neighbour : neighbours) {
        front.insert(front.end(), neighbour->tokens.begin(), neighbour->tokens.end());
        name(neighbour->tokens);
      }
      const auto context = VariantContext::synthetic(std::move(names), source_.scope());
      QUIRE_RETURN_IF_ERROR(
          store_chunk(engine_, source_, front, chunk->tokens, context, kChunkCodec).status());
    }
    return Status::ok();
  }

  Status run_group(const Group& group) {
    QUIRE_ASSIGN_OR_RETURN(const ChunkList chosen, group_chunks(corpus_, group, options_));
    const auto chunks = tokens_of(chosen);
    QUIRE_RETURN_IF_ERROR(session_.store(chunks, false).status());
    if (options_.neighbours != 0) QUIRE_RETURN_IF_ERROR(store_behind_neighbours(chosen));
    std::vector<ChunkedPrompt> prompts;
    for (const Question& question : group.questions) {
      QUIRE_ASSIGN_OR_RETURN(ChunkedPrompt prompt,
                             session_.prompt(chunks, question.text, question.opening));
      prompts.push_back(std::move(prompt));
    }
    const ChunkedPrompt& first = prompts.front();
    engine_.clear();
    QUIRE_RETURN_IF_ERROR(
        engine_.append(std::span(first.tokens).first(first.question_begin), false));
    std::vector<Full> full;
    for (size_t i = 0; i < prompts.size(); ++i) {
      QUIRE_ASSIGN_OR_RETURN(Full answer, full_answer(group.questions[i], prompts[i]));
      full.push_back(std::move(answer));
    }
    std::cerr << group.name << ": " << chunks.size() << " chunks, " << first.question_begin
              << " tokens\n";
    for (size_t i = 0; i < prompts.size(); ++i) {
      std::vector<Result> row = {full[i].result};
      for (const auto& policy : policies_) {
        QUIRE_ASSIGN_OR_RETURN(const PolicyRun run, session_.ask(prompts[i], *policy));
        QUIRE_ASSIGN_OR_RETURN(const auto logits,
                               session_.forced_logits(run, prompts[i], full[i].tokens));
        row.push_back({run.policy, is_correct(group.questions[i], run.answer), run.answer,
                       logit_distance(full[i].rows, logits), run.ttft_ms()});
      }
      for (const Result& result : row) {
        std::cerr << "  " << group.questions[i].id << " " << result.policy
                  << (result.correct ? " right " : " WRONG ") << std::fixed << std::setprecision(4)
                  << result.distance.kl_first << "  " << squeeze(result.answer) << "\n";
      }
      ids_.push_back(group.questions[i].id);
      results_.push_back(std::move(row));
    }
    return Status::ok();
  }

  LlamaEngine& engine_;
  KvSource& source_;
  LlamaSession& session_;
  const Options& options_;
  Corpus corpus_;
  std::vector<std::unique_ptr<reuse::RowPolicy>> policies_;
  std::vector<std::vector<Result>> results_;  // [question][full, then policies]
  std::vector<std::string> ids_;
};

// Of distances: NaN, of logits that are not finite, counts as the largest.
double median(std::vector<double> values) {
  for (double& value : values)
    if (std::isnan(value)) value = std::numeric_limits<double>::infinity();
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

void report(const Bench& bench, const Options& options) {
  std::ofstream json_file(options.json_path);
  std::cout << "policy       right        KL mean    KL median  top-1   KL below reuse's\n";
  const auto& results = bench.results();
  if (results.empty()) return;
  const auto reuse = std::find(options.policies.begin(), options.policies.end(), "reuse");
  const size_t reuse_column = static_cast<size_t>(reuse - options.policies.begin()) + 1;
  for (size_t column = 0; column < results.front().size(); ++column) {
    size_t correct = 0;
    size_t wins = 0;
    double kl_sum = 0;
    double top1 = 0;
    std::vector<double> kls;
    for (size_t i = 0; i < results.size(); ++i) {
      const Result& r = results[i][column];
      correct += r.correct ? 1 : 0;
      kls.push_back(r.distance.kl_first);
      kl_sum += r.distance.kl_first;
      top1 += r.distance.top1;
      if (reuse_column < results[i].size()) {
        wins += r.distance.kl_first < results[i][reuse_column].distance.kl_first ? 1 : 0;
      }
      const ordered_json line = {{"bench", "answers"},
                                 {"question", bench.ids()[i]},
                                 {"policy", r.policy},
                                 {"correct", r.correct},
                                 {"answer", r.answer},
                                 {"kl", r.distance.kl_first},
                                 {"kl_mean", r.distance.kl_mean},
                                 {"top1", r.distance.top1},
                                 {"ttft_ms", r.ttft_ms}};
      json_file << line.dump(-1, ' ', false, ordered_json::error_handler_t::replace) << "\n";
    }
    const auto n = static_cast<double>(results.size());
    const ordered_json line = {
        {"bench", "answers"},      {"policy", results.front()[column].policy},
        {"asked", results.size()}, {"correct", correct},
        {"kl", kl_sum / n},        {"kl_median", median(kls)},
        {"top1", top1 / n},        {"kl_wins", static_cast<double>(wins) / n},
        {"seed", options.seed}};
    json_file << line.dump() << "\n";
    std::cout << std::left << std::setw(12) << results.front()[column].policy << std::right
              << std::setw(3) << correct << " of " << std::setw(3) << results.size() << std::fixed
              << std::setprecision(4) << std::setw(12) << kl_sum / n << std::setw(12) << median(kls)
              << std::setprecision(3) << std::setw(8) << top1 / n << std::setw(10)
              << static_cast<double>(wins) / n << "\n";
  }
}

int fail(const Status& status) {
  std::cerr << "quire-answers: " << status.to_string() << "\n";
  return 1;
}

Status run(const Options& options) {
  QUIRE_ASSIGN_OR_RETURN(const auto groups, read_questions(options.questions_path));
  LlamaOptions engine_options;
  engine_options.model_path = options.model_path;
  engine_options.n_ctx = 2 * options.context_tokens + 1024;
  engine_options.n_threads = options.threads;
  QUIRE_ASSIGN_OR_RETURN(const auto engine, LlamaEngine::open(engine_options));
  const auto source = make_memory_source();
  SessionOptions session_options;
  session_options.codec = kChunkCodec;
  session_options.answer_tokens_max = options.answer_tokens_max;
  QUIRE_ASSIGN_OR_RETURN(LlamaSession session,
                         LlamaSession::make(*engine, *source, session_options));
  Bench bench(*engine, *source, session, options);
  QUIRE_RETURN_IF_ERROR(bench.run(groups));
  report(bench, options);
  return Status::ok();
}

}  // namespace

}  // namespace quire::answers

int main(int argc, char** argv) {
  using namespace quire::answers;
  Options options;
  CLI::App app("Answers right and KL to full prefill, by row policy.", "quire-answers");
  app.add_option("--model", options.model_path, "GGUF model file")->required();
  app.add_option("--questions", options.questions_path, "questions.json")->required();
  app.add_option("--documents", options.documents, "Folder of the documents")
      ->capture_default_str();
  app.add_option("--policies", options.policies, "Policies beside full")->delimiter(',');
  app.add_option("--context-tokens", options.context_tokens, "Tokens of documents in a prompt")
      ->capture_default_str();
  app.add_option("--chunk-tokens", options.chunk_tokens, "Tokens of a chunk")
      ->capture_default_str();
  app.add_option("--max-tokens", options.answer_tokens_max, "Tokens of an answer")
      ->capture_default_str();
  app.add_option("--seed", options.seed, "Choice and order of chunks")->capture_default_str();
  app.add_option("--threads", options.threads, "Threads of the engine (0: at most 2)")
      ->capture_default_str();
  app.add_option("--groups", options.groups_max, "Only so many groups of questions (0: all)")
      ->capture_default_str();
  app.add_option("--neighbours", options.neighbours,
                 "Also store each chunk behind so many others of its document (0: none)")
      ->check(CLI::Range(0u, kNeighboursMax))
      ->capture_default_str();
  app.add_option("--json", options.json_path, "Write JSON lines here");
  CLI11_PARSE(app, argc, argv);
  const quire::Status status = run(options);
  return status.is_ok() ? 0 : fail(status);
}
