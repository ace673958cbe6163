#include "server/verdict.h"

#include <cmath>

namespace quire::server {
namespace {

constexpr uint16_t kVersion = 1;
constexpr uint64_t kWallMsMax = 1ull << 53;  // what JSON numbers hold exactly

Status invalid(const std::string& what) {
  return {StatusCode::kInvalidArgument, "verdict: " + what};
}

Status check_text(const char* field, const std::string& text, bool may_be_empty) {
  if (text.empty() && !may_be_empty) return invalid(std::string(field) + " must not be empty");
  if (text.size() > kVerdictTextBytesMax)
    return invalid(std::string(field) + " has more than 256 bytes");
  for (const char c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      return invalid(std::string(field) + " holds a control character");
  return Status::ok();
}

void write_text(ByteWriter& writer, const std::string& text) {
  writer.write(static_cast<uint16_t>(text.size()));
  writer.write_text(text);
}

std::string read_text(ByteReader& reader) {
  const ByteSpan bytes = reader.read_bytes(reader.read<uint16_t>());
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

Status Verdict::validate() const {
  QUIRE_RETURN_IF_ERROR(check_text("reason", reason, false));
  QUIRE_RETURN_IF_ERROR(check_text("policy", policy, true));
  QUIRE_RETURN_IF_ERROR(check_text("codec", codec, true));
  QUIRE_RETURN_IF_ERROR(check_text("tool", tool, false));
  if (!(budget >= 0 && budget <= 1)) return invalid("budget is a share, 0 to 1");
  if (measured_wall_ms == 0 || measured_wall_ms > kWallMsMax)
    return invalid("measured_wall_ms is out of range");
  if (figures.size() > kVerdictFiguresMax) return invalid("more than 64 figures");
  for (const auto& [name, value] : figures) {
    QUIRE_RETURN_IF_ERROR(check_text("the name of a figure", name, false));
    if (!std::isfinite(value)) return invalid("figure " + name + " is not finite");
  }
  return Status::ok();
}

std::vector<std::byte> Verdict::encode() const {
  ByteWriter writer;
  writer.write(kVersion);
  writer.write(static_cast<uint8_t>(chunks ? 1 : 0));
  writer.write(static_cast<uint8_t>(figures.size()));
  writer.write(uint32_t{0});
  writer.write(measured_wall_ms);
  writer.write(budget);
  for (const std::string* text : {&reason, &policy, &codec, &tool}) write_text(writer, *text);
  for (const auto& [name, value] : figures) {
    write_text(writer, name);
    writer.write(value);
  }
  return writer.take();
}

Expected<Verdict> Verdict::parse(ByteSpan bytes) {
  const Status corrupt(StatusCode::kCorrupt, "verdict: damaged");
  ByteReader reader(bytes);
  const auto version = reader.read<uint16_t>();
  if (reader.ok() && version > kVersion)
    return Status(StatusCode::kVersionMismatch, "verdict: of a later version");
  const auto chunks = reader.read<uint8_t>();
  const auto n_figures = reader.read<uint8_t>();
  const auto reserved = reader.read<uint32_t>();
  if (!reader.ok() || version != kVersion || chunks > 1 || reserved != 0) return corrupt;
  Verdict out;
  out.chunks = chunks == 1;
  out.measured_wall_ms = reader.read<uint64_t>();
  out.budget = reader.read<double>();
  for (std::string* text : {&out.reason, &out.policy, &out.codec, &out.tool})
    *text = read_text(reader);
  std::string last;
  for (uint32_t i = 0; i < n_figures && reader.ok(); ++i) {
    std::string name = read_text(reader);
    if (i > 0 && name <= last) return corrupt;
    last = name;
    out.figures[std::move(name)] = reader.read<double>();
  }
  if (!reader.at_end() || !out.validate().is_ok()) return corrupt;
  return out;
}

std::string verdict_state_key(const Digest& model) {
  return "verdict/" + model.to_hex();
}

}  // namespace quire::server
