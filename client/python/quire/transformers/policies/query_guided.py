"""Query-guided rows: what the question looks at is computed again.

query: column sums of the question's attention over the reused cache, mean of all full-attention
layers. query-last: the last layer alone. query:B@L1,L2: those layers.
prophetkv: ProphetKV (ICML'26, arXiv 2602.02579), fused question guidance. Departure: how its first
stage weighs the layers is not in what of it could be read; here each layer's mass on the reused
tokens is made to sum to one, so that a layer which looks mostly elsewhere counts as much as others.
Departures of all: sliding-window layers are never fused unless named, since they do not see the
prompt; where the last layer has a window the last full one counts.
"query" equals the C++ rule "query:B": ceil(B x chunk tokens) heaviest, ties to the lower index.
"""

from __future__ import annotations

import numpy as np

from ..shape import ModelShape
from .base import (
    PolicyInput,
    PolicyNeeds,
    QuestionLayers,
    RowPolicy,
    Rows,
    Scores,
    checked_share,
    heaviest_n,
    rows_of_share,
)


class QueryGuided(RowPolicy):
    def __init__(
        self, share: float, layers: QuestionLayers | tuple[int, ...] | None = None
    ) -> None:
        self.share = checked_share(share)
        self.layers = QuestionLayers.FULL_ATTENTION if layers is None else layers

    @property
    def name(self) -> str:
        if isinstance(self.layers, tuple):
            return f"query:{self.share:g}@{','.join(map(str, self.layers))}"
        kind = "query-last" if self.layers is QuestionLayers.LAST else "query"
        return f"{kind}:{self.share:g}"

    def needs(self, shape: ModelShape) -> PolicyNeeds:
        return PolicyNeeds(static_rows=False, needs_query_attention_at=self.layers)

    def row_scores(self, given: PolicyInput) -> Scores:
        n_rows = rows_of_share(self.share, len(given.plan.reusable))
        if not given.question_mass:  # nothing is reusable: there was no pass
            return Scores(np.zeros(given.plan.n_tokens, dtype=np.float32), n_rows)
        return Scores(given.fused_mass(), n_rows)

    def select_rows(self, given: PolicyInput) -> Rows:
        candidates = given.plan.reusable
        if not len(candidates):
            return candidates
        scores = self.row_scores(given)
        return heaviest_n(candidates, scores.values[candidates], scores.n_rows)


class ProphetKv(QueryGuided):
    def __init__(self, share: float) -> None:
        super().__init__(share)

    @property
    def name(self) -> str:
        return f"prophetkv:{self.share:g}"

    def row_scores(self, given: PolicyInput) -> Scores:
        candidates = given.plan.reusable
        fused = np.zeros(given.plan.n_tokens, dtype=np.float64)
        for mass in given.question_mass.values():
            total = float(np.sum(mass[candidates], dtype=np.float64))
            if total > 0:
                fused[candidates] += mass[candidates] / total
        return Scores(fused, rows_of_share(self.share, len(candidates)))
