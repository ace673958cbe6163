#!/usr/bin/env python3
"""Makes quire-VERSION-py3-none-TAG.whl out of the package and a built libquire.so.

Standard library only. The same inputs give the same bytes.
"""

import argparse
import base64
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent / "quire"
METADATA = """Metadata-Version: 2.1
Name: quire
Version: {version}
Summary: Client of Quire, a store for KV caches of LLM inference
License: Apache-2.0
Requires-Python: >=3.10
Requires-Dist: numpy
Provides-Extra: transformers
Requires-Dist: torch>=2.6; extra == "transformers"
Requires-Dist: transformers<6,>=5.16; extra == "transformers"
Requires-Dist: tokenizers; extra == "transformers"
Requires-Dist: safetensors; extra == "transformers"
Requires-Dist: gguf>=0.17; extra == "transformers"
Requires-Dist: accelerate>=1.1; extra == "transformers"
Provides-Extra: embed
Requires-Dist: wordllama==0.4.0.post1; extra == "embed"
Requires-Dist: tokenizers; extra == "embed"
Requires-Dist: safetensors; extra == "embed"
Provides-Extra: eval
Requires-Dist: quire[transformers]; extra == "eval"
Requires-Dist: typer>=0.12; extra == "eval"
Requires-Dist: rich>=13; extra == "eval"
Requires-Dist: matplotlib>=3.8; extra == "eval"
"""
ENTRY_POINTS = """[console_scripts]
quire-eval = quire.eval.__main__:main
"""
WHEEL = """Wheel-Version: 1.0
Generator: quire
Root-Is-Purelib: false
Tag: py3-none-{tag}
"""


def glibc_needed(library: Path) -> tuple[int, int]:
    """The newest glibc symbol version that the library asks for."""
    found = re.findall(rb"GLIBC_(\d+)\.(\d+)", library.read_bytes())
    return max((int(major), int(minor)) for major, minor in found)


def stripped(library: Path) -> bytes:
    """The library without its debugging symbols, where strip is there."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "libquire.so"
        shutil.copy(library, copy)
        if shutil.which("strip"):
            subprocess.run(["strip", "--strip-unneeded", str(copy)], check=True)
        return copy.read_bytes()


def write_wheel(target: Path, files: dict[str, bytes], version: str) -> None:
    record_name = f"quire-{version}.dist-info/RECORD"
    record = ""
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(content)}\n"
    files = {**files, record_name: (record + f"{record_name},,\n").encode()}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in files.items():
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = (0o755 if name.endswith(".so") else 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(info, content)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", type=Path, required=True, help="libquire.so to pack")
    parser.add_argument("--output", type=Path, required=True, help="folder for the wheel")
    parser.add_argument("--version", default="0.1.0")
    parser.add_argument("--machine", default="x86_64")
    arguments = parser.parse_args()
    if not arguments.library.is_file():
        print(f"no library at {arguments.library}: build the target quire first", file=sys.stderr)
        return 1
    major, minor = glibc_needed(arguments.library)
    # 2.36 is what Debian 12 has and what the library is tested with.
    tag = f"manylinux_{major}_{max(minor, 36)}_{arguments.machine}"
    files = {
        f"quire/{path.relative_to(PACKAGE)}": path.read_bytes()
        for path in sorted(PACKAGE.rglob("*"))
        if path.suffix == ".py" or path.name == "py.typed"
    }
    files["quire/libquire.so"] = stripped(arguments.library)
    info = f"quire-{arguments.version}.dist-info"
    files[f"{info}/METADATA"] = METADATA.format(version=arguments.version).encode()
    files[f"{info}/WHEEL"] = WHEEL.format(tag=tag).encode()
    files[f"{info}/entry_points.txt"] = ENTRY_POINTS.encode()
    arguments.output.mkdir(parents=True, exist_ok=True)
    target = arguments.output / f"quire-{arguments.version}-py3-none-{tag}.whl"
    write_wheel(target, files, arguments.version)
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
