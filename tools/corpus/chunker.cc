#include "tools/corpus/chunker.h"

#include <algorithm>
#include <cctype>

#include "base/hash.h"
#include "tools/corpus/encoding.h"

namespace quire::corpus {
namespace {

// First guess of a chunk's size; the search doubles or halves from there.
constexpr uint64_t kBytesPerTokenGuess = 4;

bool is_space(char c) {
  return c == ' ' || c == '\n' || c == '\t' || c == '\f' || c == '\v';
}

// Cut positions are ends of trailing white space: the next piece begins with its first word.
bool is_word_end(std::string_view text, uint64_t at) {
  return at > 0 && at < text.size() && is_space(text[at - 1]) && !is_space(text[at]);
}

// Behind ". ", "! ", "? " (closing quotes and brackets allowed between) or a full-width stop.
bool is_sentence_end(std::string_view text, uint64_t at) {
  for (std::string_view stop : {"\xE3\x80\x82", "\xEF\xBC\x81", "\xEF\xBC\x9F"})
    if (text.substr(0, at).ends_with(stop)) return true;
  if (!is_word_end(text, at)) return false;
  uint64_t last = at;
  while (last > 0 && is_space(text[last - 1])) --last;
  while (last > 0 && (text[last - 1] == '"' || text[last - 1] == '\'' || text[last - 1] == ')' ||
                      text[last - 1] == ']'))
    --last;
  return last > 0 && (text[last - 1] == '.' || text[last - 1] == '!' || text[last - 1] == '?');
}

class Cutter {
 public:
  Cutter(const Document& document, const ChunkOptions& options, const TokenCounter& count)
      : document_(document),
        text_(document.text),
        options_(options),
        min_tokens_(options.min_tokens_or_default()),
        count_(count) {}

  std::vector<Chunk> cut() {
    std::vector<Chunk> chunks;
    for (uint64_t begin = 0; begin < text_.size();) {
      const uint64_t end = next_cut(begin);
      Chunk chunk;
      chunk.index = chunks.size();
      chunk.begin = begin;
      chunk.end = end;
      chunk.text_begin = chunks.empty() ? begin : overlap_begin(chunks.back().begin, begin);
      const std::string_view text = text_.substr(chunk.text_begin, end - chunk.text_begin);
      chunk.tokens = count_(text);
      chunk.id = chunk_id(document_.id, text);
      chunks.push_back(std::move(chunk));
      begin = end;
    }
    return chunks;
  }

 private:
  uint64_t count(uint64_t begin, uint64_t end) const {
    return count_(text_.substr(begin, end - begin));
  }

  uint64_t code_point_at_or_before(uint64_t at) const {
    while (!is_code_point_start(text_, at)) --at;
    return at;
  }
  uint64_t next_code_point(uint64_t at) const {
    ++at;
    while (!is_code_point_start(text_, at)) ++at;
    return std::min<uint64_t>(at, text_.size());
  }

  // The largest end found by search for which [begin, end) fits the target; at least one code
  // point.
  uint64_t fit(uint64_t begin) const {
    uint64_t good = next_code_point(begin);
    uint64_t bad = 0;
    for (uint64_t step = options_.target_tokens * kBytesPerTokenGuess; bad == 0; step *= 2) {
      const uint64_t end = step >= text_.size() - begin
                               ? text_.size()
                               : std::max(good, code_point_at_or_before(begin + step));
      if (count(begin, end) > options_.target_tokens) {
        bad = end;
      } else {
        good = end;
        if (end == text_.size()) return end;
      }
    }
    while (next_code_point(good) < bad) {
      uint64_t middle = code_point_at_or_before(good + (bad - good) / 2);
      if (middle <= good) middle = next_code_point(good);
      (count(begin, middle) > options_.target_tokens ? bad : good) = middle;
    }
    return good;
  }

  // True where the text from `at` on has the minimum; reads no more of it than needed.
  bool tail_is_enough(uint64_t at) const {
    for (uint64_t step = min_tokens_ * kBytesPerTokenGuess;; step *= 2) {
      const bool whole = step >= text_.size() - at;
      const uint64_t end = whole ? text_.size() : code_point_at_or_before(at + step);
      if (count(at, end) >= min_tokens_) return true;
      if (whole) return false;
    }
  }

