#include "tools/quire-warm/report.h"

#include <cmath>
#include <iomanip>
#include <nlohmann/json.hpp>

namespace quire::warm {

uint64_t estimated_seconds(const RunReport& report) {
  if (report.tokens_per_second <= 0) return 0;
  auto tokens = static_cast<double>(report.summary.tokens);
  if (report.settings.neighbours > 0)
    tokens *= 1 + double{kGroupLeads} / group_members(report.settings.neighbours);
  return static_cast<uint64_t>(std::ceil(tokens / report.tokens_per_second));
}

namespace {

// Codecs of variable size say what they take when they have encoded.
bool bytes_are_bound(const RunReport& report) {
  return report.dry_run && report.variable_size;
}

}  // namespace

void print_table(const RunReport& report, std::ostream& out) {
  const WarmSummary& s = report.summary;
  const auto row = [&](const char* name, const std::string& value) {
    out << std::left << std::setw(16) << name << value << '\n';
  };
  row("model", report.settings.model_name);
  row("variant", report.settings.variant + ", " + report.settings.codec + ", prefix of " +
                     std::to_string(report.settings.prefix_tokens) + " tokens");
  if (report.settings.neighbours > 0) {
    std::string neighbours =
        format_count(report.settings.neighbours) + " in front of a chunk, in the mean";
    if (!report.dry_run)
      neighbours += " (" + format_count(s.lead_tokens_computed) + " tokens computed for them, " +
                    format_count(s.chunks_stale) + " chunks had lost theirs)";
    row("neighbours", neighbours);
  }
  if (report.statistics) row("statistics", "stored beside each chunk");
  if (!report.settings.scope.empty()) row("scope", report.settings.scope);
  row("files", format_count(s.files) + " (" + format_count(s.files_failed) + " failed, " +
                   format_count(s.files_skipped) + " of other kinds skipped)");
  row("documents", format_count(s.documents) + " (" + format_count(s.documents_empty) + " empty)");
  std::string chunks = format_count(s.chunks);
  if (!report.dry_run)
    chunks += " (" + format_count(s.chunks_stored) + " stored, " +
              format_count(s.chunks_already_stored) + " there already, " +
              format_count(s.chunks_failed) + " failed)";
  if (s.chunks_too_short > 0)
    chunks += ", " + format_count(s.chunks_too_short) + " too short to store";
  row("chunks", chunks);
  row("tokens", format_count(s.tokens) +
                    (report.dry_run ? "" : " (" + format_count(s.tokens_computed) + " computed)"));
  row("bytes", (bytes_are_bound(report) ? "at most " : "") + format_bytes(s.bytes) +
                   (report.dry_run ? "" : " (" + format_bytes(s.bytes_stored) + " stored now)"));
  if (report.tokens_per_second > 0) {
    char rate[32];
    std::snprintf(rate, sizeof(rate), "%.1f tokens/s", report.tokens_per_second);
    row("speed", rate);
  }
  if (report.dry_run && report.tokens_per_second > 0)
    row("estimated time", format_seconds(estimated_seconds(report)));
  if (!report.dry_run) row("time", format_seconds((report.wall_us + 500'000) / 1'000'000));
  if (!report.manifest_path.empty()) row("manifest", report.manifest_path);
  if (report.interrupted)
    out << "interrupted: what is stored stays; the same command goes on from here\n";
}

void print_json(const RunReport& report, std::ostream& out) {
  const WarmSummary& s = report.summary;
  nlohmann::ordered_json json{
      {"dry_run", report.dry_run},
      {"interrupted", report.interrupted},
      {"model", report.settings.model.to_hex()},
      {"model_name", report.settings.model_name},
      {"variant", report.settings.variant},
      {"codec", report.settings.codec},
      {"context_reference", report.settings.context_reference.to_hex()},
      {"prefix_tokens", report.settings.prefix_tokens},
      {"chunk_tokens", report.settings.chunk_tokens},
      {"overlap_tokens", report.settings.overlap_tokens},
      {"files", s.files},
      {"files_failed", s.files_failed},
      {"files_skipped", s.files_skipped},
      {"documents", s.documents},
      {"documents_empty", s.documents_empty},
      {"chunks", s.chunks},
      {"chunks_stored", s.chunks_stored},
      {"chunks_already_stored", s.chunks_already_stored},
      {"chunks_too_short", s.chunks_too_short},
      {"chunks_failed", s.chunks_failed},
      {"tokens", s.tokens},
      {"tokens_computed", s.tokens_computed},
      {"bytes", s.bytes},
      {"bytes_stored", s.bytes_stored},
      {"bytes_exact", !bytes_are_bound(report)},
      {"neighbours", report.settings.neighbours},
      {"scope", report.settings.scope},
      {"statistics", report.statistics},
      {"lead_tokens_computed", s.lead_tokens_computed},
      {"chunks_stale", s.chunks_stale},
      {"compute_ms", s.compute_us / 1000},
      {"tokens_per_second", report.tokens_per_second},
      {"wall_ms", report.wall_us / 1000},
  };
  if (report.dry_run) json["estimated_seconds"] = estimated_seconds(report);
  if (!report.manifest_path.empty()) json["manifest"] = report.manifest_path;
  out << json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << '\n';
}

}  // namespace quire::warm
