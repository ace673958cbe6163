"""Full prefill: the oracle of every other policy and their fallback. Nothing is loaded."""

from __future__ import annotations

import numpy as np

from ..shape import ModelShape
from .base import PolicyInput, PolicyNeeds, RowPolicy, Rows


class FullPrefill(RowPolicy):
    name = "full"

    def needs(self, shape: ModelShape) -> PolicyNeeds:
        return PolicyNeeds(uses_prefix=False, uses_chunks=False)

    def select_rows(self, given: PolicyInput) -> Rows:
        return np.empty(0, dtype=np.int64)
