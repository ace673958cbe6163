"""Identities (docs/formats/ids.md). All ids are 32 bytes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from . import _abi
from .errors import check

Tokens = Sequence[int] | NDArray[np.integer]


class ContextKind(IntEnum):
    """The context a variant was computed in."""

    ISOLATED = 0
    FIXED_PREFIX = 1
    DUMMY_SINK = 2
    CONTEXTUAL = 3
    SYNTHETIC = 4
    DELTA_OF = 5


class Phase(IntEnum):
    """The phase a variant was computed in."""

    PREFILL = 0
    DECODE = 1


class PositionFrame(IntEnum):
    """How keys are stored: before rope, or rotated at base_position + i."""

    PRE_ROPE = 0
    LOCAL = 1


@dataclass(frozen=True)
class Context:
    """A variant's context; the fields a kind does not use stay empty."""

    kind: ContextKind = ContextKind.ISOLATED
    phase: Phase = Phase.PREFILL
    reference: bytes = bytes(32)
    dummy_tokens: tuple[int, ...] = ()
    dropped_tokens: int = 0
    neighbours: tuple[bytes, ...] = field(default=())
    scope: bytes = bytes(32)
    """Of bound variants (synthetic, delta_of, phase decode): see :func:`scope_id`."""


def to_c_id(value: bytes) -> _abi.Id:
    if len(value) != 32:
        raise ValueError(f"an id has 32 bytes, not {len(value)}")
    return _abi.Id.from_buffer_copy(value)


def from_c_id(value: _abi.Id) -> bytes:
    return bytes(value.bytes)


def as_tokens(tokens: Tokens) -> NDArray[np.uint32]:
    """Token ids as the C ABI wants them; without a copy where they are so already."""
    array = np.asarray(tokens)
    if array.ndim != 1:
        raise ValueError("tokens must be one-dimensional")
    if array.dtype == np.uint32:
        return np.ascontiguousarray(array)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"tokens must be integers, not {array.dtype}")
    if array.size and (array.min() < 0 or array.max() > 0xFFFFFFFF):
        raise ValueError("token ids must fit in 32 bits")
    return array.astype(np.uint32)


def tokens_pointer(tokens: NDArray[np.uint32]) -> ctypes._Pointer[ctypes.c_uint32]:
    return tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_uint32))


def model_id(descriptor: bytes) -> bytes:
    """Of a model descriptor's canonical bytes."""
    result = _abi.Id()
    check(_abi.lib.quire_model_id(descriptor, len(descriptor), ctypes.byref(result)))
    return from_c_id(result)


def object_id(model: bytes, tokens: Tokens, salt: bytes = b"") -> bytes:
    """Of a run of tokens under a model, for the tenant with this salt."""
    array, result = as_tokens(tokens), _abi.Id()
    check(
        _abi.lib.quire_object_id(
            to_c_id(model), tokens_pointer(array), array.size, salt, len(salt), ctypes.byref(result)
        )
    )
    return from_c_id(result)


def prefix_digest(model: bytes, tokens: Tokens, salt: bytes = b"") -> bytes:
    """Of everything before a position."""
    array, result = as_tokens(tokens), _abi.Id()
    check(
        _abi.lib.quire_prefix_digest(
            to_c_id(model), tokens_pointer(array), array.size, salt, len(salt), ctypes.byref(result)
        )
    )
    return from_c_id(result)


def scope_id(salt: bytes, label: str | bytes) -> bytes:
    """Of a trust domain inside the tenant with this salt; zeros for an empty label."""
    text = label.encode() if isinstance(label, str) else bytes(label)
    result = _abi.Id()
    check(_abi.lib.quire_scope_id(salt, len(salt), text, len(text), ctypes.byref(result)))
    return from_c_id(result)


def context_to_c(context: Context) -> _abi.Context:
    """The C ABI's struct; it keeps alive what it points to."""
    dummy = as_tokens(context.dummy_tokens)
    neighbours = (_abi.Id * len(context.neighbours))(*map(to_c_id, context.neighbours))
    result = _abi.Context(
        struct_bytes=ctypes.sizeof(_abi.Context),
        kind=context.kind,
        phase=context.phase,
        dropped_tokens=context.dropped_tokens,
        reference=to_c_id(context.reference),
        dummy_tokens=tokens_pointer(dummy),
        n_dummy_tokens=dummy.size,
        neighbours=neighbours,
        n_neighbours=len(neighbours),
        scope=to_c_id(context.scope),
    )
    result._keep = (dummy, neighbours)
    return result


def variant_id(object_: bytes, context: Context) -> bytes:
    """Of an object computed in a context."""
    source, result = context_to_c(context), _abi.Id()
    check(_abi.lib.quire_variant_id(to_c_id(object_), ctypes.byref(source), ctypes.byref(result)))
    return from_c_id(result)


def representation_id(
    variant: bytes,
    codec: int,
    frame: PositionFrame,
    layers: tuple[int, int],
    heads: tuple[int, int],
) -> bytes:
    """Of a variant's bytes in a codec and frame; layers and heads are [begin, end)."""
    coverage = _abi.Coverage(*layers, *heads)
    result = _abi.Id()
    check(
        _abi.lib.quire_representation_id(
            to_c_id(variant), codec, frame, ctypes.byref(coverage), ctypes.byref(result)
        )
    )
    return from_c_id(result)
