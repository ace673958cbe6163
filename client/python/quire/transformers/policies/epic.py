"""EPIC / LegoLink-k (arXiv 2410.15332): the first k tokens of every chunk, at all layers.

Departures: the released code computes the head of every chunk but the first; here a chunk at prompt
position 0 is the one left alone, since a chunk behind a system prompt has something in front. Where
a prefix covers a chunk's head, its first used tokens count.
"""

from __future__ import annotations

import numpy as np

from ...errors import InvalidArgument
from ..shape import ModelShape
from .base import PolicyInput, PolicyNeeds, RowPolicy, Rows, chunk_head


class Epic(RowPolicy):
    def __init__(self, rows_per_chunk: int) -> None:
        if rows_per_chunk < 1:
            raise InvalidArgument("epic needs at least one row per chunk (none: reuse)")
        self.rows_per_chunk = rows_per_chunk

    @property
    def name(self) -> str:
        return f"epic:{self.rows_per_chunk}"

    def needs(self, shape: ModelShape) -> PolicyNeeds:
        return PolicyNeeds()

    def select_rows(self, given: PolicyInput) -> Rows:
        heads = [chunk_head(s, self.rows_per_chunk) for s in given.plan.chunks if s.token_begin]
        return np.concatenate(heads) if heads else np.empty(0, dtype=np.int64)
