#include "bench/codec/handbook_prompts.h"

#include <algorithm>
#include <random>

#include "client/llama/prompt.h"

namespace quire::bench {
namespace {

using answers::Corpus;
using answers::Group;
using answers::Question;
using answers::TextChunk;

// The chunks of one context, the last of them with text behind it.
struct Context {
  std::vector<const TextChunk*> chunks;
  std::vector<TokenId> continuation;
};

Expected<Context> choose_chunks(Corpus& corpus, std::span<const Question> questions,
                                const HandbookPromptOptions& options, std::mt19937& random) {
  Context context;
  std::vector<const TextChunk*> others;
  std::vector<std::pair<const TextChunk*, const TextChunk*>> pairs;  // a chunk and what follows it
  size_t tokens = 0;
  const auto choose = [&](const TextChunk* chunk) {
    if (std::find(context.chunks.begin(), context.chunks.end(), chunk) != context.chunks.end())
      return;
    context.chunks.push_back(chunk);
    tokens += chunk->tokens.size();
  };
  for (const Question& question : questions) {
    QUIRE_ASSIGN_OR_RETURN(const TextChunk* evidence, corpus.find_evidence(question));
    choose(evidence);
    QUIRE_ASSIGN_OR_RETURN(const auto* chunks, corpus.chunks(question.document));
    for (size_t i = 0; i < chunks->size(); ++i) {
      others.push_back(&(*chunks)[i]);
      if (i + 1 < chunks->size() && (*chunks)[i + 1].tokens.size() >= options.continuation_tokens)
        pairs.emplace_back(&(*chunks)[i], &(*chunks)[i + 1]);
    }
  }
  std::shuffle(others.begin(), others.end(), random);
  std::shuffle(pairs.begin(), pairs.end(), random);
  const auto is_chosen = [&](const TextChunk* chunk) {
    return std::find(context.chunks.begin(), context.chunks.end(), chunk) != context.chunks.end();
  };
  // Neither half of the pair is anywhere else in the context.
  const auto pair = std::find_if(pairs.begin(), pairs.end(), [&](const auto& candidate) {
    return !is_chosen(candidate.first) && !is_chosen(candidate.second);
  });
  if (pair == pairs.end())
    return Status(StatusCode::kNotFound, "no text that goes on; take smaller chunks");
  tokens += pair->first->tokens.size();
  for (const TextChunk* chunk : others)
    if (chunk != pair->first && chunk != pair->second &&
        tokens + chunk->tokens.size() <= options.context_tokens)
      choose(chunk);
  std::shuffle(context.chunks.begin(), context.chunks.end(), random);
  context.chunks.push_back(pair->first);
  const std::vector<TokenId>& next = pair->second->tokens;
  context.continuation.assign(next.begin(), next.begin() + options.continuation_tokens);
  return context;
}

Expected<KlPrompt> make_prompt(const LlamaEngine& engine, Corpus& corpus, std::string name,
                               std::span<const Question> questions,
                               const HandbookPromptOptions& options, std::mt19937& random) {
  KlPrompt prompt;
  prompt.name = std::move(name);
  QUIRE_ASSIGN_OR_RETURN(prompt.context, prompt_system_prefix(engine));
  QUIRE_ASSIGN_OR_RETURN(const Context context, choose_chunks(corpus, questions, options, random));
  for (const TextChunk* chunk : context.chunks)
    prompt.context.insert(prompt.context.end(), chunk->tokens.begin(), chunk->tokens.end());
  prompt.continuation = context.continuation;
  for (const Question& question :
       questions.first(std::min<size_t>(questions.size(), options.questions_per_prompt))) {
    QUIRE_ASSIGN_OR_RETURN(std::vector<TokenId> tokens,
                           prompt_question_suffix(engine, question.text));
    QUIRE_ASSIGN_OR_RETURN(const auto opening, prompt_chunk(engine, question.opening));
    tokens.insert(tokens.end(), opening.begin(), opening.end());
    prompt.questions.push_back(std::move(tokens));
  }
  return prompt;
}

}  // namespace

Expected<std::vector<KlPrompt>> handbook_prompts(const LlamaEngine& engine,
                                                 const HandbookPromptOptions& options) {
  QUIRE_ASSIGN_OR_RETURN(const std::vector<Group> groups,
                         answers::read_questions(options.questions_path));
  Corpus corpus(engine, options.documents, options.chunk_tokens);
  std::mt19937 random(options.seed);
  const size_t per_prompt = std::max(options.questions_per_prompt, 1u);
  std::vector<KlPrompt> prompts;
  // One prompt of every group, then the next of every group.
  for (size_t turn = 0; prompts.size() < options.prompts_max; ++turn) {
    bool any = false;
    for (const Group& group : groups) {
      const size_t begin = turn * per_prompt;
      if (begin >= group.questions.size() || prompts.size() >= options.prompts_max) continue;
      const size_t count = std::min(per_prompt, group.questions.size() - begin);
      any = true;
      QUIRE_ASSIGN_OR_RETURN(
          KlPrompt prompt,
          make_prompt(engine, corpus, group.name + " " + std::to_string(turn + 1),
                      std::span(group.questions).subspan(begin, count), options, random));
      prompts.push_back(std::move(prompt));
    }
    if (!any) break;
  }
  return prompts;
}

}  // namespace quire::bench
