#include "codecs/entropy/int4_rans.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <vector>

#include "codecs/entropy/rans.h"
#include "kernels/math/layout.h"

namespace quire {
namespace {

using quire_kernels::align_block;

// Consecutive rows of codes of one head inside the base section; zeros up to padded.
struct CodeBlock {
  uint32_t head;
  uint64_t offset;
  uint64_t bytes;
  uint64_t padded;
};

std::vector<CodeBlock> code_blocks(const SectionShape& shape) {
  const quire_kernels::PlaneSpec spec =
      quire_kernels::plane_spec(QUIRE_CODEC_INT4_CHANNEL64, static_cast<int32_t>(shape.plane));
  const uint64_t row = quire_kernels::code_row_bytes(shape.head_dim, spec.bits);
  const uint32_t run_tokens = spec.run_tokens == 0 ? shape.n_tokens : spec.run_tokens;
  std::vector<CodeBlock> blocks;
  for (uint32_t head = 0; head < shape.n_heads; ++head)
    for (uint32_t token = 0; token < shape.n_tokens; token += run_tokens) {
      const uint64_t bytes = std::min(run_tokens, shape.n_tokens - token) * row;
      const uint64_t offset =
          spec.run_tokens == 0
              ? token_head(spec, shape.n_tokens, shape.head_dim, head).codes
              : channel_run(spec, shape.n_tokens, shape.head_dim, head, token / run_tokens).codes;
      blocks.push_back({head, offset, bytes, align_block(bytes)});
    }
  return blocks;
}

// Payload: tables, side data, states, words.
struct Places {
  uint64_t side;
  uint64_t states;
  uint64_t words;
};

Places places_of(const SectionShape& shape, const std::vector<CodeBlock>& blocks,
                 uint64_t base_bytes) {
  uint64_t side_bytes = base_bytes;
  for (const CodeBlock& block : blocks) side_bytes -= block.padded;
  const uint64_t side = uint64_t{shape.n_heads} * sizeof(RansFrequencies);
  return {side, side + side_bytes, side + side_bytes + kRansStates * sizeof(uint32_t)};
}

// copy(offset in the base section, offset in the side data, bytes) of what is not codes.
template <typename Copy>
void for_side_data(const std::vector<CodeBlock>& blocks, uint64_t base_bytes, Copy copy) {
  uint64_t from = 0, to = 0;
  for (const CodeBlock& block : blocks) {
    copy(from, to, block.offset - from);
    to += block.offset - from;
    from = block.offset + block.padded;
  }
  copy(from, to, base_bytes - from);
}

bool is_zero(ByteSpan bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

}  // namespace

Expected<uint64_t> pack_int4_rans(const SectionShape& shape, ByteSpan base,
                                  MutableByteSpan payload) {
  const std::vector<CodeBlock> blocks = code_blocks(shape);
  const Places at = places_of(shape, blocks, base.size());
  if (payload.size() <= at.words) return uint64_t{0};
  std::vector<RansCounts> counts(shape.n_heads);
  for (const CodeBlock& block : blocks) {
    rans_count(base.subspan(block.offset, block.bytes), counts[block.head]);
    // It would not come back.
    if (!is_zero(base.subspan(block.offset + block.bytes, block.padded - block.bytes)))
      return uint64_t{0};
  }
  std::vector<RansFrequencies> tables(shape.n_heads);
  for (uint32_t head = 0; head < shape.n_heads; ++head)
    tables[head] = rans_frequencies(counts[head]);
  RansEncoder encoder(payload.subspan(at.words));
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block)
    if (!encoder.encode(tables[block->head], base.subspan(block->offset, block->bytes)))
      return uint64_t{0};
  std::memcpy(payload.data(), tables.data(), tables.size() * sizeof(RansFrequencies));
  for_side_data(blocks, base.size(), [&](uint64_t from, uint64_t to, uint64_t bytes) {
    std::memcpy(payload.data() + at.side + to, base.data() + from, bytes);
  });
  std::memcpy(payload.data() + at.states, encoder.states().data(), at.words - at.states);
  const ByteSpan words = encoder.words();
  std::memmove(payload.data() + at.words, words.data(), words.size());
  return at.words + words.size();
}

bool unpack_int4_rans(const SectionShape& shape, ByteSpan payload, MutableByteSpan base) {
  const std::vector<CodeBlock> blocks = code_blocks(shape);
  const Places at = places_of(shape, blocks, base.size());
  if (payload.size() < at.words || (payload.size() - at.words) % 2 != 0) return false;
  std::vector<RansFrequencies> tables(shape.n_heads);
  std::memcpy(tables.data(), payload.data(), tables.size() * sizeof(RansFrequencies));
  if (!std::all_of(tables.begin(), tables.end(), rans_valid)) return false;
  for_side_data(blocks, base.size(), [&](uint64_t from, uint64_t to, uint64_t bytes) {
    std::memcpy(base.data() + from, payload.data() + at.side + to, bytes);
  });
  RansDecodeState state = {};
  std::memcpy(state.states, payload.data() + at.states, at.words - at.states);
  state.words = payload.data() + at.words;
  state.n_words = (payload.size() - at.words) / 2;
  const RansDecode decode = rans_decoder();
  for (const CodeBlock& block : blocks) {
    decode(&state, tables[block.head].data(), base.data() + block.offset, block.bytes);
    if (state.overrun) return false;
    std::memset(base.data() + block.offset + block.bytes, 0, block.padded - block.bytes);
  }
  const auto at_start = [](uint32_t x) { return x == kRansStateMin; };
  return state.n_words == 0 &&
         std::all_of(std::begin(state.states), std::end(state.states), at_start);
}

}  // namespace quire
