"""Cache-Craft (SIGMOD'25, arXiv 2502.15734): how much of a chunk its stored attention says to fix.

Statistics taken when a variant was computed (stats.ChunkStats) say what it owes to the chunks that
stood before it: CCI = sigmoid(a / b), a its mass on them and b its mass on itself, per pair of
tokens. beta = the share of that mass which goes to chunks that stand before it again; gamma = how
far their order is from the old one (Kendall's tau); beta' = beta (1 - gamma). The share of the
chunk that is computed is CFO = alpha CCI (1 - beta'), at most 1, and the tokens are those that gave
most to what was before. Of several variants the one of least CFO is used; no layer is probed.
stop: at that layer the chunks that the question does not focus on are dropped.
Departures: what is an exact prefix of this prompt was in front of the variant, too, and is no chunk
that changes: it is in none of the sums. beta does not see chunks that are new before this one: of
equal CFO the variant computed behind more of what stands there is used. A variant whose whole lead
stands before it, in order and with nothing else, is exact (CFO 0 at any alpha). One without
statistics, or without the names of what it stood behind, is computed whole. A chunk in focus is one
whose mass from the question, mean over the full-attention layers so far, is at least the mean over
chunks, and only where the least of them has SEPARATION times the greatest of the others: the
paper's rule could not be read.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import InvalidArgument
from ...ids import ContextKind
from ..plan import PlanSegment, ReusePlan
from ..shape import ModelShape
from .base import (
    LayerView,
    PolicyInput,
    PolicyNeeds,
    RowPolicy,
    Rows,
    VariantCandidate,
    heaviest_n,
)
from .candidates import candidate_of, order_distance

SEPARATION = 2.0
_TIE = 1e-6


def _changing_runs(candidate: VariantCandidate) -> list[int]:
    """The runs of its lead that are not this prompt's exact prefix."""
    fixed = set(candidate.before[: candidate.n_prefix])
    return [j for j, run in enumerate(candidate.lead) if run not in fixed]


def prefix_overlap(candidate: VariantCandidate) -> float:
    """beta'; 0 where it was computed behind nothing that may change."""
    stats, runs = candidate.stats, _changing_runs(candidate)
    if stats is None or not runs:
        return 0.0
    mass = stats.inter_mass
    present = set(candidate.before)
    whole = sum(float(mass[j]) for j in runs)
    kept = sum(float(mass[j]) for j in runs if candidate.lead[j] in present)
    beta = kept / whole if whole > 0 else 0.0
    old = [candidate.lead[j] for j in runs]
    return beta * (1.0 - order_distance(old, candidate.before[candidate.n_prefix :]))


def overhead(candidate: VariantCandidate, alpha: float) -> float:
    """CFO, the share of the chunk to compute."""
    alone = not candidate.lead and candidate.kind == ContextKind.ISOLATED
    if (candidate.lead or alone) and candidate.lead == candidate.before:
        return 0.0
    stats = candidate.stats
    if stats is None or len(stats.segments) != len(candidate.lead) + 1:
        return 1.0
    index = stats.cci(_changing_runs(candidate))
    return min(1.0, max(0.0, alpha * index * (1.0 - prefix_overlap(candidate))))


def overhead_rank(candidate: VariantCandidate, alpha: float) -> float:
    """The CFO, and among equals what was computed behind more of what stands here now."""
    lead = set(candidate.lead)
    unseen = sum(run not in lead for run in candidate.before)
    return overhead(candidate, alpha) + _TIE * unseen / max(len(candidate.before), 1)


def focused(mass: NDArray[np.floating]) -> NDArray[np.bool_]:
    """[chunk]: those in focus; all of them where none stand out."""
    chosen: NDArray[np.bool_] = mass >= mass.mean()
    if chosen.all() or mass[chosen].min() < SEPARATION * mass[~chosen].max():
        return np.ones(len(mass), dtype=np.bool_)
    return chosen


class CacheCraft(RowPolicy):
    def __init__(self, alpha: float = 1.0, stop: int | None = None) -> None:
        """stop: the layer at which unfocused chunks are dropped; None: they never are."""
        if not (math.isfinite(alpha) and alpha >= 0):
            raise InvalidArgument(f"alpha must not be negative, not {alpha}")
        if stop is not None and stop < 0:
            raise InvalidArgument("a layer is not negative")
        self.alpha, self.stop = alpha, stop

    @property
    def name(self) -> str:
        return f"cachecraft:{self.alpha:g}" + ("" if self.stop is None else f",{self.stop}")

    def needs(self, shape: ModelShape) -> PolicyNeeds:
        if self.stop is None:
            return PolicyNeeds(needs_stats=True)
        seen = {layer for layer in shape.full_layers if layer <= self.stop} | {self.stop}
        layers = tuple(sorted(seen))
        return PolicyNeeds(probe_layers=layers, needs_column_sums=layers, needs_stats=True)

    def rank_candidate(self, candidate: VariantCandidate) -> float:
        return overhead_rank(candidate, self.alpha)

    def _chunk_rows(self, plan: ReusePlan, segment: PlanSegment) -> Rows:
        assert segment.source is not None
        candidate = candidate_of(plan, segment.token_begin, segment.source, segment.source_begin)
        rows = np.arange(segment.token_begin, segment.token_end, dtype=np.int64)
        count = math.ceil(overhead(candidate, self.alpha) * len(rows))
        scores: NDArray[np.floating] = np.zeros(len(rows))
        if candidate.stats is not None and candidate.stats.n_tokens == candidate.n_tokens:
            runs = [j for j in _changing_runs(candidate) if j < len(candidate.stats.segments) - 1]
            inter = candidate.stats.inter_by_run[:, runs].sum(dim=1).numpy()
            scores = inter[segment.source_begin :][: segment.n_tokens]
        return heaviest_n(rows, scores, count)

    def select_rows(self, given: PolicyInput) -> Rows:
        parts = [self._chunk_rows(given.plan, segment) for segment in given.plan.chunks]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def on_layer(self, view: LayerView) -> Rows | None:
        if view.layer != self.stop or len(view.plan.chunks) < 2:
            return None
        assert view.shape is not None
        full = set(view.shape.full_layers)
        masses = [m for layer, m in view.question_masses.items() if layer in full]
        fused = torch.stack(masses or list(view.question_masses.values())).mean(dim=0)
        chunks = view.plan.chunks
        mass = [float(fused[chunk.token_begin : chunk.token_end].sum()) for chunk in chunks]
        kept = [view.rows[:0]]
        for chunk, wanted in zip(chunks, focused(np.array(mass)), strict=True):
            inside = (view.rows >= chunk.token_begin) & (view.rows < chunk.token_end)
            if wanted:
                kept.append(view.rows[inside])
        return np.concatenate(kept)
