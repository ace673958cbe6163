#include "codecs/wrapped.h"

#include <string>

#include "base/hash.h"
#include "codecs/entropy/int4_rans.h"
#include "codecs/entropy/shuffle_lz4.h"
#include "codecs/entropy/split_zstd.h"
#include "kernels/quire_kernels.h"

namespace quire {
namespace {

constexpr uint64_t kBlockBytes = 64;

enum class Method : uint32_t { kStored = 0, kCoded = 1 };

struct WrappedHeader {
  Method method = Method::kStored;
  uint32_t reserved = 0;
  uint64_t base_bytes = 0;
  uint64_t payload_bytes = 0;
  uint64_t base_xxh3 = 0;
  uint64_t zero[4] = {};
};
static_assert(sizeof(WrappedHeader) == kBlockBytes);

struct Coder {
  CodecId base;
  Expected<uint64_t> (*pack)(const SectionShape&, ByteSpan base, MutableByteSpan payload);
  bool (*unpack)(const SectionShape&, ByteSpan payload, MutableByteSpan base);
};

std::optional<Coder> coder_of(CodecId codec) {
  switch (codec) {
    case CodecId::kBf16ShuffleLz4:
      return Coder{CodecId::kRawBf16, pack_shuffle_lz4, unpack_shuffle_lz4};
    case CodecId::kBf16SplitZstd:
      return Coder{CodecId::kRawBf16, pack_split_zstd, unpack_split_zstd};
    case CodecId::kInt4Rans:
      return Coder{CodecId::kInt4Channel64, pack_int4_rans, unpack_int4_rans};
    default:
      return std::nullopt;
  }
}

uint64_t base_section_bytes(const Coder& coder, const SectionShape& shape) {
  return quire_section_bytes(static_cast<int32_t>(coder.base), static_cast<int32_t>(shape.plane),
                             shape.n_tokens, shape.n_heads, shape.head_dim);
}

uint64_t stored_bytes(uint64_t payload_bytes) {
  return sizeof(WrappedHeader) + align_up(payload_bytes, kBlockBytes);
}

Status not_wrapped() {
  return {StatusCode::kUnsupported, "not a wrapped codec"};
}
Status corrupt(const char* what) {
  return {StatusCode::kCorrupt, std::string("wrapped section: ") + what};
}

// The header of a section that check_wrapped() accepts.
Expected<WrappedHeader> checked_header(const Coder& coder, const SectionShape& shape,
                                       ByteSpan packed) {
  WrappedHeader header;
  if (packed.size() < sizeof(header)) return corrupt("shorter than its header");
  std::memcpy(&header, packed.data(), sizeof(header));
  uint64_t zero = header.reserved;
  for (const uint64_t field : header.zero) zero |= field;
  if (zero != 0) return corrupt("reserved bytes are not zero");
  const uint64_t base_bytes = base_section_bytes(coder, shape);
  if (base_bytes == 0 || header.base_bytes != base_bytes) return corrupt("another shape");
  const uint64_t stored = align_up(base_bytes, kBlockBytes);
  const bool sized = header.method == Method::kStored
                         ? header.payload_bytes == base_bytes
                         : header.method == Method::kCoded && header.payload_bytes != 0 &&
                               header.payload_bytes <= stored - kBlockBytes;
  if (!sized || packed.size() != stored_bytes(header.payload_bytes))
    return corrupt("method and sizes contradict each other");
  return header;
}

}  // namespace

std::optional<CodecId> base_codec(CodecId codec) {
  const std::optional<Coder> coder = coder_of(codec);
  if (!coder.has_value()) return std::nullopt;
  return coder->base;
}

uint64_t wrapped_bytes_max(uint64_t base_bytes) {
  return stored_bytes(base_bytes);
}

Expected<uint64_t> wrap_section(CodecId codec, const SectionShape& shape, ByteSpan base,
                                MutableByteSpan packed) {
  const std::optional<Coder> coder = coder_of(codec);
  if (!coder.has_value()) return not_wrapped();
  if (base.empty() || base.size() != base_section_bytes(*coder, shape) ||
      packed.size() != wrapped_bytes_max(base.size()))
    return Status{StatusCode::kInvalidArgument, "wrapped section: sizes do not fit the shape"};
  WrappedHeader header;
  header.base_bytes = base.size();
  header.base_xxh3 = xxh3_64(base);
  // Coded only where that is at least one block shorter.
  const MutableByteSpan room =
      packed.subspan(sizeof(header), packed.size() - sizeof(header) - kBlockBytes);
  QUIRE_ASSIGN_OR_RETURN(header.payload_bytes, coder->pack(shape, base, room));
  header.method = Method::kCoded;
  if (header.payload_bytes == 0) {
    header.method = Method::kStored;
    header.payload_bytes = base.size();
    std::memcpy(packed.data() + sizeof(header), base.data(), base.size());
  }
  std::memcpy(packed.data(), &header, sizeof(header));
  const uint64_t total = stored_bytes(header.payload_bytes);
  const uint64_t end = sizeof(header) + header.payload_bytes;
  std::memset(packed.data() + end, 0, total - end);
  return total;
}

Status check_wrapped(CodecId codec, const SectionShape& shape, ByteSpan packed) {
  const std::optional<Coder> coder = coder_of(codec);
  if (!coder.has_value()) return not_wrapped();
  return checked_header(*coder, shape, packed).status();
}

Status expand_section(CodecId codec, const SectionShape& shape, ByteSpan packed,
                      MutableByteSpan base) {
  const std::optional<Coder> coder = coder_of(codec);
  if (!coder.has_value()) return not_wrapped();
  QUIRE_ASSIGN_OR_RETURN(const WrappedHeader header, checked_header(*coder, shape, packed));
  if (base.size() != header.base_bytes)
    return {StatusCode::kInvalidArgument, "wrapped section: the base section has another size"};
  const ByteSpan payload = packed.subspan(sizeof(header), header.payload_bytes);
  if (header.method == Method::kStored)
    std::memcpy(base.data(), payload.data(), payload.size());
  else if (!coder->unpack(shape, payload, base))
    return corrupt("the payload does not expand to a section");
  if (xxh3_64(base) != header.base_xxh3) return corrupt("checksum of the expanded section");
  return Status::ok();
}

}  // namespace quire
