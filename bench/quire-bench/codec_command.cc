#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "bench/codec/report.h"
#include "bench/codec/safetensors.h"
#include "bench/quire-bench/codec_bench.h"

namespace quire::bench {
namespace {

using nlohmann::ordered_json;

struct EndToEnd {
  double kl = 0;
  double kl_low = 0;
  double kl_high = 0;
  double top1 = 0;
  uint32_t prompts = 0;
  std::optional<Goal> goal;
};
using EndToEndTable = std::map<std::pair<std::string, std::string>, EndToEnd>;

// The lines "codec.kl" of quire-codec-kl.
Status read_end_to_end(const std::string& path, EndToEndTable& results) {
  std::ifstream in(path);
  if (!in) return {StatusCode::kIoError, "cannot read " + path};
  std::string line;
  while (std::getline(in, line)) {
    if (line.empty() || line.front() != '{') continue;
    try {
      const auto json = nlohmann::json::parse(line);
      if (json.at("bench") != "codec.kl") continue;
      const auto& params = json.at("params");
      EndToEnd result;
      result.kl = json.at("value");
      result.kl_low = params.at("kl_low");
      result.kl_high = params.at("kl_high");
      result.top1 = params.at("top1");
      result.prompts = params.at("prompts");
      if (json.contains("goal")) result.goal = Goal{GoalKind::kValueMax, json["goal"].at("bound")};
      results[{params.at("model"), params.at("codec")}] = result;
    } catch (const nlohmann::json::exception& exception) {
      return {StatusCode::kInvalidArgument, path + ": " + exception.what()};
    }
  }
  return Status::ok();
}

Expected<std::vector<const CodecInfo*>> wanted_codecs(const std::vector<std::string>& names) {
  std::vector<const CodecInfo*> result;
  for (const std::string& name : names) {
    QUIRE_ASSIGN_OR_RETURN(const CodecInfo* codec, find_codec(name));
    result.push_back(codec);
  }
  if (names.empty())
    for (const CodecInfo& codec : codecs()) result.push_back(&codec);
  return result;
}

Expected<KvDump> load_dump(const std::string& path) {
  QUIRE_ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, read_file(path));
  auto dump = parse_dump(bytes);
  if (!dump) return Status(dump.status().code(), path + ": " + dump.status().message());
  return dump;
}

ReportOptions report_options(const CodecBenchOptions& options) {
  ReportOptions report;
  report.slices.slice_tokens = options.slice_tokens;
  report.slices.frame = options.frame == "local" ? PositionFrame::kLocal : PositionFrame::kPreRope;
  report.salient_share = options.salient_share;
  report.rounds = options.rounds;
  report.speed_bytes = options.speed_bytes;
  report.on_step = [&common = options.common](const char* what) {
    common.say(what);
    return common.check_stop();
  };
  return report;
}

// value: attention KL. It has no floor; a goal is the end-to-end one.
Result result_of(const KvDump& dump, const CodecScore& score, const CodecBenchOptions& options,
                 const EndToEndTable& end_to_end) {
  Result result;
  result.bench = "codec.attention_kl";
  result.params = {{"model", dump.model},
                   {"codec", score.codec->name},
                   {"frame", options.frame},
                   {"tokens", dump.n_tokens},
                   {"queries", dump.n_queries - dump.n_queries / 2},
                   {"slice_tokens", options.slice_tokens},
                   {"key_bits", score.key.bits_per_element},
                   {"value_bits", score.value.bits_per_element},
                   {"key_relative_error", score.key.relative_error},
                   {"key_max_error", score.key.max_error},
                   {"value_relative_error", score.value.relative_error},
                   {"value_max_error", score.value.max_error},
                   {"attention_kl_worst_layer", score.attention_kl_worst_layer},
                   {"output_relative_error", score.output_error}};
  if (score.lossless) result.params["lossless"] = *score.lossless;
  if (score.speed) {
    result.params["encode_share"] = score.speed->encode;
    result.params["decode_share"] = score.speed->decode;
    result.params["decode_moved_share"] = score.speed->decode_moved;
    result.params["memcpy_bytes_per_second"] = score.speed->memcpy_bytes_per_second;
  }
  const auto found = end_to_end.find({dump.model, std::string(score.codec->name)});
  if (found != end_to_end.end()) {
    const EndToEnd& kl = found->second;
    result.params["end_to_end_kl"] = kl.kl;
    result.params["end_to_end_kl_range"] = {kl.kl_low, kl.kl_high};
    result.params["end_to_end_top1"] = kl.top1;
    result.params["end_to_end_prompts"] = kl.prompts;
    if (kl.goal) {
      result.params["end_to_end_goal"] = kl.goal->bound;
      result.params["end_to_end_goal_met"] = kl.kl <= kl.goal->bound;
    }
  }
  result.value = score.attention_kl;
  result.unit = "nats";
  result.direction = Direction::kTime;
  return result;
}

void print_head(const KvDump& dump, const CodecBenchOptions& options, std::ostream& out) {
  out << dump.model << ": " << dump.n_tokens << " tokens in slices of " << options.slice_tokens
      << ", frame " << options.frame << "\n"
      << "codec              bits K  bits V  encode  decode   moved  rel. K    rel. V    attn KL   "
         "worst     output    kept  KL end to end\n";
}

void print_row(const Result& result, std::ostream& out) {
  const auto number = [&](const char* name) {
    const auto found = result.params.find(name);
    return found == result.params.end() ? 0.0 : found->get<double>();
  };
  char line[320];
  std::snprintf(line, sizeof(line),
                "%-18s %6.2f  %6.2f  %6.3f  %6.3f  %6.3f  %-8.2g  %-8.2g  %-8.2g  %-8.2g  %-8.2g  ",
                result.params["codec"].get<std::string>().c_str(), number("key_bits"),
                number("value_bits"), number("encode_share"), number("decode_share"),
                number("decode_moved_share"), number("key_relative_error"),
                number("value_relative_error"), result.value, number("attention_kl_worst_layer"),
                number("output_relative_error"));
  out << line;
  const bool promises = result.params.contains("lossless");
  out << (!promises ? "-     " : result.params["lossless"].get<bool>() ? "yes   " : "NO    ");
  if (result.params.contains("end_to_end_kl")) {
    std::snprintf(line, sizeof(line), "%.2g [%.2g, %.2g]", number("end_to_end_kl"),
                  result.params["end_to_end_kl_range"][0].get<double>(),
                  result.params["end_to_end_kl_range"][1].get<double>());
    out << line;
    if (result.params.contains("end_to_end_goal"))
      out << (result.params["end_to_end_goal_met"].get<bool>() ? " met" : " MISSED");
  } else {
    out << "-";
  }
  out << "\n" << std::flush;
}

}  // namespace

