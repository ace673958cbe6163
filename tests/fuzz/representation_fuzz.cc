// Fuzz entry of the representation parser: whatever the bytes, parsing, verifying, checking against
// a model and loading every section end in a status. representation_mutation_test calls the entry,
// too.
#include <cstdlib>
#include <vector>

#include "codecs/registry.h"
#include "codecs/representation.h"
#include "tests/codecs/representation_fixture.h"
#include "tests/fuzz/fuzz_target.h"

namespace {

using quire::Plane;

void load_section(const quire::RepresentationView& view, uint32_t layer, Plane plane) {
  const auto bytes = view.section(layer, plane);
  if (!bytes.is_ok()) std::abort();  // the coverage promised it
  const auto n_tokens = static_cast<uint32_t>(view.header().tokens.size());
  std::vector<uint32_t> aligned(bytes->size() / 4 + 1);
  std::memcpy(aligned.data(), bytes->data(), bytes->size());
  std::vector<float> engine(uint64_t{n_tokens} * 4);
  quire_load_params p{};
  p.struct_bytes = sizeof(p);
  p.codec = static_cast<int32_t>(view.header().codec);
  p.plane = static_cast<int32_t>(plane);
  p.n_tokens = p.token_end = n_tokens;
  p.n_heads = 1;
  p.head_dim = 4;
  p.dst_dtype = QUIRE_DTYPE_F32;
  p.src = aligned.data();
  p.src_bytes = bytes->size();
  p.dst = engine.data();
  p.dst_tokens = n_tokens;
  p.dst_token_stride = p.dst_head_stride = 16;
  p.dst_dim_stride = 4;
  const quire::Status status = quire::decode_section(p);
  if (status.is_ok() &&
      quire_scan_finite(QUIRE_DTYPE_F32, engine.data(), engine.size()) != QUIRE_KERNEL_OK)
    std::abort();  // what was loaded without an error is finite
}

bool check(quire::ByteSpan bytes) {
  const auto view = quire::RepresentationView::parse(bytes);
  if (!view.is_ok()) return false;
  if (view->total_bytes() != bytes.size()) std::abort();
  (void)view->verify_sections();
  (void)view->verify_object({});
  if (!quire::check_sections(*view, quire::testing::tiny_model()).is_ok()) return false;
  const quire::Coverage& coverage = view->header().coverage;
  for (uint32_t layer = coverage.layer_begin; layer < coverage.layer_end; ++layer)
    for (const Plane plane : {Plane::kKey, Plane::kValue}) load_section(*view, layer, plane);
  return true;
}

}  // namespace

QUIRE_FUZZ_SEEDS(representation) {
  quire::fuzz::Seeds seeds = {
      {"golden_raw_f16", quire::fuzz::golden_bytes("representation_raw_f16_v1.bin")},
      {"golden_int8_channel", quire::fuzz::golden_bytes("representation_int8_channel_v1.bin")}};
  for (const quire::CodecInfo& codec : quire::codecs())
    seeds.emplace_back("codec_" + std::to_string(static_cast<uint32_t>(codec.id)),
                       quire::testing::tiny_representation(quire::testing::tiny_header(codec.id)));
  return seeds;
}

// Every input is tried as it is and with its manifest checksum put right, so that what lies behind
// the checksum is reached as well.
QUIRE_FUZZ_TARGET(representation) {
  const bool accepted = check(input);
  std::vector<std::byte> repaired(input.begin(), input.end());
  quire::testing::repair_checksum(repaired);
  check(repaired);
  return accepted;
}
