#include "client/reuse/engine_memory.h"

#include <string>

namespace quire::reuse {

RopeTables::RopeTables(uint32_t flags, int64_t src_pos, int64_t dst_pos, uint32_t n_tokens,
                       const Angles& angles)
    : flags_(flags), src_pos_(src_pos), dst_pos_(dst_pos), n_tokens_(n_tokens), angles_(angles) {}

Status RopeTables::fill(std::vector<float>& table, uint32_t n_tokens,
                        const LayerDescriptor& descriptor, const EngineRope& rope) const {
  table.resize(size_t{n_tokens} * descriptor.rotary_dims);
  quire_rope_params params{};
  params.struct_bytes = sizeof(params);
  params.mode = angles_.mode == AngleMode::kExact ? QUIRE_ROPE_MODE_EXACT : QUIRE_ROPE_MODE_ENGINE;
  params.flags = flags_;
  params.src_pos = src_pos_;
  params.dst_pos = dst_pos_;
  params.n_tokens = n_tokens;
  params.rotary_dims = descriptor.rotary_dims;
  params.inverse_frequencies = descriptor.inverse_frequencies.data();
  params.base = rope.base;
  params.freq_scale = rope.freq_scale;
  params.freq_factors = rope.freq_factors.empty() ? nullptr : rope.freq_factors.data();
  params.table = table.data();
  params.table_bytes = table.size() * sizeof(float);
  return make_rope_table(params);
}

Expected<quire_rotation> RopeTables::rotation(uint32_t layer, const LayerDescriptor& descriptor) {
  quire_rotation none{};
  none.style = QUIRE_ROPE_STYLE_NONE;
  const bool moves_both = flags_ == (QUIRE_ROPE_FROM_SRC | QUIRE_ROPE_TO_DST);
  if (flags_ == 0 || descriptor.rope_style == RopeStyle::kNone || descriptor.rotary_dims == 0 ||
      (moves_both && src_pos_ == dst_pos_))
    return none;
  if (descriptor.length_dependent)
    return Status(
        StatusCode::kUnsupported,
        "layer " + std::to_string(layer) +
            ": its rope depends on the length of the prompt, so stored K cannot be moved");
  EngineRope rope;
  Key key{descriptor.inverse_frequencies, descriptor.rotary_dims, 0.0f, 0.0f};
  if (angles_.mode == AngleMode::kEngineTable) {
    if (!angles_.engine_rope)
      return Status(StatusCode::kInvalidArgument,
                    "engine tables need the engine's rope parameters");
    rope = angles_.engine_rope(layer);
    if (!rope.freq_factors.empty() && rope.freq_factors.size() != descriptor.rotary_dims / 2)
      return Status(StatusCode::kInvalidArgument, "freq_factors must have rotary_dims / 2 values");
    key = {std::vector<float>(rope.freq_factors.begin(), rope.freq_factors.end()),
           descriptor.rotary_dims, rope.base, rope.freq_scale};
  }
  // One exact move turns every token by the same angles.
  const bool one_row = moves_both && angles_.mode == AngleMode::kExact;
  auto [entry, added] = tables_.try_emplace(std::move(key));
  if (added) QUIRE_RETURN_IF_ERROR(fill(entry->second, one_row ? 1 : n_tokens_, descriptor, rope));
  quire_rotation rotation{};
  rotation.style = static_cast<int32_t>(descriptor.rope_style);
  rotation.rotary_dims = descriptor.rotary_dims;
  rotation.table = entry->second.data();
  rotation.table_token_stride =
      one_row ? 0 : static_cast<int64_t>(descriptor.rotary_dims * sizeof(float));
  return rotation;
}

static_assert(static_cast<int>(RopeStyle::kNone) == QUIRE_ROPE_STYLE_NONE &&
              static_cast<int>(RopeStyle::kNeox) == QUIRE_ROPE_STYLE_NEOX &&
              static_cast<int>(RopeStyle::kInterleaved) == QUIRE_ROPE_STYLE_INTERLEAVED);
static_assert(static_cast<int>(ElementType::kF16) == QUIRE_DTYPE_F16 &&
              static_cast<int>(ElementType::kBf16) == QUIRE_DTYPE_BF16 &&
              static_cast<int>(ElementType::kF32) == QUIRE_DTYPE_F32);

}  // namespace quire::reuse
