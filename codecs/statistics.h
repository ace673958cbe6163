// What a variant's attention did while it was computed, as typed vectors in one block: the K
// section of a representation of codec kStatistics. Offsets, types and an example hexdump:
// docs/formats/statistics.md. Nothing can be decoded from it: kernels never see it. All functions
// are pure and thread safe; parsing is safe on hostile bytes.
#ifndef QUIRE_CODECS_STATISTICS_H_
#define QUIRE_CODECS_STATISTICS_H_

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/ids.h"
#include "base/status.h"
#include "codecs/representation.h"

namespace quire {

inline constexpr uint32_t kStatisticsVectorsMax = 64;
// The neighbours of a context, and a fixed text in front of them.
inline constexpr uint32_t kStatisticsSegmentsMax = kContextIdsMax + 1;
inline constexpr uint64_t kStatisticsBytesMax = 16ull << 20;
// Of codec kStatistics always: layers [0, 1), heads [0, 1).
inline constexpr Coverage kStatisticsCoverage{0, 1, 0, 1};

enum class StatisticsDtype : uint8_t { kF16 = 1, kF32 = 2, kU32 = 3 };

// Numbers are stored: never reused. From kUser on they are the user's.
enum class StatisticsType : uint16_t {
  kSegments = 1,          // u32 [n_segments]: tokens of each run before the chunk
  kReceived = 2,          // f16 [n_tokens]: attention received from the chunk's rows
  kInter = 3,             // f16 [n_tokens]: share of attention given to what is before the chunk
  kInterOfSegment = 4,    // f16 [n_segments, n_tokens]
  kCacheCraft = 5,        // f32 [3]: a, b, CCI
  kReceivedOfLayer = 6,   // f16 [n_layers, n_tokens]
  kDeviationOfLayer = 7,  // f16 [n_layers]
  kQuestion = 8,          // f16 [n_tokens]
  kUser = 1024,
};

struct StatisticsVector {
  StatisticsType type = StatisticsType::kReceived;
  StatisticsDtype dtype = StatisticsDtype::kF16;
  std::array<uint32_t, 3> dims{1, 1, 1};  // outer first; unused ones are 1, none is 0
  ByteSpan values;                        // little-endian, in the order of dims; never owned
};

struct Statistics {
  uint32_t n_tokens = 0;
  uint32_t n_layers = 0;                  // of the model
  uint32_t n_segments = 0;                // runs of tokens that stood before the chunk
  std::vector<StatisticsVector> vectors;  // types ascend

  // Null where it is not there.
  const StatisticsVector* find(StatisticsType type) const;
};

// kInvalidArgument names the rule that is broken; what this writes parse_statistics() takes.
Expected<std::vector<std::byte>> encode_statistics(const Statistics& statistics);

// Views into bytes, which must outlive them. kVersionMismatch for another version, else kCorrupt.
// Vectors of unknown types are checked for dtype, dims and place, and given as they are.
Expected<Statistics> parse_statistics(ByteSpan block);

// That a representation of codec kStatistics is one of this model: coverage, frame, base position,
// an empty V section, and a block of its tokens. kModelMismatch, kUnsupported (frame), kCorrupt.
Status check_statistics(const RepresentationView& representation, const ModelDescriptor& model);

// A whole representation around a block; header.codec, frame, base position and coverage are set
// here, and the ids from the salt. kInvalidArgument where block and header do not fit.
Expected<std::vector<std::byte>> pack_statistics(RepresentationHeader header, ByteSpan tenant_salt,
                                                 const ModelDescriptor& model, ByteSpan block);

}  // namespace quire

#endif  // QUIRE_CODECS_STATISTICS_H_
