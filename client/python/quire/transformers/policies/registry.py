"""Policies by the text that names them, as the C++ side has it for those it has.

A policy is NAME or NAME:VALUE. A+B is a combination within one budget (union.py);
least-cfo/A and neighbours/A choose another variant of every chunk (chosen.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ...errors import InvalidArgument
from .ape import Ape
from .base import QuestionLayers, RowPolicy
from .cacheblend import CacheBlend, CacheBlendGradual
from .cachecraft import CacheCraft
from .chosen import ChosenVariant
from .epic import Epic
from .exact_prefix import ExactPrefix
from .full import FullPrefill
from .full_reuse import FullReuse
from .fusionrag import FusionRag
from .kvshare import KvShare
from .link0 import Link0
from .pie import Pie
from .psr import Psr
from .query_guided import ProphetKv, QueryGuided
from .query_value import QueryValue
from .random_rows import RandomRows
from .relay import Relay
from .union import Union

DEFAULT_POLICY = "query-value:0.15"
POLICY_TEXT_MAX = 512

Make = Callable[[str], RowPolicy]
_CHOICES: tuple[Literal["least-cfo", "neighbours"], ...] = ("least-cfo", "neighbours")


def _cacheblend(plane: Literal["v", "k"]) -> Make:
    def make(text: str) -> RowPolicy:
        share, *steps = text.split(",")
        pairs = tuple((int(a), float(b)) for a, b in (step.split("=") for step in steps))
        return CacheBlend(float(share), plane, pairs)

    return make


def _gradual(text: str) -> RowPolicy:
    share, *top = text.split(",")
    return CacheBlendGradual(float(share), "v", *(float(value) for value in top))


def _random(text: str) -> RowPolicy:
    share, _, seed = text.partition(":")
    return RandomRows(float(share), int(seed or 0))


def _query(text: str) -> RowPolicy:
    share, at, layers = text.partition("@")
    if not at:
        return QueryGuided(float(share))
    chosen = tuple(int(layer) for layer in layers.split(","))
    if list(chosen) != sorted(set(chosen)) or chosen[0] < 0:
        raise InvalidArgument("layers are ascending and distinct")
    return QueryGuided(float(share), chosen)


def _kvshare(text: str) -> RowPolicy:
    share, *refresh = text.split(",")
    return KvShare(float(share), *(int(value) for value in refresh))


def _psr(text: str) -> RowPolicy:
    share, *scaling = text.split(",")
    return Psr(float(share), *(float(value) for value in scaling))


def _cachecraft(text: str) -> RowPolicy:
    alpha, *stop = text.split(",")
    return CacheCraft(float(alpha), *(int(value) for value in stop))


_PLAIN: dict[str, Callable[[], RowPolicy]] = {
    "full": FullPrefill,
    "prefix": ExactPrefix,
    "reuse": FullReuse,
    "link0": Link0,
    "ape": Ape,
    "pie": Pie,
    "cachecraft": CacheCraft,
}
_WITH_VALUE: dict[str, tuple[str, Make]] = {
    "epic": ("K", lambda text: Epic(int(text))),
    "random": ("B[:SEED]", _random),
    "query": ("B[@LAYER,...]", _query),
    "query-last": ("B", lambda text: QueryGuided(float(text), QuestionLayers.LAST)),
    "query-value": ("B", lambda text: QueryValue(float(text))),
    "prophetkv": ("B", lambda text: ProphetKv(float(text))),
    "fusionrag": ("B", lambda text: FusionRag(float(text))),
    "cacheblend-v": ("B[,LAYER=B...]", _cacheblend("v")),
    "cacheblend-k": ("B[,LAYER=B...]", _cacheblend("k")),
    "cacheblend-gradual": ("B[,TOP]", _gradual),
    "kvshare": ("B[,ROWS_PER_STEP]", _kvshare),
    "psr": ("B[,T,SCALE]", _psr),
    "ape": ("T[,SCALE]", lambda text: Ape(*(float(value) for value in text.split(",")))),
    "pie": ("W", lambda text: Pie(int(text))),
    "cachecraft": ("ALPHA[,STOP_LAYER]", _cachecraft),
    "relay": ("LAYER[,END]", lambda text: Relay(*(int(value) for value in text.split(",")))),
}


def policy_names() -> list[str]:
    """How each known policy is written."""
    return [*_PLAIN, *(f"{name}:{value}" for name, (value, _) in _WITH_VALUE.items())]


def _unknown(text: str) -> InvalidArgument:
    known = ", ".join(policy_names())
    return InvalidArgument(f"unknown policy {text[:64]!r}; policies: {known}; A+B; least-cfo/A")


def _one(text: str) -> RowPolicy:
    if text in _PLAIN:
        return _PLAIN[text]()
    name, _, value = text.partition(":")
    if name in _WITH_VALUE:
        try:
            return _WITH_VALUE[name][1](value)
        except InvalidArgument:
            raise
        except (ValueError, TypeError):
            pass
    raise _unknown(text)


def parse_policy(text: str) -> RowPolicy:
    """The policy of a text such as "query:0.15"; InvalidArgument for anything else."""
    if len(text) > POLICY_TEXT_MAX:
        raise _unknown(text)
    for choice in _CHOICES:
        if text.startswith(choice + "/"):
            return ChosenVariant(parse_policy(text[len(choice) + 1 :]), choice)
    parts = text.split("+")
    return _one(text) if len(parts) == 1 else Union([_one(part) for part in parts])
