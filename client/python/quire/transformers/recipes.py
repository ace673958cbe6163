"""Behind what a chunk is computed: the variants of a text, and their identities in the store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import ids
from ..errors import InvalidArgument
from ..ids import Context, ContextKind, Tokens, as_tokens


@dataclass(frozen=True)
class Recipe:
    """The tokens in front of a chunk while it is computed. neighbours: the runs at the end of
    ``lead`` that are other chunks."""

    kind: ContextKind
    lead: NDArray[np.uint32]
    neighbours: tuple[NDArray[np.uint32], ...] = ()

    @property
    def runs(self) -> tuple[NDArray[np.uint32], ...]:
        """``lead`` cut up: what is in front of the neighbours, each of them."""
        n_first = len(self.lead) - sum(len(tokens) for tokens in self.neighbours)
        return tuple(run for run in (self.lead[:n_first], *self.neighbours) if len(run))

    def context(self, model: bytes, salt: bytes = b"") -> Context:
        if self.kind in (ContextKind.FIXED_PREFIX, ContextKind.CONTEXTUAL):
            return Context(self.kind, reference=ids.prefix_digest(model, self.lead, salt))
        if self.kind == ContextKind.DUMMY_SINK:
            dummies = tuple(int(token) for token in self.lead)
            return Context(self.kind, dummy_tokens=dummies, dropped_tokens=len(dummies))
        if self.kind == ContextKind.SYNTHETIC:
            # The fixed text in front too: behind another one the KV would be other bytes.
            objects = tuple(ids.object_id(model, tokens, salt) for tokens in self.runs)
            return Context(self.kind, neighbours=objects)
        return Context()


def isolated() -> Recipe:
    """Alone, without even a BOS."""
    return Recipe(ContextKind.ISOLATED, np.empty(0, dtype=np.uint32))


def behind_prefix(prefix: Tokens) -> Recipe:
    """Behind a fixed text, normally the deployment's own system prompt."""
    return Recipe(ContextKind.FIXED_PREFIX, as_tokens(prefix))


def behind_dummies(dummies: Tokens) -> Recipe:
    """Link0 (EPIC, arXiv 2410.15332): behind dummy tokens whose KV is dropped."""
    lead = as_tokens(dummies)
    if not len(lead):
        raise InvalidArgument("a dummy_sink variant needs dummy tokens")
    return Recipe(ContextKind.DUMMY_SINK, lead)


def behind_neighbours(neighbours: Sequence[Tokens], prefix: Tokens = ()) -> Recipe:
    """Behind the texts that will probably stand beside it (FusionRAG's offline stage). Mixes
    provenance: the store keeps it inside the trust domain that made it."""
    runs = tuple(as_tokens(tokens) for tokens in neighbours)
    if not runs:
        raise InvalidArgument("a synthetic variant needs neighbours")
    return Recipe(ContextKind.SYNTHETIC, np.concatenate([as_tokens(prefix), *runs]), runs)


def in_context(before: Tokens, runs: Sequence[Tokens] = ()) -> Recipe:
    """Exactly where it stands: the prefix of a prompt. runs: the chunks at the end of ``before``,
    whose shares of the attention are to be told apart (Cache-Craft)."""
    lead, parts = as_tokens(before), tuple(as_tokens(tokens) for tokens in runs)
    end = np.concatenate([lead[:0], *parts])
    if len(end) > len(lead) or not np.array_equal(lead[len(lead) - len(end) :], end):
        raise InvalidArgument("the runs are not the end of what is before the chunk")
    return Recipe(ContextKind.CONTEXTUAL, lead, parts)


def run_digest(tokens: Tokens) -> bytes:
    """Names a run of tokens inside this process: SHA-256 of the ids, little-endian. No id of the
    store: it knows neither model nor tenant."""
    return hashlib.sha256(as_tokens(tokens).astype("<u4").tobytes()).digest()
