"""KV arrays into representations and back (client/capi/quire_kv.h).

Arrays are [layer][head][token][dim], or one [head][token][dim] array per layer. Any strides will
do; nothing is copied before it is encoded. Elements: float16, float32, and bfloat16 - either the
type of ``ml_dtypes``, or uint16 bit patterns with ``dtype="bf16"``.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _abi
from .errors import ModelMismatch, check
from .ids import (
    Context,
    ContextKind,
    Phase,
    PositionFrame,
    Tokens,
    as_tokens,
    context_to_c,
    from_c_id,
    tokens_pointer,
)
from .models import Model, as_model
from .planes import Planes, Shape, dtype_and_element, kv_memory, layer_planes, plane_shapes

Out = TypeVar("Out", bound=tuple[Planes | None, Planes | None])
Bytes = bytes | bytearray | memoryview | NDArray[np.uint8]

_ALIGNMENT = 64


class Packed(NamedTuple):
    """A representation ready to be put: its id and its bytes."""

    representation: bytes
    data: NDArray[np.uint8]


class Put(NamedTuple):
    """What became of a put; ``stored`` is False where the store had it already."""

    representation: bytes
    stored: bool


@dataclass(frozen=True)
class Info:
    """What a representation is; layers and heads are [begin, end)."""

    model: bytes
    object: bytes
    variant: bytes
    representation: bytes
    codec: int
    frame: PositionFrame
    base_position: int
    layers: tuple[int, int]
    heads: tuple[int, int]
    context_kind: ContextKind
    phase: Phase
    tokens: NDArray[np.uint32]


def pack_arguments(
    model: Model | bytes,
    tokens: Tokens,
    keys: Planes,
    values: Planes,
    codec: str | int,
    context: Context | None,
    base_position: int,
    frame: PositionFrame,
    key_before_rope: bool,
    salt: bytes,
    dtype: DTypeLike | None,
    salient: ArrayLike | None = None,
) -> tuple[_abi.PackSpec, _abi.KvMemory]:
    """The C ABI's structs for the arguments of pack() and Client.put_arrays()."""
    known = as_model(model)
    descriptor = known.encode()
    array = as_tokens(tokens)
    if base_position < 0:
        raise ValueError("base_position must not be negative")
    n_heads = max((layer.kv_heads for layer in known.layers), default=0)
    key_shapes, value_shapes = plane_shapes(known.layers, (0, n_heads), array.size)
    source = kv_memory(
        layer_planes("keys", keys, key_shapes, dtype, 0, out=False),
        layer_planes("values", values, value_shapes, dtype, 0, out=False),
    )
    spec = _abi.PackSpec(
        struct_bytes=ctypes.sizeof(_abi.PackSpec),
        model=descriptor,
        model_bytes=len(descriptor),
        tokens=tokens_pointer(array),
        n_tokens=array.size,
        base_position=base_position,
        frame=frame,
        key_before_rope=key_before_rope,
        salt=salt,
        salt_bytes=len(salt),
    )
    marks = None
    if salient is not None:
        marks = np.ascontiguousarray(np.asarray(salient).astype(bool)).view(np.uint8)
        if marks.shape != (array.size,):
            raise ValueError(f"salient must have {array.size} values, not shape {marks.shape}")
        spec.salient = marks.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        spec.n_salient = marks.size
    if isinstance(codec, str):
        spec.codec_name = codec.encode()
    else:
        spec.codec = codec
    c_context = None if context is None else context_to_c(context)
    if c_context is not None:
        spec.context = ctypes.pointer(c_context)
    # What the structs point to has to live as long as they do.
    spec._keep = (descriptor, array, c_context, keys, values, marks)
    return spec, source


