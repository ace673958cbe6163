#include "tools/quirectl/offline/segment_output.h"

#include <algorithm>
#include <cstdio>

#include "tools/quirectl/format.h"

namespace quire::ctl {
namespace {

using Json = nlohmann::ordered_json;

std::string hex_u64(uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(value));
  return text;
}

const char* state_of(const nvme::SegmentContents& contents) {
  if (!contents.error.is_ok()) return "unreadable";
  if (contents.generation == 0) return "free";
  return contents.has_footer ? "sealed" : "open";
}

std::string place(const Damage& damage) {
  if (!damage.segment) return "offset " + std::to_string(damage.offset) + " of the file";
  return "segment " + std::to_string(*damage.segment) + " offset " + std::to_string(damage.offset);
}

}  // namespace

std::string hash_text(const Hash128& hash) {
  return hex_u64(hash.high) + hex_u64(hash.low);
}

std::string uuid_text(const nvme::StoreUuid& uuid) {
  return to_hex(std::string_view(reinterpret_cast<const char*>(uuid.data()), sizeof(uuid)));
}

Json file_json(const SegmentFile& file) {
  const nvme::Superblock& superblock = file.superblock();
  Json json;
  json["path"] = file.path();
  json["uuid"] = uuid_text(superblock.uuid);
  json["format_version"] = superblock.version;
  json["epoch"] = superblock.epoch;
  json["segment_bytes"] = superblock.segment_bytes;
  json["segment_count"] = superblock.segment_count;
  json["created_wall_ms"] = superblock.created_ms;
  json["file_bytes"] = file.file_bytes();
  return json;
}

std::string file_text(const SegmentFile& file) {
  const nvme::Superblock& superblock = file.superblock();
  return file.path() + ": version " + std::to_string(superblock.version) + ", " +
         std::to_string(superblock.segment_count) + " segments of " +
         format_bytes(superblock.segment_bytes) + ", epoch " + std::to_string(superblock.epoch) +
         "\n";
}

Json rows_json(const std::vector<SegmentRow>& rows) {
  Json list = Json::array();
  for (const SegmentRow& row : rows)
    list.push_back(Json::object({{"segment", row.segment},
                                 {"state", row.state},
                                 {"generation", row.generation},
                                 {"objects", row.objects},
                                 {"bytes", row.bytes},
                                 {"live_objects", row.live_objects},
                                 {"live_bytes", row.live_bytes}}));
  return list;
}

std::string rows_text(const std::vector<SegmentRow>& rows) {
  Table table({">SEGMENT", "STATE", "GENERATION", ">OBJECTS", ">BYTES", ">LIVE", ">LIVE BYTES"});
  for (const SegmentRow& row : rows)
    table.add({std::to_string(row.segment), row.state,
               row.generation == 0 ? "-" : hex_u64(row.generation), std::to_string(row.objects),
               format_mib(row.bytes), std::to_string(row.live_objects),
               format_mib(row.live_bytes)});
  return table.text();
}

Json contents_json(uint32_t segment, const nvme::SegmentContents& contents) {
  Json json;
  json["segment"] = segment;
  json["state"] = state_of(contents);
  json["generation"] = contents.generation;
  json["footer"] = contents.has_footer;
  json["end_offset"] = contents.end_offset;
  json["read_errors"] = contents.read_errors;
  json["objects"] = Json::array();
  for (const nvme::FooterEntry& entry : contents.entries)
    json["objects"].push_back(
        Json::object({{"offset", entry.offset},
                      {"sequence", entry.sequence},
                      {"key", entry.key.to_hex()},
                      {"bytes", entry.payload_bytes},
                      {"xxh3_128", hash_text(entry.checksum)},
                      {"given_up", (entry.flags & nvme::kEntryDamaged) != 0}}));
  return json;
}

std::string contents_text(uint32_t segment, const nvme::SegmentContents& contents) {
  std::string text = "segment " + std::to_string(segment) + ": " + state_of(contents);
  if (!contents.error.is_ok()) return text + ": " + contents.error.message() + "\n";
  if (contents.generation == 0) return text + "\n";
  text += ", generation " + hex_u64(contents.generation) + ", " +
          std::to_string(contents.entries.size()) + " objects, end " +
          std::to_string(contents.end_offset) + "\n";
  Table table({">OFFSET", "SEQUENCE", "KEY", ">BYTES", "XXH3-128", "NOTE"});
  for (const nvme::FooterEntry& entry : contents.entries)
    table.add({std::to_string(entry.offset), hex_u64(entry.sequence), entry.key.to_hex(),
               std::to_string(entry.payload_bytes), hash_text(entry.checksum),
               (entry.flags & nvme::kEntryDamaged) != 0 ? "given up" : ""});
  return text + table.text();
}

Json report_json(const VerifyReport& report) {
  Json json;
  json["segments"] = report.segments;
  json["segments_free"] = report.segments_free;
  json["segments_sealed"] = report.segments_sealed;
  json["segments_open"] = report.segments_open;
  json["objects"] = report.objects;
  json["objects_good"] = report.objects_good;
  json["objects_given_up"] = report.objects_given_up;
  json["payload_bytes"] = report.payload_bytes;
  json["interrupted"] = report.interrupted;
  json["damaged"] = report.certain_damage();
  json["counts"] = Json::object();
  for (size_t i = 0; i < report.damage_counts.size(); ++i)
    if (report.damage_counts[i] != 0)
      json["counts"][damage_name(static_cast<DamageKind>(i))] = report.damage_counts[i];
  json["damage"] = Json::array();
  for (const Damage& damage : report.damage)
    json["damage"].push_back(
        Json::object({{"kind", damage_name(damage.kind)},
                      {"segment", damage.segment ? Json(*damage.segment) : Json(nullptr)},
                      {"offset", damage.offset},
                      {"key", damage.key ? Json(damage.key->to_hex()) : Json(nullptr)},
                      {"what", damage.what}}));
  return json;
}

std::string report_text(const VerifyReport& report) {
  std::string text = std::to_string(report.segments) + " segments (" +
                     std::to_string(report.segments_sealed) + " sealed, " +
                     std::to_string(report.segments_open) + " open, " +
                     std::to_string(report.segments_free) + " free), " +
                     std::to_string(report.objects_good) + " of " + std::to_string(report.objects) +
                     " objects good, " + format_bytes(report.payload_bytes) + " of payload\n";
  if (report.objects_given_up != 0)
    text += std::to_string(report.objects_given_up) +
            " entries were given up by an earlier recovery (cut off by a power failure)\n";
  for (size_t i = 0; i < report.damage_counts.size(); ++i) {
    if (report.damage_counts[i] == 0) continue;
    const auto kind = static_cast<DamageKind>(i);
    text += std::string("\n") + damage_name(kind) + " (" + std::to_string(report.damage_counts[i]) +
            "): " + damage_meaning(kind) + "\n";
    for (const Damage& damage : report.damage)
      if (damage.kind == kind)
        text += "  " + place(damage) + (damage.key ? " key " + damage.key->to_hex() : "") + ": " +
                damage.what + "\n";
  }
  if (report.interrupted) text += "\ninterrupted: the rest was not looked at\n";
  return text;
}

}  // namespace quire::ctl
