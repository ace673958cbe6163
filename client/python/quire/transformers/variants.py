"""Which of several stored variants of a chunk a prompt gets: candidates as policies rank them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import numpy as np

from ..errors import InvalidArgument
from ..ids import Tokens, as_tokens
from ..reuse import SegmentKind
from .plan import PlanSegment, ReusePlan
from .policies.base import RowPolicy
from .policies.candidates import candidate_of
from .sources import KvSource


def _is_source(part: object) -> TypeGuard[KvSource]:
    return hasattr(part, "place")


def _variants(part: object) -> list[KvSource]:
    """The sources of a part; none where it is tokens."""
    if _is_source(part):
        return [part]
    if isinstance(part, Sequence) and len(part) and all(_is_source(one) for one in part):
        return list(part)
    return []


def plan_of_variants(
    parts: Sequence[KvSource | Sequence[KvSource] | Tokens],
    policy: RowPolicy,
    *,
    prefix: KvSource | None = None,
) -> ReusePlan:
    """As plan_of_parts(), where a part may be several variants of one chunk: the one of least
    rank_candidate() is used, of equals the first. A chunk whose variants are all refused keeps the
    first of them: the prefill computes it anew, and charges for it, since it could be reused.
    """
    segments: list[PlanSegment] = []
    at = 0
    offered: dict[int, list[KvSource]] = {}

    def add(kind: SegmentKind, n_tokens: int, source: KvSource | None) -> None:
        nonlocal at
        segments.append(PlanSegment(kind, at, n_tokens, source))
        at += n_tokens

    runs = []
    if prefix is not None:
        if prefix.base_position != 0:
            raise InvalidArgument("a prefix was computed at position 0")
        add(SegmentKind.PREFIX, len(prefix.tokens), prefix)
        runs.append(prefix.tokens)
    for part in parts:
        sources = _variants(part)
        tokens = sources[0].tokens if sources else as_tokens(part)  # type: ignore[arg-type]
        if any(not np.array_equal(source.tokens, tokens) for source in sources):
            raise InvalidArgument("the variants of a part are of different tokens")
        if not len(tokens):
            continue
        if sources:
            offered[len(segments)] = sources
        kind = SegmentKind.CHUNK if sources else SegmentKind.FRESH
        add(kind, len(tokens), sources[0] if sources else None)
        runs.append(tokens)
    if not segments:
        raise InvalidArgument("an empty prompt")
    plan = ReusePlan(np.concatenate(runs), tuple(segments), segments[-1].token_begin)
    for index, sources in offered.items():
        begin = segments[index].token_begin
        ranks = [policy.rank_candidate(candidate_of(plan, begin, source)) for source in sources]
        chosen = segments[index]
        best = sources[int(np.argmin(ranks))]
        segments[index] = PlanSegment(SegmentKind.CHUNK, begin, chosen.n_tokens, best)
    return ReusePlan(plan.tokens, tuple(segments), plan.question_begin)
