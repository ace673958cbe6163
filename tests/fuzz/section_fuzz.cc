// Sections of every codec that the kernels load: a check or a load of any bytes ends in a status,
// what passes the check is loaded in bounds, and what was loaded without an error is finite.
#include "tests/fuzz/section_shape.h"

namespace {

bool load(const quire::fuzz::SectionInput& input, uint32_t begin, uint32_t end) {
  std::vector<float> engine;
  quire_load_params p = quire::fuzz::load_params(input, engine);
  p.token_begin = begin;
  p.token_end = end;
  if (quire_load(&p) != QUIRE_KERNEL_OK) return false;
  quire::fuzz::expect(
      quire_scan_finite(QUIRE_DTYPE_F32, engine.data(), engine.size()) == QUIRE_KERNEL_OK,
      "what was loaded is finite");
  return true;
}

}  // namespace

QUIRE_FUZZ_SEEDS(section) {
  quire::fuzz::Seeds seeds;
  for (const quire::CodecInfo& codec : quire::codecs())
    for (const quire::Plane plane : {quire::Plane::kKey, quire::Plane::kValue})
      if (!quire::base_codec(codec.id).has_value() &&
          (plane == quire::Plane::kKey || static_cast<uint32_t>(codec.id) >= 32))
        seeds.emplace_back(quire::fuzz::seed_name(codec, plane),
                           quire::fuzz::section_seed(codec.id, plane));
  return seeds;
}

QUIRE_FUZZ_TARGET(section) {
  const auto section = quire::fuzz::section_input(input);
  if (!section.has_value()) return false;
  const quire::SectionShape& shape = section->shape;
  const int status = quire_section_check(
      static_cast<int32_t>(section->codec), static_cast<int32_t>(shape.plane), shape.n_tokens,
      shape.n_heads, shape.head_dim, section->section.data(), section->section.size());
  const bool loaded = load(*section, 0, shape.n_tokens);
  quire::fuzz::expect(!loaded || status == QUIRE_KERNEL_OK, "only sound sections are loaded");
  const uint32_t third = shape.n_tokens / 3;
  const bool part = load(*section, third, shape.n_tokens - third);
  quire::fuzz::expect(!loaded || part, "a part of what can be loaded can be loaded");
  return loaded;
}
