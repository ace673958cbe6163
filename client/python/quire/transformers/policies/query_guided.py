"""Query-guided rows: what the question looks at is computed again.

query: column sums of the question's attention over the reused cache, mean of all full-attention
layers (ProphetKV, as described in its abstract, fuses layers; its weights are not published, here
all layers weigh alike). query-last: the last layer alone (FusionRAG's online selection, SIGMOD'26).
Departures: FusionRAG's default chunk variant is synthetic, here any; sliding-window layers are
never fused, since they do not see the prompt; where the last layer has a window the last full one
counts.
Equal to the C++ rule "query:B": ceil(B x chunk tokens) heaviest, ties to the lower index.
"""

from __future__ import annotations

from ..shape import ModelShape
from .base import PolicyInput, PolicyNeeds, QuestionLayers, RowPolicy, Rows, checked_share, heaviest


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

    def select_rows(self, given: PolicyInput) -> Rows:
        candidates = given.plan.reusable
        if not len(candidates):
            return candidates
        return heaviest(candidates, given.fused_mass()[candidates], self.share)
