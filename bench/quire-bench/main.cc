// quire-bench: figures of this machine, each beside the floor it was measured against.
#include <signal.h>

#include <CLI/CLI.hpp>
#include <iostream>

#include "bench/quire-bench/benches.h"
#include "bench/quire-bench/codec_bench.h"
#include "bench/quire-bench/metadata_bench.h"

namespace quire::bench {

Status CommonOptions::check_stop() const {
  return stopped() ? Status(StatusCode::kCancelled, "interrupted") : Status::ok();
}

void CommonOptions::say(const std::string& text) const {
  if (!quiet) std::cerr << text << std::endl;
}

namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
constexpr int kExitInterrupted = 130;

constexpr const char* kExamples = R"(Examples:
  quire-bench local                       acquire + release, put in memory
  quire-bench nvme --directory /mnt/nvme  the tier against bare io_uring on that disk
  quire-bench recover --rounds 20         SIGKILL under load, restart, check everything
  quire-bench recover --objects 1000000   ready time and index memory of a full store
  quire-bench mixed                       reads while segments are reclaimed
  quire-bench replay --trace conversation_trace.jsonl --capacity 5,10
  quire-bench slab --synthetic 1          what rounding up to slots costs
  quire-bench codec --kv qwen.safetensors --codecs int8-channel,int4-channel64
  quire-bench --json local > local.jsonl

Every figure stands beside its floor, measured in the same run: ratio = value / floor for rates and
floor / value for times, so more is better. Temporary files go below --directory and are removed.
Exit status: 0 done, 1 failed or objects were lost, 2 usage, 130 Ctrl-C.)";

std::atomic<bool> stop_requested{false};

void on_stop_signal(int signal_number) {
  stop_requested.store(true);
  ::signal(signal_number, SIG_DFL);
}

struct Arguments {
  bool json = false;
  CommonOptions common;
  LocalOptions local;
  NvmeBenchOptions nvme;
  RecoverOptions recover;
  ReplayOptions replay;
  SlabBenchOptions slab;
  MetadataBenchOptions metadata;
  RocksBenchOptions rocks;
  MixedOptions mixed;
  KernelBenchOptions kernels;
  AttentionBenchOptions attention;
  CodecBenchOptions codec;
};

CLI::App* add_local(CLI::App& app, LocalOptions& options) {
  CLI::App* command = app.add_subcommand("local", "What a client on this machine pays");
  command->add_option("--socket", options.socket_path,
                      "A running quired (gets some hundred MiB of made-up objects)");
  command->add_option("--rounds", options.rounds)
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--acquires", options.acquires, "In a round")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command->add_option("--puts", options.puts, "In a round")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str();
  command->add_option("--object-bytes", options.object_bytes)
      ->check(CLI::Range(1ull << 16, 1ull << 28))
      ->capture_default_str();
  command->add_option("--host-bytes", options.host_bytes, "Host tier of the server")
      ->capture_default_str();
  command->add_option("--nvme-bytes", options.nvme_bytes, "NVMe tier of the server, 0: none")
      ->capture_default_str();
  return command;
}

CLI::App* add_nvme(CLI::App& app, NvmeBenchOptions& options) {
  CLI::App* command = app.add_subcommand("nvme", "The NVMe tier against bare direct I/O");
  command->add_option("--rounds", options.rounds)
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--objects", options.objects, "In a round")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str();
  command->add_option("--object-bytes", options.object_bytes)
      ->check(CLI::Range(1ull << 20, 1ull << 26))
      ->capture_default_str();
  command->add_option("--read-inflight-bytes", options.read_inflight_bytes)
      ->check(CLI::Range(1ull << 20, 1ull << 28))
      ->capture_default_str();
  command->add_option("--write-inflight-bytes", options.write_inflight_bytes)
      ->check(CLI::Range(1ull << 20, 1ull << 28))
      ->capture_default_str();
  return command;
}

CLI::App* add_recover(CLI::App& app, RecoverOptions& options) {
  CLI::App* command = app.add_subcommand("recover", "SIGKILL under write load, restart, check");
  command->add_option("--rounds", options.rounds, "0: 20, from 100,000 objects on 3")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  command->add_option("--objects", options.objects, "Stored before the first kill")
      ->check(CLI::Range(1, 10'000'000))
      ->capture_default_str();
  command->add_option("--writers", options.writers, "0: 4, from 100,000 objects on 32")
      ->check(CLI::Range(0, 64))
      ->capture_default_str();
  command->add_option("--object-bytes", options.object_bytes, "0: 8192, later 2048")
      ->check(CLI::Range(0ull, 1ull << 20))
      ->capture_default_str();
  command->add_option("--large-object-bytes", options.large_object_bytes)
      ->check(CLI::Range(1ull << 10, 1ull << 22))
      ->capture_default_str();
  command
      ->add_option("--large-every", options.large_every,
                   "Each this many objects is large; 0: 100, later 1000")
      ->capture_default_str();
  command
      ->add_option("--sample", options.sample,
                   "Objects checked after each start; 0: all, later 1000")
      ->capture_default_str();
  command->add_option("--seed", options.seed, "Of the moments of the kills")->capture_default_str();
  command->add_option("--nvme-bytes", options.nvme_bytes, "NVMe tier of the server")
      ->capture_default_str();
  return command;
}

