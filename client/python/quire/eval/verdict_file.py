"""A verdict as the store keeps it: the file that ``quirectl verdict set MODEL --file`` takes."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from .. import __version__
from .gate import Verdict

# Limits of the store: docs/ops/quirectl.md.
TEXT_BYTES_MAX = 256
FIGURES_MAX = 64


def _text(value: str) -> str:
    """One line within the store's limit; what is cut ends in three dots."""
    line = " ".join("".join(c if c.isprintable() else " " for c in value).split())
    whole = line.encode()
    if len(whole) <= TEXT_BYTES_MAX:
        return line
    return whole[: TEXT_BYTES_MAX - 3].decode(errors="ignore") + "..."


def _flat(figures: dict[str, Any]) -> dict[str, float]:
    """{"right": {"query:0.15": 0.8}} becomes {"right query:0.15": 0.8}; what is not finite is
    left out."""
    flat: dict[str, float] = {}
    for name, value in figures.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for key, number in inner:
            if math.isfinite(number):
                flat[_text(f"{name} {key}".strip())] = float(number)
    return dict(list(flat.items())[:FIGURES_MAX])


def stored_verdict(verdict: Verdict, model_id: bytes, measured_wall_ms: int) -> dict[str, Any]:
    """Its nine fields. Chunks are reused only where the verdict is "yes"."""
    return {
        "model": model_id.hex(),
        "chunks": verdict.passed,
        "reason": _text(verdict.reason) or verdict.pic_safe,
        "policy": _text(verdict.policy),
        "budget": min(max(verdict.budget, 0.0), 1.0),
        "codec": _text(verdict.codec),
        "figures": _flat(verdict.figures),
        "measured_wall_ms": measured_wall_ms,
        "tool": f"quire-eval {__version__}",
    }


def make_way(path: Path) -> None:
    """Removes an earlier verdict, so that none is taken for one that was never reached. Raises
    OSError where write_verdict() could not write: before minutes of measuring, not after."""
    if path.exists() and not path.is_file():
        return  # /dev/stdout
    with path.open("w"):
        pass
    path.unlink()


def write_verdict(path: Path, verdict: Verdict, model_id: bytes) -> None:
    """Replaces the file."""
    fields = stored_verdict(verdict, model_id, time.time_ns() // 1_000_000)
    path.write_text(json.dumps(fields, indent=1) + "\n")
