"""Engines of random models, one per kind and session. Needs the extra quire[transformers]."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from quire.transformers import Engine

# pytest imports this file under the same module name as the parent folder's, whose tests ask for these.
ROOT = Path(__file__).resolve().parents[4]
BIN = Path(os.environ.get("QUIRE_BIN_DIR", ROOT / "build" / "dev" / "bin"))

MISSING = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_report_header() -> str | None:
    if MISSING:
        return f"tests of quire.transformers skipped: no {', '.join(MISSING)} (tools/setup.sh --eval)"
    return None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "model: needs a real model's file; minutes")


@cache
def _engine(kind: str) -> Engine:
    from quire.transformers import Engine
    from quire.transformers.tiny import tiny_model

    return Engine(tiny_model(kind))


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], Engine]:
    """tiny("llama"): an engine of a random model."""
    return _engine


@pytest.fixture(scope="session")
def llama() -> Engine:
    return _engine("llama")


@pytest.fixture(scope="session")
def model_path() -> Callable[[str], Path]:
    """The file of a real model in Quire's cache; skips without it."""

    def find(name: str) -> Path:
        default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quire"
        path = Path(os.environ.get("QUIRE_CACHE", default)) / "models" / name
        if not path.is_file():
            pytest.skip(f"model {name} is missing: tools/setup.sh --test fetches it")
        return path

    return find
