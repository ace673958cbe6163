#include "tests/client/llama/support.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <iostream>

#include "client/reuse/encode.h"
#include "ggml.h"

namespace quire::llama_test {

namespace {

constexpr uint64_t kF32RoomFactor = 8;  // 4-bit weights become 32-bit ones

constexpr const char* kParagraphs[] = {
    "The network file system lets a host share directories with its clients. The daemon nfsd "
    "answers "
    "their requests, and the file exports names the directories and who may mount them. ",
    "Scheduled commands are run by cron, which reads one table per user; a command that should run "
    "a "
    "single time is handed to atd instead, and batch waits until the machine has little to do. ",
    "A package carries its files and its metadata in one archive. Its control part lists what it "
    "depends on, what it conflicts with, and the scripts that are run before and after it is "
    "unpacked. ",
    "Logical volumes are cut from a volume group, which gathers physical volumes. They can grow "
    "while "
    "they are in use, and a snapshot keeps the state that a volume had at one moment. ",
    "The mail server accepts letters on port 25, asks a policy whether the sender may deliver "
    "here, and "
    "puts them into the queue, from where they are delivered to local boxes or to other hosts. ",
};

std::string missing(const std::string& what) {
  std::cerr << "[          ] " << what << " is missing: run tools/setup.sh --models, or set "
            << "QUIRE_MODELS to the directory that holds it\n";
  return {};
}

}  // namespace

std::string models_directory() {
  const char* models = std::getenv("QUIRE_MODELS");
  return models != nullptr ? models : default_cache_directory() + "/models";
}

std::optional<std::string> model_path(const std::string& name) {
  const std::string path = models_directory() + "/" + name + ".gguf";
  if (std::filesystem::is_regular_file(path)) return path;
  missing(path);
  return std::nullopt;
}

std::optional<std::string> f32_model_path(const std::string& name) {
  const std::string target = models_directory() + "/" + name + "-f32.gguf";
  if (std::filesystem::is_regular_file(target)) return target;
  const auto source = model_path(name);
  if (!source) return std::nullopt;
  std::error_code error;
  const auto space = std::filesystem::space(models_directory(), error);
  if (error || space.available < kF32RoomFactor * std::filesystem::file_size(*source)) {
    std::cerr << "[          ] no room for an F32 copy in " << models_directory() << "\n";
    return std::nullopt;
  }
  const Status status = llama_convert_to_f32(*source, target);
  if (status.is_ok()) return target;
  std::cerr << "[          ] " << status.to_string() << "\n";
  return std::nullopt;
}

LlamaEngine* shared_engine(const std::string& name, uint32_t n_ctx,
                           const std::atomic<bool>* abort) {
  static std::unique_ptr<LlamaEngine> held;
  static std::string held_name;
  if (held_name != name) {
    held.reset();
    held_name = name;
    const auto path = model_path(name);
    if (!path) return nullptr;
    LlamaOptions options;
    options.model_path = *path;
    options.n_ctx = n_ctx;
    options.n_threads = 1;
    options.abort_flag = abort;
    options.skip_digest = true;
    auto engine = LlamaEngine::open(options);
    EXPECT_TRUE(engine.is_ok()) << engine.status().to_string();
    if (engine) held = std::move(*engine);
  }
  if (held != nullptr) held->clear();
  return held.get();
}

std::string paragraph(uint32_t i) {
  return kParagraphs[i % std::size(kParagraphs)];
}

std::vector<TokenId> tokens_of(const LlamaEngine& engine, std::string_view text) {
  auto tokens = engine.tokenize(text, false, false);
  return tokens ? *tokens : std::vector<TokenId>{};
}

std::vector<TokenId> chunk_of(const LlamaEngine& engine, uint32_t i, uint32_t n) {
  std::vector<TokenId> chunk;
  for (uint32_t k = i; chunk.size() < n; ++k) {
    const std::vector<TokenId> more = tokens_of(engine, paragraph(k));
    chunk.insert(chunk.end(), more.begin(), more.end());
  }
  chunk.resize(n);
  return chunk;
}

std::vector<float> read_plane(const LlamaEngine& engine, uint32_t layer, Plane plane,
                              uint32_t begin, uint32_t n_tokens) {
  const auto capture = engine.view(begin, n_tokens);
  if (!capture) return {};
  const LayerDescriptor& shape = engine.descriptor().layers[layer];
  const reuse::EnginePlane from = capture->plane_of(layer, plane);
  const uint32_t dims = plane == Plane::kKey ? shape.key_dims : shape.value_dims;
  std::vector<float> values;
  for (uint32_t token = 0; token < n_tokens; ++token) {
    for (uint32_t head = 0; head < shape.kv_heads; ++head) {
      for (uint32_t dim = 0; dim < dims; ++dim) {
        const std::byte* at = from.data + (capture->first_row + token) * from.token_stride +
                              head * from.head_stride + dim * from.dim_stride;
        if (from.element == ElementType::kF32) {
          values.push_back(*reinterpret_cast<const float*>(at));
        } else {
          values.push_back(ggml_fp16_to_fp32(*reinterpret_cast<const ggml_fp16_t*>(at)));
        }
      }
    }
  }
  return values;
}

double relative(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size() || a.empty()) return INFINITY;
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(difference / norm);
}

double max_difference(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size() || a.empty()) return INFINITY;
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    worst = std::max(worst, std::abs(double{a[i]} - b[i]));
  }
  return worst;
}

void spoil(ggml_tensor* softmax) {
  ASSERT_EQ(softmax->type, GGML_TYPE_F32);
  auto* const values = static_cast<float*>(softmax->data);
  std::fill(values, values + ggml_nelements(softmax), NAN);
}

std::vector<std::byte> encode(const LlamaEngine& engine, const KvCapture& capture,
                              std::span<const TokenId> tokens, const VariantContext& context,
                              CodecId codec, bool swap_planes) {
  const RepresentationHeader header = capture_header(engine, capture, tokens, context, codec, {});
  const auto writer = reuse::plan_representation(header, engine.descriptor());
  if (!writer) {
    ADD_FAILURE() << writer.status().to_string();
    return {};
  }
  std::vector<std::byte> bytes(writer->total_bytes());
  reuse::EncodeOptions options;
  options.rows.first_row = capture.first_row;
  const auto planes = [&](uint32_t layer, Plane plane) {
    if (swap_planes) plane = plane == Plane::kKey ? Plane::kValue : Plane::kKey;
    return capture.plane_of(layer, plane);
  };
  const Status status =
      reuse::encode_representation(*writer, header, engine.descriptor(), planes, options, bytes);
  EXPECT_TRUE(status.is_ok()) << status.to_string();
  return bytes;
}

}  // namespace quire::llama_test
