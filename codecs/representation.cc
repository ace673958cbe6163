#include "codecs/representation.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

namespace quire {
namespace {

constexpr uint64_t kMagic = 0x5045524552495551;  // "QUIREREP"
constexpr uint16_t kVersion = 1;
constexpr uint64_t kChecksumBytes = sizeof(uint64_t);
constexpr uint32_t kPlanes = 2;

// The first bytes of a representation; docs/formats/representation.md.
struct ManifestHeader {
  uint64_t magic = kMagic;
  uint16_t version = kVersion;
  uint16_t codec = 0;
  uint8_t frame = 0;
  uint8_t reserved0[3] = {};
  uint32_t flags = 0;
  uint32_t manifest_bytes = 0;
  uint64_t total_bytes = 0;
  uint64_t base_position = 0;
  uint32_t layer_begin = 0;
  uint32_t layer_end = 0;
  uint32_t head_begin = 0;
  uint32_t head_end = 0;
  uint32_t n_tokens = 0;
  uint32_t context_bytes = 0;
  uint32_t n_sections = 0;
  uint32_t reserved1 = 0;
  std::array<uint8_t, 32> model{};
  std::array<uint8_t, 32> object{};
  std::array<uint8_t, 32> variant{};
  std::array<uint8_t, 32> representation{};
  uint8_t reserved2[56] = {};
};
static_assert(sizeof(ManifestHeader) == 256);
static_assert(std::has_unique_object_representations_v<ManifestHeader>, "no padding on disk");

struct ManifestSection {
  uint32_t layer = 0;
  uint16_t plane = 0;
  uint16_t reserved = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint64_t xxh3 = 0;
};
static_assert(sizeof(ManifestSection) == 32);

Status corrupt(const std::string& what) {
  return {StatusCode::kCorrupt, "representation: " + what};
}

Status invalid(const std::string& what) {
  return {StatusCode::kInvalidArgument, "representation: " + what};
}

uint64_t manifest_bytes(uint64_t n_sections, uint64_t n_tokens, uint64_t context_bytes) {
  return align_up(sizeof(ManifestHeader) + n_sections * sizeof(ManifestSection) +
                      n_tokens * sizeof(TokenId) + context_bytes + kChecksumBytes,
                  kSectionAlignment);
}

// What is wrong with these fields, or null. Shared by writer and parser: what one writes the other
// takes.
const char* find_bad_field(const Coverage& coverage, uint64_t n_tokens, uint64_t base_position,
                           uint16_t codec) {
  if (coverage.layer_begin >= coverage.layer_end || coverage.layer_end > kLayersMax)
    return "layers out of range";
  if (coverage.head_begin >= coverage.head_end || coverage.head_end > kHeadsMax)
    return "heads out of range";
  if (n_tokens == 0 || n_tokens > kChunkTokensMax) return "token count out of range";
  if (base_position > kPromptTokensMax) return "base position out of range";
  return codec == 0 ? "codec id 0" : nullptr;
}

uint64_t section_count(const Coverage& coverage) {
  return uint64_t{coverage.layer_end - coverage.layer_begin} * kPlanes;
}

bool all_zero(ByteSpan bytes) {
  return std::all_of(bytes.begin(), bytes.end(),
                     [](std::byte value) { return value == std::byte{0}; });
}

ManifestHeader make_header(const RepresentationHeader& header, uint64_t context_bytes) {
  ManifestHeader out;
  out.codec = static_cast<uint16_t>(header.codec);
  out.frame = static_cast<uint8_t>(header.frame);
  out.base_position = header.base_position;
  out.layer_begin = header.coverage.layer_begin;
  out.layer_end = header.coverage.layer_end;
  out.head_begin = header.coverage.head_begin;
  out.head_end = header.coverage.head_end;
  out.n_tokens = static_cast<uint32_t>(header.tokens.size());
  out.context_bytes = static_cast<uint32_t>(context_bytes);
  out.n_sections = static_cast<uint32_t>(section_count(header.coverage));
  out.model = header.model.bytes;
  out.object = header.object.bytes;
  out.variant = header.variant.bytes;
  out.representation = header.representation.bytes;
  out.manifest_bytes =
      static_cast<uint32_t>(manifest_bytes(out.n_sections, out.n_tokens, context_bytes));
  return out;
}

// Checks every field of the fixed part against the limits and each other.
Status check_header(const ManifestHeader& fixed, uint64_t available) {
  if (fixed.magic != kMagic) return corrupt("wrong magic");
  if (fixed.version != kVersion)
    return {StatusCode::kVersionMismatch,
            "representation: format version " + std::to_string(fixed.version) +
                "; this build reads version " + std::to_string(kVersion)};
  if (fixed.frame > static_cast<uint8_t>(PositionFrame::kLocal)) return corrupt("unknown frame");
  if (fixed.flags != 0 || fixed.reserved1 != 0 ||
      !all_zero(std::as_bytes(std::span(fixed.reserved0))) ||
      !all_zero(std::as_bytes(std::span(fixed.reserved2))))
    return corrupt("a reserved field is not zero");
  const Coverage coverage{fixed.layer_begin, fixed.layer_end, fixed.head_begin, fixed.head_end};
  if (const char* bad = find_bad_field(coverage, fixed.n_tokens, fixed.base_position, fixed.codec))
    return corrupt(bad);
  if (fixed.n_sections != section_count(coverage)) return corrupt("wrong number of sections");
  if (fixed.manifest_bytes != manifest_bytes(fixed.n_sections, fixed.n_tokens, fixed.context_bytes))
    return corrupt("wrong manifest size");
  if (fixed.total_bytes != available || available > kRepresentationBytesMax)
    return corrupt("total size does not fit the bytes given");
  return fixed.manifest_bytes <= available ? Status::ok() : corrupt("truncated manifest");
}

// Sections follow each other in order without gaps beyond alignment; anything else is refused.
Expected<std::vector<SectionEntry>> parse_sections(ByteReader& reader,
                                                   const ManifestHeader& fixed) {
  std::vector<SectionEntry> sections(fixed.n_sections);
  uint64_t next = fixed.manifest_bytes;
  for (uint32_t i = 0; i < fixed.n_sections; ++i) {
    const auto entry = reader.read<ManifestSection>();
    if (entry.layer != fixed.layer_begin + i / kPlanes || entry.plane != i % kPlanes ||
        entry.reserved != 0)
      return corrupt("section table out of order");
    if (entry.offset != next || entry.bytes > fixed.total_bytes - next)
      return corrupt("section " + std::to_string(i) + " misplaced or out of bounds");
    next = align_up(entry.offset + entry.bytes, kSectionAlignment);
    if (next > fixed.total_bytes) return corrupt("last section not padded");
    sections[i] = {entry.layer, static_cast<Plane>(entry.plane), entry.offset, entry.bytes,
                   entry.xxh3};
  }
  if (next != fixed.total_bytes) return corrupt("bytes behind the last section");
  return sections;
}

bool ids_fit(const RepresentationHeader& header) {
  return header.variant == variant_id(header.object, header.context) &&
         header.representation == representation_id(header.variant,
                                                    static_cast<uint16_t>(header.codec),
                                                    header.frame, header.coverage);
}

}  // namespace

void fill_ids(RepresentationHeader& header, ByteSpan tenant_salt) {
  header.object = object_id(header.model, header.tokens, tenant_salt);
  header.variant = variant_id(header.object, header.context);
  header.representation = representation_id(header.variant, static_cast<uint16_t>(header.codec),
                                            header.frame, header.coverage);
}

Expected<RepresentationWriter> RepresentationWriter::plan(const RepresentationHeader& header,
                                                          std::span<const uint64_t> section_bytes) {
  if (const char* bad = find_bad_field(header.coverage, header.tokens.size(), header.base_position,
                                       static_cast<uint16_t>(header.codec)))
    return invalid(bad);
  if (section_bytes.size() != section_count(header.coverage))
    return invalid("one size for each layer and plane is needed");
  if (!ids_fit(header)) return invalid("ids do not fit; call fill_ids()");
  const std::vector<std::byte> context = header.context.encode();
  if (!VariantContext::parse(context).is_ok()) return invalid("context out of limits");

  RepresentationWriter writer;
  writer.header_ = header;
  uint64_t next = manifest_bytes(section_bytes.size(), header.tokens.size(), context.size());
  for (uint32_t i = 0; i < section_bytes.size(); ++i) {
    if (section_bytes[i] > kRepresentationBytesMax)
      return Status{StatusCode::kResourceExhausted, "representation: section too large"};
    writer.sections_.push_back({header.coverage.layer_begin + i / kPlanes,
                                static_cast<Plane>(i % kPlanes), next, section_bytes[i], 0});
    next = align_up(next + section_bytes[i], kSectionAlignment);
  }
  if (next > kRepresentationBytesMax)
    return Status{StatusCode::kResourceExhausted,
                  "representation: " + std::to_string(next) + " bytes, more than " +
                      std::to_string(kRepresentationBytesMax) + "; use smaller chunks"};
  writer.total_bytes_ = next;
  return writer;
}

MutableByteSpan RepresentationWriter::section(MutableByteSpan buffer, uint32_t layer,
                                              Plane plane) const {
  const uint64_t index =
      uint64_t{layer - header_.coverage.layer_begin} * kPlanes + static_cast<uint64_t>(plane);
  if (buffer.size() != total_bytes_ || index >= sections_.size()) std::abort();
  return buffer.subspan(sections_[index].offset, sections_[index].bytes);
}

void RepresentationWriter::finish(MutableByteSpan buffer) const {
  if (buffer.size() != total_bytes_) std::abort();
  const std::vector<std::byte> context = header_.context.encode();
  ManifestHeader fixed = make_header(header_, context.size());
  fixed.total_bytes = total_bytes_;
  ByteWriter manifest;
  manifest.write(fixed);
  for (const SectionEntry& entry : sections_) {
    const uint64_t end = entry.offset + entry.bytes;
    std::memset(buffer.data() + end, 0, align_up(end, kSectionAlignment) - end);
    ManifestSection out{
        entry.layer, static_cast<uint16_t>(entry.plane), 0, entry.offset, entry.bytes, 0};
    out.xxh3 = xxh3_64(buffer.subspan(entry.offset, entry.bytes));
    manifest.write(out);
  }
  manifest.write_bytes(std::as_bytes(std::span(header_.tokens)));
  manifest.write_bytes(context);
  const uint64_t checked_bytes = fixed.manifest_bytes - kChecksumBytes;
  std::memset(buffer.data(), 0, checked_bytes);
  std::memcpy(buffer.data(), manifest.bytes().data(), manifest.size());
  const uint64_t checksum = xxh3_64(buffer.first(checked_bytes));
  std::memcpy(buffer.data() + checked_bytes, &checksum, sizeof(checksum));
}

Expected<RepresentationView> RepresentationView::parse(ByteSpan bytes) {
  ByteReader reader(bytes);
  const auto fixed = reader.read<ManifestHeader>();
  if (!reader.ok()) return corrupt("truncated manifest");
  QUIRE_RETURN_IF_ERROR(check_header(fixed, bytes.size()));
  const uint64_t checked_bytes = fixed.manifest_bytes - kChecksumBytes;
  uint64_t checksum;
  std::memcpy(&checksum, bytes.data() + checked_bytes, sizeof(checksum));
  if (checksum != xxh3_64(bytes.first(checked_bytes))) return corrupt("manifest checksum");

  RepresentationView view;
  view.bytes_ = bytes;
  QUIRE_ASSIGN_OR_RETURN(view.sections_, parse_sections(reader, fixed));
  RepresentationHeader& header = view.header_;
  header.tokens.resize(fixed.n_tokens);
  const ByteSpan tokens = reader.read_bytes(uint64_t{fixed.n_tokens} * sizeof(TokenId));
  const ByteSpan context = reader.read_bytes(fixed.context_bytes);
  if (!reader.ok()) return corrupt("truncated manifest");
  std::memcpy(header.tokens.data(), tokens.data(), tokens.size());
  auto parsed_context = VariantContext::parse(context);
  if (!parsed_context.is_ok()) {
    // The checksum holds: what wrapped this in a scope meant to.
    const bool scoped = !context.empty() && static_cast<uint8_t>(context[0]) == kScopedContextKind;
    if (scoped) return parsed_context.status();
    return corrupt(parsed_context.status().message());
  }
  header.context = std::move(*parsed_context);
  if (!all_zero(bytes.subspan(reader.offset(), checked_bytes - reader.offset())))
    return corrupt("padding is not zero");
  header.codec = static_cast<CodecId>(fixed.codec);
  header.frame = static_cast<PositionFrame>(fixed.frame);
  header.model.bytes = fixed.model;
  header.object.bytes = fixed.object;
  header.variant.bytes = fixed.variant;
  header.representation.bytes = fixed.representation;
  header.base_position = fixed.base_position;
  header.coverage = {fixed.layer_begin, fixed.layer_end, fixed.head_begin, fixed.head_end};
  if (!ids_fit(header)) return corrupt("ids do not fit the contents");
  return view;
}

std::optional<uint64_t> RepresentationView::manifest_bytes(ByteSpan prefix) {
  ByteReader reader(prefix);
  const auto fixed = reader.read<ManifestHeader>();
  if (!reader.ok() || fixed.magic != kMagic || fixed.version != kVersion) return std::nullopt;
  return fixed.manifest_bytes;
}

Expected<ByteSpan> RepresentationView::section(uint32_t layer, Plane plane) const {
  const Coverage& coverage = header_.coverage;
  if (layer < coverage.layer_begin || layer >= coverage.layer_end ||
      static_cast<uint16_t>(plane) >= kPlanes)
    return Status{StatusCode::kNotFound,
                  "representation: no section for layer " + std::to_string(layer)};
  const SectionEntry& entry =
      sections_[(layer - coverage.layer_begin) * kPlanes + static_cast<uint16_t>(plane)];
  return bytes_.subspan(entry.offset, entry.bytes);
}

Status RepresentationView::verify_sections() const {
  for (const SectionEntry& entry : sections_) {
    const uint64_t end = entry.offset + entry.bytes;
    if (xxh3_64(bytes_.subspan(entry.offset, entry.bytes)) != entry.xxh3 ||
        !all_zero(bytes_.subspan(end, align_up(end, kSectionAlignment) - end)))
      return corrupt("checksum of layer " + std::to_string(entry.layer) + ", plane " +
                     (entry.plane == Plane::kKey ? "K" : "V"));
  }
  return Status::ok();
}

Status RepresentationView::verify_object(ByteSpan tenant_salt) const {
  if (object_id(header_.model, header_.tokens, tenant_salt) == header_.object) return Status::ok();
  return corrupt("object id does not fit model, tokens and tenant");
}

}  // namespace quire
