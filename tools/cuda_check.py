"""Compiles CUDA units for sm_80 and sm_90 and checks what ptxas says of each kernel against a baseline."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURES = ("80", "90")
PARALLEL_NVCC = 2
REGISTER_GROWTH_MAX = 8
FLAGS = ["-std=c++20", "-O3", "--fmad=false", "--expt-relaxed-constexpr", "-Werror=all-warnings", "-I."]


@dataclass(frozen=True)
class Usage:
    """What one kernel uses on one architecture."""

    registers: int
    spill_bytes: int
    stack_bytes: int
    shared_bytes: int


def demangle(names: list[str]) -> list[str]:
    """Readable names, without arguments and without what changes from compilation to compilation."""
    out = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    readable = []
    for line in out.stdout.splitlines():
        plain = re.sub(r"\(anonymous namespace\)::|_GLOBAL__N__\w+::", "", line)
        plain = re.sub(r"_INTERNAL_\w+::", "", plain)
        depth = 0
        for i, letter in enumerate(plain):
            depth += (letter == "<") - (letter == ">")
            if letter == "(" and depth == 0 and i > 0 and not plain[:i].endswith("operator"):
                plain = plain[:i]
                break
        readable.append(plain.removeprefix("void "))
    return readable


def parse(text: str) -> dict[str, Usage]:
    """ptxas -v output -> kernel -> usage."""
    found: dict[str, Usage] = {}
    mangled: list[str] = []
    usages: list[Usage] = []
    name = ""
    spill = stack = 0
    for line in text.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name = match[1]
            spill = stack = 0
        elif match := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            stack, spill = int(match[1]), int(match[2]) + int(match[3])
        elif (match := re.search(r"Used (\d+) registers", line)) and name:
            shared = re.search(r"(\d+) bytes smem", line)
            mangled.append(name)
            usages.append(Usage(int(match[1]), spill, stack, int(shared[1]) if shared else 0))
            name = ""
    for readable, usage in zip(demangle(mangled), usages, strict=True):
        found[readable] = usage
    return found


def dependencies(depfile: Path) -> list[Path]:
    """The project's own headers of a unit."""
    words = depfile.read_text().replace("\\\n", " ").split()
    return sorted({Path(word) for word in words if not word.endswith(":") and not word.startswith("/")})


def fingerprint(unit: Path, files: list[Path], nvcc_version: str) -> str:
    digest = hashlib.sha256((nvcc_version + " ".join(FLAGS) + str(unit)).encode())
    for file in files:
        digest.update(str(file).encode() + (file.read_bytes() if file.exists() else b"gone"))
    return digest.hexdigest()


def compile_unit(nvcc: str, version: str, build: Path, unit: Path, arch: str) -> str:
    """ptxas's words on a unit, from the last compilation where nothing changed."""
    stem = build / f"{unit.stem}.sm_{arch}"
    record = Path(f"{stem}.json")
    if record.exists():
        old = json.loads(record.read_text())
        if old["fingerprint"] == fingerprint(unit, [Path(name) for name in old["files"]], version):
            return str(old["text"])
    dep = Path(f"{stem}.d")
    command = [nvcc, *FLAGS, f"-arch=sm_{arch}", "-Xptxas=-v", "-MD", "-MF", str(dep), "-cubin"]
    done = subprocess.run([*command, "-o", f"{stem}.cubin", str(unit)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{unit} does not compile for sm_{arch}:\n{done.stdout}{done.stderr}")
    files = dependencies(dep)
    text = done.stdout + done.stderr
    record.write_text(
        json.dumps(
            {"fingerprint": fingerprint(unit, files, version), "files": [str(f) for f in files], "text": text}
        )
    )
    return text


def read_baseline(path: Path) -> dict[str, Usage]:
    known: dict[str, Usage] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            if line and not line.startswith("#"):
                numbers, name = line.split(None, 4)[:4], line.split(None, 4)[4]
                known[name] = Usage(*(int(number) for number in numbers))
    return known


def write_baseline(path: Path, found: dict[str, Usage]) -> None:
    lines = [
        "# Written by tools/cuda_check.sh --update.",
        "# registers spill_bytes stack_bytes shared_bytes kernel",
    ]
    lines += [
        f"{u.registers:9} {u.spill_bytes:11} {u.stack_bytes:11} {u.shared_bytes:12} {name}"
        for name, u in sorted(found.items())
    ]
    path.write_text("\n".join(lines) + "\n")


def complaints(found: dict[str, Usage], known: dict[str, Usage]) -> list[str]:
    """Why the check fails; nothing where it passes."""
    wrong = []
    for name, usage in sorted(found.items()):
        before = known.get(name)
        if before is None:
            if usage.spill_bytes > 0:
                wrong.append(f"{name}: new, and spills {usage.spill_bytes} bytes")
            continue
        if usage.spill_bytes > before.spill_bytes:
            wrong.append(f"{name}: spills {usage.spill_bytes} bytes, baseline {before.spill_bytes}")
        if usage.registers > before.registers + REGISTER_GROWTH_MAX:
            wrong.append(f"{name}: {usage.registers} registers, baseline {before.registers}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nvcc", required=True)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--baseline", type=Path, required=True)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("units", type=Path, nargs="*")
    arguments = parser.parse_args()
    arguments.build.mkdir(parents=True, exist_ok=True)
    version = subprocess.run([arguments.nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    jobs = [(unit, arch) for unit in arguments.units if unit.exists() for arch in ARCHITECTURES]
    found: dict[str, Usage] = {}
    try:
        with ThreadPoolExecutor(PARALLEL_NVCC) as pool:
            texts = pool.map(lambda job: compile_unit(arguments.nvcc, version, arguments.build, *job), jobs)
            for (unit, arch), text in zip(jobs, texts, strict=True):
                found |= {f"{unit.stem} sm_{arch} {name}": usage for name, usage in parse(text).items()}
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.update:
        write_baseline(arguments.baseline, found)
        print(f"cuda_check: {len(found)} kernels written to {arguments.baseline}")
        return 0
    known = read_baseline(arguments.baseline)
    wrong = complaints(found, known)
    for line in wrong:
        print(f"cuda_check: {line}", file=sys.stderr)
    new = len(found.keys() - known.keys())
    print(f"cuda_check: {len(found)} kernels compiled, {new} not in the baseline, {len(wrong)} complaints")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