def pack(
    model: Model | bytes,
    tokens: Tokens,
    keys: Planes,
    values: Planes,
    *,
    codec: str | int = "int8-channel",
    context: Context | None = None,
    base_position: int = 0,
    frame: PositionFrame = PositionFrame.LOCAL,
    key_before_rope: bool = False,
    salt: bytes = b"",
    dtype: DTypeLike | None = None,
    salient: ArrayLike | None = None,
) -> Packed:
    """Encodes KV as a representation; ``client.put(*packed)`` stores it.

    The keys are rotated at base_position + token, or taken before rope (``key_before_rope``, which
    needs frame PRE_ROPE). context: None for text that was computed alone. salt: ``client.salt``.
    salient: mixed codecs keep the tokens where it is true at 8 bits (None: none).
    Raises NonFinite for NaN and infinity. Client.put_arrays() does the same without the buffer.
    """
    spec, source = pack_arguments(
        model,
        tokens,
        keys,
        values,
        codec,
        context,
        base_position,
        frame,
        key_before_rope,
        salt,
        dtype,
        salient,
    )
    n_bytes, representation = ctypes.c_uint64(), _abi.Id()
    check(_abi.lib.quire_pack(spec, None, None, 0, n_bytes, None))
    bound = n_bytes.value
    data = _aligned_bytes(bound)
    check(_abi.lib.quire_pack(spec, source, data.ctypes.data, bound, n_bytes, representation))
    if n_bytes.value < bound:  # a codec of variable size: keep no more than it took
        whole, data = data, _aligned_bytes(n_bytes.value)
        data[:] = whole[: data.size]
    return Packed(from_c_id(representation), data)


def _aligned_bytes(size: int) -> NDArray[np.uint8]:
    whole = np.empty(size + _ALIGNMENT, dtype=np.uint8)
    skip = -whole.ctypes.data % _ALIGNMENT
    return whole[skip : skip + size]


def _bytes_of(data: Bytes) -> NDArray[np.uint8]:
    array = data if isinstance(data, np.ndarray) else np.frombuffer(data, dtype=np.uint8)
    if array.dtype != np.uint8 or array.ndim != 1 or not array.flags.c_contiguous:
        raise ValueError("a representation is a contiguous run of bytes")
    return array


def describe(data: Bytes) -> Info:
    """What these bytes are. Checks the manifest, not the sections."""
    array = _bytes_of(data)
    info = _abi.RepresentationInfo(struct_bytes=ctypes.sizeof(_abi.RepresentationInfo))
    check(_abi.lib.quire_describe(array.ctypes.data, array.size, info))
    tokens = array[info.tokens_offset : info.tokens_offset + 4 * info.n_tokens]
    return info_from_c(info, tokens.copy().view(np.uint32))


def info_from_c(info: _abi.RepresentationInfo, tokens: NDArray[np.uint32]) -> Info:
    """The C ABI's struct and the token ids as one object."""
    coverage = info.coverage
    return Info(
        from_c_id(info.model),
        from_c_id(info.object),
        from_c_id(info.variant),
        from_c_id(info.representation),
        info.codec,
        PositionFrame(info.frame),
        info.base_position,
        (coverage.layer_begin, coverage.layer_end),
        (coverage.head_begin, coverage.head_end),
        ContextKind(info.context_kind),
        Phase(info.phase),
        tokens,
    )


def _new_arrays(
    name: str, shapes: list[Shape], dtype: np.dtype[Any], *, clear: bool
) -> NDArray[Any]:
    if len(set(shapes)) != 1:
        raise ValueError(f"the layers' {name} differ in shape: pass out= with one array per layer")
    make = np.zeros if clear else np.empty
    return make((len(shapes), *shapes[0]), dtype)


def _row_numbers(
    rows: int | ArrayLike, n_tokens: int, out: tuple[Planes | None, Planes | None]
) -> NDArray[np.int64]:
    numbers = np.asarray(rows)
    if not np.issubdtype(numbers.dtype, np.integer):
        raise TypeError("rows must be integers")
    if numbers.ndim == 0:
        numbers = np.arange(n_tokens, dtype=np.int64) + int(numbers)
    if numbers.shape != (n_tokens,):
        raise ValueError(f"rows must have {n_tokens} entries, not shape {numbers.shape}")
    n_rows = min((a.shape[1] for arrays in out if arrays is not None for a in arrays), default=0)
    if numbers.min() < 0 or numbers.max() >= n_rows:
        raise ValueError(f"rows {numbers.min()} to {numbers.max()} do not fit arrays of {n_rows}")
    return np.ascontiguousarray(numbers, dtype=np.int64)