  enum class Verdict { kTake, kSkip, kTooShort };
  Verdict judge(uint64_t begin, uint64_t at) const {
    const uint64_t tokens = count(begin, at);
    if (tokens < min_tokens_) return Verdict::kTooShort;
    if (tokens > options_.target_tokens || !tail_is_enough(at)) return Verdict::kSkip;
    return Verdict::kTake;
  }

  // The last position in (begin, limit] that is_candidate likes and judge() takes; 0 where none is.
  template <typename Predicate>
  uint64_t last_candidate(uint64_t begin, uint64_t limit, const Predicate& is_candidate) const {
    for (uint64_t at = limit; at > begin; --at) {
      if (!is_code_point_start(text_, at) || !is_candidate(at)) continue;
      const Verdict verdict = judge(begin, at);
      if (verdict == Verdict::kTake) return at;
      if (verdict == Verdict::kTooShort) return 0;
    }
    return 0;
  }

  uint64_t last_paragraph_end(uint64_t begin, uint64_t limit) const {
    const auto& all = document_.paragraphs;
    auto after = std::upper_bound(all.begin(), all.end(), limit,
                                  [](uint64_t at, const Paragraph& p) { return at < p.end; });
    while (after != all.begin()) {
      const Paragraph& paragraph = *--after;
      if (paragraph.end <= begin) return 0;
      if (paragraph.heading) continue;
      const Verdict verdict = judge(begin, paragraph.end);
      if (verdict == Verdict::kTake) return paragraph.end;
      if (verdict == Verdict::kTooShort) return 0;
    }
    return 0;
  }

  uint64_t next_cut(uint64_t begin) const {
    const uint64_t limit = fit(begin);
    if (limit == text_.size()) return limit;
    if (const uint64_t at = last_paragraph_end(begin, limit)) return at;
    if (const uint64_t at = last_candidate(
            begin, limit, [&](uint64_t where) { return is_sentence_end(text_, where); }))
      return at;
    if (const uint64_t at =
            last_candidate(begin, limit, [&](uint64_t where) { return text_[where - 1] == '\n'; }))
      return at;
    if (const uint64_t at =
            last_candidate(begin, limit, [&](uint64_t where) { return is_word_end(text_, where); }))
      return at;
    if (const uint64_t at = last_candidate(begin, limit, [](uint64_t) { return true; })) return at;
    return limit;
  }

  // The first word start of the chunk before from which at most overlap_tokens lie before `begin`.
  uint64_t overlap_begin(uint64_t previous_begin, uint64_t begin) const {
    uint64_t best = begin;
    if (options_.overlap_tokens == 0) return best;
    for (uint64_t at = begin; at > previous_begin;) {
      --at;
      if (at != previous_begin && !is_word_end(text_, at)) continue;
      if (count(at, begin) > options_.overlap_tokens) break;
      best = at;
    }
    return best;
  }

  const Document& document_;
  std::string_view text_;
  const ChunkOptions& options_;
  uint32_t min_tokens_;
  const TokenCounter& count_;
};

Status bad_option(std::string why) {
  return Status(StatusCode::kInvalidArgument, std::move(why));
}

}  // namespace

Status ChunkOptions::validate() const {
  if (target_tokens < kTargetTokensMin || target_tokens > kTargetTokensMax)
    return bad_option("chunk tokens must be between " + std::to_string(kTargetTokensMin) + " and " +
                      std::to_string(kTargetTokensMax));
  if (min_tokens > target_tokens / 2)
    return bad_option("the minimum of tokens of a chunk must be at most half of its target");
  if (overlap_tokens > target_tokens / 2)
    return bad_option("the overlap must be at most half of the chunk tokens");
  return Status::ok();
}

std::string chunk_id(std::string_view document_id, std::string_view chunk_text) {
  Sha256 hash;
  hash.update("quire.chunk.v1");
  hash.update_value(static_cast<uint64_t>(document_id.size()));
  hash.update(document_id);
  hash.update(chunk_text);
  return hash.digest().to_hex().substr(0, 16);
}

Expected<std::vector<Chunk>> chunk_document(const Document& document, const ChunkOptions& options,
                                            const TokenCounter& count_tokens) {
  QUIRE_RETURN_IF_ERROR(options.validate());
  if (document.paragraphs.empty()) return std::vector<Chunk>{};
  return Cutter(document, options, count_tokens).cut();
}

}  // namespace quire::corpus
