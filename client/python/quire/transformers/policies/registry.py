"""Policies by the text that names them, as the C++ side has it for those it has."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import InvalidArgument
from .base import QuestionLayers, RowPolicy
from .cacheblend import CacheBlend
from .epic import Epic
from .exact_prefix import ExactPrefix
from .full import FullPrefill
from .full_reuse import FullReuse
from .link0 import Link0
from .query_guided import QueryGuided
from .random_rows import RandomRows

DEFAULT_POLICY = "query:0.15"


def _cacheblend(plane: str) -> Callable[[str], RowPolicy]:
    def make(text: str) -> RowPolicy:
        share, *steps = text.split(",")
        pairs = tuple((int(a), float(b)) for a, b in (step.split("=") for step in steps))
        return CacheBlend(float(share), "v" if plane == "v" else "k", pairs)

    return make


def _random(text: str) -> RowPolicy:
    share, _, seed = text.partition(":")
    return RandomRows(float(share), int(seed or 0))


_PLAIN: dict[str, Callable[[], RowPolicy]] = {
    "full": FullPrefill,
    "prefix": ExactPrefix,
    "reuse": FullReuse,
    "link0": Link0,
}
_WITH_VALUE: dict[str, tuple[str, Callable[[str], RowPolicy]]] = {
    "epic": ("K", lambda text: Epic(int(text))),
    "random": ("B[:SEED]", _random),
    "query": ("B", lambda text: QueryGuided(float(text))),
    "query-last": ("B", lambda text: QueryGuided(float(text), QuestionLayers.LAST)),
    "cacheblend-v": ("B[,LAYER=B...]", _cacheblend("v")),
    "cacheblend-k": ("B[,LAYER=B...]", _cacheblend("k")),
}


def policy_names() -> list[str]:
    """How each known policy is written."""
    return [*_PLAIN, *(f"{name}:{value}" for name, (value, _) in _WITH_VALUE.items())]


def parse_policy(text: str) -> RowPolicy:
    """The policy of a text such as "query:0.15"; InvalidArgument for anything else."""
    if text in _PLAIN:
        return _PLAIN[text]()
    name, _, value = text.partition(":")
    if name in _WITH_VALUE:
        try:
            return _WITH_VALUE[name][1](value)
        except InvalidArgument:
            raise
        except ValueError:
            pass
    raise InvalidArgument(f"unknown policy {text[:64]!r}; policies: {', '.join(policy_names())}")
