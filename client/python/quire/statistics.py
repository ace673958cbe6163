"""What a variant's attention did while it was computed (docs/formats/statistics.md).

A block of typed vectors, stored as a representation of its own beside the KV of the variant:
``client.put(*pack(...))``, found by ``client.resolve(..., statistics=True)``.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _abi
from .errors import check
from .ids import Context, Tokens, as_tokens, context_to_c, from_c_id, tokens_pointer
from .kv import Bytes, Packed
from .lease import Lease
from .models import Model, as_model

CODEC = 128
USER_TYPES = 1024
"""Types from here on are the user's."""


class VectorType(IntEnum):
    """The vectors that have a meaning of their own."""

    SEGMENTS = 1
    RECEIVED = 2
    INTER = 3
    INTER_OF_SEGMENT = 4
    CACHE_CRAFT = 5
    RECEIVED_OF_LAYER = 6
    DEVIATION_OF_LAYER = 7
    QUESTION = 8


_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f2"), 2: np.dtype("<f4"), 3: np.dtype("<u4")}
_KNOWN_DTYPE = {VectorType.SEGMENTS: 3, VectorType.CACHE_CRAFT: 2}
_HEADER = struct.Struct("<8sHHIIIQ")
_ENTRY = struct.Struct("<HBBIIIQ")
_MAGIC = b"QUIRSTAT"


@dataclass(frozen=True)
class Statistics:
    """Vectors by type (VectorType, or a user's number), f16, f32 or u32, of at most three dims.

    ``segments``: tokens of each run that stood before the chunk, the fixed prefix first.
    """

    n_tokens: int
    n_layers: int
    segments: tuple[int, ...] = ()
    vectors: Mapping[int, NDArray[np.generic]] = field(default_factory=dict)

    def __getitem__(self, kind: int) -> NDArray[np.generic]:
        return self.vectors[kind]

    def __contains__(self, kind: int) -> bool:
        return kind in self.vectors


def _element(kind: int, values: NDArray[np.generic]) -> int:
    if kind < USER_TYPES:
        return _KNOWN_DTYPE.get(VectorType(kind), 1)
    for number, dtype in _DTYPES.items():
        if values.dtype == dtype:
            return number
    raise TypeError(f"vector {kind} must be float16, float32 or uint32, not {values.dtype}")


def _stored(kind: int, values: ArrayLike) -> tuple[int, NDArray[np.generic]]:
    array = np.asarray(values)
    element = _element(kind, array)
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array.astype(_DTYPES[element]))
    if not 1 <= array.ndim <= 3:
        raise ValueError(f"vector {kind} must have one to three dims")
    return element, array


def encode(statistics: Statistics) -> bytes:
    """The block. Raises InvalidArgument or Corrupt where a rule of the format is broken.

    float32 values of the known types are rounded to what the format holds.
    """
    vectors = dict(statistics.vectors)
    if statistics.segments:
        vectors[VectorType.SEGMENTS] = np.asarray(statistics.segments, dtype=np.uint32)
    table, body = b"", b""
    begin = _HEADER.size + _ENTRY.size * len(vectors)
    for kind in sorted(vectors):
        element, array = _stored(kind, vectors[kind])
        dims = (*array.shape, 1, 1)[:3]
        table += _ENTRY.pack(kind, element, 0, *dims, begin + len(body))
        raw = array.tobytes()
        body += raw + bytes(-len(raw) % 8)
    total = begin + len(body)
    head = _HEADER.pack(
        _MAGIC,
        1,
        len(vectors),
        statistics.n_tokens,
        statistics.n_layers,
        len(statistics.segments),
        total,
    )
    block = head + table + body
    check(_abi.lib.quire_statistics_check(block, len(block)))
    return block


def parse(block: Bytes) -> Statistics:
    """The inverse of :func:`encode`; raises Corrupt or VersionMismatch. Vectors are copies."""
    raw = bytes(block)
    check(_abi.lib.quire_statistics_check(raw, len(raw)))
    _, _, n_vectors, n_tokens, n_layers, _, _ = _HEADER.unpack_from(raw)
    vectors: dict[int, NDArray[np.generic]] = {}
    for index in range(n_vectors):
        entry = _ENTRY.unpack_from(raw, _HEADER.size + _ENTRY.size * index)
        kind, element, _, *dims, offset = entry
        while len(dims) > 1 and dims[-1] == 1:
            dims.pop()
        count = int(np.prod(dims))
        values = np.frombuffer(raw, _DTYPES[element], count, offset).reshape(dims).copy()
        vectors[kind] = _with_known_dims(kind, values)
    segments = vectors.pop(VectorType.SEGMENTS, np.zeros(0, np.uint32))
    return Statistics(n_tokens, n_layers, tuple(int(run) for run in segments), vectors)


def _with_known_dims(kind: int, values: NDArray[np.generic]) -> NDArray[np.generic]:
    # A dim of 1 at the end is stored like one that is not there.
    two = (VectorType.INTER_OF_SEGMENT, VectorType.RECEIVED_OF_LAYER)
    return values.reshape(-1, 1) if kind in two and values.ndim == 1 else values


def pack(
    model: Model | bytes,
    tokens: Tokens,
    statistics: Statistics,
    *,
    context: Context | None = None,
    salt: bytes = b"",
) -> Packed:
    """The representation that holds them, of the variant of these tokens in this context."""
    descriptor = as_model(model).encode()
    array = as_tokens(tokens)
    source = context_to_c(context or Context())
    block = encode(statistics)
    spec = _abi.StatisticsSpec(
        struct_bytes=ctypes.sizeof(_abi.StatisticsSpec),
        model=descriptor,
        model_bytes=len(descriptor),
        tokens=tokens_pointer(array),
        n_tokens=array.size,
        context=ctypes.pointer(source),
        salt=salt,
        salt_bytes=len(salt),
    )
    size, representation = ctypes.c_uint64(), _abi.Id()
    check(
        _abi.lib.quire_statistics_pack(
            ctypes.byref(spec), block, len(block), None, 0, ctypes.byref(size), None
        )
    )
    data = np.zeros(size.value, np.uint8)
    check(
        _abi.lib.quire_statistics_pack(
            ctypes.byref(spec),
            block,
            len(block),
            data.ctypes.data,
            data.size,
            ctypes.byref(size),
            ctypes.byref(representation),
        )
    )
    return Packed(from_c_id(representation), data)


def unpack(data: Bytes | Lease) -> Statistics:
    """Of a representation of codec 128, verified. Raises Unsupported where it holds KV."""
    source = data.data if isinstance(data, Lease) else data
    array = np.frombuffer(source, np.uint8) if not isinstance(source, np.ndarray) else source
    array = np.ascontiguousarray(array)
    offset, size = ctypes.c_uint64(), ctypes.c_uint64()
    check(
        _abi.lib.quire_statistics_unpack(
            array.ctypes.data, array.size, ctypes.byref(offset), ctypes.byref(size)
        )
    )
    found = parse(array[offset.value : offset.value + size.value].tobytes())
    if isinstance(data, Lease):
        data.check()
    return found
