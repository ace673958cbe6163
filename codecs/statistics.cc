#include "codecs/statistics.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>

namespace quire {
namespace {

constexpr std::array<char, 8> kMagic = {'Q', 'U', 'I', 'R', 'S', 'T', 'A', 'T'};
constexpr uint16_t kVersion = 1;
constexpr uint64_t kVectorAlignment = 8;

struct BlockHeader {
  std::array<char, 8> magic = kMagic;
  uint16_t version = kVersion;
  uint16_t n_vectors = 0;
  uint32_t n_tokens = 0;
  uint32_t n_layers = 0;
  uint32_t n_segments = 0;
  uint64_t bytes = 0;
};
static_assert(sizeof(BlockHeader) == 32);

struct BlockEntry {
  uint16_t type = 0;
  uint8_t dtype = 0;
  uint8_t reserved = 0;
  std::array<uint32_t, 3> dims{};
  uint64_t offset = 0;
};
static_assert(sizeof(BlockEntry) == 24);

Status corrupt(const std::string& what) {
  return {StatusCode::kCorrupt, "statistics: " + what};
}

Status invalid(const std::string& what) {
  return {StatusCode::kInvalidArgument, "statistics: " + what};
}

uint64_t element_bytes(StatisticsDtype dtype) {
  return dtype == StatisticsDtype::kF16 ? 2 : 4;
}

// nullopt beyond the limit of a block.
std::optional<uint64_t> vector_bytes(StatisticsDtype dtype, const std::array<uint32_t, 3>& dims) {
  uint64_t bytes = element_bytes(dtype);
  for (const uint32_t dim : dims) {
    bytes *= dim;
    if (bytes > kStatisticsBytesMax) return std::nullopt;
  }
  return bytes;
}

struct KnownType {
  StatisticsDtype dtype;
  std::array<uint32_t, 3> dims;
};

std::optional<KnownType> known_type(StatisticsType type, const Statistics& of) {
  constexpr StatisticsDtype kF16 = StatisticsDtype::kF16;
  switch (type) {
    case StatisticsType::kSegments:
      return KnownType{StatisticsDtype::kU32, {of.n_segments, 1, 1}};
    case StatisticsType::kReceived:
    case StatisticsType::kInter:
    case StatisticsType::kQuestion:
      return KnownType{kF16, {of.n_tokens, 1, 1}};
    case StatisticsType::kInterOfSegment:
      return KnownType{kF16, {of.n_segments, of.n_tokens, 1}};
    case StatisticsType::kCacheCraft:
      return KnownType{StatisticsDtype::kF32, {3, 1, 1}};
    case StatisticsType::kReceivedOfLayer:
      return KnownType{kF16, {of.n_layers, of.n_tokens, 1}};
    case StatisticsType::kDeviationOfLayer:
      return KnownType{kF16, {of.n_layers, 1, 1}};
    default:
      return std::nullopt;
  }
}

// Of a known type: finite and not negative (-0 is fine).
bool values_fit(const StatisticsVector& vector) {
  if (vector.dtype == StatisticsDtype::kU32) return true;
  ByteReader reader(vector.values);
  while (reader.remaining() != 0) {
    if (vector.dtype == StatisticsDtype::kF16) {
      const auto bits = reader.read<uint16_t>();
      const bool finite = (bits & 0x7c00) != 0x7c00;
      if (!finite || bits > 0x8000) return false;
    } else {
      const auto value = reader.read<float>();
      if (!std::isfinite(value) || value < 0) return false;
    }
  }
  return true;
}

// What is wrong with the counts, or empty. Shared by writer and parser, as are the next ones.
std::string bad_counts(const Statistics& statistics, uint64_t n_vectors) {
  if (n_vectors == 0 || n_vectors > kStatisticsVectorsMax) return "1 to 64 vectors";
  if (statistics.n_tokens == 0 || statistics.n_tokens > kChunkTokensMax)
    return "token count out of range";
  if (statistics.n_layers == 0 || statistics.n_layers > kLayersMax)
    return "layer count out of range";
  if (statistics.n_segments > kStatisticsSegmentsMax) return "at most 1,025 segments";
  return {};
}

std::string bad_shape(const StatisticsVector& vector, const Statistics& statistics) {
  const std::string which = "vector of type " + std::to_string(static_cast<int>(vector.type));
  if (static_cast<uint16_t>(vector.type) == 0) return "a vector of type 0";
  if (vector.dtype < StatisticsDtype::kF16 || vector.dtype > StatisticsDtype::kU32)
    return which + " of unknown dtype";
  if (std::ranges::find(vector.dims, 0u) != vector.dims.end()) return which + " with a dim of 0";
  const auto known = known_type(vector.type, statistics);
  if (known && (known->dtype != vector.dtype || known->dims != vector.dims))
    return which + " of another shape or dtype than its type has";
  if (!vector_bytes(vector.dtype, vector.dims)) return which + " too large";
  return {};
}

std::string bad_values(const StatisticsVector& vector, const Statistics& statistics) {
  if (!known_type(vector.type, statistics) || values_fit(vector)) return {};
  return "vector of type " + std::to_string(static_cast<int>(vector.type)) +
         " with a value that is negative or not finite";
}

bool all_zero(ByteSpan bytes) {
  return std::ranges::all_of(bytes, [](std::byte value) { return value == std::byte{0}; });
}

}  // namespace

const StatisticsVector* Statistics::find(StatisticsType type) const {
  const auto found = std::ranges::find(vectors, type, &StatisticsVector::type);
  return found == vectors.end() ? nullptr : &*found;
}

Expected<std::vector<std::byte>> encode_statistics(const Statistics& statistics) {
  const auto& vectors = statistics.vectors;
  if (const std::string bad = bad_counts(statistics, vectors.size()); !bad.empty())
    return invalid(bad);
  uint64_t next = sizeof(BlockHeader) + vectors.size() * sizeof(BlockEntry);
  ByteWriter table;
  for (size_t i = 0; i < vectors.size(); ++i) {
    const StatisticsVector& vector = vectors[i];
    if (i > 0 && vectors[i - 1].type >= vector.type) return invalid("types must ascend");
    if (const std::string bad = bad_shape(vector, statistics); !bad.empty()) return invalid(bad);
    if (vector.values.size() != *vector_bytes(vector.dtype, vector.dims))
      return invalid("as many values as the dims say");
    if (const std::string bad = bad_values(vector, statistics); !bad.empty()) return invalid(bad);
    table.write(BlockEntry{static_cast<uint16_t>(vector.type), static_cast<uint8_t>(vector.dtype),
                           0, vector.dims, next});
    next = align_up(next + vector.values.size(), kVectorAlignment);
  }
  if (next > kStatisticsBytesMax) return invalid("more than 16 MiB");
  BlockHeader header;
  header.n_vectors = static_cast<uint16_t>(vectors.size());
  header.n_tokens = statistics.n_tokens;
  header.n_layers = statistics.n_layers;
  header.n_segments = statistics.n_segments;
  header.bytes = next;
  ByteWriter block;
  block.write(header);
  block.write_bytes(table.bytes());
  for (const StatisticsVector& vector : vectors) {
    block.write_bytes(vector.values);
    block.pad_to(kVectorAlignment);
  }
  return block.take();
}

Expected<Statistics> parse_statistics(ByteSpan block) {
  ByteReader reader(block);
  const auto header = reader.read<BlockHeader>();
  if (!reader.ok() || header.magic != kMagic) return corrupt("not a block of statistics");
  if (header.version != kVersion)
    return Status(
        StatusCode::kVersionMismatch,
        "statistics: version " + std::to_string(header.version) + "; this build reads version 1");
  if (header.bytes != block.size() || block.size() > kStatisticsBytesMax)
    return corrupt("of another size than it says");
  Statistics out;
  out.n_tokens = header.n_tokens;
  out.n_layers = header.n_layers;
  out.n_segments = header.n_segments;
  if (const std::string bad = bad_counts(out, header.n_vectors); !bad.empty()) return corrupt(bad);
  uint64_t end = sizeof(BlockHeader) + header.n_vectors * sizeof(BlockEntry);
  if (end > block.size()) return corrupt("truncated table");
  for (uint32_t i = 0; i < header.n_vectors; ++i) {
    const auto entry = reader.read<BlockEntry>();
    StatisticsVector vector{static_cast<StatisticsType>(entry.type),
                            static_cast<StatisticsDtype>(entry.dtype),
                            entry.dims,
                            {}};
    if (entry.reserved != 0) return corrupt("a reserved field is not zero");
    if (i > 0 && out.vectors.back().type >= vector.type) return corrupt("types do not ascend");
    if (const std::string bad = bad_shape(vector, out); !bad.empty()) return corrupt(bad);
    const uint64_t begin = align_up(end, kVectorAlignment);
    const uint64_t bytes = *vector_bytes(vector.dtype, vector.dims);
    if (entry.offset != begin || begin > block.size() || bytes > block.size() - begin)
      return corrupt("a vector misplaced or out of bounds");
    if (!all_zero(block.subspan(end, begin - end))) return corrupt("padding is not zero");
    vector.values = block.subspan(begin, bytes);
    if (const std::string bad = bad_values(vector, out); !bad.empty()) return corrupt(bad);
    end = begin + bytes;
    out.vectors.push_back(vector);
  }
  if (align_up(end, kVectorAlignment) != block.size()) return corrupt("bytes behind its vectors");
  if (!all_zero(block.subspan(end))) return corrupt("padding is not zero");
  return out;
}

Status check_statistics(const RepresentationView& representation, const ModelDescriptor& model) {
  const RepresentationHeader& header = representation.header();
  if (header.codec != CodecId::kStatistics) return {StatusCode::kUnsupported, "not statistics"};
  if (header.frame != PositionFrame::kPreRope)
    return {StatusCode::kUnsupported, "statistics have no frame but 0"};
  const Digest id = model_id(model);
  if (header.model != id)
    return {StatusCode::kModelMismatch,
            "the representation is of model " + header.model.to_hex() + ", not of " + id.to_hex()};
  if (header.coverage != kStatisticsCoverage || header.base_position != 0)
    return corrupt("coverage is layers [0, 1), heads [0, 1), base position 0");
  QUIRE_ASSIGN_OR_RETURN(const ByteSpan values, representation.section(0, Plane::kValue));
  if (!values.empty()) return corrupt("the V section is empty");
  QUIRE_ASSIGN_OR_RETURN(const ByteSpan block, representation.section(0, Plane::kKey));
  QUIRE_ASSIGN_OR_RETURN(const Statistics statistics, parse_statistics(block));
  if (statistics.n_tokens != header.tokens.size())
    return corrupt("of " + std::to_string(statistics.n_tokens) + " tokens, the object has " +
                   std::to_string(header.tokens.size()));
  if (statistics.n_layers != model.layers.size())
    return {StatusCode::kModelMismatch, "statistics of " + std::to_string(statistics.n_layers) +
                                            " layers, the model has " +
                                            std::to_string(model.layers.size())};
  return Status::ok();
}

Expected<std::vector<std::byte>> pack_statistics(RepresentationHeader header, ByteSpan tenant_salt,
                                                 const ModelDescriptor& model, ByteSpan block) {
  QUIRE_RETURN_IF_ERROR(model.validate());
  header.model = model_id(model);
  header.codec = CodecId::kStatistics;
  header.frame = PositionFrame::kPreRope;
  header.base_position = 0;
  header.coverage = kStatisticsCoverage;
  fill_ids(header, tenant_salt);
  const std::array<uint64_t, 2> sizes = {block.size(), 0};
  QUIRE_ASSIGN_OR_RETURN(const RepresentationWriter writer,
                         RepresentationWriter::plan(header, sizes));
  std::vector<std::byte> bytes(writer.total_bytes());
  if (!block.empty())
    std::memcpy(writer.section(bytes, 0, Plane::kKey).data(), block.data(), block.size());
  writer.finish(bytes);
  QUIRE_ASSIGN_OR_RETURN(const RepresentationView view, RepresentationView::parse(bytes));
  const Status fits = check_statistics(view, model);
  if (!fits.is_ok()) return invalid(fits.message());
  return bytes;
}

}  // namespace quire
