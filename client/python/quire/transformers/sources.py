"""Where old KV comes from: this process's memory, or the store's bytes through the C kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InvalidArgument, NonFinite
from ..ids import Context, ContextKind, Phase
from ..kv import describe, unpack
from ..models import Model
from .rope import Rope, rotate
from .shape import ModelShape
from .stats import ChunkStats

# docs/formats/codecs.md: codecs up to here give back what was stored (in an engine of their dtype).
LOSSLESS_CODECS_MAX = 7
_ENGINE_DTYPES = {torch.float16: "f16", torch.bfloat16: "bf16", torch.float32: "f32"}


class KvSource(Protocol):
    """KV of a run of tokens that can be written into a request's cells."""

    @property
    def tokens(self) -> NDArray[np.uint32]: ...

    @property
    def base_position(self) -> int: ...

    @property
    def stats(self) -> ChunkStats | None: ...

    @property
    def lossless(self) -> bool: ...

    @property
    def context_kind(self) -> ContextKind: ...

    def place(self, target: Target) -> None: ...


@dataclass(frozen=True)
class Target:
    """Cells [cell_begin, cell_begin + n_tokens) for tokens from source_begin on, moved to
    ``position``. keys, values: per layer [kv head][cell][dim]."""

    keys: list[Tensor]
    values: list[Tensor]
    cell_begin: int
    position: int
    source_begin: int
    n_tokens: int
    shape: ModelShape
    rope: Rope
    context_tokens: int


@dataclass(frozen=True)
class ChunkKv:
    """KV of a run of tokens in memory: keys before rope, values, [kv head][token][dim] per layer.

    context says behind what it was computed; its first token was at base_position. lead_runs: the
    digests of the runs of tokens in front of it. exact: False where it was computed over KV that
    was itself an approximation: such a chunk is never stored. salt: the tenant's that the ids in
    context are made with; None where that is not known.
    """

    tokens: NDArray[np.uint32]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    context: Context = field(default_factory=Context)
    base_position: int = 0
    stats: ChunkStats | None = None
    lead_runs: tuple[bytes, ...] = ()
    exact: bool = True
    salt: bytes | None = None

    @property
    def lossless(self) -> bool:
        return self.exact

    @property
    def context_kind(self) -> ContextKind:
        return self.context.kind

    @property
    def phase(self) -> Phase:
        return self.context.phase

    def __post_init__(self) -> None:
        n = len(self.tokens)
        for plane in (*self.keys, *self.values):
            if plane.shape[1] != n:
                raise InvalidArgument(f"KV of {plane.shape[1]} tokens for {n} tokens")
            if not bool(torch.isfinite(plane).all()):
                raise NonFinite("KV with NaN or infinity")

    def place(self, target: Target) -> None:
        used = slice(target.source_begin, target.source_begin + target.n_tokens)
        cells = slice(target.cell_begin, target.cell_begin + target.n_tokens)
        device = target.keys[0].device
        positions = target.position + torch.arange(target.n_tokens, device=device)
        for layer, spec in enumerate(target.shape.layers):
            raw = self.keys[layer][:, used].to(device)
            cos, sin = target.rope.table(spec.rope, positions, target.context_tokens, raw.dtype)
            target.keys[layer][:, cells] = rotate(raw, cos, sin).to(target.keys[layer].dtype)
            target.values[layer][:, cells] = self.values[layer][:, used].to(
                device, target.values[layer].dtype
            )


def plane_views(planes: list[Tensor] | tuple[Tensor, ...]) -> list[NDArray[Any]]:
    """numpy views of CPU tensors as the C ABI takes them; bfloat16 as bit patterns."""
    return [
        (plane.view(torch.uint16) if plane.dtype == torch.bfloat16 else plane).numpy()
        for plane in planes
    ]


def abi_dtype(dtype: torch.dtype) -> str:
    """The C ABI's name of an engine's dtype."""
    if dtype not in _ENGINE_DTYPES:
        raise InvalidArgument(f"KV must be float16, bfloat16 or float32, not {dtype}")
    return _ENGINE_DTYPES[dtype]


class StoredKv:
    """A representation's bytes: a lease's ``data``, or what :func:`quire.pack` made.

    Decoding, rotation (64-bit angles) and checks are the C kernels'. The bytes must stay readable
    while the source is in use: hold the lease. check: called behind every read of them, as
    ``lease.check``; raises where they may have become another object's.
    """

    def __init__(
        self,
        data: NDArray[np.uint8],
        model: Model,
        stats: ChunkStats | None = None,
        lead_runs: tuple[bytes, ...] = (),
        *,
        check: Callable[[], None] | None = None,
    ) -> None:
        self._data = data
        self._check = check
        self.lead_runs = lead_runs
        self._model = model
        self._info = describe(data)
        self.stats = stats

    @property
    def tokens(self) -> NDArray[np.uint32]:
        return self._info.tokens

    @property
    def base_position(self) -> int:
        return self._info.base_position

    @property
    def lossless(self) -> bool:
        return self._info.codec <= LOSSLESS_CODECS_MAX

    @property
    def context_kind(self) -> ContextKind:
        return self._info.context_kind

    @property
    def phase(self) -> Phase:
        return self._info.phase

    def place(self, target: Target) -> None:
        on_cpu = target.keys[0].device.type == "cpu"
        keys, values = target.keys, target.values
        first = target.cell_begin
        if not on_cpu:
            keys, values = (
                [
                    plane.new_empty(plane.shape[0], target.n_tokens, plane.shape[2], device="cpu")
                    for plane in planes
                ]
                for planes in (keys, values)
            )
            first = 0
        unpack(
            self._data,
            self._model,
            target.position,
            dtype=abi_dtype(keys[0].dtype),
            source_begin=target.source_begin,
            n_tokens=target.n_tokens,
            out=(plane_views(keys), plane_views(values)),
            rows=first,
        )
        if self._check is not None:
            self._check()
        if not on_cpu:
            cells = slice(target.cell_begin, target.cell_begin + target.n_tokens)
            for planes, loaded in ((target.keys, keys), (target.values, values)):
                for plane, part in zip(planes, loaded, strict=True):
                    plane[:, cells] = part.to(plane.device)
