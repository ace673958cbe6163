#include "tools/quire-ask/report.h"

#include <algorithm>
#include <fstream>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <sstream>

namespace quire::ask {

namespace {

using nlohmann::ordered_json;

constexpr size_t kNpyAlignment = 64;

std::string milliseconds(uint64_t us) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(us < 10'000 ? 2 : 0) << static_cast<double>(us) / 1000.0
       << " ms";
  return text.str();
}

ordered_json to_json(const PolicyRun& run) {
  const AnswerTimeline& t = run.start.timeline;
  return {{"policy", run.policy},
          {"answer", run.answer},
          {"prompt_tokens", run.prompt_tokens},
          {"prefix_tokens", run.prefix_tokens},
          {"chunk_tokens", run.chunk_tokens},
          {"recomputed_tokens", run.start.rows.size()},
          {"charged_budget", run.start.charged_budget},
          {"question_charge", run.start.question_charge},
          {"lost_representations", run.lost_representations},
          {"lost", run.lost.is_ok() ? "" : run.lost.to_string()},
          {"ttft_ms", run.ttft_ms()},
          {"timeline_us",
           {{"resolve", t.resolve_us},
            {"acquire", t.acquire_us},
            {"load", t.load_us},
            {"question", t.question_us},
            {"recompute", t.recompute_us},
            {"first_token", t.total_us}}}};
}

ordered_json to_json(const StoreSummary& stored) {
  return {{"found", stored.found},
          {"computed", stored.computed},
          {"too_short", stored.too_short},
          {"computed_tokens", stored.computed_tokens},
          {"elapsed_us", stored.elapsed_us}};
}

std::string dump(const ordered_json& json) {
  // A cut-off answer may end inside a code point.
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

void print_lost(std::ostream& out, const PolicyRun& run) {
  if (!run.lost.is_ok())
    out << "stored KV could not be used and was computed instead: " << run.lost.to_string() << "\n";
}

std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

}  // namespace

std::string timeline_text(const AnswerTimeline& t) {
  return "resolve " + milliseconds(t.resolve_us) + "  acquire " + milliseconds(t.acquire_us) +
         "  load " + milliseconds(t.load_us) + "  question " + milliseconds(t.question_us) +
         "  recompute " + milliseconds(t.recompute_us) + "  first token " +
         milliseconds(t.total_us);
}

void print_run(std::ostream& out, const PolicyRun& run) {
  out << run.answer << "\n\n"
      << run.policy << ": " << run.prompt_tokens << " prompt tokens, " << run.prefix_tokens
      << " exact, " << run.chunk_tokens << " reused, " << run.start.rows.size()
      << " of them recomputed\n"
      << timeline_text(run.start.timeline) << "\n";
  print_lost(out, run);
}

std::string run_json(const PolicyRun& run, const StoreSummary& stored,
                     const std::string& question) {
  ordered_json json = to_json(run);
  json["question"] = question;
  json["stored"] = to_json(stored);
  return dump(json);
}

void print_comparison(std::ostream& out, const std::vector<Comparison>& comparisons) {
  out << std::left << std::setw(18) << "policy" << std::right << std::setw(10) << "TTFT ms"
      << std::setw(9) << "speed-up" << std::setw(8) << "rows" << std::setw(11) << "KL first"
      << std::setw(11) << "KL mean" << std::setw(7) << "top-1"
      << "  answer\n";
  for (const Comparison& c : comparisons) {
    out << std::left << std::setw(18) << c.run.policy << std::right << std::fixed
        << std::setprecision(0) << std::setw(10) << c.run.ttft_ms() << std::setprecision(1)
        << std::setw(8) << c.speedup << "x" << std::setw(8) << c.run.start.rows.size()
        << std::setprecision(5) << std::setw(11) << c.distance.kl_first << std::setw(11)
        << c.distance.kl_mean << std::setprecision(2) << std::setw(7) << c.distance.top1 << "  "
        << one_line(c.run.answer) << "\n";
  }
  out << "\n";
  for (const Comparison& c : comparisons) {
    out << std::left << std::setw(18) << c.run.policy << timeline_text(c.run.start.timeline)
        << "\n";
    print_lost(out, c.run);
  }
}

std::string comparison_json(const std::vector<Comparison>& comparisons, const StoreSummary& stored,
                            const std::string& question) {
  ordered_json json = {{"question", question}, {"stored", to_json(stored)}};
  for (const Comparison& c : comparisons) {
    ordered_json entry = to_json(c.run);
    entry["speedup"] = c.speedup;
    entry["kl"] = c.distance.kl_first;
    entry["kl_mean"] = c.distance.kl_mean;
    entry["top1"] = c.distance.top1;
    json["policies"].push_back(std::move(entry));
  }
  return dump(json);
}

Status write_attention(const std::string& path, const LlamaEngine::Attention& attention,
                       uint32_t n_cells) {
  if (attention.values.empty()) {
    return Status(StatusCode::kFailedPrecondition,
                  "no attention was seen: only query policies look at it");
  }
  const uint32_t cells = std::min(n_cells, attention.cells);
  std::ostringstream shape;
  shape << "{'descr': '<f4', 'fortran_order': False, 'shape': (" << attention.layers << ", "
        << attention.heads << ", " << attention.tokens << ", " << cells << "), }";
  std::string header = shape.str();
  const size_t fixed = 10 + header.size() + 1;
  header.append((kNpyAlignment - fixed % kNpyAlignment) % kNpyAlignment, ' ');
  header += '\n';
  std::ofstream out(path, std::ios::binary);
  const auto length = static_cast<uint16_t>(header.size());
  out.write("\x93NUMPY\x01\x00", 8);
  out.write(reinterpret_cast<const char*>(&length), sizeof(length));
  out << header;
  const size_t rows = size_t{attention.layers} * attention.heads * attention.tokens;
  for (size_t row = 0; row < rows; ++row) {
    out.write(reinterpret_cast<const char*>(attention.values.data() + row * attention.cells),
              static_cast<std::streamsize>(cells * sizeof(float)));
  }
  out.flush();
  return out ? Status::ok() : Status(StatusCode::kIoError, "cannot write " + path);
}

}  // namespace quire::ask
