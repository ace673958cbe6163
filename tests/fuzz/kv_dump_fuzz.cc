// Dumps of quire-kv-dump: any bytes end in a status, and what is accepted is consistent and comes
// back the same.
#include "bench/codec/kv_dump.h"
#include "bench/codec/safetensors.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/tools/codec/toy_dump.h"

QUIRE_FUZZ_SEEDS(kv_dump) {
  quire::bench::KvDump tiny = quire::bench::toy_dump(1, 3, 1);
  tiny.layers.pop_back();
  return {{"tiny", quire::bench::encode_dump(tiny)}};
}

QUIRE_FUZZ_TARGET(kv_dump) {
  using quire::fuzz::expect;
  const auto view = quire::bench::SafetensorsView::parse(input);
  if (view.is_ok()) {
    uint64_t bytes = 0;
    for (const quire::bench::Tensor& tensor : view->tensors()) bytes += tensor.data.size();
    expect(bytes < input.size(), "tensors lie behind the header");
  }
  const auto dump = quire::bench::parse_dump(input);
  if (!dump) {
    expect(!dump.status().message().empty(), "a refusal says why");
    return false;
  }
  expect(dump->validate().is_ok(), "what is accepted is valid");
  const auto again = quire::bench::parse_dump(quire::bench::encode_dump(*dump));
  expect(again.is_ok() && quire::bench::encode_dump(*again) == quire::bench::encode_dump(*dump),
         "a dump survives being written");
  return true;
}
