"""python3 -m quire.eval"""

from __future__ import annotations

import importlib.util
import os
import sys

_NEEDED = ("torch", "transformers", "typer", "rich", "numpy")


def main() -> int:
    """The console program quire-eval."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"quire-eval needs {', '.join(missing)}: pip install 'quire[eval]', or "
            "tools/setup.sh --eval in a source tree",
            file=sys.stderr,
        )
        return 2
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars of other libraries
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from .cli import run_program  # torch and all: seconds, in which Ctrl-C may come

        return run_program()
    except KeyboardInterrupt:
        print("quire-eval: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
