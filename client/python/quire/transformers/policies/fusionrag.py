"""FusionRAG (SIGMOD'26, arXiv 2601.12904): neighbours in front offline, question-led rows online.

Offline: a chunk's variant is computed behind its nearest chunks (recipes.behind_neighbours); of
several such variants the one with most of its neighbours in the prompt is taken. Online: the last
layer's question attention picks the rows, as query-last does.
Departures: a chunk without a synthetic variant is used in another instead of being computed (behind
a fixed prefix, then isolated); the paper recomputes the chunk behind neighbours' *cached* KV, here
the neighbours are computed in sequence; which variant of several is not its question.
"""

from __future__ import annotations

from ...ids import ContextKind
from .base import QuestionLayers, Variant, VariantCandidate
from .candidates import neighbours_missing
from .query_guided import QueryGuided


class FusionRag(QueryGuided):
    variant = Variant((ContextKind.SYNTHETIC, ContextKind.FIXED_PREFIX, ContextKind.ISOLATED))

    def __init__(self, share: float) -> None:
        super().__init__(share, QuestionLayers.LAST)

    @property
    def name(self) -> str:
        return f"fusionrag:{self.share:g}"

    def rank_candidate(self, candidate: VariantCandidate) -> float:
        rank = self.rank(candidate.kind, candidate.stats)
        if candidate.kind != ContextKind.SYNTHETIC:
            return rank
        # Less than one whole rank: a kind is never left for a better one of the next kind.
        return rank + neighbours_missing(candidate) / 2
