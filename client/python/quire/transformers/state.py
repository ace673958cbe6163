"""The KV of one request: shared old KV below, a private overlay above."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .shape import ModelShape

if TYPE_CHECKING:
    from .policies.base import Fixup

_GROWTH_CELLS = 64


@dataclass(frozen=True)
class OldKv:
    """KV that exists before a forward, at its positions in the prompt; never written.

    keys, values: per layer [kv head][cell][dim], keys rotated. loaded: [cell], where they mean
    something. exact: False where a cell is known to be an approximation of a full prefill's.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    loaded: Tensor
    exact: bool = True


@dataclass
class KvState:
    """A request's cells: token ids, positions, and KV per layer.

    Layers share the tensors of ``old`` until they are first written. ``exact`` is False as soon as
    a cell's KV is an approximation of a full prefill's: such KV is never stored under exact ids.
    fixup: a policy's changes, applied by every forward over this state.
    """

    shape: ModelShape
    tokens: Tensor
    positions: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    exact: bool = True
    # Prompt cells that were loaded and may be refreshed while decoding.
    reused: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    n_prompt: int = 0
    fixup: Fixup | None = None
    _owned: list[bool] = field(default_factory=list)

    @classmethod
    def over(
        cls,
        shape: ModelShape,
        tokens: Tensor,
        old: OldKv | None,
        dtype: torch.dtype,
        positions: Tensor | None = None,
    ) -> KvState:
        """Cells for ``tokens`` with the old KV as what they hold, and as exact as that is known to
        be: who computes over an approximation cannot make it exact."""
        n, device = tokens.numel(), tokens.device
        if old is None:
            keys = [
                torch.zeros(la.kv_heads, n, la.key_dims, dtype=dtype, device=device)
                for la in shape.layers
            ]
            values = [
                torch.zeros(la.kv_heads, n, la.value_dims, dtype=dtype, device=device)
                for la in shape.layers
            ]
        else:
            keys, values = list(old.keys), list(old.values)
        if positions is None:
            positions = torch.arange(n, device=device)
        owned = [old is None] * shape.n_layers
        exact = old is None or old.exact
        return cls(shape, tokens, positions, keys, values, exact, n_prompt=n, _owned=owned)

    @property
    def n_cells(self) -> int:
        return self.tokens.numel()

    def write(self, layer: int, rows: Tensor, keys: Tensor, values: Tensor) -> None:
        """New KV [kv head][row][dim] of some cells, into the overlay."""
        self._own(layer, self.n_cells)
        write_rows(self.keys[layer], rows, keys)
        write_rows(self.values[layer], rows, values)

    def _own(self, layer: int, n_cells: int) -> None:
        have = self.keys[layer].shape[1]
        if self._owned[layer] and have >= n_cells:
            return
        room = n_cells if have >= n_cells else n_cells + _GROWTH_CELLS
        for planes in (self.keys, self.values):
            old = planes[layer]
            new = old.new_zeros(old.shape[0], max(room, have), old.shape[2])
            new[:, :have] = old
            planes[layer] = new
        self._owned[layer] = True

    def append(self, tokens: Tensor) -> Tensor:
        """New cells behind the last one; returns their indices. Their KV is yet to be written."""
        first, n = self.n_cells, tokens.numel()
        next_position = int(self.positions.max()) + 1 if first else 0
        device = self.tokens.device
        self.tokens = torch.cat([self.tokens, tokens.to(device)])
        self.positions = torch.cat(
            [self.positions, torch.arange(next_position, next_position + n, device=device)]
        )
        return torch.arange(first, first + n, device=device)

    def fork(self) -> KvState:
        """An independent continuation; layers are copied when either side first writes them."""
        self._owned = [False] * self.shape.n_layers
        return KvState(
            self.shape,
            self.tokens,
            self.positions,
            list(self.keys),
            list(self.values),
            self.exact,
            self.reused,
            self.n_prompt,
            self.fixup,
            [False] * self.shape.n_layers,
        )

    def as_old(self) -> OldKv:
        """This state's KV as another request's old KV (shared, not copied)."""
        n = self.n_cells
        self._owned = [False] * self.shape.n_layers
        return OldKv(
            tuple(keys[:, :n] for keys in self.keys),
            tuple(values[:, :n] for values in self.values),
            torch.ones(n, dtype=torch.bool, device=self.tokens.device),
            self.exact,
        )


def write_rows(plane: Tensor, rows: Tensor, new: Tensor) -> None:
    """new [kv head][row][dim] at the cells ``rows`` of a plane."""
    plane[:, rows] = new.to(plane.dtype)
