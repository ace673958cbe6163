// What is found in segment files, as tables and as JSON (keys are stable: docs/ops/quirectl.md).
#ifndef QUIRE_TOOLS_QUIRECTL_OFFLINE_SEGMENT_OUTPUT_H_
#define QUIRE_TOOLS_QUIRECTL_OFFLINE_SEGMENT_OUTPUT_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/quirectl/offline/segment_file.h"
#include "tools/quirectl/offline/segment_verify.h"

namespace quire::ctl {

struct SegmentRow {
  uint32_t segment = 0;
  std::string state;  // "free", "open", "sealed", "unreadable"
  uint64_t generation = 0;
  uint64_t objects = 0;
  uint64_t bytes = 0;  // objects with their headers and padding
  // Of these the newest copy of its key. Whether it is still wanted, only the metadata knows.
  uint64_t live_objects = 0;
  uint64_t live_bytes = 0;
};

std::string hash_text(const Hash128& hash);  // 32 hexadecimal digits, high half first
std::string uuid_text(const nvme::StoreUuid& uuid);

nlohmann::ordered_json file_json(const SegmentFile& file);
std::string file_text(const SegmentFile& file);
nlohmann::ordered_json rows_json(const std::vector<SegmentRow>& rows);
std::string rows_text(const std::vector<SegmentRow>& rows);
nlohmann::ordered_json contents_json(uint32_t segment, const nvme::SegmentContents& contents);
std::string contents_text(uint32_t segment, const nvme::SegmentContents& contents);
nlohmann::ordered_json report_json(const VerifyReport& report);
std::string report_text(const VerifyReport& report);

}  // namespace quire::ctl

#endif  // QUIRE_TOOLS_QUIRECTL_OFFLINE_SEGMENT_OUTPUT_H_
