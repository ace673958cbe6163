#include "client/capi/kv_memory.h"

#include "client/capi/errors.h"

namespace quire::capi {
namespace {

Status invalid(std::string message) {
  return {StatusCode::kInvalidArgument, std::move(message)};
}

}  // namespace

Expected<KvMemory> KvMemory::read(const quire_kv_memory& source, const ModelDescriptor& model,
                                  const Coverage& coverage) {
  KvMemory result;
  QUIRE_RETURN_IF_ERROR(read_struct(&source, result.memory_));
  const quire_kv_memory& memory = result.memory_;
  const size_t n_planes = 2 * size_t{coverage.layer_end - coverage.layer_begin};
  if (memory.n_planes != n_planes)
    return invalid("n_planes is " + std::to_string(memory.n_planes) + ", the layers have " +
                   std::to_string(n_planes));
  if (memory.rows == nullptr && memory.n_rows != 0) return null_argument("rows");
  if (memory.rows != nullptr && memory.n_rows == 0) return invalid("n_rows is not set");
  if (memory.angles > QUIRE_ANGLES_ENGINE) return invalid("unknown angles");
  result.layer_begin_ = coverage.layer_begin;
  QUIRE_RETURN_IF_ERROR(
      read_struct_array(memory.planes, n_planes, 2 * size_t{kLayersMax}, result.planes_));
  for (const quire_kv_plane& plane : result.planes_)
    if (plane.data != nullptr &&
        (plane.element < QUIRE_ELEMENT_F16 || plane.element > QUIRE_ELEMENT_F32))
      return invalid("a plane's element is none of F16, BF16, F32");
  QUIRE_RETURN_IF_ERROR(result.read_ropes(model.layers.size()));
  return result;
}

Status KvMemory::read_ropes(size_t n_layers) {
  if (memory_.angles != QUIRE_ANGLES_ENGINE) return Status::ok();
  if (memory_.n_engine_ropes != 1 && memory_.n_engine_ropes != n_layers)
    return invalid("angles ENGINE need one engine rope, or one per layer of the model");
  QUIRE_RETURN_IF_ERROR(
      read_struct_array(memory_.engine_ropes, memory_.n_engine_ropes, kLayersMax, ropes_));
  for (const quire_engine_rope& rope : ropes_)
    if (rope.n_freq_factors != 0 && rope.freq_factors == nullptr)
      return null_argument("freq_factors");
  return Status::ok();
}

reuse::EnginePlaneOf KvMemory::planes() const {
  return [this](uint32_t layer, Plane which) {
    const quire_kv_plane& source =
        planes_[2 * size_t{layer - layer_begin_} + static_cast<size_t>(which)];
    reuse::EnginePlane plane;
    plane.data = static_cast<std::byte*>(source.data);
    plane.n_rows = source.n_rows;
    plane.token_stride = source.token_stride;
    plane.head_stride = source.head_stride;
    plane.dim_stride = source.dim_stride;
    plane.element = static_cast<ElementType>(source.element);
    return plane;
  };
}

reuse::RowMap KvMemory::rows() const {
  return {memory_.first_row, std::span(memory_.rows, memory_.n_rows)};
}

reuse::Angles KvMemory::angles() const {
  reuse::Angles angles;
  if (memory_.angles == QUIRE_ANGLES_EXACT) return angles;
  angles.mode = reuse::AngleMode::kEngineTable;
  angles.engine_rope = [this](uint32_t layer) {
    const quire_engine_rope& rope = ropes_[ropes_.size() == 1 ? 0 : layer];
    return reuse::EngineRope{
        rope.base, rope.freq_scale, {rope.freq_factors, size_t{rope.n_freq_factors}}};
  };
  return angles;
}

static_assert(QUIRE_ELEMENT_F16 == static_cast<int>(ElementType::kF16) &&
              QUIRE_ELEMENT_BF16 == static_cast<int>(ElementType::kBf16) &&
              QUIRE_ELEMENT_F32 == static_cast<int>(ElementType::kF32));

}  // namespace quire::capi
