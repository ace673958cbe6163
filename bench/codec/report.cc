#include "bench/codec/report.h"

#include <algorithm>
#include <cmath>

#include "bench/codec/attention.h"
#include "client/reuse/salient.h"

namespace quire::bench {
namespace {

// What sums over layers and planes are made of.
struct Sums {
  uint64_t bytes = 0;
  uint64_t elements = 0;
  double max_error = 0;
  double error = 0;
  double norm = 0;

  void add(const PlaneResult& result, const std::vector<float>& exact) {
    bytes += result.section_bytes;
    elements += exact.size();
    for (size_t i = 0; i < exact.size(); ++i) {
      const double difference = double{result.values[i]} - exact[i];
      max_error = std::max(max_error, std::abs(difference));
      error += difference * difference;
      norm += double{exact[i]} * exact[i];
    }
  }
  PlaneErrors errors() const {
    return {8.0 * static_cast<double>(bytes) / static_cast<double>(elements), max_error,
            norm > 0 ? std::sqrt(error / norm) : 0};
  }
};

struct Running {
  Sums key;
  Sums value;
  AttentionDistance attention;
  double worst_layer = 0;
  bool lossless = true;
};

Status step(const ReportOptions& options, const std::string& what) {
  return options.on_step ? options.on_step(what.c_str()) : Status::ok();
}

// One byte per token, chosen slice by slice.
Expected<std::vector<uint8_t>> choose_salient(const KvDump& dump, const ReportOptions& options) {
  std::vector<double> mass(dump.n_tokens, 0.0);
  for (const DumpLayer& layer : dump.layers) {
    if (layer.shape.window_tokens != 0) continue;
    QUIRE_ASSIGN_OR_RETURN(const auto keys, exact_plane(Plane::kKey, layer, dump.n_tokens));
    LayerAttention::add_mass(dump, layer, dump.n_queries / 2, keys, mass);
  }
  std::vector<uint8_t> salient;
  for (uint32_t begin = 0; begin < dump.n_tokens; begin += options.slices.slice_tokens) {
    const uint32_t count = std::min(options.slices.slice_tokens, dump.n_tokens - begin);
    const std::vector<float> of_slice(mass.begin() + begin, mass.begin() + begin + count);
    const auto marks = reuse::salient_tokens(of_slice, options.salient_share);
    salient.insert(salient.end(), marks.begin(), marks.end());
  }
  return salient;
}

Status score_layer(const KvDump& dump, const DumpLayer& layer, const ReportOptions& options,
                   const std::vector<uint8_t>& salient, std::vector<Running>& running) {
  QUIRE_ASSIGN_OR_RETURN(const auto keys, exact_plane(Plane::kKey, layer, dump.n_tokens));
  QUIRE_ASSIGN_OR_RETURN(const auto values, exact_plane(Plane::kValue, layer, dump.n_tokens));
  const LayerAttention exact(dump, layer, dump.n_queries / 2, keys, values);
  for (size_t i = 0; i < options.codecs.size(); ++i) {
    const CodecInfo& codec = *options.codecs[i];
    QUIRE_ASSIGN_OR_RETURN(
        const PlaneResult key,
        run_plane(codec.id, Plane::kKey, layer, dump.n_tokens, options.slices, salient));
    QUIRE_ASSIGN_OR_RETURN(
        const PlaneResult value,
        run_plane(codec.id, Plane::kValue, layer, dump.n_tokens, options.slices, salient));
    Running& sums = running[i];
    sums.key.add(key, keys);
    sums.value.add(value, values);
    const AttentionDistance distance = exact.distance(key.values, value.values);
    sums.attention.add(distance);
    sums.worst_layer = std::max(sums.worst_layer, distance.kl_mean());
    if (!codec.lossless) continue;
    for (const Plane plane : {Plane::kKey, Plane::kValue}) {
      QUIRE_ASSIGN_OR_RETURN(const bool kept, keeps_bits(codec, plane, layer, dump.n_tokens,
                                                         options.slices.slice_tokens));
      sums.lossless = sums.lossless && kept;
    }
  }
  return Status::ok();
}

}  // namespace

Expected<std::vector<CodecScore>> make_codec_report(const KvDump& dump,
                                                    const ReportOptions& options) {
  QUIRE_RETURN_IF_ERROR(dump.validate());
  if (options.slices.slice_tokens == 0)
    return Status(StatusCode::kInvalidArgument, "slices need a token at least");
  QUIRE_ASSIGN_OR_RETURN(const std::vector<uint8_t> salient, choose_salient(dump, options));
  std::vector<Running> running(options.codecs.size());
  for (size_t i = 0; i < dump.layers.size(); ++i) {
    QUIRE_RETURN_IF_ERROR(step(options, "layer " + std::to_string(i)));
    QUIRE_RETURN_IF_ERROR(score_layer(dump, dump.layers[i], options, salient, running));
  }
  std::vector<CodecScore> scores;
  for (size_t i = 0; i < running.size(); ++i) {
    CodecScore score;
    score.codec = options.codecs[i];
    score.key = running[i].key.errors();
    score.value = running[i].value.errors();
    score.attention_kl = running[i].attention.kl_mean();
    score.attention_kl_worst_layer = running[i].worst_layer;
    score.output_error = running[i].attention.output_relative();
    if (score.codec->lossless) score.lossless = running[i].lossless;
    if (options.rounds > 0) {
      QUIRE_RETURN_IF_ERROR(step(options, "speed of " + std::string(score.codec->name)));
      QUIRE_ASSIGN_OR_RETURN(score.speed, measure_speed(dump, *score.codec, options, salient));
    }
    scores.push_back(score);
  }
  return scores;
}

}  // namespace quire::bench
