// quirectl seg ls, dump, verify.
#include <iostream>
#include <memory>
#include <unordered_map>

#include "base/paths.h"
#include "tools/quirectl/commands.h"
#include "tools/quirectl/offline/interrupt.h"
#include "tools/quirectl/offline/offline_commands.h"
#include "tools/quirectl/offline/progress_bar.h"
#include "tools/quirectl/offline/segment_output.h"
#include "tools/quirectl/offline/store_lock.h"

namespace quire::ctl {
namespace {

using Json = nlohmann::ordered_json;

void print_json(const Json& json) {
  constexpr int kJsonIndent = 2;
  std::cout << json.dump(kJsonIndent, ' ', false, Json::error_handler_t::replace) << "\n";
}

// The files and, where they are those of a data directory, its lock.
struct Store {
  std::optional<StoreLock> lock;
  std::vector<std::string> paths;
};

Expected<Store> find_store(const OfflineOptions& options) {
  Store store;
  const std::string directory =
      options.data_directory.empty() ? default_data_directory() : options.data_directory;
  if (options.nvme_paths.empty() || !options.data_directory.empty()) {
    auto lock = StoreLock::acquire(directory);
    if (!lock) return lock.status();
    store.lock.emplace(std::move(*lock));
  }
  store.paths = segment_files(directory, options.nvme_paths);
  if (store.paths.empty())
    return Status(StatusCode::kNotFound, "there is no segment file (nvme*.quire) in " + directory +
                                             ": give --nvme FILE, or another --data DIR");
  return store;
}

// Of all files: the sequence of the newest copy of each key.
using Newest = std::unordered_map<Digest, uint64_t, DigestHasher>;

void note_newest(const nvme::SegmentContents& contents, Newest& newest) {
  for (const nvme::FooterEntry& entry : contents.entries) {
    uint64_t& sequence = newest[entry.key];
    sequence = std::max(sequence, entry.sequence);
  }
}

SegmentRow row_of(uint32_t segment, const nvme::SegmentContents& contents, const Newest& newest) {
  SegmentRow row;
  row.segment = segment;
  row.generation = contents.generation;
  row.state = !contents.error.is_ok()    ? "unreadable"
              : contents.generation == 0 ? "free"
              : contents.has_footer      ? "sealed"
                                         : "open";
  for (const nvme::FooterEntry& entry : contents.entries) {
    if ((entry.flags & nvme::kEntryDamaged) != 0) continue;
    ++row.objects;
    row.bytes += nvme::object_bytes(entry.payload_bytes);
    if (newest.at(entry.key) != entry.sequence) continue;
    ++row.live_objects;
    row.live_bytes += nvme::object_bytes(entry.payload_bytes);
  }
  return row;
}

}  // namespace

Expected<int> run_seg_ls(const OfflineOptions& options) {
  QUIRE_ASSIGN_OR_RETURN(const Store store, find_store(options));
  catch_interrupts();
  std::vector<std::unique_ptr<SegmentFile>> files;
  std::vector<std::vector<nvme::SegmentContents>> contents;
  Newest newest;
  for (const std::string& path : store.paths) {
    QUIRE_ASSIGN_OR_RETURN(std::unique_ptr<SegmentFile> file, SegmentFile::open(path));
    ProgressBar bar("scanning");
    std::vector<nvme::SegmentContents>& found = contents.emplace_back();
    for (uint32_t segment = 0; segment < file->segments_present(); ++segment) {
      found.push_back(file->scan(segment));
      note_newest(found.back(), newest);
      if (!bar.update(segment, file->segments_present(), 0)) return int{kExitInterrupted};
    }
    files.push_back(std::move(file));
  }
  Json json = Json::object({{"files", Json::array()}});
  for (size_t i = 0; i < files.size(); ++i) {
    std::vector<SegmentRow> rows;
    for (uint32_t segment = 0; segment < contents[i].size(); ++segment)
      rows.push_back(row_of(segment, contents[i][segment], newest));
    if (options.json) {
      Json entry = file_json(*files[i]);
      entry["segments"] = rows_json(rows);
      json["files"].push_back(std::move(entry));
    } else {
      std::cout << (i == 0 ? "" : "\n") << file_text(*files[i]) << rows_text(rows);
    }
  }
  if (options.json) print_json(json);
  return int{kExitOk};
}

Expected<int> run_seg_dump(const OfflineOptions& options) {
  QUIRE_ASSIGN_OR_RETURN(const Store store, find_store(options));
  catch_interrupts();
  Json json = Json::object({{"files", Json::array()}});
  for (const std::string& path : store.paths) {
    QUIRE_ASSIGN_OR_RETURN(const std::unique_ptr<SegmentFile> file, SegmentFile::open(path));
    const uint32_t count = file->segments_present();
    if (options.segment && *options.segment >= count)
      return Status(StatusCode::kInvalidArgument,
                    path + " has segments 0 to " + std::to_string(count - 1));
    Json entry = file_json(*file);
    entry["segments"] = Json::array();
    if (!options.json) std::cout << file_text(*file);
    const uint32_t begin = options.segment.value_or(0);
    const uint32_t end = options.segment ? begin + 1 : count;
    for (uint32_t segment = begin; segment < end; ++segment) {
      if (interrupted()) return int{kExitInterrupted};
      const nvme::SegmentContents contents = file->scan(segment);
      const bool shown = options.segment || contents.generation != 0 || !contents.error.is_ok();
      if (options.json && shown) entry["segments"].push_back(contents_json(segment, contents));
      if (!options.json && shown) std::cout << contents_text(segment, contents);
    }
    json["files"].push_back(std::move(entry));
  }
  if (options.json) print_json(json);
  return int{kExitOk};
}

Expected<int> run_seg_verify(const OfflineOptions& options) {
  QUIRE_ASSIGN_OR_RETURN(const Store store, find_store(options));
  catch_interrupts();
  Json json = Json::object({{"files", Json::array()}});
  bool damaged = false;
  bool stopped = false;
  for (const std::string& path : store.paths) {
    VerifyReport report;
    auto file = SegmentFile::open(path);
    if (file) {
      ProgressBar bar("verifying");
      verify_segments(**file, report, [&](uint64_t done, uint64_t all, uint64_t bytes) {
        return bar.update(done, all, bytes);
      });
    } else {
      QUIRE_ASSIGN_OR_RETURN(report, damage_of_open(file.status()));
    }
    damaged = damaged || report.certain_damage() != 0;
    stopped = stopped || report.interrupted;
    if (options.json) {
      Json entry = file ? file_json(**file) : Json::object({{"path", path}});
      entry["report"] = report_json(report);
      json["files"].push_back(std::move(entry));
    } else {
      std::cout << (file ? file_text(**file) : path + "\n") << report_text(report);
    }
    if (stopped) break;
  }
  if (options.json) print_json(json);
  if (damaged) return int{kExitDamage};
  return stopped ? int{kExitInterrupted} : int{kExitOk};
}

}  // namespace quire::ctl
