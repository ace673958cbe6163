"""What variants are ranked by: neighbours present, order kept."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...ids import ContextKind, Phase
from ...reuse import Segment, SegmentKind
from ..plan import PlanSegment, ReusePlan
from ..recipes import run_digest
from .base import VariantCandidate

if TYPE_CHECKING:
    from ..sources import KvSource


class Run(NamedTuple):
    """Tokens [begin, end) of a prompt that stand in front of something."""

    begin: int
    end: int
    is_prefix: bool


def runs_before(segments: Sequence[PlanSegment | Segment], token_begin: int) -> list[Run]:
    """The segments in front of a token, of one that reaches beyond it the part before it; pieces of
    the exact prefix are one run, as it was when a chunk was computed behind it."""
    runs: list[Run] = []
    for segment in segments:
        if segment.token_begin >= token_begin:
            break
        end = min(segment.token_begin + segment.n_tokens, token_begin)
        is_prefix = segment.kind == SegmentKind.PREFIX
        if is_prefix and runs and runs[-1].is_prefix:
            runs[-1] = Run(runs[-1].begin, end, True)
        else:
            runs.append(Run(segment.token_begin, end, is_prefix))
    return runs


def candidate_of(
    plan: ReusePlan, token_begin: int, source: KvSource, source_begin: int = 0
) -> VariantCandidate:
    """A source as a candidate for the segment of a plan that begins at token_begin with the
    source's token source_begin. Where the tokens before that one stand in the prompt too (the exact
    prefix covers the head of a chunk), what is before the chunk is what is before them."""
    head = token_begin - source_begin
    has_head = head >= 0 and np.array_equal(
        source.tokens[:source_begin], plan.tokens[head:token_begin]
    )
    begin = head if has_head else token_begin
    before = runs_before(plan.segments, begin)
    lead = getattr(source, "lead_runs", ())
    beginning = plan.tokens[: source.base_position]
    return VariantCandidate(
        source.context_kind,
        getattr(source, "phase", Phase.PREFILL),
        len(source.tokens),
        source.stats,
        lead,
        tuple(run_digest(plan.tokens[run.begin : run.end]) for run in before),
        sum(run.is_prefix for run in before),
        run_digest(plan.tokens[:begin]),
        has_head and source.base_position == head,
        lead in ((), (run_digest(beginning),)),
    )


def neighbours_missing(candidate: VariantCandidate) -> float:
    """The share of the runs a candidate was computed behind that do not stand before it now; 1
    where it was computed behind nothing, or nobody knows what."""
    if not candidate.lead:
        return 1.0
    present = set(candidate.before)
    return sum(run not in present for run in candidate.lead) / len(candidate.lead)


def order_distance(old: Sequence[bytes], new: Sequence[bytes]) -> float:
    """Kendall's tau distance of what both orders have, as a share of all pairs."""
    place = {run: i for i, run in enumerate(new)}
    common = [place[run] for run in old if run in place]
    pairs = list(combinations(common, 2))
    return sum(a > b for a, b in pairs) / len(pairs) if pairs else 0.0


def is_exact(candidate: VariantCandidate) -> bool:
    """Whether it was computed at this place behind the very tokens that stand before it: as the
    same runs or, where its context names a whole text, as one."""
    lead = candidate.lead
    if not lead or not candidate.in_place:
        return False
    as_one = candidate.kind != ContextKind.SYNTHETIC and lead == (candidate.text,)
    return as_one or lead == candidate.before


def stands_as_computed(plan: ReusePlan, segment: PlanSegment) -> bool:
    """Whether a chunk was computed behind the very runs of tokens that stand before it here: its KV
    is full prefill's, whatever has become of the KV before it, and of its own head where something
    else covers that."""
    if segment.source is None or segment.token_begin == segment.source_begin:
        return False
    if not getattr(segment.source, "exact", True):  # computed over KV that was approximate
        return False
    in_place = segment.first_position == segment.source.base_position + segment.source_begin
    return in_place and is_exact(
        candidate_of(plan, segment.token_begin, segment.source, segment.source_begin)
    )


def exact_cells(plan: ReusePlan) -> NDArray[np.int64]:
    """Cells of the chunks that stand as they were computed."""
    runs = [
        np.arange(s.token_begin, s.token_end) for s in plan.chunks if stands_as_computed(plan, s)
    ]
    return np.concatenate(runs) if runs else np.empty(0, dtype=np.int64)
