"""Any policy with another choice among stored variants: least-cfo/POLICY, neighbours/POLICY.

least-cfo: the variant of which Cache-Craft (SIGMOD'25) says that the least is to be computed again.
neighbours: the one with most of what it was computed behind standing before it now (FusionRAG's
synthetic variants, SIGMOD'26; the rule is ours). Refusals, and order among equals, are the
policy's own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from ..plan import ReusePlan
from ..shape import ModelShape
from .base import (
    DecodeView,
    Fixup,
    LayerView,
    PolicyInput,
    PolicyNeeds,
    RowPolicy,
    Rows,
    Scores,
    VariantCandidate,
)
from .cachecraft import overhead_rank
from .candidates import neighbours_missing

_TIE = 1e-8


class ChosenVariant(RowPolicy):
    def __init__(self, inner: RowPolicy, by: Literal["least-cfo", "neighbours"]) -> None:
        self.inner, self.by = inner, by
        self.variant = inner.variant

    @property
    def name(self) -> str:
        return f"{self.by}/{self.inner.name}"

    def rank_candidate(self, candidate: VariantCandidate) -> float:
        own = self.inner.rank_candidate(candidate)
        if self.by == "least-cfo":
            return overhead_rank(candidate, 1.0) + _TIE * own
        return neighbours_missing(candidate) + _TIE * own

    def needs(self, shape: ModelShape) -> PolicyNeeds:
        inner = self.inner.needs(shape)
        return replace(inner, needs_stats=inner.needs_stats or self.by == "least-cfo")

    def question_layers(self, plan: ReusePlan, shape: ModelShape) -> tuple[int, ...]:
        return self.inner.question_layers(plan, shape)

    def arrange(self, plan: ReusePlan) -> ReusePlan:
        return self.inner.arrange(plan)

    def select_rows(self, given: PolicyInput) -> Rows:
        return self.inner.select_rows(given)

    def row_scores(self, given: PolicyInput) -> Scores | None:
        return self.inner.row_scores(given)

    def layer_scores(self, view: LayerView) -> Scores | None:
        return self.inner.layer_scores(view)

    def on_layer(self, view: LayerView) -> Rows | None:
        return self.inner.on_layer(view)

    def on_decode(self, view: DecodeView) -> Rows:
        return self.inner.on_decode(view)

    def fixup(self, given: PolicyInput) -> Fixup | None:
        return self.inner.fixup(given)
