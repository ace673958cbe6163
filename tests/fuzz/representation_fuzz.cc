// Fuzz entry of the representation parser: whatever the bytes, parsing, verifying, checking against
// a model and loading every section end in a status. With clang:
//   clang++ -std=c++20 -fsanitize=fuzzer,address,undefined -I. tests/fuzz/representation_fuzz.cc
//   ...
// Without a fuzzer, representation_mutation_test drives it over seeded mutations.
#include <cstdlib>
#include <vector>

#include "codecs/registry.h"
#include "codecs/representation.h"
#include "tests/codecs/representation_fixture.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

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

void check(quire::ByteSpan bytes) {
  const auto view = quire::RepresentationView::parse(bytes);
  if (!view.is_ok()) return;
  if (view->total_bytes() != bytes.size()) std::abort();
  (void)view->verify_sections();
  (void)view->verify_object({});
  if (!quire::check_sections(*view, quire::testing::tiny_model()).is_ok()) return;
  const quire::Coverage& coverage = view->header().coverage;
  for (uint32_t layer = coverage.layer_begin; layer < coverage.layer_end; ++layer)
    for (const Plane plane : {Plane::kKey, Plane::kValue}) load_section(*view, layer, plane);
}

}  // namespace

// Every input is tried as it is and with its manifest checksum put right, so that what lies behind
// the checksum is reached as well.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  check(bytes);
  std::vector<std::byte> repaired(bytes.begin(), bytes.end());
  quire::testing::repair_checksum(repaired);
  check(repaired);
  return 0;
}
