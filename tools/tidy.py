"""Style rules as a test: include arrows, third-party headers in one place, file length, header guards,
folder READMEs, format pages, banned words; with --headers also that each header compiles alone.

usage: tidy.py [--headers [--generated DIRECTORY]]
--generated: where the build wrote protobuf headers; headers that need them are left out without it.
Prints one line per violation; exit code 1 where there is any.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOP_FOLDERS = ["base", "kernels", "codecs", "tiers", "proto", "server", "client", "tools", "bench", "tests"]

# Who may include whom (DESIGN: arrows go one way). A folder may always include itself.
ALLOWED = {
    "base": set(),
    "kernels": set(),
    "codecs": {"base", "kernels"},
    "tiers": {"base", "codecs"},
    "proto": {"base"},
    "server": {"base", "codecs", "tiers", "proto"},
    "client": {"base", "kernels", "codecs", "proto"},
    "tools": {"base", "kernels", "codecs", "proto", "client", "tiers"},
    "bench": {"base", "kernels", "codecs", "tiers", "proto", "server", "client", "tools"},
    "tests": set(TOP_FOLDERS),
}

# Third-party headers that live behind one narrow interface each.
CONTAINED = [
    (re.compile(r"^liburing"), ("tiers/io/", "bench/", "tests/tiers/")),
    (re.compile(r"^rocksdb/"), ("tiers/rocks/", "tests/tiers/rocks/")),
    (
        re.compile(r"^(grpcpp|grpc)/|\.grpc\.pb\.h$|\.pb\.h$"),
        ("server/control/", "tools/quirectl/", "tests/server/control/", "tests/tools/quirectl/"),
    ),
    (re.compile(r"^(llama|ggml[a-z-]*)\.h$"), ("client/llama/", "tests/client/llama/")),
    (re.compile(r"^cuda"), ("kernels/cuda/", "tiers/gpu/", "bench/gpu/")),
]

# Pages that must exist, each beside a golden file or vectors in tests/data that a test checks.
FORMAT_PAGES = ["ids", "wire", "representation", "codecs", "segment", "metadata", "manifest"]

SOURCE_SUFFIXES = {".cc", ".h", ".c", ".cu", ".cuh", ".py", ".sh", ".proto"}
LINES_MAX = 600
COLUMNS_MAX = 110
BANNED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]')


def tracked_files(root: Path) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [Path(name) for name in listed if (root / name).is_file()]


def check_includes(path: Path, text: str) -> list[str]:
    problems = []
    top = path.parts[0]
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        target = match.group(2)
        target_top = target.split("/")[0]
        where = f"{path}:{number}"
        if (
            match.group(1) == '"'
            and target_top in ALLOWED
            and target_top != top
            and target_top not in ALLOWED[top]
        ):
            problems.append(f"{where}: {top} may not include {target_top} ({target})")
        for pattern, places in CONTAINED:
            if pattern.search(target) and not str(path).startswith(places):
                problems.append(f"{where}: {target} may be included only in {', '.join(places)}")
    return problems


def check_file(root: Path, path: Path) -> list[str]:
    text = (root / path).read_text(encoding="utf-8")
    lines = text.splitlines()
    problems = []
    if len(lines) > LINES_MAX:
        problems.append(f"{path}: {len(lines)} lines, at most {LINES_MAX}")
    for number, line in enumerate(lines, 1):
        if path.suffix in {".cc", ".h"} and len(line) > COLUMNS_MAX:
            problems.append(f"{path}:{number}: {len(line)} columns, at most {COLUMNS_MAX}")
        if path.name != "tidy.py" and BANNED.search(line):
            problems.append(f"{path}:{number}: unfinished mark")
    if path.suffix == ".h":
        guard = "QUIRE_" + re.sub(r"[^A-Z0-9]", "_", str(path).upper().removeprefix("QUIRE_")) + "_"
        if not re.search(r"#ifndef \w+_H_?\b", text) and "#pragma once" not in text:
            problems.append(f"{path}: no header guard (expected {guard})")
        if "using namespace" in text:
            problems.append(f"{path}: using namespace in a header")
    if path.suffix in {".cc", ".h", ".c"} and path.parts[0] in ALLOWED:
        problems += check_includes(path, text)
    return problems


def check_folders(root: Path, files: list[Path]) -> list[str]:
    problems = []
    folders = {
        path.parent for path in files if path.suffix in {".cc", ".h"} and path.parts[0] not in {"tests"}
    }
    for folder in sorted(folders):
        readme = root / folder / "README.md"
        if not readme.exists():
            problems.append(f"{folder}: no README.md")
        elif len(readme.read_text(encoding="utf-8").splitlines()) > 40:
            problems.append(f"{folder}/README.md: more than 40 lines")
    for page in FORMAT_PAGES:
        if not (root / "docs/formats" / f"{page}.md").exists():
            problems.append(f"docs/formats/{page}.md is missing")
    return problems


def check_header_alone(root: Path, path: Path, generated: str | None) -> list[str]:
    if generated is None and ".pb.h" in (root / path).read_text(encoding="utf-8"):
        return []
    includes = ["-I.", "-Iclient/capi", *([f"-I{generated}"] if generated else [])]
    definitions = ['-DQUIRE_SOURCE_DIR=""', '-DQUIRE_BIN_DIR=""']
    command = [
        os.environ.get("CXX", "g++"),
        "-std=c++20",
        "-fsyntax-only",
        *includes,
        *definitions,
        "-x",
        "c++",
        str(path),
    ]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return []
    return [f"{path}: does not compile alone: {result.stderr.splitlines()[0] if result.stderr else ''}"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--headers", action="store_true")
    parser.add_argument("--generated")
    arguments = parser.parse_args()
    root = Path(__file__).resolve().parent.parent
    files = tracked_files(root)
    problems = check_folders(root, files)
    sources = [path for path in files if path.suffix in SOURCE_SUFFIXES]
    for path in sources:
        problems += check_file(root, path)
    if arguments.headers:
        headers = [path for path in sources if path.suffix == ".h"]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for found in pool.map(lambda path: check_header_alone(root, path, arguments.generated), headers):
                problems += found
    for problem in problems:
        print(problem)
    print(f"tidy: {len(sources)} files, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
