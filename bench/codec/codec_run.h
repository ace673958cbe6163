// One plane of a dump through a codec, slice by slice, as a store and an engine would: encode in
// the stored frame, decode, turn K to its position.
#ifndef QUIRE_BENCH_CODEC_CODEC_RUN_H_
#define QUIRE_BENCH_CODEC_CODEC_RUN_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "bench/codec/kv_dump.h"
#include "codecs/registry.h"

namespace quire::bench {

struct SliceOptions {
  uint32_t slice_tokens = 256;
  // kLocal: K is turned to positions 0, 1, .. of its slice before it is encoded.
  PositionFrame frame = PositionFrame::kPreRope;
};

// Memory for sections: as aligned as a store's windows, not touched before it is used.
class SectionBuffer {
 public:
  explicit SectionBuffer(uint64_t bytes);
  std::byte* data() const { return data_.get(); }
  uint64_t size() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* data) const { ::operator delete (data, std::align_val_t{64}); }
  };
  uint64_t bytes_;
  std::unique_ptr<std::byte, Free> data_;
};

struct PlaneResult {
  std::vector<float> values;  // [token][head][dim]; K at its positions
  uint64_t section_bytes = 0;
};

// salient: one byte per token of the dump or none.
Expected<PlaneResult> run_plane(CodecId codec, Plane plane, const DumpLayer& layer,
                                uint32_t n_tokens, const SliceOptions& options,
                                std::span<const uint8_t> salient);

// The plane as raw-f32 keeps it, turned the same way: what run_plane() is compared with.
Expected<std::vector<float>> exact_plane(Plane plane, const DumpLayer& layer, uint32_t n_tokens);

// Whether every element of the codec's own type comes back bit for bit.
Expected<bool> keeps_bits(const CodecInfo& codec, Plane plane, const DumpLayer& layer,
                          uint32_t n_tokens, uint32_t slice_tokens);

// What an engine with the codec's own element type would hold: the type, and the plane's values
// rounded to it.
ElementType engine_element(const CodecInfo& codec);
uint32_t element_bytes(ElementType element);
std::vector<std::byte> to_elements(std::span<const float> values, ElementType element);

// Shape and strides of slice [begin, begin + n) of a plane held as [token][head][dim].
quire_store_params store_params(CodecId codec, Plane plane, const LayerDescriptor& shape,
                                const std::byte* plane_data, ElementType element, uint32_t begin,
                                uint32_t n_tokens);
quire_load_params load_params(CodecId codec, Plane plane, const LayerDescriptor& shape,
                              std::byte* plane_data, ElementType element, uint32_t begin,
                              uint32_t n_tokens);

}  // namespace quire::bench

#endif  // QUIRE_BENCH_CODEC_CODEC_RUN_H_
