"""KVCOMM (NeurIPS'25): KV of a shared text corrected by how it changed for texts seen before.

An anchor is one text in two variants: the base (as chunks are stored) and as it came out where it
stood in a prompt. For a new text each kept token gets, above layer 0, the weighted sum of the
anchors' differences, K before rope; an anchor's weight for a token is the softmax over anchors of
-mean |K - K_anchor| at that layer. Where the text is like no anchor - the entropy of the softmax of
-||V - V_anchor|| is above ENTROPY_SHARE x log2(anchors) - or no anchor is long enough, it is
computed in full, and may become one.
Departures: one pool for all chunks of a prompt, where the paper has one per agent and placeholder;
the text behind a placeholder has no deltas of its own; differences are turned with 64-bit angles
and without the magnitude factor that the released code applies twice. Made in a program: it has no
text form, since it needs its anchors. Anchors stay in the trust domain of the texts they are of.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ...errors import InvalidArgument
from ..plan import PlanSegment
from ..rope import rotate, turn_table, unrotate
from ..shape import ModelShape
from ..sources import ChunkKv
from ..state import OldKv
from .base import Fixup, PolicyInput, PolicyNeeds, RowPolicy, Rows

ANCHORS_MAX = 20
VICTIMS = 5
ENTROPY_SHARE = 0.3


class Anchor:
    """A text's KV alone and in a context."""

    def __init__(self, base: ChunkKv, real: ChunkKv) -> None:
        if not np.array_equal(base.tokens, real.tokens):
            raise InvalidArgument("an anchor is one text in two contexts")
        self.base = base
        self.key_deltas = tuple(b - a for a, b in zip(base.keys, real.keys, strict=True))
        self.value_deltas = tuple(b - a for a, b in zip(base.values, real.values, strict=True))
        self.uses = 0

    @property
    def n_tokens(self) -> int:
        return len(self.base.tokens)


class AnchorPool:
    """At most ANCHORS_MAX; the least used of the VICTIMS oldest makes room."""

    def __init__(self) -> None:
        self.anchors: list[Anchor] = []

    def add(self, anchor: Anchor) -> None:
        if len(self.anchors) >= ANCHORS_MAX:
            self.anchors.remove(min(self.anchors[:VICTIMS], key=lambda old: old.uses))
        self.anchors.append(anchor)

    def fitting(self, n_tokens: int) -> list[Anchor]:
        """Those at least as long."""
        return [anchor for anchor in self.anchors if anchor.n_tokens >= n_tokens]


def weights_of(distances: Tensor) -> Tensor:
    """[anchor]...: softmax of minus the distances, over anchors."""
    return torch.softmax(-distances.float(), dim=0)


def is_new(distances: Tensor) -> bool:
    """Whether a text at these distances [anchor] is like none of them."""
    weights = weights_of(distances).double()
    entropy = float(-(weights * weights.clamp(min=1e-300).log2()).sum())
    return entropy > ENTROPY_SHARE * math.log2(len(weights))


class _Deltas(Fixup):
    """Adds the anchors' differences to cells whose KV is still the loaded one."""

    def __init__(
        self, kept: list[tuple[PlanSegment, list[Anchor]]], old: OldKv, shape: ModelShape
    ) -> None:
        self._kept, self._old, self._shape = kept, old, shape

    def on_layer(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if layer == 0:
            return keys, values
        keys, values = keys.clone(), values.clone()
        for chunk, anchors in self._kept:
            cells = slice(chunk.token_begin, chunk.token_end)
            mine = torch.arange(chunk.token_begin, chunk.token_end, device=keys.device)
            old = self._old.keys[layer][:, cells]
            untouched = (keys[:, cells] == old).all(dim=2).all(dim=0)
            spec = self._shape.layers[layer].rope
            positions = mine - chunk.token_begin + chunk.first_position
            raw = unrotate(old, spec, positions).float()
            n = chunk.n_tokens
            bases = torch.stack([a.base.keys[layer][:, :n] for a in anchors]).to(raw)
            weights = weights_of((raw - bases).abs().mean(dim=(1, 3)))[:, None, :, None]
            planes = ([a.key_deltas for a in anchors], [a.value_deltas for a in anchors])
            key, value = (
                (torch.stack([d[layer][:, :n] for d in deltas]).to(raw) * weights).sum(dim=0)
                for deltas in planes
            )
            turned = rotate(key, *turn_table(spec, positions))
            keys[:, mine[untouched]] += turned[:, untouched].to(keys.dtype)
            values[:, mine[untouched]] += value[:, untouched].to(values.dtype)
        return keys, values


class KvComm(RowPolicy):
    name = "kvcomm"

    def __init__(self, pool: AnchorPool) -> None:
        self.pool = pool

    def needs(self, shape: ModelShape) -> PolicyNeeds:
        return PolicyNeeds(static_rows=False)

    def _anchors(self, given: PolicyInput, chunk: PlanSegment) -> list[Anchor]:
        """Those that a chunk is corrected by; none where it is to be computed."""
        if chunk.source_begin:
            return []
        fitting = self.pool.fitting(chunk.n_tokens)
        if not fitting or given.old is None:
            return []
        cells, n = slice(chunk.token_begin, chunk.token_end), chunk.n_tokens
        squares = torch.zeros(len(fitting))
        for layer, values in enumerate(given.old.values):
            have = values[:, cells].float().cpu()
            for i, anchor in enumerate(fitting):
                there = anchor.base.values[layer][:, :n].float()
                squares[i] += (have - there).square().sum()
        return [] if is_new(squares.sqrt()) else fitting

    def select_rows(self, given: PolicyInput) -> Rows:
        dense = [given.plan.reusable[:0]]
        for chunk in given.plan.chunks:
            anchors = self._anchors(given, chunk)
            for anchor in anchors:
                anchor.uses += 1
            if not anchors:
                dense.append(np.arange(chunk.token_begin, chunk.token_end, dtype=np.int64))
        return np.concatenate(dense)

    def fixup(self, given: PolicyInput) -> Fixup | None:
        each = [(chunk, self._anchors(given, chunk)) for chunk in given.plan.chunks]
        kept = [(chunk, anchors) for chunk, anchors in each if anchors]
        if not kept or given.old is None:
            return None
        return _Deltas(kept, given.old, given.shape)
