"""Random rows: the control that a selector has to beat. A share of all chunk tokens, by seed."""

from __future__ import annotations

import numpy as np

from ...errors import InvalidArgument
from ..shape import ModelShape
from .base import PolicyInput, PolicyNeeds, RowPolicy, Rows, checked_share


class RandomRows(RowPolicy):
    def __init__(self, share: float, seed: int = 0) -> None:
        if seed < 0:
            raise InvalidArgument(f"a seed must not be negative, not {seed}")
        self.share, self.seed = checked_share(share), seed

    @property
    def name(self) -> str:
        return f"random:{self.share:g}:{self.seed}"

    def needs(self, shape: ModelShape) -> PolicyNeeds:
        return PolicyNeeds()

    def select_rows(self, given: PolicyInput) -> Rows:
        candidates = given.plan.reusable
        n_rows = int(np.ceil(np.float64(self.share) * len(candidates)))
        generator = np.random.default_rng(self.seed)
        return np.sort(generator.choice(candidates, size=n_rows, replace=False))
