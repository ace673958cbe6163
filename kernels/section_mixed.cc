// Mixed precision: a map of salient tokens, their section, and the section of the others.
#include <string.h>

#include "kernels/section.h"

namespace quire_kernels {
namespace {

struct Parts {
  const Byte* map;
  MixedBlocks at;
  SectionShape salient;
  SectionShape other;
};

Parts parts_of(const SectionShape& shape, const Byte* section, uint32_t salient_tokens) {
  const MixedSpec mixed = mixed_spec(shape.codec);
  const MixedBlocks at = mixed_blocks(shape.codec, shape.plane, shape.n_tokens, shape.n_heads,
                                      shape.head_dim, salient_tokens);
  return {section + at.map, at,
          section_shape(mixed.salient, shape.plane, salient_tokens, shape.n_heads, shape.head_dim),
          section_shape(mixed.other, shape.plane, shape.n_tokens - salient_tokens, shape.n_heads,
                        shape.head_dim)};
}

Parts parts_of(const SectionShape& shape, const Byte* section) {
  MixedHeader header;
  memcpy(&header, section, sizeof(header));
  return parts_of(shape, section, header.salient_tokens);
}

bool is_salient(const Byte* map, uint32_t token) {
  return (map[token / 8] >> (token % 8) & 1) != 0;
}

uint32_t count_bits(const Byte* bytes, uint64_t n) {
  uint32_t count = 0;
  for (; n >= 8; n -= 8, bytes += 8) {
    uint64_t word;
    memcpy(&word, bytes, 8);
    count += static_cast<uint32_t>(__builtin_popcountll(word));
  }
  for (; n > 0; --n, ++bytes) count += static_cast<uint32_t>(__builtin_popcount(*bytes));
  return count;
}

// Salient tokens before this one.
uint32_t rank(const Byte* map, uint32_t token) {
  const uint32_t rest = map[token / 8] & ((1u << token % 8) - 1);
  return count_bits(map, token / 8) + static_cast<uint32_t>(__builtin_popcount(rest));
}

bool all_zero(const Byte* bytes, uint64_t n) {
  return count_bits(bytes, n) == 0;
}

}  // namespace

int check_mixed_header(const SectionShape& shape, const Byte* section, uint64_t bytes) {
  if (bytes < sizeof(MixedHeader)) return QUIRE_KERNEL_CORRUPT;
  MixedHeader header;
  memcpy(&header, section, sizeof(header));
  if (header.salient_tokens > shape.n_tokens || !all_zero(header.reserved, sizeof(header.reserved)))
    return QUIRE_KERNEL_CORRUPT;
  const Parts parts = parts_of(shape, section, header.salient_tokens);
  if (bytes != parts.at.total) return QUIRE_KERNEL_CORRUPT;
  const uint64_t map_bytes = parts.at.salient - parts.at.map;
  const uint64_t used = (shape.n_tokens + 7) / 8;
  if (!all_zero(parts.map + used, map_bytes - used)) return QUIRE_KERNEL_CORRUPT;
  if (shape.n_tokens % 8 != 0 && parts.map[used - 1] >> (shape.n_tokens % 8) != 0)
    return QUIRE_KERNEL_CORRUPT;
  return count_bits(parts.map, used) == header.salient_tokens ? QUIRE_KERNEL_OK
                                                              : QUIRE_KERNEL_CORRUPT;
}

int check_mixed(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                uint32_t token_begin, uint32_t token_end) {
  const Parts parts = parts_of(shape, section);
  const uint32_t begin = rank(parts.map, token_begin);
  const uint32_t end = begin + (rank(parts.map, token_end - 1) - begin) +
                       (is_salient(parts.map, token_end - 1) ? 1 : 0);
  if (int status = check_values(parts.salient, target, section + parts.at.salient, begin, end))
    return status;
  return check_values(parts.other, target, section + parts.at.other, token_begin - begin,
                      token_end - end);
}

void read_mixed(const SectionShape& shape, const LoadTarget& target, const Byte* section,
                const RowBatch& batch, ReadCursor* cursor) {
  const Parts parts = parts_of(shape, section);
  RowBatch salient;
  RowBatch other;
  salient.head = other.head = batch.head;
  for (uint32_t i = 0; i < batch.n; ++i) {
    const uint32_t token = batch.token[i];
    if (token < cursor->map_token) {
      cursor->map_token = token;
      cursor->map_salient = rank(parts.map, token);
    }
    for (; cursor->map_token < token; ++cursor->map_token)
      cursor->map_salient += is_salient(parts.map, cursor->map_token) ? 1 : 0;
    const bool is = is_salient(parts.map, token);
    RowBatch& to = is ? salient : other;
    to.token[to.n] = is ? cursor->map_salient : token - cursor->map_salient;
    to.table[to.n] = batch.table[i];
    to.out[to.n++] = batch.out[i];
  }
  ReadCursor unused;
  if (salient.n != 0)
    read_rows(parts.salient, target, section + parts.at.salient, salient, &unused);
  if (other.n != 0) read_rows(parts.other, target, section + parts.at.other, other, &unused);
}

int write_mixed(const SectionShape& shape, RowSource& source, const TokenWalk&, Byte* section,
                uint64_t* written) {
  const uint8_t* marks = source.params().salient;
  MixedHeader header = {};
  for (uint32_t token = 0; marks != nullptr && token < shape.n_tokens; ++token)
    header.salient_tokens += marks[token] != 0 ? 1 : 0;
  const Parts parts = parts_of(shape, section, header.salient_tokens);
  memcpy(section, &header, sizeof(header));
  clear_bytes(section, parts.at.map, parts.at.salient);
  for (uint32_t token = 0; marks != nullptr && token < shape.n_tokens; ++token)
    if (marks[token] != 0) section[parts.at.map + token / 8] |= static_cast<Byte>(1u << token % 8);
  uint64_t part = 0;
  if (parts.salient.n_tokens != 0)
    if (int status = write_section(parts.salient, source, TokenWalk(marks, true),
                                   section + parts.at.salient, &part))
      return status;
  if (parts.other.n_tokens != 0)
    if (int status = write_section(parts.other, source, TokenWalk(marks, false),
                                   section + parts.at.other, &part))
      return status;
  *written = parts.at.total;
  return QUIRE_KERNEL_OK;
}

}  // namespace quire_kernels
