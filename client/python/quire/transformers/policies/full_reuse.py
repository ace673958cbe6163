"""Full reuse: chunks moved to their place and nothing computed again.

Prompt Cache (arXiv 2311.04934) without its schema; also the whole method of models trained for
block attention (Block-Attention, arXiv 2409.15355; TurboRAG, arXiv 2410.07590).
"""

from __future__ import annotations

import numpy as np

from ..shape import ModelShape
from .base import PolicyInput, PolicyNeeds, RowPolicy, Rows


class FullReuse(RowPolicy):
    name = "reuse"

    def needs(self, shape: ModelShape) -> PolicyNeeds:
        return PolicyNeeds()

    def select_rows(self, given: PolicyInput) -> Rows:
        return np.empty(0, dtype=np.int64)
