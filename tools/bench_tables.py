"""Writes docs/benchmarks.md from the figures of quire-bench and bench/peers.

usage: bench_tables.py [--build build/release] [--directory DISK] [--only NAME ...] [--quick]
       bench_tables.py --from FILE.jsonl ... [--output docs/benchmarks.md]
Without --from it runs every bench one after another (about 40 minutes; nothing else should run) and keeps the
JSON lines in build/logs/benchmarks.jsonl; benches that are not named by --only keep their lines there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LINES = ROOT / "build" / "logs" / "benchmarks.jsonl"
MIB = 1 << 20


@dataclass(frozen=True)
class Bench:
    name: str
    title: str
    command: str  # in the document, and run with --json
    quick: str = ""  # added where figures do not matter
    about: str = ""


BENCHES = [
    Bench("local", "A client on this machine", "quire-bench local", "--rounds 1 --acquires 50 --puts 2",
          "Acquire + release, put and get of objects in the host tier."),
    Bench("nvme", "The NVMe tier against its device", "quire-bench nvme --rounds 7", "--rounds 2 --objects 8",
          "Verified reads and synced writes of 4 MiB objects; the floor runs in the same file."),
    Bench("mixed", "Reads while segments are reclaimed", "quire-bench mixed --rounds 5",
          "--rounds 2 --reads 40 --tier-bytes 536870912",
          "4 MiB reads one after another beside a writer that never pauses. Ratio: quiet / loaded."),
    Bench("rocks", "Small objects in RocksDB", "quire-bench rocks", "--rounds 2 --objects 64"),
    Bench("recover", "SIGKILL under load", "quire-bench recover", "--rounds 2 --objects 500",
          "20 kills under write load; every acknowledged object is read and compared after each."),
    Bench("recover_100k", "SIGKILL with 100,000 objects", "quire-bench recover --objects 100000 --rounds 3",
          "--rounds 1 --objects 1000"),
    Bench("recover_1m", "SIGKILL with 1,000,000 objects", "quire-bench recover --objects 1000000 --rounds 1 --writers 64",
          "--rounds 1 --objects 1000"),
    Bench("replay", "Eviction on a public trace", "quire-bench replay",
          about="Blocks of 512 tokens hit as part of a contiguous prefix, by capacity in % of the trace's unique blocks "
          "(params: policy, capacity). Floor: Belady's bound."),
    Bench("slab", "Host memory lost by rounding", "quire-bench slab --synthetic 1"),
    Bench("kernels", "Loads and stores of every codec", "quire-bench kernels", "--rounds 1 --bytes 4194304",
          "One core, sections of 256 tokens and 8 heads, bf16 engine memory of 64 MiB and more, K moved by a rotation. Shares "
          "of memcpy of the same bytes in the same rounds, in thread CPU time."),
    Bench("attention", "Attention over pages and over chunks as they are stored", "quire-bench attention", "--rounds 1",
          "One core, AVX-512; GB/s of the bf16 bytes that the KV stands for. Floor of a decode: decoding bf16 pages; of "
          "scattered rows: a full causal attention of as many products."),
    Bench("codec", "Codecs", "quire-bench codec", "--rounds 1 --speed-bytes 1048576",
          "Real KV of two models over 768 tokens of the Debian handbook (quire-kv-dump), in slices of 256 tokens, K "
          "stored before rope and turned to its place after decoding. encode, decode, decode + move: share of memcpy of "
          "the same engine memory (bf16; f16 and f32 for raw-f16 and raw-f32), one core, median of rounds. Attention KL: "
          "softmax(q K) over decoded against exact K, mean over layers, heads and 32 queries; output: relative error of "
          "softmax(q K) V. End to end (quire-codec-kl, F32 copies of the models, prompts of about 1,200 tokens): the whole "
          "context's KV replaced, KL(full || codec) over answers and continuations, 95 % bootstrap over prompts; libllama's "
          "own 4-bit weights would add 3e-3, because it rounds activations for them. Mixed codecs keep 20 % of the tokens "
          "at 8 bits: the first four of a slice and those that receive most attention. Lossless codecs that are not "
          "listed end to end give what raw-bf16 gives. No single figure of error stands for quality: judge by KL."),
    Bench("peers", "Against Redis and Mooncake", "python3 bench/peers/peers.py --rounds 7", "--rounds 1 --sizes 2",
          "The same bytes from the caller's memory into the store and back, all stores in memory only; Redis "
          "with blocking sockets as LMCache uses them. Value: Quire. Floor: the peer. Goal: ahead of each."),
]  # fmt: skip


CODEC_MODELS = ("qwen2.5-coder-0.5b-instruct-q4_k_m", "gemma-3-270m-q4_k_m")


def cache_directory() -> Path:
    if "QUIRE_CACHE" in os.environ:
        return Path(os.environ["QUIRE_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quire"


def codec_inputs(options: argparse.Namespace) -> list[str]:
    """Dumps and end-to-end results of the test models, made where they are missing (minutes each)."""
    folder = LINES.parent / "codec"
    folder.mkdir(parents=True, exist_ok=True)
    words: list[str] = []
    for name in CODEC_MODELS:
        model = cache_directory() / "models" / f"{name}.gguf"
        exact = model.with_name(f"{name}-f32.gguf")
        dump, kl = folder / f"{name}.safetensors", folder / f"{name}.jsonl"
        if model.exists() and not dump.exists():
            subprocess.run([options.build / "bin/quire-kv-dump", "--model", model, "--out", dump], check=True)
        if exact.exists() and not kl.exists() and not options.quick:
            subprocess.run(
                [options.build / "bin/quire-codec-kl", "--model", exact, "--questions",
                 ROOT / "bench/answers/questions.json", "--questions-per-prompt", "1", "--json", kl],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        words += ["--kv", str(dump)] if dump.exists() else []
        words += ["--end-to-end", str(kl)] if kl.exists() else []
    return words


def arguments_of(bench: Bench, options: argparse.Namespace) -> list[str]:
    words = bench.command.split()
    if bench.name == "codec":
        words += codec_inputs(options)
    if bench.name == "peers":
        words = [sys.executable, str(ROOT / words[1]), "--build", str(options.build), *words[2:], "--json"]
    else:
        words = [str(options.build / "bin" / words[0]), "--json", *words[1:]]
        if options.directory:
            words[1:1] = ["--directory", str(options.directory)]
    return [*words, *(bench.quick.split() if options.quick else [])]


def without_repeats(words: list[str]) -> list[str]:
    """--name value pairs: the last one counts, but for lists of files."""
    last: dict[str, int] = {word: index for index, word in enumerate(words) if word.startswith("--")}
    last = {word: index for word, index in last.items() if word not in ("--kv", "--end-to-end")}
    kept: list[str] = []
    index = 0
    while index < len(words):
        is_stale = last.get(words[index], index) != index
        if is_stale:
            index += 2
            continue
        kept.append(words[index])
        index += 1
    return kept


def run(bench: Bench, options: argparse.Namespace) -> list[dict[str, Any]]:
    print(f"{bench.name}: {bench.command}", file=sys.stderr, flush=True)
    began = time.monotonic()
    words = without_repeats(arguments_of(bench, options))
    result = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.monotonic() - began
    print(f"{bench.name}: exit code {result.returncode}, {seconds:.0f} s", file=sys.stderr, flush=True)
    # Lines of a bench that ended badly count too: it says which figures are bad.
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return [{"section": bench.name, "exit_code": result.returncode, **line} for line in lines]


def goal_text(line: dict[str, Any]) -> tuple[str, str]:
    goal = line.get("goal")
    if not goal:
        return "-", "-"
    what = "ratio >=" if goal["kind"] == "ratio_min" else "value <="
    return f"{what} {goal['bound']:.4g}", "met" if goal["met"] else "**missed**"


def ratio_text(line: dict[str, Any]) -> str:
    if not line["floor"]:
        return "-"
    text = f"{line['ratio']:.2f}"
    if "ratio_range" in line:
        low, high = line["ratio_range"]
        text += f" ({low:.2f} to {high:.2f})"
    return text


def path_text(line: dict[str, Any]) -> str:
    if line["section"] == "slab":
        return f"{line['bench']}, {line['params']['model']}, {line['params']['chunks']}"
    if line["section"] in ("kernels", "attention"):
        words = [
            str(value) for key, value in line["params"].items() if key in ("codec", "kv", "plane", "head_dim")
        ]
        return ", ".join([line["bench"], *words])
    if line["section"] == "replay":
        return f"{line['params']['policy']}, {line['params']['capacity_percent']:.0f} %"
    n_bytes = line["params"].get("object_bytes")
    if not n_bytes or line["section"].startswith("recover"):
        return line["bench"]
    size = f"{round(n_bytes / MIB)} MiB" if n_bytes >= MIB / 2 else f"{round(n_bytes / 1024)} KiB"
    return f"{line['bench']}, {size}"


def codec_row(line: dict[str, Any]) -> str:
    params = line["params"]
    shares = [f"{params[name]:.2f}" if name in params else "-"
              for name in ("encode_share", "decode_share", "decode_moved_share")]  # fmt: skip
    end_to_end, top1 = "-", "-"
    if "end_to_end_kl" in params:
        low, high = params["end_to_end_kl_range"]
        end_to_end = f"{params['end_to_end_kl']:.2g} [{low:.2g}, {high:.2g}]"
        top1 = f"{params['end_to_end_top1']:.3f}"
    goal = "-"
    if "end_to_end_goal" in params:
        goal = f"<= {params['end_to_end_goal']:.2g}: " + (
            "met" if params["end_to_end_goal_met"] else "**missed**"
        )
    kept = {True: "yes", False: "**no**", None: "-"}[params.get("lossless")]
    cells = [params["codec"], f"{params['key_bits']:.2f} / {params['value_bits']:.2f}", *shares,
             f"{params['key_relative_error']:.2g} / {params['value_relative_error']:.2g}",
             f"{line['value']:.2g}", f"{params['output_relative_error']:.2g}", kept, end_to_end, top1, goal]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def codec_table(bench: Bench, lines: list[dict[str, Any]]) -> str:
    rows = [f"## {bench.title}", "", bench.about, ""]
    for model in dict.fromkeys(line["params"]["model"] for line in lines):
        of_model = [line for line in lines if line["params"]["model"] == model]
        prompts = max(line["params"].get("end_to_end_prompts", 0) for line in of_model)
        rows += [
            f"**{model}**" + (f" ({prompts} prompts end to end)" if prompts else ""),
            "",
            "| codec | bits K / V | encode | decode | decode + move | rel. error K / V | attention KL | output "
            "| bits kept | KL end to end | top-1 | goal |",
            "|" + "---|" * 12,
            *(codec_row(line) for line in of_model),
            "",
        ]
    return "\n".join([*rows, f"    {bench.command} --kv FILE --end-to-end FILE", ""])


def table(bench: Bench, lines: list[dict[str, Any]]) -> str:
    if bench.name == "codec":
        return codec_table(bench, lines)
    rows = [f"## {bench.title}", ""]
    if bench.about:
        rows += [bench.about, ""]
    rows += [
        "| path | value | floor | ratio (rounds: least to most) | goal | |",
        "|---|---|---|---|---|---|",
    ]
    for line in lines:
        goal, met = goal_text(line)
        floor = f"{line['floor']:.4g} {line['unit']}, {line.get('floor_name', '')}" if line["floor"] else "-"
        rows.append(
            f"| {path_text(line)} | {line['value']:.4g} {line['unit']} | {floor} | {ratio_text(line)} | {goal} | {met} |"
        )
    rows += ["", f"    {bench.command}", ""]
    return "\n".join(rows)


def machine() -> str:
    names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]  # fmt: skip
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cpu = names[0] if names else platform.machine()
    return f"{os.cpu_count()} cores ({cpu}), {memory_bytes / 2**30:.0f} GiB of memory, Linux {platform.release()}"


def document(lines: list[dict[str, Any]]) -> str:
    parts = [
        "# Benchmarks\n",
        "Made by `tools/bench_tables.py`; figures of one machine, each beside a floor that was measured in the same "
        "run. Ratio: value / floor for rates, floor / value for times; more is better. Value and floor are medians; "
        "in brackets the least and the greatest ratio of a round. Options and floors: "
        "`bench/quire-bench/README.md`, `bench/peers/README.md`.\n",
        f"Machine: {machine()}.\n",
    ]
    for bench in BENCHES:
        of_bench = [line for line in lines if line["section"] == bench.name]
        if of_bench:
            parts.append(table(bench, of_bench))
    parts.append(
        "## On a GPU\n\nNot measured: no GPU was at hand. `bench/gpu_check.sh` checks every CUDA kernel against the CPU's "
        "and float64 references, measures the machine's ceilings and prints the table that belongs here.\n"
    )
    return "\n".join(parts).rstrip() + "\n"


def load(paths: list[Path]) -> list[dict[str, Any]]:
    return [json.loads(line) for path in paths if path.exists() for line in path.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "release")
    parser.add_argument("--directory", type=Path, help="on the disk that is measured")
    parser.add_argument("--only", nargs="+", choices=[bench.name for bench in BENCHES], metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="small sizes: tries the way, not the speed")
    parser.add_argument("--from", dest="sources", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--lines", type=Path, default=LINES, help="where JSON lines are kept")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks.md")
    options = parser.parse_args()
    options.build = options.build.resolve()
    if options.sources:
        lines = load(options.sources)
    else:
        lines = load([options.lines])
        options.lines.parent.mkdir(parents=True, exist_ok=True)
        for bench in BENCHES:
            if options.only and bench.name not in options.only:
                continue
            lines = [line for line in lines if line["section"] != bench.name] + run(bench, options)
            options.lines.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options.output.write_text(document(lines))
    missed = [line for line in lines if not line.get("goal", {"met": True})["met"]]
    for line in missed:
        print(f"missed: {line['section']}, {path_text(line)}: {goal_text(line)[0]}", file=sys.stderr)


if __name__ == "__main__":
    main()
