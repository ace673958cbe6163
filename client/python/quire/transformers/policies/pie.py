"""PIE (ICLR'25, arXiv 2407.03157): a text after an edit, from the KV it had before.

What is before the edit is an exact prefix; the inserted tokens are computed; what follows is kept,
its keys moved by the number of tokens inserted less those deleted (edits.plan_of_edit cuts the
prompt so). V is not touched, and in the paper nothing is repaired: pie:0. pie:W computes also the
first W tokens behind every edit.
Departure: keys are always moved from where they were computed, so that many edits do not add up
rounding errors, and an edit that is undone gives back the first bytes.
"""

from __future__ import annotations

import numpy as np

from ...errors import InvalidArgument
from ..shape import ModelShape
from .base import PolicyInput, PolicyNeeds, RowPolicy, Rows, chunk_head


class Pie(RowPolicy):
    def __init__(self, rows_per_edit: int = 0) -> None:
        if rows_per_edit < 0:
            raise InvalidArgument("rows per edit must not be negative")
        self.rows_per_edit = rows_per_edit

    @property
    def name(self) -> str:
        return f"pie:{self.rows_per_edit}"

    def needs(self, shape: ModelShape) -> PolicyNeeds:
        return PolicyNeeds()

    def select_rows(self, given: PolicyInput) -> Rows:
        edited = [s for s in given.plan.chunks if s.token_begin or s.source_begin]
        heads = [chunk_head(s, self.rows_per_edit) for s in edited]
        return np.concatenate(heads) if heads else np.empty(0, dtype=np.int64)
