#include "bench/codec/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "kernels/math/bits.h"

namespace quire::bench {
namespace {

using nlohmann::json;

struct DtypeBytes {
  std::string_view name;
  uint64_t bytes;
};
constexpr std::array<DtypeBytes, 14> kDtypes = {{{"BOOL", 1},
                                                 {"U8", 1},
                                                 {"I8", 1},
                                                 {"F8_E5M2", 1},
                                                 {"F8_E4M3", 1},
                                                 {"I16", 2},
                                                 {"U16", 2},
                                                 {"F16", 2},
                                                 {"BF16", 2},
                                                 {"I32", 4},
                                                 {"U32", 4},
                                                 {"F32", 4},
                                                 {"F64", 8},
                                                 {"I64", 8}}};

Status corrupt(std::string text) {
  return {StatusCode::kCorrupt, "safetensors: " + std::move(text)};
}

Expected<uint64_t> dtype_bytes(const std::string& name) {
  for (const DtypeBytes& dtype : kDtypes)
    if (dtype.name == name) return dtype.bytes;
  return Status(StatusCode::kUnsupported, "safetensors: dtype \"" + name + "\"");
}

std::optional<std::vector<uint64_t>> unsigned_list(const json& value, size_t size_max) {
  if (!value.is_array() || value.size() > size_max) return std::nullopt;
  std::vector<uint64_t> result;
  for (const json& item : value) {
    if (!item.is_number_unsigned()) return std::nullopt;
    result.push_back(item.get<uint64_t>());
  }
  return result;
}

// The bytes of a tensor, with no product that wraps around.
std::optional<uint64_t> tensor_bytes(const std::vector<uint64_t>& shape, uint64_t element_bytes) {
  uint64_t bytes = element_bytes;
  for (const uint64_t extent : shape)
    if (__builtin_mul_overflow(bytes, extent, &bytes)) return std::nullopt;
  return bytes;
}

Expected<Tensor> parse_tensor(const std::string& name, const json& entry, ByteSpan payload) {
  if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string() ||
      !entry.contains("shape") || !entry.contains("data_offsets"))
    return corrupt("tensor \"" + name + "\" lacks dtype, shape or data_offsets");
  Tensor tensor;
  tensor.name = name;
  tensor.dtype = entry["dtype"].get<std::string>();
  QUIRE_ASSIGN_OR_RETURN(const uint64_t element_bytes, dtype_bytes(tensor.dtype));
  auto shape = unsigned_list(entry["shape"], kTensorRankMax);
  const auto offsets = unsigned_list(entry["data_offsets"], 2);
  if (!shape || !offsets || offsets->size() != 2)
    return corrupt("tensor \"" + name + "\": shape or data_offsets");
  const uint64_t begin = (*offsets)[0];
  const uint64_t end = (*offsets)[1];
  const auto bytes = tensor_bytes(*shape, element_bytes);
  if (begin > end || end > payload.size() || !bytes || *bytes != end - begin)
    return corrupt("tensor \"" + name + "\" does not fit its bytes");
  tensor.shape = std::move(*shape);
  tensor.data = payload.subspan(begin, end - begin);
  return tensor;
}

}  // namespace

Expected<SafetensorsView> SafetensorsView::parse(ByteSpan bytes) {
  ByteReader reader(bytes);
  const auto header_bytes = reader.read<uint64_t>();
  if (!reader.ok()) return corrupt("no header");
  if (header_bytes > kSafetensorsHeaderBytesMax)
    return Status(StatusCode::kResourceExhausted, "safetensors: a header beyond 16 MiB");
  const ByteSpan text = reader.read_bytes(header_bytes);
  if (!reader.ok()) return corrupt("the header is cut off");
  const ByteSpan payload = bytes.subspan(reader.offset());
  const auto* characters = reinterpret_cast<const char*>(text.data());
  const json header = json::parse(characters, characters + text.size(), nullptr, false);
  if (!header.is_object()) return corrupt("the header is no JSON object");
  if (header.size() > kTensorsMax)
    return Status(StatusCode::kResourceExhausted, "safetensors: too many tensors");
  SafetensorsView view;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      if (!entry.is_object()) return corrupt("__metadata__ is no object");
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) return corrupt("__metadata__ has a value that is no string");
        view.metadata_[key] = value.get<std::string>();
      }
      continue;
    }
    QUIRE_ASSIGN_OR_RETURN(Tensor tensor, parse_tensor(name, entry, payload));
    view.tensors_.push_back(std::move(tensor));
  }
  std::sort(view.tensors_.begin(), view.tensors_.end(), [](const Tensor& a, const Tensor& b) {
    return a.data.data() != b.data.data() ? a.data.data() < b.data.data()
                                          : a.data.size() < b.data.size();
  });
  // Holes and overlaps are not allowed; a name given twice leaves a hole.
  const std::byte* expected = payload.data();
  for (const Tensor& tensor : view.tensors_) {
    if (tensor.data.data() != expected) return corrupt("the tensors do not tile the file");
    expected += tensor.data.size();
  }
  if (expected != payload.data() + payload.size()) return corrupt("bytes that belong to no tensor");
  return view;
}

