// quirectl fsck: the report, and the repair on demand.
#include <filesystem>
#include <iostream>

#include "base/paths.h"
#include "tools/quirectl/commands.h"
#include "tools/quirectl/offline/fsck.h"
#include "tools/quirectl/offline/interrupt.h"
#include "tools/quirectl/offline/offline_commands.h"
#include "tools/quirectl/offline/progress_bar.h"
#include "tools/quirectl/offline/segment_output.h"
#include "tools/quirectl/offline/store_lock.h"

namespace quire::ctl {
namespace {

using Json = nlohmann::ordered_json;

const char* severity_text(Severity severity) {
  return severity == Severity::kDamage ? "damage" : "note";
}

uint64_t changes(const RepairPlan& plan) {
  return plan.put_records.size() + plan.put_tokens.size() + plan.put_models.size() +
         plan.put_tenants.size() + plan.drop_records.size() + plan.drop_blobs.size();
}

Json to_json(const FsckReport& report, const std::string& directory) {
  Json json;
  json["data_directory"] = directory;
  json["metadata_opened"] = report.metadata_opened;
  json["records"] = report.records;
  json["records_good"] = report.records_good;
  json["blobs"] = report.blobs;
  json["tenants"] = report.tenants;
  json["models"] = report.models;
  json["interrupted"] = report.interrupted;
  json["damaged"] = report.damage();
  json["counts"] = Json::object();
  for (size_t i = 0; i < report.counts.size(); ++i)
    if (report.counts[i] != 0)
      json["counts"][finding_text(static_cast<FindingKind>(i)).name] = report.counts[i];
  json["findings"] = Json::array();
  for (const Finding& finding : report.findings)
    json["findings"].push_back(
        Json::object({{"kind", finding_text(finding.kind).name},
                      {"severity", severity_text(finding_text(finding.kind).severity)},
                      {"id", finding.id ? Json(finding.id->to_hex()) : Json(nullptr)},
                      {"what", finding.what}}));
  json["files"] = Json::array();
  for (const auto& [path, verified] : report.files)
    json["files"].push_back(Json::object({{"path", path}, {"report", report_json(verified)}}));
  const RepairPlan& plan = report.plan;
  json["repair"] = Json::object({{"rebuild_records", plan.put_records.size()},
                                 {"rebuild_tokens", plan.put_tokens.size()},
                                 {"restore_tenants", plan.put_tenants.size()},
                                 {"restore_models", plan.put_models.size()},
                                 {"drop_records", plan.drop_records.size()},
                                 {"drop_blobs", plan.drop_blobs.size()}});
  return json;
}

void print_text(const FsckReport& report, const std::string& directory) {
  constexpr size_t kShownOfAKind = 10;
  std::cout << directory << ": " << report.records_good << " of " << report.records
            << " records good, " << report.blobs << " small objects, " << report.tenants
            << " tenants, " << report.models << " models\n";
  for (const auto& [path, verified] : report.files)
    std::cout << "\n" << path << "\n" << report_text(verified);
  for (const Severity severity : {Severity::kDamage, Severity::kNote}) {
    for (size_t i = 0; i < report.counts.size(); ++i) {
      const auto kind = static_cast<FindingKind>(i);
      const FindingText& text = finding_text(kind);
      if (report.counts[i] == 0 || text.severity != severity) continue;
      std::cout << "\n"
                << (severity == Severity::kDamage ? "" : "note: ") << text.name << " ("
                << report.counts[i] << "): " << text.meaning << "\n";
      size_t shown = 0;
      for (const Finding& finding : report.findings) {
        if (finding.kind != kind || shown++ >= kShownOfAKind) continue;
        std::cout << "  " << (finding.id ? finding.id->to_hex() : "")
                  << (finding.id && !finding.what.empty() ? ": " : "") << finding.what << "\n";
      }
      if (report.counts[i] > kShownOfAKind) std::cout << "  ... all of them: -o json\n";
    }
  }
  if (report.interrupted) std::cout << "\ninterrupted: the rest was not looked at\n";
}

FsckReport check(const FsckInput& input) {
  ProgressBar bar("checking");
  return check_store(input, [&](const std::string& step, uint64_t done, uint64_t all) {
    bar.rename(step);
    return bar.update(done, all, 0);
  });
}

void print_outcome(const FsckReport& report, bool repaired) {
  const RepairPlan& plan = report.plan;
  if (repaired) {
    std::cout << "\nrepaired: " << plan.put_records.size() << " records and "
              << plan.put_tokens.size() << " texts rebuilt, "
              << plan.put_tenants.size() + plan.put_models.size()
              << " tenants and models restored, " << plan.drop_records.size() << " records and "
              << plan.drop_blobs.size() << " small objects dropped\n";
  } else if (!plan.empty()) {
    std::cout << "\n" << changes(plan) << " changes would repair this: --repair makes them\n";
  } else if (report.damage() == 0 && !report.interrupted) {
    std::cout << "\nno damage\n";
  }
}

}  // namespace

Expected<int> run_fsck(const OfflineOptions& options) {
  const std::string directory =
      options.data_directory.empty() ? default_data_directory() : options.data_directory;
  FsckInput input;
  input.data_directory = directory;
  input.segment_files = segment_files(directory, options.nvme_paths);
  input.order_is_known = !options.nvme_paths.empty() || input.segment_files.size() == 1;
  QUIRE_ASSIGN_OR_RETURN(const StoreLock server_lock, StoreLock::acquire(directory));
  std::error_code error;
  if (!std::filesystem::exists(directory + "/meta", error) && input.segment_files.empty())
    return Status(StatusCode::kNotFound, "there is no store in " + directory);
  catch_interrupts();
  FsckReport report;
  {
    QUIRE_ASSIGN_OR_RETURN(const StoreLock metadata_lock, StoreLock::acquire_metadata(directory));
    report = check(input);
  }
  const bool repair = options.repair && !report.plan.empty() && !interrupted();
  if (!options.json) print_text(report, directory);
  if (repair) QUIRE_RETURN_IF_ERROR(apply_repair(directory, report.plan));
  uint64_t damage_left = report.damage();
  Json json = to_json(report, directory);
  if (repair) {
    // What is still wrong, the same way: a repair that did not help would show.
    QUIRE_ASSIGN_OR_RETURN(const StoreLock metadata_lock, StoreLock::acquire_metadata(directory));
    const FsckReport after = check(input);
    damage_left = after.damage();
    json["damaged_after_repair"] = after.interrupted ? Json(nullptr) : Json(damage_left);
  }
  json["repaired"] = repair;
  if (options.json) {
    constexpr int kJsonIndent = 2;
    std::cout << json.dump(kJsonIndent, ' ', false, Json::error_handler_t::replace) << "\n";
  } else {
    print_outcome(report, repair);
    if (repair && damage_left != 0)
      std::cout << damage_left << " findings of damage remain that no repair can undo\n";
  }
  if (damage_left != 0) return int{kExitDamage};
  return report.interrupted ? int{kExitInterrupted} : int{kExitOk};
}

}  // namespace quire::ctl
