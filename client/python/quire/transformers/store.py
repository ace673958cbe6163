"""Chunks to and from the store: pack, put, and plans whose old KV a server holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from types import TracebackType
from typing import Any

import numpy as np
import torch

from .. import kv, reuse
from ..client import Client
from ..errors import (
    Busy,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    QuireError,
    Unavailable,
)
from ..ids import ContextKind, Phase, PositionFrame, Tokens, as_tokens
from ..kv import Packed, Put
from ..lease import Ack, Lease
from ..reuse import Match, MatchKind
from ..statistics import CODEC as STATISTICS_CODEC
from .engine import Engine
from .errors import RopeCannotMove
from .plan import ReusePlan, plan_of_segments
from .policies.base import RowPolicy
from .rope import rotate
from .sources import ChunkKv, StoredKv, abi_dtype, plane_views
from .stored_variants import UNKNOWN, VariantChoice, read_statistics

DEFAULT_CODEC = "int8-channel"
# Plans that lose what they wanted, before one of nothing but what the last of them held.
PLAN_TRIES_MAX = 4
# The store has no time for this prompt, or is gone: nothing more is asked of it.
_LAST_WORDS = (DeadlineExceeded, Unavailable)
_BOUND = (ContextKind.SYNTHETIC, ContextKind.DELTA_OF)
_NAMED_BY_IDS = (ContextKind.FIXED_PREFIX, ContextKind.CONTEXTUAL, *_BOUND)


def _arguments(engine: Engine, chunk: ChunkKv, frame: PositionFrame) -> dict[str, Any]:
    if not chunk.exact:
        raise FailedPrecondition("this chunk was computed over approximate KV: it is not stored")
    keys = []
    positions = (chunk.base_position + torch.arange(len(chunk.tokens))).to(engine.device)
    for plane, spec in zip(chunk.keys, engine.shape.layers, strict=True):
        if frame == PositionFrame.PRE_ROPE:
            # The store's keys carry the attention factor (YaRN) in both frames.
            keys.append((plane * spec.rope.attention_factor).contiguous())
            continue
        cos, sin = engine.rope.table(
            spec.rope, positions, chunk.base_position + len(chunk.tokens), plane.dtype
        )
        keys.append(rotate(plane, cos.cpu(), sin.cpu()).contiguous())
    return {
        "tokens": chunk.tokens,
        "keys": plane_views(keys),
        "values": plane_views([plane.contiguous() for plane in chunk.values]),
        "context": chunk.context,
        "base_position": chunk.base_position,
        "frame": frame,
        "key_before_rope": frame == PositionFrame.PRE_ROPE,
        "dtype": abi_dtype(chunk.keys[0].dtype),
    }


def pack(
    engine: Engine,
    chunk: ChunkKv,
    *,
    codec: str | int = DEFAULT_CODEC,
    frame: PositionFrame = PositionFrame.LOCAL,
    salt: bytes = b"",
) -> Packed:
    """A captured chunk as the store's bytes, under any codec's name."""
    return kv.pack(engine.model, codec=codec, salt=salt, **_arguments(engine, chunk, frame))


def put(
    engine: Engine,
    client: Client,
    chunk: ChunkKv,
    *,
    codec: str | int = DEFAULT_CODEC,
    frame: PositionFrame = PositionFrame.LOCAL,
    ack: Ack = Ack.MEMORY,
) -> Put:
    """Encodes a captured chunk into the server's memory; the model must be registered. A variant
    that is bound to a scope (synthetic, delta, decode) goes into the session's.

    Raises InvalidArgument for a chunk whose context was named with another salt than the tenant's:
    nobody would find it.
    """
    context = chunk.context
    salted = context.kind in _NAMED_BY_IDS and chunk.salt is not None
    if salted and chunk.salt != client.salt:
        raise InvalidArgument("captured with another salt than the tenant's: pass salt=client.salt")
    if (context.kind in _BOUND or context.phase == Phase.DECODE) and not any(context.scope):
        chunk = replace(chunk, context=replace(context, scope=client.scope))
    return client.put_arrays(engine.model, codec=codec, ack=ack, **_arguments(engine, chunk, frame))


class StorePlan:
    """A plan over leased objects. Use it in a ``with`` block: the bytes are pinned inside, until
    their leases expire; a prefill that comes later raises StaleLease (Unavailable: the server has
    gone); plan again.

    lost: what resolve listed and acquire could not have (evicted, no room, too slow), by
    representation; planned around, so it is computed. unresolved: why the store could not look at
    all (busy, too slow, gone); nothing of it is used then. Behind Unavailable in either, connect
    again for the next prompt.
    """

    def __init__(
        self,
        plan: ReusePlan,
        leases: Sequence[Lease],
        lost: Mapping[bytes, QuireError] | None = None,
        unresolved: QuireError | None = None,
    ) -> None:
        self.plan = plan
        self.lost = dict(lost or {})
        self.unresolved = unresolved
        self._leases = list(leases)

    def close(self) -> None:
        """Gives the pins back; harmless when repeated."""
        for lease in self._leases:
            lease.release()

    def __enter__(self) -> ReusePlan:
        return self.plan

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def plan_from_store(
    engine: Engine,
    client: Client,
    tokens: Tokens,
    policy: RowPolicy,
    *,
    question_tokens: int,
    fixed_prefixes: Sequence[bytes] = (),
    chunks: bool | None = None,
    statistics: bool | None = None,
) -> StorePlan:
    """What the store has for a prompt, leased and planned as the policy wants it.

    chunks: None uses them where the model's rope can move; True raises RopeCannotMove where it
    cannot. fixed_prefixes: prefix digests whose variants fit, best first. statistics: read the
    stored statistics of the candidates, and use the variant of a chunk that the policy ranks first;
    None does so for policies that rank candidates (query-value, Cache-Craft, combinations, ...). A
    representation that acquire cannot have (evicted, no room, too slow, the server gone) is planned
    around; at most PLAN_TRIES_MAX times, then with what is held alone.
    """
    if chunks and engine.shape.immovable:
        raise RopeCannotMove(f"{engine.shape.immovable}: only exact prefixes can be reused")
    needs = policy.needs(engine.shape)
    movable = not engine.shape.immovable if chunks is None else chunks
    array = as_tokens(tokens)
    limit = engine.shape.same_set_tokens
    prefix = needs.uses_prefix and not (limit and len(array) > limit)
    if statistics is None:
        statistics = type(policy).rank_candidate is not RowPolicy.rank_candidate
    matches: Sequence[Match] = ()
    unresolved: QuireError | None = None
    try:
        matches = client.resolve(
            engine.model_id,
            array,
            prefix=prefix,
            chunks=needs.uses_chunks and movable,
            statistics=statistics,
        )
    except (Busy, *_LAST_WORDS) as error:
        unresolved = error
    usable = [
        match
        for match in matches
        if match.codec != STATISTICS_CODEC
        and (match.kind == MatchKind.PREFIX or policy.rank(match.context_kind, None) < np.inf)
    ]
    choice = None
    if statistics:
        known = read_statistics(client, matches)
        choice = VariantChoice(
            engine.model_id,
            client.salt,
            array,
            policy,
            known,
            scope=client.scope,
            fixed_prefixes=fixed_prefixes,
        )
    lost: dict[bytes, QuireError] = {}
    for tries in count(1):
        segments = reuse.plan(
            len(array),
            usable,
            policy="link0" if _dummies_only(policy) else "reuse",
            fixed_prefixes=fixed_prefixes,
            fresh_tail_tokens=question_tokens,
            skip_slow=False,
        )
        if choice is not None:
            segments = choice.choose(segments, usable)
        wanted = [s.match for s in segments if s.match is not None]
        ids = list(dict.fromkeys(match.representation for match in wanted))
        leases = _acquired(client, ids)
        failed = {key: lease for key, lease in leases.items() if isinstance(lease, QuireError)}
        held = [lease for lease in leases.values() if isinstance(lease, Lease)]
        if not failed:
            break
        lost.update(failed)
        for lease in held:
            lease.release()
        if tries > PLAN_TRIES_MAX:
            usable = []
        elif tries == PLAN_TRIES_MAX or any(isinstance(e, _LAST_WORDS) for e in failed.values()):
            usable = [m for m in usable if isinstance(leases.get(m.representation), Lease)]
        else:
            usable = [m for m in usable if m.representation not in lost]

    def source_of(match: Match) -> StoredKv:
        lease = leases[match.representation]
        assert isinstance(lease, Lease)
        if choice is None or match.kind == MatchKind.PREFIX:
            return StoredKv(lease.data, engine.model, check=lease.check)
        stats = choice.known.get(match.variant, UNKNOWN).stats
        lead = choice.lead_of(match, segments)
        return StoredKv(lease.data, engine.model, stats, lead, check=lease.check)

    try:
        plan = plan_of_segments(array, segments, source_of, question_tokens)
    except BaseException:
        for lease in held:
            lease.release()
        raise
    return StorePlan(plan, held, lost, unresolved)


def _acquired(client: Client, ids: Sequence[bytes]) -> dict[bytes, Lease | QuireError]:
    found: Sequence[Lease | QuireError] = ()
    if ids:
        try:
            found = client.acquire_many(ids)
        except (Busy, *_LAST_WORDS) as error:
            found = [error] * len(ids)
    return dict(zip(ids, found, strict=True))


def _dummies_only(policy: RowPolicy) -> bool:
    kinds = policy.variant.kinds
    return bool(kinds) and all(kind.name == "DUMMY_SINK" for kind in kinds)
