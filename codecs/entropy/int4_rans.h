// The payload of int4-rans (docs/formats/codecs.md): the side data of an
// int4-channel64 section as it is, its codes by rANS with a table for each head.
#ifndef QUIRE_CODECS_ENTROPY_INT4_RANS_H_
#define QUIRE_CODECS_ENTROPY_INT4_RANS_H_

#include "base/bytes.h"
#include "base/status.h"
#include "codecs/wrapped.h"

namespace quire {

// Bytes of `payload` that are used; 0 where they do not suffice.
Expected<uint64_t> pack_int4_rans(const SectionShape& shape, ByteSpan base,
                                  MutableByteSpan payload);
// False: not what pack_int4_rans() writes.
bool unpack_int4_rans(const SectionShape& shape, ByteSpan payload, MutableByteSpan base);

}  // namespace quire

#endif  // QUIRE_CODECS_ENTROPY_INT4_RANS_H_