CLI::App* add_mixed(CLI::App& app, MixedOptions& options) {
  CLI::App* command =
      app.add_subcommand("mixed", "Reads of the NVMe tier, quiet and while it is reclaimed");
  command->add_option("--rounds", options.rounds)
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--reads", options.reads, "In a round, quiet and loaded each")
      ->check(CLI::Range(10, 100'000))
      ->capture_default_str();
  command->add_option("--object-bytes", options.object_bytes)
      ->check(CLI::Range(1ull << 16, 1ull << 24))
      ->capture_default_str();
  command->add_option("--tier-bytes", options.tier_bytes)
      ->check(CLI::Range(1ull << 28, 1ull << 36))
      ->capture_default_str();
  command
      ->add_option("--write-bytes-per-second", options.write_bytes_per_second,
                   "Of the writer; 0: as fast as it can")
      ->capture_default_str();
  command->add_option("--seed", options.seed, "Of what is read")->capture_default_str();
  return command;
}

void add_trace(CLI::App* command, TraceOptions& options) {
  command->add_option("--trace", options.path, "JSON lines in Mooncake's format")
      ->check(CLI::ExistingFile);
  command->add_option("--synthetic", options.synthetic_seed, "A made-up trace of this seed");
  command->add_option("--synthetic-requests", options.synthetic_requests)
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
}

CLI::App* add_replay(CLI::App& app, ReplayOptions& options) {
  CLI::App* command = app.add_subcommand("replay", "Hit ratio of eviction policies on a trace");
  add_trace(command, options.trace);
  command->add_option("--policy", options.policies)->delimiter(',')->capture_default_str();
  command->add_option("--capacity", options.capacity_percents, "In % of the different blocks")
      ->delimiter(',')
      ->check(CLI::Range(0.001, 100.0))
      ->capture_default_str();
  command->add_option("--k", options.k, "Of decayed_lfu, instead of the tuned one")
      ->check(CLI::Range(0.001, 1000.0));
  command->add_option("--bytes-per-token", options.bytes_per_token, "For bytes written")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command->add_option("--segment-blocks", options.segment_blocks, "Of segment_fifo")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--reinsert-fraction", options.reinsert_fraction, "Of a segment, at most")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  return command;
}

CLI::App* add_slab(CLI::App& app, SlabBenchOptions& options) {
  CLI::App* command = app.add_subcommand("slab", "Loss of the host slab's slots on a trace");
  add_trace(command, options.trace);
  return command;
}

CLI::App* add_metadata(CLI::App& app, MetadataBenchOptions& options) {
  CLI::App* command =
      app.add_subcommand("metadata", "Records: written, read back after SIGKILL, looked up");
  command->add_option("--records", options.records)
      ->check(CLI::Range(1, 10'000'000))
      ->capture_default_str();
  command->add_option("--tokens", options.tokens, "Of each")
      ->check(CLI::Range(1, 1 << 17))
      ->capture_default_str();
  command->add_option("--batch", options.batch, "Records of one synced write")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str();
  command->add_option("--lookup", options.lookup, "Ids of one lookup of details")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str();
  command->add_option("--seed", options.seed, "Of ids and lookups")->capture_default_str();
  return command;
}

CLI::App* add_rocks(CLI::App& app, RocksBenchOptions& options) {
  CLI::App* command = app.add_subcommand("rocks", "Small payloads against RocksDB alone");
  command->add_option("--rounds", options.rounds)
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--objects", options.objects)
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  command->add_option("--object-bytes", options.object_bytes)
      ->check(CLI::Range(1ull << 12, 1ull << 20))
      ->capture_default_str();
  return command;
}

CLI::App* add_codec(CLI::App& app, CodecBenchOptions& options) {
  CLI::App* command = app.add_subcommand("codec", "All codecs side by side on real KV");
  command->add_option("--kv", options.kv_paths, "Files of quire-kv-dump")
      ->required()
      ->check(CLI::ExistingFile);
  command->add_option("--codecs", options.codecs, "Names (default: every codec there is)")
      ->delimiter(',');
  command
      ->add_option("--end-to-end", options.end_to_end_paths,
                   "Results of quire-codec-kl, for their column")
      ->check(CLI::ExistingFile);
  command->add_option("--frame", options.frame, "How K is stored")
      ->check(CLI::IsMember({"pre_rope", "local"}))
      ->capture_default_str();
  command->add_option("--slice-tokens", options.slice_tokens)
      ->check(CLI::Range(1u, 1u << 16))
      ->capture_default_str();
  command->add_option("--salient-share", options.salient_share, "Of mixed codecs: tokens at 8 bits")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--rounds", options.rounds, "Of speeds; 0: none")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  command->add_option("--speed-bytes", options.speed_bytes, "Of engine memory in a round")
      ->check(CLI::Range(1ull << 16, 1ull << 32))
      ->capture_default_str();
  return command;
}

CLI::App* add_kernels(CLI::App& app, KernelBenchOptions& options) {
  CLI::App* command = app.add_subcommand("kernels", "Loads and stores of each codec, by memcpy");
  command->add_option("--codec", options.codecs, "Names; all unless given")->delimiter(',');
  command->add_option("--rounds", options.rounds)
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--bytes", options.bytes, "Of engine memory in a round")
      ->check(CLI::Range(1ull << 20, 1ull << 32))
      ->capture_default_str();
  return command;
}

CLI::App* add_attention(CLI::App& app, AttentionBenchOptions& options) {
  CLI::App* command =
      app.add_subcommand("attention", "Decode from stored chunks, recompute of scattered rows");
  command->add_option("--rounds", options.rounds)
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--tokens", options.tokens, "Of the sequence that is decoded")
      ->check(CLI::Range(256, 1 << 20))
      ->capture_default_str();
  return command;
}

int finish(const Status& status, const std::vector<Result>& results, bool json) {
  if (!json && !results.empty()) print_table(results, std::cout);
  if (status.code() == StatusCode::kCancelled) return kExitInterrupted;
  if (!status) {
    std::cerr << "error: " << status.message() << '\n';
    return kExitFailed;
  }
  for (const Result& result : results)
    if (result.direction == Direction::kCount && result.ratio() < 1) return kExitFailed;
  return 0;
}

int run(int argc, char** argv) {
  Arguments arguments;
  CLI::App app{"Measures a quired and its tiers against the floors of this machine.",
               "quire-bench"};
  app.footer(kExamples);
  app.require_subcommand(1);
  app.fallthrough();
  app.add_flag("--json", arguments.json, "JSON lines on stdout instead of a table");
  app.add_flag("-q,--quiet", arguments.common.quiet, "Nothing on stderr but errors");
  app.add_option("--directory", arguments.common.directory,
                 "Where temporary files go (the disk that is measured)")
      ->check(CLI::ExistingDirectory);
  app.add_option("--quired", arguments.common.quired, "The server to start (default: beside this)")
      ->check(CLI::ExistingFile);
  CLI::App* local = add_local(app, arguments.local);
  CLI::App* nvme = add_nvme(app, arguments.nvme);
  add_recover(app, arguments.recover);
  CLI::App* replay = add_replay(app, arguments.replay);
  CLI::App* slab = add_slab(app, arguments.slab);
  CLI::App* metadata = add_metadata(app, arguments.metadata);
  CLI::App* mixed = add_mixed(app, arguments.mixed);
  CLI::App* rocks = add_rocks(app, arguments.rocks);
  CLI::App* codec = add_codec(app, arguments.codec);
  CLI::App* kernels = add_kernels(app, arguments.kernels);
  CLI::App* attention = add_attention(app, arguments.attention);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  ::signal(SIGINT, on_stop_signal);
  ::signal(SIGTERM, on_stop_signal);
  arguments.common.stop = &stop_requested;
  std::vector<Result> results;
  const ResultSink sink = [&](Result result) {
    if (arguments.json) print_json(result, std::cout);
    results.push_back(std::move(result));
  };
  Status status;
  if (local->parsed()) {
    arguments.local.common = arguments.common;
    status = run_local(arguments.local, sink);
  } else if (nvme->parsed()) {
    arguments.nvme.common = arguments.common;
    status = run_nvme(arguments.nvme, sink);
  } else if (replay->parsed()) {
    arguments.replay.common = arguments.common;
    status = run_replay(arguments.replay, sink, arguments.json ? nullptr : &std::cout);
  } else if (slab->parsed()) {
    arguments.slab.common = arguments.common;
    status = run_slab(arguments.slab, sink, arguments.json ? nullptr : &std::cout);
  } else if (metadata->parsed()) {
    arguments.metadata.common = arguments.common;
    status = run_metadata(arguments.metadata, sink);
  } else if (mixed->parsed()) {
    arguments.mixed.common = arguments.common;
    status = run_mixed(arguments.mixed, sink);
  } else if (rocks->parsed()) {
    arguments.rocks.common = arguments.common;
    status = run_rocks(arguments.rocks, sink);
  } else if (codec->parsed()) {
    arguments.codec.common = arguments.common;
    status = run_codec(arguments.codec, sink, arguments.json ? nullptr : &std::cout);
  } else if (kernels->parsed()) {
    arguments.kernels.common = arguments.common;
    status = run_kernels(arguments.kernels, sink);
  } else if (attention->parsed()) {
    arguments.attention.common = arguments.common;
    status = run_attention(arguments.attention, sink);
  } else {
    arguments.recover.common = arguments.common;
    status = run_recover(arguments.recover, sink);
  }
  return finish(status, results, arguments.json);
}

}  // namespace
}  // namespace quire::bench

int main(int argc, char** argv) {
  return quire::bench::run(argc, argv);
}
