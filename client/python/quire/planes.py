"""Numpy arrays as the planes of the C ABI, checked."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _abi
from .models import Layer

Planes = NDArray[Any] | Sequence[NDArray[Any]]
Shape = tuple[int, int, int]

F16, BF16, F32 = 1, 2, 3


def dtype_and_element(dtype: DTypeLike) -> tuple[np.dtype[Any], int]:
    if isinstance(dtype, str) and dtype in ("bf16", "bfloat16"):
        return np.dtype(np.uint16), BF16
    if isinstance(dtype, str):
        dtype = {"f16": "float16", "f32": "float32"}.get(dtype, dtype)
    known = np.dtype(dtype)
    if known.name == "bfloat16":
        return known, BF16
    if known == np.float16 and known.isnative:
        return known, F16
    if known == np.float32 and known.isnative:
        return known, F32
    raise TypeError(f"KV must be float16, float32 or bfloat16 in native byte order, not {known!r}")


def _check_layer(name: str, array: object, shape: Shape, *, more_rows: bool) -> NDArray[Any]:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a numpy array, not {type(array).__name__}")
    fits = array.ndim == 3 and (array.shape[0], array.shape[2]) == (shape[0], shape[2])
    if not fits or (array.shape[1] < shape[1] if more_rows else array.shape[1] != shape[1]):
        raise ValueError(f"{name} must be [head][token][dim] = {shape}, not {array.shape}")
    return array


def layer_planes(
    name: str,
    arrays: Planes,
    shapes: list[Shape],
    dtype: DTypeLike | None,
    head_begin: int,
    *,
    out: bool,
) -> list[_abi.KvPlane]:
    if isinstance(arrays, np.ndarray) and arrays.ndim != 4:
        raise ValueError(f"{name} must be [layer][head][token][dim], not {arrays.ndim}-dimensional")
    if len(arrays) != len(shapes):
        raise ValueError(f"{name} has {len(arrays)} layers, not {len(shapes)}")
    result = []
    for layer, (layer_array, shape) in enumerate(zip(arrays, shapes, strict=True)):
        where = f"{name}[{layer}]"
        array = _check_layer(where, layer_array, shape, more_rows=out)
        wanted, element = dtype_and_element(array.dtype if dtype is None else dtype)
        if array.dtype != wanted:
            raise TypeError(f"{where} is {array.dtype}, not {wanted}")
        if out and not array.flags.writeable:
            raise ValueError(f"{where} is read-only")
        if not array.flags.aligned:
            raise ValueError(f"{where} is not aligned to its elements")
        heads, tokens, dims = array.strides
        if any(stride % array.itemsize for stride in array.strides):
            raise ValueError(f"{where}: strides must be multiples of the element's size")
        result.append(
            _abi.KvPlane(
                ctypes.sizeof(_abi.KvPlane),
                element,
                # The library counts heads from the model's first.
                array.ctypes.data - head_begin * heads,
                array.shape[1],
                tokens,
                heads,
                dims,
            )
        )
    return result


def kv_memory(
    keys: list[_abi.KvPlane], values: list[_abi.KvPlane], rows: NDArray[np.int64] | None = None
) -> _abi.KvMemory:
    both = (_abi.KvPlane * (2 * len(keys)))()
    both[0::2] = keys
    both[1::2] = values
    result = _abi.KvMemory(
        struct_bytes=ctypes.sizeof(_abi.KvMemory), planes=both, n_planes=len(both)
    )
    if rows is not None:
        result.rows = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_int64))
        result.n_rows = rows.size
    result._keep = (both, rows)
    return result


def plane_shapes(
    layers: Sequence[Layer], heads: tuple[int, int], n_tokens: int
) -> tuple[list[Shape], list[Shape]]:
    """Of KV heads [begin, end): a layer with fewer heads than others has only its own."""
    begin, end = heads
    n_heads = [max(0, min(end, layer.kv_heads) - begin) for layer in layers]
    keys = [(n, n_tokens, layer.key_dims) for n, layer in zip(n_heads, layers, strict=True)]
    values = [(n, n_tokens, layer.value_dims) for n, layer in zip(n_heads, layers, strict=True)]
    return keys, values
