// Sections of the wrapped codecs: expanding any bytes ends in a status, nothing is taken for a
// section that does not have its checksum, and the header alone says how large it is. As checksums
// would stop nearly every mutation, rANS is fed once more behind it, too.
#include "codecs/entropy/int4_rans.h"
#include "codecs/entropy/shuffle_lz4.h"
#include "codecs/entropy/split_zstd.h"
#include "tests/fuzz/section_shape.h"

QUIRE_FUZZ_SEEDS(wrapped) {
  quire::fuzz::Seeds seeds;
  for (const quire::CodecInfo& codec : quire::codecs())
    for (const quire::Plane plane : {quire::Plane::kKey, quire::Plane::kValue})
      if (quire::base_codec(codec.id).has_value())
        seeds.emplace_back(quire::fuzz::seed_name(codec, plane),
                           quire::fuzz::section_seed(codec.id, plane));
  return seeds;
}

QUIRE_FUZZ_TARGET(wrapped) {
  using namespace quire;
  const auto section = fuzz::section_input(input);
  if (!section.has_value()) return false;
  const auto base = base_codec(section->codec);
  if (!base.has_value()) return false;
  const SectionShape& shape = section->shape;
  const uint64_t bytes =
      quire_section_bytes(static_cast<int32_t>(*base), static_cast<int32_t>(shape.plane),
                          shape.n_tokens, shape.n_heads, shape.head_dim);
  std::vector<std::byte> expanded(bytes);
  const bool checked = check_wrapped(section->codec, shape, section->section).is_ok();
  const Status status = expand_section(section->codec, shape, section->section, expanded);
  fuzz::expect(!status.is_ok() || checked, "only what passes the check is expanded");
  fuzz::expect(status.is_ok() || status.code() == StatusCode::kCorrupt, "bad bytes are corrupt");
  constexpr uint64_t kHeaderBytes = 64;
  if (section->section.size() > kHeaderBytes) {
    const std::vector<std::byte> payload(section->section.begin() + kHeaderBytes,
                                         section->section.end());
    if (section->codec == CodecId::kBf16ShuffleLz4)
      (void)unpack_shuffle_lz4(shape, payload, expanded);
    if (section->codec == CodecId::kBf16SplitZstd)
      (void)unpack_split_zstd(shape, payload, expanded);
    if (section->codec == CodecId::kInt4Rans) (void)unpack_int4_rans(shape, payload, expanded);
  }
  std::vector<float> engine;
  (void)decode_section(fuzz::load_params(*section, engine));
  return status.is_ok();
}