Status run_codec(const CodecBenchOptions& options, const ResultSink& sink, std::ostream* table) {
  EndToEndTable end_to_end;
  for (const std::string& path : options.end_to_end_paths)
    QUIRE_RETURN_IF_ERROR(read_end_to_end(path, end_to_end));
  ReportOptions report = report_options(options);
  QUIRE_ASSIGN_OR_RETURN(report.codecs, wanted_codecs(options.codecs));
  for (const std::string& path : options.kv_paths) {
    QUIRE_ASSIGN_OR_RETURN(const KvDump dump, load_dump(path));
    QUIRE_ASSIGN_OR_RETURN(const auto scores, make_codec_report(dump, report));
    if (table != nullptr) print_head(dump, options, *table);
    for (const CodecScore& score : scores) {
      const Result result = result_of(dump, score, options, end_to_end);
      if (table != nullptr)
        print_row(result, *table);
      else
        sink(result);
      if (score.lossless.value_or(true)) continue;
      return {StatusCode::kInternal, std::string(score.codec->name) + " changed bits"};
    }
  }
  if (table != nullptr)
    *table << "encode, decode, moved (K turned on the way): share of memcpy of the same engine "
              "memory; rel.: L2 error;\nattn KL: mean over layers, heads and queries, worst: of a "
              "layer; output: of softmax(q K) V; kept: bit for bit\n";
  return Status::ok();
}

}  // namespace quire::bench
