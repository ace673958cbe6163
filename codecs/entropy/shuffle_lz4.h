// The payload of bf16-shuffle-lz4 (docs/formats/codecs.md): bits shuffled, then one LZ4 block.
#ifndef QUIRE_CODECS_ENTROPY_SHUFFLE_LZ4_H_
#define QUIRE_CODECS_ENTROPY_SHUFFLE_LZ4_H_

#include "base/bytes.h"
#include "base/status.h"
#include "codecs/wrapped.h"

namespace quire {

// Bytes of `payload` that are used; 0 where they do not suffice.
Expected<uint64_t> pack_shuffle_lz4(const SectionShape& shape, ByteSpan base,
                                    MutableByteSpan payload);
// False: not what pack_shuffle_lz4() writes.
bool unpack_shuffle_lz4(const SectionShape& shape, ByteSpan payload, MutableByteSpan base);

}  // namespace quire

#endif  // QUIRE_CODECS_ENTROPY_SHUFFLE_LZ4_H_
