"""What to load, what to compute: plans and row policies (client/reuse/plan.h, policy.h)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _abi
from .errors import InvalidArgument, check
from .ids import (
    ContextKind,
    Phase,
    PositionFrame,
    Tokens,
    as_tokens,
    from_c_id,
    to_c_id,
    tokens_pointer,
)

DEFAULT_POLICY = "query-value:0.15"


class MatchKind(IntEnum):
    """What a match is good for."""

    PREFIX = 0
    CHUNK = 1


class Tier(IntEnum):
    """Where the bytes are."""

    GPU = 0
    HOST = 1
    NVME = 2
    ROCKS = 3
    NONE = 255


@dataclass(frozen=True)
class Match:
    """One stored candidate for a range of the prompt."""

    kind: MatchKind
    token_begin: int
    n_tokens: int
    representation: bytes = bytes(32)
    variant: bytes = bytes(32)
    context_reference: bytes = bytes(32)
    context_kind: ContextKind = ContextKind.ISOLATED
    phase: Phase = Phase.PREFILL
    codec: int = 0
    frame: PositionFrame = PositionFrame.LOCAL
    base_position: int = 0
    bytes: int = 0
    tier: Tier = Tier.NONE
    load_us: int = 0
    recompute_us: int = 0
    strikes: int = 0
    """Uses that were thrown away, by Client.feedback(), since it was stored."""
    deviation: float = 0.0
    """Told last by Client.feedback(); 0: never."""
    hits: int = 0


class SegmentKind(IntEnum):
    """What happens to a run of prompt tokens."""

    FRESH = 0
    PREFIX = 1
    CHUNK = 2


@dataclass(frozen=True)
class Segment:
    """A run of prompt tokens; ``match`` is None where it is fresh."""

    kind: SegmentKind
    token_begin: int
    n_tokens: int
    source_begin: int = 0
    match: Match | None = None
    exact: bool = False
    """A chunk that stands behind the very tokens it was computed behind; False where unknown."""


@dataclass(frozen=True)
class Prompt:
    """What tells which chunks of a prompt are exact. model: its id; salt and scope: the
    session's."""

    tokens: Tokens
    model: bytes
    salt: bytes = b""
    scope: bytes = bytes(32)


def match_from_c(source: _abi.Match) -> Match:
    tier = Tier(source.tier) if source.tier in Tier._value2member_map_ else Tier.NONE
    return Match(
        kind=MatchKind(source.kind),
        token_begin=source.token_begin,
        n_tokens=source.n_tokens,
        representation=from_c_id(source.representation),
        variant=from_c_id(source.variant),
        context_reference=from_c_id(source.context_reference),
        context_kind=ContextKind(source.context_kind),
        phase=Phase(source.phase),
        codec=source.codec,
        frame=PositionFrame(source.frame),
        base_position=source.base_position,
        bytes=source.bytes,
        tier=tier,
        load_us=source.load_us,
        recompute_us=source.recompute_us,
        strikes=source.strikes,
        deviation=source.deviation,
        hits=source.hits,
    )


def _match_to_c(match: Match) -> _abi.Match:
    return _abi.Match(
        struct_bytes=ctypes.sizeof(_abi.Match),
        kind=match.kind,
        token_begin=match.token_begin,
        n_tokens=match.n_tokens,
        representation=to_c_id(match.representation),
        variant=to_c_id(match.variant),
        context_reference=to_c_id(match.context_reference),
        context_kind=match.context_kind,
        phase=match.phase,
        codec=match.codec,
        frame=match.frame,
        base_position=match.base_position,
        bytes=match.bytes,
        tier=match.tier,
        load_us=match.load_us,
        recompute_us=match.recompute_us,
        strikes=match.strikes,
        deviation=match.deviation,
        hits=match.hits,
    )


