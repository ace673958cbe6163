"""Which of a chunk's stored variants a policy prefers, told by their stored statistics.

Statistics are small representations beside the KV, so the choice is made before any KV is loaded:
they say what each token received and gave, and their context names what the variant stood behind.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .. import ids, statistics
from ..client import Client
from ..errors import QuireError
from ..ids import ContextKind, Phase
from ..kv import describe
from ..lease import Lease
from ..reuse import Match, MatchKind, Segment, SegmentKind
from ..statistics import Statistics, VectorType
from .policies.base import RowPolicy, VariantCandidate
from .policies.candidates import Run, runs_before
from .recipes import run_digest
from .stats import ChunkStats

_SCOPED_KIND = 6
_NOT_CHUNKS = (ContextKind.CONTEXTUAL, ContextKind.DELTA_OF)


@dataclass(frozen=True)
class StoredStatistics:
    """Of one variant. neighbours: object ids of what it was computed behind, where it says so."""

    stats: ChunkStats | None = None
    neighbours: tuple[bytes, ...] = ()


UNKNOWN = StoredStatistics()


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
    """By variant id. What vanished or cannot be read is left out: its variant has no statistics."""
    found: dict[bytes, StoredStatistics] = {}
    by_id = {m.representation: m.variant for m in matches if m.codec == statistics.CODEC}
    leases = client.acquire_many(list(by_id)) if by_id else []
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
    """Chooses among the variants that a resolve found for one prompt."""

    def __init__(
        self,
        model: bytes,
        salt: bytes,
        tokens: NDArray[np.uint32],
        policy: RowPolicy,
        known: Mapping[bytes, StoredStatistics],
    ) -> None:
        self._model, self._salt, self._tokens, self._policy = model, salt, tokens, policy
        self.known = known
        # Names of runs of this prompt, made once: every candidate is compared with them.
        self._digests: dict[tuple[int, int], bytes] = {}
        self._objects: dict[tuple[int, int], bytes] = {}
        self._prefixes: dict[int, bytes] = {}

    def choose(self, segments: Sequence[Segment], usable: Sequence[Match]) -> list[Segment]:
        """The same cuts with the variant of least rank_candidate(); of equals the one computed
        behind more of what stands before it, then the one that the plan had. A chunk whose variants
        are all refused is fresh."""
        return [
            self._chosen(segment, segments, usable)
            if segment.kind == SegmentKind.CHUNK and segment.match is not None
            else segment
            for segment in segments
        ]

    def _chosen(
        self, segment: Segment, segments: Sequence[Segment], usable: Sequence[Match]
    ) -> Segment:
        own = segment.match
        assert own is not None
        others = [match for match in usable if match != own and _alternative(own, match)]
        offered = [own, *others]
        candidates = [self.candidate(match, segments, segment.token_begin) for match in offered]
        # Of equals the one with more of its context in place, then the plan's own order: its own
        # match, the one that loads sooner, the more exact codec.
        ranks = [
            (
                self._policy.rank_candidate(one),
                -len(set(one.lead) & set(one.before)),
                match is not own,
                match.load_us,
                match.codec,
            )
            for match, one in zip(offered, candidates, strict=True)
        ]
        best = ranks.index(min(ranks))
        if not np.isfinite(ranks[best][0]):
            return Segment(SegmentKind.FRESH, segment.token_begin, segment.n_tokens)
        return replace(segment, match=offered[best])

    def candidate(
        self, match: Match, segments: Sequence[Segment], token_begin: int
    ) -> VariantCandidate:
        before = runs_before(segments, token_begin)
        return VariantCandidate(
            match.context_kind,
            match.phase,
            match.n_tokens,
            self.known.get(match.variant, UNKNOWN).stats,
            self.lead_of(match, segments),
            tuple(self._digest_of(run) for run in before),
            sum(run.is_prefix for run in before),
            self._digest_of(Run(0, token_begin, True)),
        )

    def lead_of(self, match: Match, segments: Sequence[Segment]) -> tuple[bytes, ...]:
        """Digests of the runs it was computed behind: run_digest() of those that this prompt has,
        for others an id that no run of it has; empty where nothing is known of them."""
        if match.context_kind == ContextKind.FIXED_PREFIX:
            text = self._tokens[: match.base_position]
            whole = len(text) == match.base_position
            known = whole and match.context_reference == self._prefix_of(match.base_position)
            return (run_digest(text) if known else match.context_reference,)
        names = {self._object_of(run): run for run in runs_before(segments, len(self._tokens))}
        return tuple(
            self._digest_of(names[name]) if name in names else name
            for name in self.known.get(match.variant, UNKNOWN).neighbours
        )

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


def _alternative(own: Match, other: Match) -> bool:
    """Whether another match is the same run of tokens, usable as a chunk."""
    return (
        other.kind == MatchKind.CHUNK
        and (other.token_begin, other.n_tokens) == (own.token_begin, own.n_tokens)
        and other.phase == Phase.PREFILL
        and other.context_kind not in _NOT_CHUNKS
    )
