"""Engines of random models, one per kind and session. Needs the extra quire[transformers]."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import pytest
from support import missing

if TYPE_CHECKING:
    from quire.transformers import Engine

MISSING = missing(("torch", "transformers"))

collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_report_header() -> str | None:
    if MISSING:
        return f"tests of quire.transformers skipped: no {', '.join(MISSING)} (tools/setup.sh --eval)"
    return None


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
