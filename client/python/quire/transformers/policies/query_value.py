"""query-value: what the question would carry away, within one charge. Quire's own, the default.

A token weighs by the question's attention to it times the norm of its value (VATP, Guo et al.,
EMNLP 2024, arXiv 2406.12335, ranks tokens to evict so): much-watched tokens whose values are small,
as separators are, change nothing when they are computed again. Then:
- the sum with the token before and the one behind: a number or a name is not left half old;
- rows that are exact already, of chunks computed behind the very tokens in front of them, are left
  out: with chunks computed behind the prompt's own prefix that is the first one, whole or without
  a head that the exact prefix covers;
- what the question reads in sliding-window layers counts a little, too, where the charge is more
  than the rows that hold the answer take: the mean over those layers of the pass times a weight
  that grows from 0 at a charge of .05 to .1 at .15. It goes to the last tokens before the question
  alone, which are most of what is left in long contexts;
- B is the whole charge: what the question's first pass costs is taken off the rows, and the pass
  ends where it would take more than a third of it.
Departure from VATP: the norm is L2.
How the parts were chosen, and what did not help: docs/decisions/013-query-value.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...ids import ContextKind
from ..plan import ReusePlan
from ..shape import ModelShape
from .base import (
    PolicyInput,
    PolicyNeeds,
    QuestionLayers,
    RowPolicy,
    Rows,
    Scores,
    VariantCandidate,
    checked_share,
    heaviest_n,
    question_charge,
)
from .candidates import exact_cells, is_exact, neighbours_missing

# What the question's pass may take of the charge: it ends at the last layer it can pay for.
ASKED_SHARE_MAX = 1 / 3
REACH = 1  # tokens on either side whose weight a token's own is summed with
# Of what sliding-window layers read: what the charge is above WINDOW_CHARGE, at most this.
WINDOW_WEIGHT_MAX = 0.1
WINDOW_CHARGE = 0.05


class QueryValue(RowPolicy):
    def __init__(self, charge: float) -> None:
        """charge: of rows and question's pass together, a share of computing every reused token."""
        self.charge = checked_share(charge)

    @property
    def name(self) -> str:
        return f"query-value:{self.charge:g}"

    def needs(self, shape: ModelShape) -> PolicyNeeds:
        return PolicyNeeds(
            static_rows=False,
            needs_query_attention_at=QuestionLayers.FULL_ATTENTION,
            weighs_by_values=True,
        )

    def question_layers(self, plan: ReusePlan, shape: ModelShape) -> tuple[int, ...]:
        affordable = self.charge * ASKED_SHARE_MAX
        layers = super().question_layers(plan, shape)
        full = tuple(la for la in layers if question_charge(la, shape, plan) <= affordable)
        if not full or not self.window_weight:
            return full
        windows = (la for la in range(full[-1]) if shape.layers[la].window_tokens)
        return tuple(sorted({*full, *windows}))

    @property
    def window_weight(self) -> float:
        return min(max(self.charge - WINDOW_CHARGE, 0.0), WINDOW_WEIGHT_MAX)

    def _fused(self, given: PolicyInput) -> NDArray[np.float64]:
        """[cell]: full layers, and what windows add."""
        full = given.shape.full_layers
        masses = given.question_mass
        fused: NDArray[np.float64] = np.mean(
            [mass for layer, mass in masses.items() if layer in full], axis=0, dtype=np.float64
        )
        windows = [mass for layer, mass in masses.items() if layer not in full]
        if windows:
            fused = fused + self.window_weight * np.mean(windows, axis=0, dtype=np.float64)
        return fused.astype(np.float32).astype(np.float64)

    def rank_candidate(self, candidate: VariantCandidate) -> float:
        """What stands as it was computed, then what was computed beside other texts, then behind
        the prompt's own prefix; the rest in the order of the library's plans."""
        if is_exact(candidate):
            return 0.0
        if candidate.kind == ContextKind.SYNTHETIC:  # known neighbours first
            return 1.0 + neighbours_missing(candidate)
        if candidate.kind == ContextKind.FIXED_PREFIX:
            return 3.0 if candidate.own_prefix else 6.0
        return 5.0 if candidate.kind == ContextKind.DUMMY_SINK else 4.0

    def row_scores(self, given: PolicyInput) -> Scores:
        plan = given.plan
        weights = np.full(plan.n_tokens, -np.inf)
        n_reusable = len(plan.reusable)
        if not given.question_mass or not n_reusable:
            return Scores(weights, 0)
        fused = self._fused(given)
        for chunk in plan.chunks:
            cells = slice(chunk.token_begin, chunk.token_end)
            weights[cells] = spread(fused[cells], REACH)
        exact = exact_cells(plan)
        weights[exact] = -np.inf
        asked = question_charge(max(given.question_mass), given.shape, plan)
        # A full budget is a full prefill of the chunks, whatever the question's pass costs.
        rows = self.charge - asked if self.charge < 1.0 else 1.0
        n_rows = int(np.floor(max(rows, 0.0) * n_reusable + 1e-9))
        return Scores(weights, min(n_rows, n_reusable - len(exact)))

    def select_rows(self, given: PolicyInput) -> Rows:
        candidates = given.plan.reusable
        scores = self.row_scores(given)
        if self.charge >= 1.0:
            return candidates
        return heaviest_n(candidates, scores.values[candidates], scores.n_rows)


def spread(values: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Sum over the values at most ``reach`` away, nothing beyond the ends."""
    if not reach or not len(values):
        return values
    padded = np.pad(values, reach)
    summed: NDArray[np.float64] = np.sum(
        [padded[i : i + len(values)] for i in range(2 * reach + 1)], axis=0
    )
    return summed