def plan(
    n_tokens: int,
    matches: Sequence[Match],
    *,
    policy: str = DEFAULT_POLICY,
    fixed_prefixes: Sequence[bytes] = (),
    fresh_tail_tokens: int = 1,
    skip_slow: bool = True,
    prompt: Prompt | None = None,
) -> list[Segment]:
    """Cuts a prompt into an exact prefix, reused chunks and fresh tokens.

    fixed_prefixes: prefix digests of the deployment's system prompts, best first.
    fresh_tail_tokens: the length of the question, always computed.
    prompt: with it exact chunks are preferred and told apart (:attr:`Segment.exact`).
    """
    known = (_abi.Match * len(matches))(*map(_match_to_c, matches))
    prefixes = (_abi.Id * len(fixed_prefixes))(*map(to_c_id, fixed_prefixes))
    options = _abi.PlanOptions(
        struct_bytes=ctypes.sizeof(_abi.PlanOptions),
        fresh_tail_tokens=fresh_tail_tokens,
        policy=policy.encode(),
        fixed_prefixes=prefixes,
        n_fixed_prefixes=len(prefixes),
        keep_slow=0 if skip_slow else 1,
    )
    if prompt is not None:
        tokens, model, scope = (
            as_tokens(prompt.tokens),
            to_c_id(prompt.model),
            to_c_id(prompt.scope),
        )
        if tokens.size != n_tokens:
            raise InvalidArgument(f"a prompt of {tokens.size} tokens, not {n_tokens}")
        options.tokens = tokens_pointer(tokens)
        options.model, options.scope = ctypes.pointer(model), ctypes.pointer(scope)
        options.salt, options.salt_bytes = prompt.salt, len(prompt.salt)
    segments = ctypes.POINTER(_abi.Segment)()
    count = ctypes.c_size_t()
    check(
        _abi.lib.quire_plan(
            n_tokens,
            known,
            len(known),
            ctypes.byref(options),
            ctypes.byref(segments),
            ctypes.byref(count),
        )
    )
    try:
        return [
            Segment(
                SegmentKind(segment.kind),
                segment.token_begin,
                segment.n_tokens,
                segment.source_begin,
                None if segment.match_index < 0 else matches[segment.match_index],
                bool(segment.exact),
            )
            for segment in _abi.elements(segments, count.value)
        ]
    finally:
        _abi.lib.quire_free(segments)


def _segments_to_c(segments: Sequence[Segment]) -> ctypes.Array[_abi.Segment]:
    return (_abi.Segment * len(segments))(
        *(
            _abi.Segment(
                ctypes.sizeof(_abi.Segment),
                segment.kind,
                segment.token_begin,
                segment.n_tokens,
                segment.source_begin,
                -1,
                segment.exact,
            )
            for segment in segments
        )
    )


def question_layers(
    segments: Sequence[Segment],
    n_layers: int,
    full_layers: Sequence[int] | None = None,
    *,
    policy: str = DEFAULT_POLICY,
) -> int:
    """How many layers, from the first on, the question's first pass runs through; 0: none.

    full_layers: those of the model's ``n_layers`` that see the whole prompt; None: all of them.
    """
    known = _segments_to_c(segments)
    full = as_tokens(range(n_layers) if full_layers is None else full_layers)
    result = ctypes.c_uint32()
    check(
        _abi.lib.quire_question_layers(
            policy.encode(),
            sum(segment.n_tokens for segment in segments),
            known,
            len(known),
            n_layers,
            tokens_pointer(full),
            full.size,
            ctypes.byref(result),
        )
    )
    return result.value


def select_rows(
    segments: Sequence[Segment],
    column_mass: ArrayLike | None = None,
    *,
    policy: str = DEFAULT_POLICY,
    layers_run: int = 1,
    n_layers: int = 1,
) -> NDArray[np.uint32]:
    """The tokens of reused segments to compute again, ascending.

    column_mass: per prompt token the attention that the question pays to it; policies that look at
    the question ("query:...") need it, mean over heads and full-attention layers of the pass, and
    "query-value:B" times the norm of the token's value. Of a model with sliding windows, B above
    0.05 adds min(B - 0.05, 0.1) times the mean over the windows' layers (without it the rows are
    good, in long prompts not the best).
    layers_run: how many of the model's ``n_layers`` the question's pass went through (by default
    all of them; 0: there was none), see :func:`question_layers`.
    """
    n_tokens = sum(segment.n_tokens for segment in segments)
    known = _segments_to_c(segments)
    given = _abi.QuestionPass(ctypes.sizeof(_abi.QuestionPass), layers_run, n_layers)
    if column_mass is not None:
        mass = np.ascontiguousarray(column_mass, dtype=np.float32)
        if mass.shape != (n_tokens,):
            raise ValueError(f"column_mass must have {n_tokens} values, not shape {mass.shape}")
        given.column_mass = mass.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    # An older library knows passes through all layers alone.
    whole = layers_run == n_layers > 0
    function = _abi.lib.quire_select_rows if whole else _abi.lib.quire_select_rows_after
    rows = ctypes.POINTER(ctypes.c_uint32)()
    count = ctypes.c_size_t()
    check(
        function(
            policy.encode(),
            n_tokens,
            known,
            len(known),
            given.column_mass if whole else ctypes.byref(given),
            ctypes.byref(rows),
            ctypes.byref(count),
        )
    )
    try:
        return np.array(rows[: count.value], dtype=np.uint32)
    finally:
        _abi.lib.quire_free(rows)