@overload
def unpack(
    data: Bytes,
    model: Model | bytes,
    position: int,
    *,
    dtype: DTypeLike | None = ...,
    source_begin: int = ...,
    n_tokens: int | None = ...,
    row_mask: ArrayLike | None = ...,
    out: None = ...,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def unpack(
    data: Bytes,
    model: Model | bytes,
    position: int,
    *,
    dtype: DTypeLike | None = ...,
    source_begin: int = ...,
    n_tokens: int | None = ...,
    row_mask: ArrayLike | None = ...,
    out: Out,
    rows: int | ArrayLike = ...,
) -> Out: ...
def unpack(
    data: Bytes,
    model: Model | bytes,
    position: int,
    *,
    dtype: DTypeLike | None = None,
    source_begin: int = 0,
    n_tokens: int | None = None,
    row_mask: ArrayLike | None = None,
    out: tuple[Planes | None, Planes | None] | None = None,
    rows: int | ArrayLike = 0,
) -> tuple[Planes | None, Planes | None]:
    """Decodes a representation to (keys, values), its first used token moved to ``position``.

    Tokens [source_begin, source_begin + n_tokens) are used. dtype: float16 unless said otherwise or
    given by ``out``. row_mask: one value per token, False leaves the row as it is (zero in new
    arrays). out: arrays to write into, one of them None to leave that plane out; they may have more
    rows than there are tokens, and ``rows`` says which are used (the first one, or one per token).
    Raises Corrupt, NonFinite, ModelMismatch, Unsupported; then ``out`` may be partly written.
    """
    array, known, info = _bytes_of(data), as_model(model), describe(data)
    if info.model != known.id:
        raise ModelMismatch(f"the representation is of model {info.model.hex()}")
    available = info.tokens.size - source_begin
    count = available if n_tokens is None else n_tokens
    if source_begin < 0 or not 0 < count <= available:
        raise ValueError(f"the representation has {info.tokens.size} tokens")
    if position < 0:
        raise ValueError("position must not be negative")
    layers = known.layers[slice(*info.layers)]
    key_shapes, value_shapes = plane_shapes(layers, info.heads, count)
    mask = None
    if row_mask is not None:
        mask = np.ascontiguousarray(np.asarray(row_mask).astype(bool)).view(np.uint8)
        if mask.shape != (count,):
            raise ValueError(f"row_mask must have {count} values, not shape {mask.shape}")
    descriptor = known.encode()
    options = _abi.UnpackOptions(
        struct_bytes=ctypes.sizeof(_abi.UnpackOptions),
        source_begin=source_begin,
        n_tokens=count,
        model=descriptor,
        model_bytes=len(descriptor),
        position=position,
    )
    if mask is not None:
        options.row_mask = mask.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        options.n_row_mask = mask.size
    if out is None:
        wanted, _ = dtype_and_element(np.float16 if dtype is None else dtype)
        clear = mask is not None
        out = (
            _new_arrays("keys", key_shapes, wanted, clear=clear),
            _new_arrays("values", value_shapes, wanted, clear=clear),
        )
    no_plane = [_abi.KvPlane(struct_bytes=ctypes.sizeof(_abi.KvPlane))] * len(layers)
    planes = [
        no_plane
        if arrays is None
        else layer_planes(name, arrays, shapes, dtype, info.heads[0], out=True)
        for name, arrays, shapes in zip(
            ("keys", "values"), out, (key_shapes, value_shapes), strict=True
        )
    ]
    memory = kv_memory(planes[0], planes[1], _row_numbers(rows, count, out))
    check(_abi.lib.quire_unpack(array.ctypes.data, array.size, options, memory))
    return out
