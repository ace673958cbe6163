// Made-up models and representations that the server accepts like real ones: valid ids, manifests
// and checksums, payloads that follow from a number.
#ifndef QUIRE_BENCH_SYNTHETIC_H_
#define QUIRE_BENCH_SYNTHETIC_H_

#include <cstdint>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "codecs/representation.h"

namespace quire::bench {

struct SyntheticShape {
  uint32_t layers = 1;
  uint32_t kv_heads = 1;
  uint32_t head_dims = 64;
  // f16 K and V of all layers and heads.
  uint64_t bytes_per_token() const { return 4ull * layers * kv_heads * head_dims; }
};

// Two calls with the same arguments give the same model; another seed gives another model.
ModelDescriptor synthetic_model(const SyntheticShape& shape, uint64_t seed);

// One representation in raw f16, context isolated. Objects with different numbers have different
// tokens and different payloads; the same number gives the same bytes.
class SyntheticObject {
 public:
  // Takes memory for objects of about payload_bytes (tokens are rounded up; at least
  // kMatchTokensMin).
  static Expected<SyntheticObject> make(const SyntheticShape& shape, uint64_t model_seed,
                                        uint64_t payload_bytes);

  // Fills bytes() with the object of this number. all_bytes: the whole payload follows from the
  // number; else only the tokens and the first bytes of each section do, which is faster.
  Status fill(uint64_t number, bool all_bytes);

  const Digest& representation() const { return header_.representation; }
  const ModelDescriptor& model() const { return model_; }
  ByteSpan bytes() const { return bytes_; }

 private:
  SyntheticShape shape_;
  ModelDescriptor model_;
  RepresentationHeader header_;
  std::vector<uint64_t> section_bytes_;
  std::vector<std::byte> bytes_;
};

}  // namespace quire::bench

#endif  // QUIRE_BENCH_SYNTHETIC_H_
