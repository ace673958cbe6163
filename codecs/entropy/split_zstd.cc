#include "codecs/entropy/split_zstd.h"

#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <string>
#include <vector>

namespace quire {
namespace {

constexpr int kLevel = 1;  // higher levels find shorter matches in exponents and lose by them

struct Sizes {
  uint64_t exponents = 0;  // compressed
  uint64_t rest = 0;       // compressed; the plane's own size where it is stored
};
static_assert(sizeof(Sizes) == 16);

// visit(element, where its exponent lies in the plane). Exponents of keys lie by channel, tokens
// next to each other: a channel keeps its size over tokens. Those of values stay as elements are.
template <typename Visit>
void for_elements(const SectionShape& shape, Visit visit) {
  const bool by_channel = shape.plane == Plane::kKey;
  const uint64_t token_stride = by_channel ? 1 : shape.head_dim;
  const uint64_t dim_stride = by_channel ? shape.n_tokens : 1;
  uint64_t element = 0;
  for (uint32_t head = 0; head < shape.n_heads; ++head) {
    const uint64_t first = element;
    for (uint32_t token = 0; token < shape.n_tokens; ++token)
      for (uint32_t d = 0; d < shape.head_dim; ++d, ++element)
        visit(element, first + token * token_stride + d * dim_stride);
  }
}

// 0: does not fit.
Expected<uint64_t> compress(ByteSpan plane, MutableByteSpan to) {
  const size_t bytes = ZSTD_compress(to.data(), to.size(), plane.data(), plane.size(), kLevel);
  if (!ZSTD_isError(bytes)) return uint64_t{bytes};
  if (ZSTD_getErrorCode(bytes) == ZSTD_error_dstSize_tooSmall) return uint64_t{0};
  return Status{StatusCode::kInternal, std::string("zstd: ") + ZSTD_getErrorName(bytes)};
}

bool decompress(ByteSpan packed, MutableByteSpan plane) {
  const size_t bytes = ZSTD_decompress(plane.data(), plane.size(), packed.data(), packed.size());
  return !ZSTD_isError(bytes) && bytes == plane.size();
}

}  // namespace

Expected<uint64_t> pack_split_zstd(const SectionShape& shape, ByteSpan base,
                                   MutableByteSpan payload) {
  const uint64_t n = base.size() / 2;
  if (payload.size() <= sizeof(Sizes)) return uint64_t{0};
  std::vector<std::byte> exponents(n), rest(n);
  for_elements(shape, [&](uint64_t i, uint64_t at) {
    const auto low = static_cast<uint32_t>(base[2 * i]);
    const uint32_t element = low | static_cast<uint32_t>(base[2 * i + 1]) << 8;
    exponents[at] = static_cast<std::byte>(element >> 7);
    rest[i] = static_cast<std::byte>(element << 1 | element >> 15);
  });
  Sizes sizes;
  MutableByteSpan room = payload.subspan(sizeof(Sizes));
  QUIRE_ASSIGN_OR_RETURN(sizes.exponents, compress(exponents, room));
  if (sizes.exponents == 0) return uint64_t{0};
  room = room.subspan(sizes.exponents);
  // Never as large as the plane: that size means stored.
  QUIRE_ASSIGN_OR_RETURN(sizes.rest, compress(rest, room.first(std::min(room.size(), n - 1))));
  if (sizes.rest == 0) {
    if (room.size() < n) return uint64_t{0};
    std::memcpy(room.data(), rest.data(), n);
    sizes.rest = n;
  }
  std::memcpy(payload.data(), &sizes, sizeof(sizes));
  return sizeof(sizes) + sizes.exponents + sizes.rest;
}

bool unpack_split_zstd(const SectionShape& shape, ByteSpan payload, MutableByteSpan base) {
  const uint64_t n = base.size() / 2;
  Sizes sizes;
  if (payload.size() < sizeof(sizes)) return false;
  std::memcpy(&sizes, payload.data(), sizeof(sizes));
  payload = payload.subspan(sizeof(sizes));
  if (sizes.exponents > payload.size() || sizes.rest != payload.size() - sizes.exponents ||
      sizes.rest > n)
    return false;
  std::vector<std::byte> exponents(n), rest;
  if (!decompress(payload.first(sizes.exponents), exponents)) return false;
  ByteSpan rest_plane = payload.subspan(sizes.exponents);
  if (sizes.rest < n) {
    rest.resize(n);
    if (!decompress(rest_plane, rest)) return false;
    rest_plane = rest;
  }
  for_elements(shape, [&](uint64_t i, uint64_t at) {
    const auto low = static_cast<uint32_t>(rest_plane[i]);
    const uint32_t element = low >> 1 | (low & 1) << 15 | static_cast<uint32_t>(exponents[at]) << 7;
    base[2 * i] = static_cast<std::byte>(element);
    base[2 * i + 1] = static_cast<std::byte>(element >> 8);
  });
  return true;
}

}  // namespace quire
