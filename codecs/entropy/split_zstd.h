// The payload of bf16-split-zstd (docs/formats/codecs.md): exponents and the rest in planes
// of their own, zstd.
#ifndef QUIRE_CODECS_ENTROPY_SPLIT_ZSTD_H_
#define QUIRE_CODECS_ENTROPY_SPLIT_ZSTD_H_

#include "base/bytes.h"
#include "base/status.h"
#include "codecs/wrapped.h"

namespace quire {

// Bytes of `payload` that are used; 0 where they do not suffice.
Expected<uint64_t> pack_split_zstd(const SectionShape& shape, ByteSpan base,
                                   MutableByteSpan payload);
// False: not what pack_split_zstd() writes.
bool unpack_split_zstd(const SectionShape& shape, ByteSpan payload, MutableByteSpan base);

}  // namespace quire

#endif  // QUIRE_CODECS_ENTROPY_SPLIT_ZSTD_H_
