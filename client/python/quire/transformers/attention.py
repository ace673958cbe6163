"""Attention of scattered rows over a cache, in blocks of rows, with its statistics.

No more than LOGIT_ELEMENTS_MAX logits exist at a time, so that column sums over a whole prompt need
no full matrix. Every row has its own causal limit: its own cell. Logits and softmax are fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .shape import LayerSpec

LOGIT_ELEMENTS_MAX = 1 << 23


@dataclass(frozen=True)
class Block:
    """Some rows of one layer: ``weights`` is [head][row][cell] over cells [cell_begin, ...)."""

    layer: int
    weights: Tensor
    rows: Tensor
    cell_begin: int

    @property
    def cell_end(self) -> int:
        return self.cell_begin + self.weights.shape[2]


class Observer(Protocol):
    """Sees the softmax weights of each block of the layers it wants."""

    def wants(self, layer: int) -> bool: ...
    def see(self, block: Block) -> None: ...


# logits [head][row][cell] before softmax, with -inf where a row does not look.
AdjustLogits = Callable[[int, Tensor, Tensor, int], Tensor]


def visible_cells(
    rows: Tensor, cells: Tensor, row_positions: Tensor, cell_positions: Tensor, window: int
) -> Tensor:
    """[row][cell]: a row sees itself, the cells before it, and only the last ``window``
    positions."""
    visible = cells[None, :] <= rows[:, None]
    if window:
        visible &= row_positions[:, None] - cell_positions[None, :] < window
    return visible


def attend(
    layer: int,
    spec: LayerSpec,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    rows: Tensor,
    positions: Tensor,
    observers: Sequence[Observer] = (),
    adjust: AdjustLogits | None = None,
) -> Tensor:
    """[row][head * value dim] for queries [head][row][dim] of the cells ``rows`` (ascending).

    keys, values: [kv head][cell][dim], rotated. positions: one per cell.
    """
    heads, n_rows, dims = query.shape
    kv_heads = keys.shape[0]
    watching = [observer for observer in observers if observer.wants(layer)]
    out = query.new_empty(n_rows, heads, values.shape[2])
    if n_rows == 0:
        return out.reshape(0, heads * values.shape[2])
    step = max(1, LOGIT_ELEMENTS_MAX // (heads * (int(rows[-1]) + 1)))
    for begin in range(0, n_rows, step):
        chosen = rows[begin : begin + step]
        end_cell = int(chosen[-1]) + 1
        count = chosen.numel()
        part = query[:, begin : begin + count].reshape(kv_heads, -1, dims).float()
        k = keys[:, :end_cell].float()
        logits = torch.matmul(part, k.transpose(1, 2)).mul_(spec.scale)
        logits = logits.view(heads, count, end_cell)
        if spec.softcap:
            logits = torch.tanh(logits / spec.softcap) * spec.softcap
        cells = torch.arange(end_cell, device=rows.device)
        visible = visible_cells(
            chosen, cells, positions[chosen], positions[:end_cell], spec.window_tokens
        )
        logits.masked_fill_(~visible, float("-inf"))
        if adjust is not None:
            logits = adjust(layer, logits, chosen, 0)
        weights = torch.softmax(logits, dim=-1)
        for observer in watching:
            observer.see(Block(layer, weights, chosen, 0))
        mixed = torch.matmul(
            weights.reshape(kv_heads, -1, end_cell), values[:, :end_cell].float()
        ).view(heads, count, -1)
        out[begin : begin + count] = mixed.transpose(0, 1).to(out.dtype)
    return out.reshape(n_rows, -1)
