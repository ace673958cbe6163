// A small model and a filled representation of it for the codecs' tests, and golden files.
#ifndef QUIRE_TESTS_CODECS_REPRESENTATION_FIXTURE_H_
#define QUIRE_TESTS_CODECS_REPRESENTATION_FIXTURE_H_

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "codecs/registry.h"
#include "codecs/representation.h"

namespace quire::testing {

// Two layers, one KV head of four dims.
inline ModelDescriptor tiny_model() {
  ModelDescriptor model;
  model.weights.bytes.fill(1);
  model.tokenizer.bytes.fill(2);
  LayerDescriptor layer;
  layer.rope_style = RopeStyle::kNeox;
  layer.kv_heads = 1;
  layer.key_dims = layer.value_dims = layer.rotary_dims = 4;
  layer.inverse_frequencies = {1.0f, 0.01f};
  model.layers = {layer, layer};
  return model;
}

inline RepresentationHeader tiny_header(CodecId codec, uint32_t n_tokens = 3) {
  RepresentationHeader header;
  header.codec = codec;
  header.model = model_id(tiny_model());
  header.coverage = {0, 2, 0, 1};
  for (uint32_t i = 0; i < n_tokens; ++i) header.tokens.push_back(1000 + i);
  fill_ids(header, {});
  return header;
}

// Element (layer, plane, token, dim) = layer + plane / 2 + token / 8 + dim * 4, encoded by the
// kernels.
inline std::vector<std::byte> tiny_representation(const RepresentationHeader& header) {
  const auto n_tokens = static_cast<uint32_t>(header.tokens.size());
  const auto sizes = section_sizes(header.codec, tiny_model(), header.coverage, n_tokens);
  if (!sizes.is_ok()) std::abort();
  std::vector<std::vector<std::byte>> sections;
  for (uint32_t layer = header.coverage.layer_begin; layer < header.coverage.layer_end; ++layer)
    for (const Plane plane : {Plane::kKey, Plane::kValue}) {
      std::vector<float> values;
      for (uint32_t token = 0; token < n_tokens; ++token)
        for (uint32_t dim = 0; dim < 4; ++dim)
          values.push_back(static_cast<float>(layer) + static_cast<float>(plane) / 2 +
                           static_cast<float>(token) / 8 + static_cast<float>(dim) * 4);
      const uint64_t section_bytes_max = (*sizes)[sections.size()];
      std::vector<std::byte>& section = sections.emplace_back(section_bytes_max);
      uint64_t written = section.size();
      quire_store_params p{};
      p.struct_bytes = sizeof(p);
      p.codec = static_cast<int32_t>(header.codec);
      p.plane = static_cast<int32_t>(plane);
      p.n_tokens = n_tokens;
      p.n_heads = 1;
      p.head_dim = 4;
      p.src_dtype = QUIRE_DTYPE_F32;
      p.src = values.data();
      p.src_tokens = n_tokens;
      p.src_token_stride = p.src_head_stride = 16;
      p.src_dim_stride = 4;
      p.dst = section.data();
      p.dst_bytes = section.size();
      p.dst_written = &written;
      if (!encode_section(p).is_ok()) std::abort();
      section.resize(written);
    }
  std::vector<uint64_t> written;
  for (const auto& section : sections) written.push_back(section.size());
  const auto writer = RepresentationWriter::plan(header, written);
  if (!writer.is_ok()) std::abort();
  std::vector<std::byte> bytes(writer->total_bytes(), std::byte{0xEE});
  uint64_t i = 0;
  for (uint32_t layer = header.coverage.layer_begin; layer < header.coverage.layer_end; ++layer)
    for (const Plane plane : {Plane::kKey, Plane::kValue}) {
      std::memcpy(writer->section(bytes, layer, plane).data(), sections[i].data(),
                  sections[i].size());
      ++i;
    }
  writer->finish(bytes);
  return bytes;
}

// Puts the manifest checksum right after bytes were changed on purpose.
inline void repair_checksum(std::vector<std::byte>& bytes) {
  constexpr uint64_t kManifestBytesOffset = 20;
  uint32_t manifest_bytes = 0;
  if (bytes.size() < kManifestBytesOffset + 4) return;
  std::memcpy(&manifest_bytes, bytes.data() + kManifestBytesOffset, 4);
  if (manifest_bytes < 8 || manifest_bytes > bytes.size()) return;
  const uint64_t checksum = xxh3_64(ByteSpan(bytes).first(manifest_bytes - 8));
  std::memcpy(bytes.data() + manifest_bytes - 8, &checksum, 8);
}

inline std::string golden_path(const std::string& name) {
  return std::string(QUIRE_SOURCE_DIR) + "/tests/data/" + name;
}

// The golden file's bytes. With QUIRE_UPDATE_GOLDEN set, `made` is written there first: only for a
// format whose version was raised.
inline std::vector<std::byte> golden(const std::string& name, ByteSpan made) {
  if (std::getenv("QUIRE_UPDATE_GOLDEN") != nullptr) {
    std::ofstream out(golden_path(name), std::ios::binary);
    out.write(reinterpret_cast<const char*>(made.data()),
              static_cast<std::streamsize>(made.size()));
  }
  std::ifstream in(golden_path(name), std::ios::binary);
  const std::vector<char> chars{std::istreambuf_iterator<char>(in), {}};
  const auto* first = reinterpret_cast<const std::byte*>(chars.data());
  return {first, first + chars.size()};
}

}  // namespace quire::testing

#endif  // QUIRE_TESTS_CODECS_REPRESENTATION_FIXTURE_H_
