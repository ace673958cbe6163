"""Plans for a text that was edited since its KV was computed (PIE, arXiv 2407.03157)."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import NamedTuple

import numpy as np

from ..errors import InvalidArgument
from ..ids import Tokens, as_tokens
from ..reuse import SegmentKind
from .plan import PlanSegment, ReusePlan
from .recipes import run_digest
from .sources import KvSource

# A shorter run between two edits is computed with them.
KEPT_TOKENS_MIN = 4


class Kept(NamedTuple):
    """old[old_begin : old_begin + n_tokens] is new[new_begin : ...]."""

    old_begin: int
    new_begin: int
    n_tokens: int


def kept_runs(old: Tokens, new: Tokens, shortest: int = KEPT_TOKENS_MIN) -> list[Kept]:
    """What an edit kept, in order; a common beginning counts at any length."""
    before, after = as_tokens(old).tolist(), as_tokens(new).tolist()
    blocks = SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
    runs = [Kept(*block) for block in blocks]
    return [
        run
        for run in runs
        if run.n_tokens >= shortest or (run.n_tokens and run.old_begin == run.new_begin == 0)
    ]


def plan_of_edit(
    source: KvSource, text: Tokens, question: Tokens, *, prefix: KvSource | None = None
) -> ReusePlan:
    """prefix, then ``text`` from the KV of what it was before it was edited, then the question.

    The part before the first edit is an exact prefix where the source was computed exactly here.
    """
    tokens, asked = as_tokens(text), as_tokens(question)
    if not len(asked):
        raise InvalidArgument("an edited text needs a question behind it")
    ahead = as_tokens(()) if prefix is None else prefix.tokens
    segments: list[PlanSegment] = []
    at = 0

    def add(kind: SegmentKind, n_tokens: int, kv: KvSource | None = None, begin: int = 0) -> None:
        nonlocal at
        if n_tokens:
            segments.append(PlanSegment(kind, at, n_tokens, kv, begin))
            at += n_tokens

    if prefix is not None:
        if prefix.base_position != 0:
            raise InvalidArgument("a prefix was computed at position 0")
        add(SegmentKind.PREFIX, len(ahead), prefix)
    lead = (run_digest(ahead),) if len(ahead) else ()
    in_place = source.base_position == len(ahead) and getattr(source, "lead_runs", ()) == lead
    done = 0
    for run in kept_runs(source.tokens, tokens):
        add(SegmentKind.FRESH, run.new_begin - done)
        unmoved = in_place and run.old_begin == run.new_begin == 0
        kind = SegmentKind.PREFIX if unmoved else SegmentKind.CHUNK
        add(kind, run.n_tokens, source, run.old_begin)
        done = run.new_begin + run.n_tokens
    add(SegmentKind.FRESH, len(tokens) - done)
    begin = at
    add(SegmentKind.FRESH, len(asked))
    return ReusePlan(np.concatenate([ahead, tokens, asked]), tuple(segments), begin)
