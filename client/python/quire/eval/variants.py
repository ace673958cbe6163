"""Behind what the chunks of a prompt are computed, by name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import InvalidArgument
from ..ids import ContextKind
from ..transformers.policies import RowPolicy
from ..transformers.recipes import (
    Recipe,
    behind_dummies,
    behind_neighbours,
    behind_prefix,
    in_context,
    isolated,
)
from .tasks import Prompt
from .tasks.model import TokenRun
from .tasks.pool import counts, similarity

DUMMY_TOKENS = 4
VARIANTS: dict[str, str] = {
    "iso": "alone, without even a BOS",
    "sys": "behind the prompt's own system prefix",
    "sink[:N]": "behind N dummy tokens that are dropped (Link0); 4",
    "filler": "behind the system prefix and one fixed neutral text of about 200 tokens",
    "neighbours[:N]": "behind the system prefix and the N nearest chunks of the same documents "
    "that are not in the prompt; 1",
    "similar[:N]": "behind the system prefix and the N passages of all documents that are most "
    "like the chunk, as quire-warm --neighbours does; 1",
    "anew": "as sys, also what has a context of its own (reports of agents): computed once more "
    "after it was written",
    "beside[:N]": "as neighbours, but chunks of the prompt itself: as if the future were known; 1",
}
_ALIASES = {"isolated": "iso", "link0": "sink", "fill": "filler", "syn": "neighbours"}
_COUNTED = {"sink": DUMMY_TOKENS, "neighbours": 1, "similar": 1, "beside": 1}
_KINDS = {
    "iso": ContextKind.ISOLATED,
    "sys": ContextKind.FIXED_PREFIX,
    "anew": ContextKind.FIXED_PREFIX,
    "filler": ContextKind.FIXED_PREFIX,
    "sink": ContextKind.DUMMY_SINK,
    "neighbours": ContextKind.SYNTHETIC,
    "similar": ContextKind.SYNTHETIC,
    "beside": ContextKind.SYNTHETIC,
}
COUNT_MAX = 16


@dataclass(frozen=True)
class Variant:
    name: str
    count: int = 0

    def __str__(self) -> str:
        return f"{self.name}:{self.count}" if self.count else self.name

    @property
    def kind(self) -> ContextKind:
        return _KINDS[self.name]


def parse_variant(text: str) -> Variant:
    """Raises InvalidArgument."""
    name, _, count = text.strip().partition(":")
    name = _ALIASES.get(name, name)
    if name in _COUNTED:
        if not count:
            return Variant(name, _COUNTED[name])
        if count.isdigit() and 1 <= int(count) <= COUNT_MAX:
            return Variant(name, int(count))
    elif name in _KINDS and not count:
        return Variant(name)
    raise InvalidArgument(f"unknown variant {text[:64]!r}; variants: {', '.join(VARIANTS)}")


def parse_variants(text: str) -> list[Variant]:
    """Variants parted by &, of which a policy chooses one per chunk. Raises InvalidArgument."""
    return [parse_variant(part) for part in text.split("&")]


def own_variant(policy: RowPolicy) -> Variant:
    """The variant a policy asks for first; sys where it takes any."""
    wanted = policy.variant
    for kind in wanted.kinds:
        if kind == ContextKind.DUMMY_SINK:
            return Variant("sink", wanted.dummy_tokens or DUMMY_TOKENS)
        for name in ("sys", "iso", "neighbours"):
            if _KINDS[name] == kind:
                return Variant(name, _COUNTED.get(name, 0))
    return Variant("sys")


def _nearest(chunk: TokenRun, others: list[TokenRun], n: int) -> list[TokenRun]:
    """The n nearest, in the order they are given: chunks with the same ones share a lead."""
    own = counts(chunk)
    ranked = sorted(range(len(others)), key=lambda i: -similarity(own, counts(others[i])))
    return [others[i] for i in sorted(ranked[:n])]


def _behind_similar(prompt: Prompt, chunk: TokenRun, n: int) -> Recipe:
    text = "" if prompt.text is None else " ".join(one.text for one in prompt.text.chunks)
    near = [] if prompt.pool is None else prompt.pool.nearest(chunk, text, n)
    system = prompt.system_tokens
    return behind_neighbours(near, system) if near else behind_prefix(system)


def recipe_of(variant: Variant, prompt: Prompt, index: int, sink_token: int) -> Recipe:
    """How chunk ``index`` of a prompt is computed. A chunk with a context of its own (edited code,
    reports) is computed in that, whatever the variant but ``anew``."""
    chunk = prompt.chunks[index]
    system = prompt.system_tokens
    if variant.name == "anew":
        return behind_prefix(system)
    if chunk.behind is not None:
        return in_context(chunk.behind)
    if variant.name == "iso":
        return isolated()
    if variant.name == "sys":
        return behind_prefix(system)
    if variant.name == "sink":
        return behind_dummies([sink_token] * variant.count)
    if variant.name == "filler":
        return behind_prefix(np.concatenate([system, prompt.filler]))
    if variant.name == "similar":
        return _behind_similar(prompt, chunk.tokens, variant.count)
    others = (
        list(prompt.spare)
        if variant.name == "neighbours"
        else [c.tokens for i, c in enumerate(prompt.chunks) if i != index and not c.fresh]
    )
    if not others:
        return behind_prefix(system)
    return behind_neighbours(_nearest(chunk.tokens, others, variant.count), system)
