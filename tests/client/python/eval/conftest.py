"""A random model with a tokenizer of characters, and a few documents. Needs torch and transformers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import pytest
from support import missing
from tiny_texts import Characters, make_corpus

if TYPE_CHECKING:
    from quire.eval.loading import Subject
    from quire.eval.tasks import Corpus
    from quire.transformers import Engine

MISSING = missing(("torch", "transformers", "typer", "rich", "matplotlib"))

collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_report_header() -> str | None:
    if MISSING:
        return f"tests of quire.eval skipped: no {', '.join(MISSING)} (tools/setup.sh --eval)"
    return None


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
