"""Exact prefix reuse: what is stored for exactly this beginning of the prompt, and nothing else."""

from __future__ import annotations

import numpy as np

from ..shape import ModelShape
from .base import PolicyInput, PolicyNeeds, RowPolicy, Rows


class ExactPrefix(RowPolicy):
    name = "prefix"

    def needs(self, shape: ModelShape) -> PolicyNeeds:
        return PolicyNeeds(uses_chunks=False)

    def select_rows(self, given: PolicyInput) -> Rows:
        return np.empty(0, dtype=np.int64)
