"""Which of a chunk's stored variants a policy prefers, told by their stored statistics.

Statistics are small representations beside the KV, so the choice is made before any KV is loaded:
they say what each token received and gave, and their context names what the variant stood behind.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .. import ids, statistics
from ..client import Client
from ..errors import Busy, DeadlineExceeded, QuireError, Unavailable
from ..ids import Context, ContextKind, Phase
from ..kv import describe
from ..lease import Lease
from ..reuse import Match, MatchKind, Segment, SegmentKind
from ..statistics import Statistics, VectorType
from .policies.base import RowPolicy, VariantCandidate
from .policies.candidates import Run, is_exact, runs_before
from .recipes import run_digest
from .sources import LOSSLESS_CODECS_MAX
from .stats import ChunkStats

_SCOPED_KIND = 6
_CONTEXT_IDS_MAX = 1024  # that a context may name (base/ids.h)
_NOT_CHUNKS = (ContextKind.CONTEXTUAL, ContextKind.DELTA_OF)


@dataclass(frozen=True)
class StoredStatistics:
    """Of one variant. neighbours: object ids of what it was computed behind, where it says so."""

    stats: ChunkStats | None = None
    neighbours: tuple[bytes, ...] = ()


UNKNOWN = StoredStatistics()


@dataclass(frozen=True)
class _Before:
    """The runs before a token, by their digests and object ids. variants: of the chunk that begins
    there, by its end, the id of the variant computed behind these runs."""

    digests: tuple[bytes, ...]
    objects: tuple[bytes, ...]
    n_prefix: int
    variants: dict[int, bytes] = field(default_factory=dict)


def chunk_stats(found: Statistics) -> ChunkStats | None:
    """As policies read them; None where a vector they need is not there."""
    behind = len(found.segments) > 0
    if VectorType.RECEIVED not in found or (behind and VectorType.INTER_OF_SEGMENT not in found):
        return None
    n = found.n_tokens
    # Stored per row that sees the token, kept here as mass.
    received = found[VectorType.RECEIVED].astype(np.float32) * np.arange(n, 0, -1, dtype=np.float32)
    inter: NDArray[np.float32] = np.zeros((n, 0), dtype=np.float32)
    if behind:
        inter = found[VectorType.INTER_OF_SEGMENT].astype(np.float32).T
    own = np.clip(1.0 - inter.sum(axis=1, keepdims=True), 0.0, 1.0)
    given = np.concatenate([inter, own], axis=1)
    return ChunkStats.of_vectors({"received": received, "given": given}, (*found.segments, n))


def neighbours_of(data: NDArray[np.uint8]) -> tuple[bytes, ...]:
    """The object ids that a synthetic representation names (docs/formats/representation.md); none
    for other contexts. Raises Corrupt for what is no representation."""
    describe(data)
    n_tokens, context_bytes, n_sections = struct.unpack("<III", data[56:68].tobytes())
    begin = 256 + 32 * n_sections + 4 * n_tokens
    context = data[begin : begin + context_bytes].tobytes()
    if context[0] == _SCOPED_KIND:
        context = context[34:]
    if context[0] != ContextKind.SYNTHETIC:
        return ()
    (count,) = struct.unpack_from("<I", context, 2)
    return tuple(context[6 + 32 * i : 38 + 32 * i] for i in range(count))


def _read(lease: Lease) -> StoredStatistics:
    return StoredStatistics(chunk_stats(statistics.unpack(lease)), neighbours_of(lease.data))


def read_statistics(client: Client, matches: Sequence[Match]) -> dict[bytes, StoredStatistics]:
    """By variant id. What vanished, is too slow or cannot be read is left out: its variant has no
    statistics."""
    found: dict[bytes, StoredStatistics] = {}
    by_id = {m.representation: m.variant for m in matches if m.codec == statistics.CODEC}
    try:
        leases = client.acquire_many(list(by_id)) if by_id else []
    except (Busy, DeadlineExceeded, Unavailable):
        return found
    for variant, lease in zip(by_id.values(), leases, strict=True):
        if not isinstance(lease, Lease):
            continue
        try:
            found[variant] = _read(lease)
        except QuireError:
            continue
        finally:
            lease.release()
    return found


class VariantChoice:
    """Chooses among the variants that a resolve found for one prompt. For query-value its choice is
    that of :func:`quire.plan` with the prompt known, but for what only statistics tell: which
    neighbours a synthetic variant had that does not stand as it was computed."""

    def __init__(
        self,
        model: bytes,
        salt: bytes,
        tokens: NDArray[np.uint32],
        policy: RowPolicy,
        known: Mapping[bytes, StoredStatistics],
        *,
        scope: bytes = bytes(32),
        fixed_prefixes: Sequence[bytes] = (),
    ) -> None:
        """scope: of the session. fixed_prefixes: prefix digests whose variants fit, best first."""
        self._model, self._salt, self._tokens, self._policy = model, salt, tokens, policy
        self.known, self._scope = known, scope
        self._places = {digest: i for i, digest in reversed(list(enumerate(fixed_prefixes)))}
        # Names of runs of this prompt, made once: every candidate is compared with them.
        self._digests: dict[tuple[int, int], bytes] = {}
        self._objects: dict[tuple[int, int], bytes] = {}
        self._prefixes: dict[int, bytes] = {}
        # What stands before the places of the segments that were asked about last.
        self._segments: tuple[Segment, ...] = ()
        self._names: dict[bytes, bytes] = {}
        self._befores: dict[int, _Before] = {}

    def choose(self, segments: Sequence[Segment], usable: Sequence[Match]) -> list[Segment]:
        """The same cuts with the variant of least rank_candidate(). Of equals, the one that stands
        as it was computed; the one computed behind more of what stands before it, which a text that
        is listed or the prompt's beginning is one run of; of fixed_prefix ones, the one that is
        listed first or behind the longest beginning; the one that the plan had; the least load_us,
        the nearer tier, a lossless codec, the smaller codec id, the first of usable. Of those that
        stand as they were computed: a lossless codec, the nearer tier, the least load_us. A chunk
        whose variants are all refused is fresh."""
        offered: dict[tuple[int, int], list[Match]] = {}
        for match in usable:
            if _is_chunk(match):
                offered.setdefault((match.token_begin, match.n_tokens), []).append(match)
        return [
            self._chosen(segment, segments, offered)
            if segment.kind == SegmentKind.CHUNK and segment.match is not None
            else segment
            for segment in segments
        ]

    def _chosen(
        self,
        segment: Segment,
        segments: Sequence[Segment],
        chunks: Mapping[tuple[int, int], Sequence[Match]],
    ) -> Segment:
        own = segment.match
        assert own is not None
        offered = chunks[own.token_begin, own.n_tokens]
        ranks = [self._order(match, own, self.candidate(match, segments)) for match in offered]
        best = ranks.index(min(ranks))
        if not np.isfinite(ranks[best][0]):
            return Segment(SegmentKind.FRESH, segment.token_begin, segment.n_tokens)
        return replace(segment, match=offered[best])

    def _order(self, match: Match, own: Match, one: VariantCandidate) -> tuple[float, ...]:
        rank, lossy = self._policy.rank_candidate(one), match.codec > LOSSLESS_CODECS_MAX
        if is_exact(one):
            return (rank, False, lossy, match.tier, match.load_us, match.codec)
        return (
            rank,
            True,
            *self._context_order(match, one),
            match != own,
            match.load_us,
            match.tier,
            lossy,
            match.codec,
        )

    def _context_order(self, match: Match, one: VariantCandidate) -> tuple[int, int, int]:
        if match.context_kind != ContextKind.FIXED_PREFIX:
            return (-len(set(one.lead) & set(one.before)), 0, 0)
        place = self._places.get(match.context_reference)
        if place is not None:
            return (-1, place, 0)
        shorter_by = len(self._tokens) - match.base_position if one.own_prefix else 0
        return (-int(one.own_prefix), len(self._places), shorter_by)

    def candidate(self, match: Match, segments: Sequence[Segment]) -> VariantCandidate:
        before = self._before(segments, match.token_begin)
        fixed = match.context_kind == ContextKind.FIXED_PREFIX
        return VariantCandidate(
            match.context_kind,
            match.phase,
            match.n_tokens,
            self.known.get(match.variant, UNKNOWN).stats,
            self.lead_of(match, segments),
            before.digests,
            before.n_prefix,
            self._digest_of(Run(0, match.token_begin, True)),
            match.base_position == match.token_begin,
            not fixed or match.context_reference in self._places or self._begins_with(match),
        )

    def lead_of(self, match: Match, segments: Sequence[Segment]) -> tuple[bytes, ...]:
        """Digests of the runs it was computed behind: run_digest() of those that this prompt has,
        for others an id that no run of it has; empty where nothing is known of them."""
        if match.context_kind == ContextKind.FIXED_PREFIX:
            text = self._tokens[: match.base_position]
            return (run_digest(text) if self._begins_with(match) else match.context_reference,)
        before = self._before(segments, match.token_begin)
        if self._stands_behind(match, before):
            return before.digests
        parts = dict(zip(before.objects, before.digests, strict=True))
        return tuple(
            parts.get(name) or self._names.get(name, name)
            for name in self.known.get(match.variant, UNKNOWN).neighbours
        )

    def _before(self, segments: Sequence[Segment], token_begin: int) -> _Before:
        if self._segments != (asked := tuple(segments)):
            runs = runs_before(asked, len(self._tokens))
            self._names = {self._object_of(run): self._digest_of(run) for run in runs}
            self._segments, self._befores = asked, {}
        if token_begin not in self._befores:
            runs = runs_before(self._segments, token_begin)
            self._befores[token_begin] = _Before(
                tuple(self._digest_of(run) for run in runs),
                tuple(self._object_of(run) for run in runs),
                sum(run.is_prefix for run in runs),
            )
        return self._befores[token_begin]

    def _begins_with(self, match: Match) -> bool:
        """Whether the text that a match's context names is the beginning of the prompt."""
        n = match.base_position
        whole = 0 < n <= len(self._tokens)
        return whole and match.context_reference == self._prefix_of(n)

    def _stands_behind(self, match: Match, before: _Before) -> bool:
        """Whether a synthetic variant's id proves that it was computed behind these runs."""
        if (
            match.context_kind != ContextKind.SYNTHETIC
            or match.phase != Phase.PREFILL
            or match.base_position != match.token_begin
            or not 0 < len(before.objects) <= _CONTEXT_IDS_MAX
        ):
            return False
        end = match.token_begin + match.n_tokens
        if end not in before.variants:
            own = self._object_of(Run(match.token_begin, end, False))
            context = Context(ContextKind.SYNTHETIC, neighbours=before.objects, scope=self._scope)
            before.variants[end] = ids.variant_id(own, context)
        return match.variant == before.variants[end]

    def _digest_of(self, run: Run) -> bytes:
        key = (run.begin, run.end)
        if key not in self._digests:
            self._digests[key] = run_digest(self._tokens[run.begin : run.end])
        return self._digests[key]

    def _object_of(self, run: Run) -> bytes:
        key = (run.begin, run.end)
        if key not in self._objects:
            text = self._tokens[run.begin : run.end]
            self._objects[key] = ids.object_id(self._model, text, self._salt)
        return self._objects[key]

    def _prefix_of(self, n_tokens: int) -> bytes:
        if n_tokens not in self._prefixes:
            text = self._tokens[:n_tokens]
            self._prefixes[n_tokens] = ids.prefix_digest(self._model, text, self._salt)
        return self._prefixes[n_tokens]


def _is_chunk(match: Match) -> bool:
    """Whether plans use it as a chunk."""
    return (
        match.kind == MatchKind.CHUNK
        and match.phase == Phase.PREFILL
        and match.context_kind not in _NOT_CHUNKS
    )