Expected<const Tensor*> SafetensorsView::find(std::string_view name) const {
  for (const Tensor& tensor : tensors_)
    if (tensor.name == name) return &tensor;
  return Status(StatusCode::kNotFound, "no tensor \"" + std::string(name) + "\"");
}

Expected<std::vector<float>> SafetensorsView::floats(std::string_view name,
                                                     std::span<const uint64_t> shape) const {
  QUIRE_ASSIGN_OR_RETURN(const Tensor* tensor, find(name));
  if (!std::equal(shape.begin(), shape.end(), tensor->shape.begin(), tensor->shape.end()))
    return corrupt("tensor \"" + std::string(name) + "\" has another shape");
  const bool wide = tensor->dtype == "F32";
  const bool half = tensor->dtype == "F16";
  if (!wide && !half && tensor->dtype != "BF16")
    return corrupt("tensor \"" + std::string(name) + "\" holds no floats");
  const size_t element_bytes = wide ? 4 : 2;
  std::vector<float> values(tensor->data.size() / element_bytes);
  if (wide) {
    if (!values.empty()) std::memcpy(values.data(), tensor->data.data(), tensor->data.size());
    return values;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, tensor->data.data() + 2 * i, 2);
    values[i] = half ? quire_kernels::half_to_float(bits) : quire_kernels::bf16_to_float(bits);
  }
  return values;
}

void SafetensorsWriter::add(const std::string& name, std::vector<uint64_t> shape,
                            std::vector<float> values) {
  entries_.push_back({name, std::move(shape), std::move(values)});
}

std::vector<std::byte> SafetensorsWriter::encode() const {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata_.empty()) header["__metadata__"] = metadata_;
  uint64_t offset = 0;
  for (const Entry& entry : entries_) {
    const uint64_t end = offset + entry.values.size() * sizeof(float);
    header[entry.name] = {
        {"dtype", "F32"}, {"shape", entry.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump(-1, ' ', false, json::error_handler_t::replace);
  text.resize(align_up(8 + text.size(), kTensorAlignment) - 8, ' ');
  std::vector<std::byte> bytes(8 + text.size() + offset);
  const uint64_t header_bytes = text.size();
  std::memcpy(bytes.data(), &header_bytes, 8);
  std::memcpy(bytes.data() + 8, text.data(), text.size());
  std::byte* out = bytes.data() + 8 + text.size();
  for (const Entry& entry : entries_) {
    const size_t n = entry.values.size() * sizeof(float);
    if (n != 0) std::memcpy(out, entry.values.data(), n);
    out += n;
  }
  return bytes;
}

Expected<std::vector<std::byte>> read_file(const std::string& path) {
  std::error_code error;
  const uint64_t size = std::filesystem::file_size(path, error);
  if (error) return Status(StatusCode::kIoError, path + ": " + error.message());
  if (size > kSafetensorsFileBytesMax)
    return Status(StatusCode::kResourceExhausted, path + ": larger than 16 GiB");
  std::vector<std::byte> bytes(size);
  std::ifstream in(path, std::ios::binary);
  if (!in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size)))
    return Status(StatusCode::kIoError, path + ": cannot be read");
  return bytes;
}

Status write_file(const std::string& path, ByteSpan bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
  out.close();
  return out ? Status::ok() : Status(StatusCode::kIoError, path + ": cannot be written");
}

}  // namespace quire::bench
