"""A prompt cut into an exact prefix, reused chunks and fresh tokens, with the sources of old KV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from .. import reuse
from ..errors import InvalidArgument
from ..ids import Tokens, as_tokens
from ..reuse import Match, SegmentKind
from .sources import KvSource


@dataclass(frozen=True)
class PlanSegment:
    """A run of prompt cells. ``source`` is None where it is fresh; its tokens from source_begin on
    are used. position: of the first token, where it is not the cell's index (methods that put all
    contexts at the same positions, as APE does)."""

    kind: SegmentKind
    token_begin: int
    n_tokens: int
    source: KvSource | None = None
    source_begin: int = 0
    match: Match | None = None
    position: int | None = None

    @property
    def token_end(self) -> int:
        return self.token_begin + self.n_tokens

    @property
    def first_position(self) -> int:
        return self.token_begin if self.position is None else self.position


@dataclass(frozen=True)
class ReusePlan:
    """Segments cover [0, n) in order; the last is fresh. question_begin: the tokens whose attention
    guides query-guided policies; by default the trailing fresh segment."""

    tokens: NDArray[np.uint32]
    segments: tuple[PlanSegment, ...]
    question_begin: int

    def __post_init__(self) -> None:
        at = 0
        for segment in self.segments:
            if segment.token_begin != at or segment.n_tokens <= 0:
                raise InvalidArgument("segments must cover the prompt in order and without gaps")
            at = segment.token_end
            if (segment.source is None) != (segment.kind == SegmentKind.FRESH):
                raise InvalidArgument("loaded segments need a source, fresh ones have none")
            if segment.source is not None:
                have = segment.source.tokens[segment.source_begin :][: segment.n_tokens]
                if not np.array_equal(have, self.tokens[segment.token_begin : at]):
                    raise InvalidArgument(
                        f"the KV for tokens [{segment.token_begin}, {at}) is of other tokens"
                    )
        if at != len(self.tokens) or not self.segments:
            raise InvalidArgument(f"segments end at {at}, the prompt at {len(self.tokens)}")
        if self.segments[-1].kind != SegmentKind.FRESH:
            raise InvalidArgument("the last segment must be fresh: its logits are wanted")
        if not 0 <= self.question_begin < at:
            raise InvalidArgument("the question must begin inside the prompt")

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def positions(self) -> NDArray[np.int64]:
        """[cell]: what rope turns it by."""
        runs = [s.first_position + np.arange(s.n_tokens, dtype=np.int64) for s in self.segments]
        return np.concatenate(runs)

    @property
    def chunks(self) -> tuple[PlanSegment, ...]:
        return tuple(s for s in self.segments if s.kind == SegmentKind.CHUNK)

    @property
    def reusable(self) -> NDArray[np.int64]:
        """Cells inside chunks: what policies choose among, and what budgets are shares of."""
        return _cells(self.chunks)

    @property
    def fresh(self) -> NDArray[np.int64]:
        return _cells([s for s in self.segments if s.kind == SegmentKind.FRESH])

    def keeping(self, keep: Callable[[PlanSegment], bool]) -> ReusePlan:
        """The same plan with the loaded segments that are not kept made fresh."""
        segments = tuple(
            s
            if s.source is None or keep(s)
            else replace(s, kind=SegmentKind.FRESH, source=None, source_begin=0, match=None)
            for s in self.segments
        )
        return replace(self, segments=segments)

    def bare_segments(self) -> list[reuse.Segment]:
        """For quire.select_rows()."""
        return [
            reuse.Segment(s.kind, s.token_begin, s.n_tokens, s.source_begin) for s in self.segments
        ]


def _cells(segments: Sequence[PlanSegment]) -> NDArray[np.int64]:
    runs = [np.arange(s.token_begin, s.token_end, dtype=np.int64) for s in segments]
    return np.concatenate(runs) if runs else np.empty(0, dtype=np.int64)


def plan_of_parts(
    parts: Sequence[KvSource | Tokens], *, prefix: KvSource | None = None
) -> ReusePlan:
    """A plan written out by hand: an exact prefix, then sources (reused) and tokens (fresh) in the
    order of the prompt; the last part is the question."""
    segments: list[PlanSegment] = []
    runs: list[NDArray[np.uint32]] = []
    at = 0

    def add(kind: SegmentKind, tokens: NDArray[np.uint32], source: KvSource | None) -> None:
        nonlocal at
        if len(tokens):
            segments.append(PlanSegment(kind, at, len(tokens), source))
            runs.append(tokens)
            at += len(tokens)

    if prefix is not None:
        if prefix.base_position != 0:
            raise InvalidArgument("a prefix was computed at position 0")
        add(SegmentKind.PREFIX, prefix.tokens, prefix)
    for part in parts:
        if hasattr(part, "place"):
            source = cast(KvSource, part)
            add(SegmentKind.CHUNK, source.tokens, source)
        else:
            add(SegmentKind.FRESH, as_tokens(part), None)
    if not segments:
        raise InvalidArgument("an empty prompt")
    tokens = np.concatenate(runs)
    return ReusePlan(tokens, tuple(segments), segments[-1].token_begin)


def plan_of_segments(
    tokens: Tokens,
    segments: Sequence[reuse.Segment],
    source_of: Callable[[Match], KvSource],
    question_tokens: int | None = None,
) -> ReusePlan:
    """The plan of :func:`quire.plan`, with a source for each match it uses."""
    array = as_tokens(tokens)
    out = tuple(
        PlanSegment(
            s.kind,
            s.token_begin,
            s.n_tokens,
            None if s.match is None else source_of(s.match),
            s.source_begin,
            s.match,
        )
        for s in segments
    )
    begin = out[-1].token_begin if question_tokens is None else len(array) - question_tokens
    return ReusePlan(array, out, begin)
