"""Attention statistics, summed while the attention runs; each is an Observer.

Masses are softmax weights, summed over rows, mean over heads. A layer's own window mask is in the
weights already, so a sliding-window layer gives nothing to cells that its rows cannot see: fuse
such layers with full ones only knowingly (the default is full-attention layers alone).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

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
    and, last, to the chunk itself; a row's sum is 1. segments are the runs' lengths.
    """

    received: Tensor
    received_rows: Tensor
    given: Tensor
    segments: tuple[int, ...] = field(default=())

    @property
    def inter(self) -> Tensor:
        """[token]: mass given to what lies before the chunk, mean over layers."""
        return self.given[:, :, :-1].sum(dim=2).mean(dim=0)
