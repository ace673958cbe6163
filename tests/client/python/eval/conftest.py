"""A random model with a tokenizer of characters, and a few documents. Needs torch and transformers."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tiny_texts import Characters, make_corpus

if TYPE_CHECKING:
    from quire.eval.loading import Subject
    from quire.eval.tasks import Corpus
    from quire.transformers import Engine

ROOT = Path(__file__).resolve().parents[4]
BIN = Path(os.environ.get("QUIRE_BIN_DIR", ROOT / "build" / "dev" / "bin"))
NEEDED = ("torch", "transformers", "typer", "rich", "matplotlib")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_report_header() -> str | None:
    if MISSING:
        return f"tests of quire.eval skipped: no {', '.join(MISSING)} (tools/setup.sh --eval)"
    return None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "model: needs a real model's file; minutes")


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return make_corpus()


@cache
def _engine(kind: str) -> Engine:
    from quire.transformers import Engine
    from quire.transformers.tiny import tiny_model

    return Engine(tiny_model(kind), Characters())


@pytest.fixture(scope="session")
def engine_of() -> Callable[[str], Engine]:
    """engine_of("llama"): an engine of a random model."""
    return _engine


@pytest.fixture
def subject(corpus: Corpus) -> Subject:
    from quire.eval.loading import subject_of
    from quire.eval.tasks import Layout

    return subject_of(_engine("llama"), corpus=corpus, layout=Layout((3, 3), 150), seed=7)


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
