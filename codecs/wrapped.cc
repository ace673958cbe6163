#include "codecs/wrapped.h"

namespace quire {

std::optional<CodecId> base_codec(CodecId) {
  return std::nullopt;
}

uint64_t wrapped_bytes_max(uint64_t base_bytes) {
  return base_bytes;
}

Expected<uint64_t> wrap_section(CodecId, const SectionShape&, ByteSpan, MutableByteSpan) {
  return Status{StatusCode::kUnsupported, "not a wrapped codec"};
}

Status check_wrapped(CodecId, const SectionShape&, ByteSpan) {
  return {StatusCode::kUnsupported, "not a wrapped codec"};
}

Status expand_section(CodecId, const SectionShape&, ByteSpan, MutableByteSpan) {
  return {StatusCode::kUnsupported, "not a wrapped codec"};
}

}  // namespace quire
