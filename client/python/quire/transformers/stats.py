"""Attention statistics, summed while the attention runs; each is an Observer.

Masses are softmax weights, summed over rows, mean over heads. A layer's own window mask is in the
weights already, so a sliding-window layer gives nothing to cells that its rows cannot see: fuse
such layers with full ones only knowingly (the default is full-attention layers alone).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InvalidArgument, NonFinite
from .attention import Block


class ColumnMass:
    """The mass every cell receives, per layer, from the rows in [row_begin, row_end)."""

    def __init__(
        self, layers: Iterable[int], n_cells: int, row_begin: int = 0, row_end: int | None = None
    ) -> None:
        self.layers = tuple(sorted(set(layers)))
        self._wanted = frozenset(self.layers)
        self.row_begin = row_begin
        self.row_end = n_cells if row_end is None else row_end
        self.n_cells = n_cells
        self.by_layer: dict[int, Tensor] = {}
        self.rows_seen: dict[int, Tensor] = {}

    def wants(self, layer: int) -> bool:
        return layer in self._wanted

    def see(self, block: Block) -> None:
        chosen = (block.rows >= self.row_begin) & (block.rows < self.row_end)
        weights = block.weights[:, chosen]
        mass, rows = self._of(block.layer, weights)
        mass[block.cell_begin : block.cell_end] += weights.sum(dim=(0, 1)) / weights.shape[0]
        rows[block.cell_begin : block.cell_end] += (weights[0] > 0).sum(dim=0)

    def _of(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        if layer not in self.by_layer:
            self.by_layer[layer] = torch.zeros(self.n_cells, device=like.device)
            self.rows_seen[layer] = torch.zeros(self.n_cells, dtype=torch.int64, device=like.device)
        return self.by_layer[layer], self.rows_seen[layer]

    def fused(self, layers: Sequence[int] | None = None) -> Tensor:
        """The mean over layers: all that were watched, or those given."""
        chosen = self.layers if layers is None else layers
        return torch.stack([self.by_layer[layer] for layer in chosen]).mean(dim=0)


class ValueMass(ColumnMass):
    """ColumnMass with every head's weights times the norm of the cell's value (VATP, arXiv
    2406.12335). norms: layer -> [kv head][cell]."""

    def __init__(
        self, layers: Iterable[int], norms: Mapping[int, Tensor], n_cells: int, row_begin: int = 0
    ) -> None:
        super().__init__(layers, n_cells, row_begin)
        self._norms = norms

    def see(self, block: Block) -> None:
        chosen = (block.rows >= self.row_begin) & (block.rows < self.row_end)
        cells = slice(block.cell_begin, block.cell_end)
        norms = self._norms[block.layer][:, cells]
        by_head = block.weights[:, chosen].sum(dim=1).view(norms.shape[0], -1, norms.shape[1])
        mass, _ = self._of(block.layer, by_head)
        mass[cells] += (by_head * norms[:, None]).sum(dim=(0, 1)) / block.weights.shape[0]


class SegmentMass:
    """What rows [row_begin, row_end) give to each of the runs of cells [bounds[j], bounds[j+1])."""

    def __init__(
        self, layers: Iterable[int], bounds: Sequence[int], row_begin: int, row_end: int
    ) -> None:
        self.layers = tuple(sorted(set(layers)))
        self._wanted = frozenset(self.layers)
        self.bounds = tuple(bounds)
        self.row_begin, self.row_end = row_begin, row_end
        self.by_layer: dict[int, Tensor] = {}

    def wants(self, layer: int) -> bool:
        return layer in self._wanted

    def see(self, block: Block) -> None:
        chosen = (block.rows >= self.row_begin) & (block.rows < self.row_end)
        rows = block.rows[chosen] - self.row_begin
        if rows.numel() == 0:
            return
        weights = block.weights[:, chosen].mean(dim=0)
        if block.layer not in self.by_layer:
            self.by_layer[block.layer] = torch.zeros(
                self.row_end - self.row_begin, len(self.bounds) - 1, device=weights.device
            )
        target = self.by_layer[block.layer]
        for j, (begin, end) in enumerate(zip(self.bounds, self.bounds[1:], strict=False)):
            first = max(begin - block.cell_begin, 0)
            last = max(min(end, block.cell_end) - block.cell_begin, first)
            target[rows, j] += weights[:, first:last].sum(dim=1)


@dataclass(frozen=True)
class ChunkStats:
    """Statistics of a chunk, taken while it was computed (fp32, on the CPU).

    received: [layer][token], the mass its tokens receive from the chunk's own rows.
    received_rows: [layer][token], how many rows can see the token in that layer.
    given: [layer][token][segment], what the chunk's rows give to each run of tokens before them
    and, last, to the chunk itself; a row's sum is 1. segments are the runs' lengths; the names of
    all but the last are the source's lead_runs. layers: the ones that means over layers take (those
    that see the whole prompt); empty: all.

    Cache-Craft (SIGMOD'25): a = sum over runs j of inter(i,j) / (|Ci| |Cj|), b = intra(i) / |Ci|^2,
    CCI = sigmoid(a / b), each a mean over layers.
    """

    received: Tensor
    received_rows: Tensor
    given: Tensor
    segments: tuple[int, ...] = field(default=())
    layers: tuple[int, ...] = ()

    def _mean(self, by_layer: Tensor) -> Tensor:
        return (by_layer[list(self.layers)] if self.layers else by_layer).float().mean(dim=0)

    @property
    def n_tokens(self) -> int:
        return self.given.shape[1]

    @property
    def inter_by_run(self) -> Tensor:
        """[token][run]: mass given to each run before the chunk, mean over layers."""
        return self._mean(self.given[:, :, :-1])

    @property
    def inter(self) -> Tensor:
        """[token]: mass given to what lies before the chunk, mean over layers."""
        return self.inter_by_run.sum(dim=1)

    @property
    def inter_mass(self) -> Tensor:
        """[run]: the chunk's mass on each run before it, mean over layers."""
        return self.inter_by_run.sum(dim=0)

    @property
    def intra_mass(self) -> float:
        """The chunk's mass on itself, mean over layers."""
        return float(self._mean(self.given[:, :, -1]).sum())

    @property
    def received_mass(self) -> Tensor:
        """[token]: mass its tokens receive, mean over layers."""
        return self._mean(self.received)

    def a(self, runs: Sequence[int] | None = None) -> float:
        """Cache-Craft's a, over all runs or some of them."""
        mass = self.inter_mass
        chosen = range(len(self.segments) - 1) if runs is None else runs
        return sum(float(mass[j]) / (self.n_tokens * self.segments[j]) for j in chosen)

    @property
    def b(self) -> float:
        return self.intra_mass / self.n_tokens**2

    def cci(self, runs: Sequence[int] | None = None) -> float:
        """Cache-Craft's cache context index, in [0.5, 1]."""
        ratio = self.a(runs) / max(self.b, 1e-30)
        return 1.0 / (1.0 + math.exp(-min(ratio, 700.0)))

    def fused(self) -> ChunkStats:
        """The means over layers alone, as one layer: all that policies read, in a fraction."""
        kept = self.layers[0] if self.layers else 0
        return ChunkStats(
            self.received_mass[None],
            self.received_rows[kept : kept + 1],
            self._mean(self.given)[None],
            self.segments,
        )

    def vectors(self) -> dict[str, NDArray[np.float16]]:
        """The fused statistics as fp16 vectors, for the store: "received" [token], "given"
        [token][run, chunk last]. 2 + 2 x runs bytes a token."""
        one = self.fused()
        return {
            "received": one.received[0].numpy().astype(np.float16),
            "given": one.given[0].numpy().astype(np.float16),
        }

    @classmethod
    def of_vectors(
        cls, vectors: Mapping[str, NDArray[np.floating]], segments: Sequence[int]
    ) -> ChunkStats:
        """From vectors(); InvalidArgument where they do not fit together."""
        received = torch.from_numpy(np.asarray(vectors["received"], dtype=np.float32))
        given = torch.from_numpy(np.asarray(vectors["given"], dtype=np.float32))
        n = received.numel()
        if given.shape != (n, len(segments)) or not segments or segments[-1] != n:
            raise InvalidArgument("statistics that do not fit the chunk's runs")
        if not bool(torch.isfinite(received).all() and torch.isfinite(given).all()):
            raise NonFinite("statistics with NaN or infinity")
        # Inside a chunk token t is seen by the n - t rows from it on.
        rows = torch.arange(n, 0, -1)
        return cls(received[None], rows[None], given[None], tuple(segments))
