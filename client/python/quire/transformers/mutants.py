"""Defects put in on purpose: a set of gates that does not catch them is blind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from ..errors import QuireError
from . import attention, compose, state
from .engine import Engine
from .gates import GATES, GateInput, gate_names
from .rope import Rope, RopeSpec
from .sources import KvSource, Target

_visible, _place = attention.visible_cells, compose.place
_write, _turn = state.write_rows, Rope.table


def _leaked_mask(
    rows: Tensor, cells: Tensor, row_positions: Tensor, cell_positions: Tensor, window: int
) -> Tensor:
    """The bottom-right mask of CacheBlend's released code: as if the rows were the last ones."""
    shift = int(cells[-1]) - int(rows[-1])
    ranks = torch.arange(len(rows), device=rows.device)
    limit = len(cells) - len(rows) + ranks + shift
    visible = cells[None, :] <= limit[:, None]
    return visible | _visible(rows, cells, row_positions, cell_positions, window)


def _no_window(
    rows: Tensor, cells: Tensor, row_positions: Tensor, cell_positions: Tensor, window: int
) -> Tensor:
    return _visible(rows, cells, row_positions, cell_positions, 0)


def _wrong_base(
    rope: Rope, spec: RopeSpec, positions: Tensor, context: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    slower = tuple(f**1.01 for f in spec.inverse_frequencies)
    changed = RopeSpec(slower, spec.attention_factor, spec.rope_type, spec.layer_type)
    angles, rope.angles = rope.angles, "exact"
    try:
        return _turn(rope, changed, positions, context, dtype)
    finally:
        rope.angles = angles


def _stale_row(plane: Tensor, rows: Tensor, new: Tensor) -> None:
    """One row of several is computed but not written."""
    keep = rows != rows[rows.numel() // 2] if rows.numel() > 1 else torch.ones_like(rows).bool()
    _write(plane, rows[keep], new[:, keep])


def _off_by_one(source: KvSource, target: Target) -> None:
    moved = {**target.__dict__, "position": target.position + 1}
    _place(source, Target(**moved))


class _Swapped:
    """Every second load gets the KV of the source before it."""

    def __init__(self) -> None:
        self._before: KvSource | None = None

    def __call__(self, source: KvSource, target: Target) -> None:
        other, self._before = self._before, source
        fits = other is not None and len(other.tokens) >= target.source_begin + target.n_tokens
        # Chunks grow in random_input(), so the shorter one's rows are what a swap would bring.
        if other is not None and not fits:
            target = Target(**{**target.__dict__, "n_tokens": len(other.tokens)})
        _place(source if other is None else other, target)


@contextmanager
def mutant(name: str) -> Iterator[None]:
    """Puts one of MUTANTS into the engine for a while (whole process)."""
    change: AbstractContextManager[object]
    if name == "leaked mask":
        change = patch.object(attention, "visible_cells", _leaked_mask)
    elif name == "ignored window":
        change = patch.object(attention, "visible_cells", _no_window)
    elif name == "wrong rope base":
        change = patch.object(Rope, "table", _wrong_base)
    elif name == "swapped chunk":
        change = patch.object(compose, "place", _Swapped())
    elif name == "stale row":
        change = patch.object(state, "write_rows", _stale_row)
    elif name == "off-by-one position":
        change = patch.object(compose, "place", _off_by_one)
    else:
        raise ValueError(f"unknown mutant {name!r}; known: {', '.join(MUTANTS + WINDOW_MUTANTS)}")
    with change:
        yield


MUTANTS = (
    "leaked mask",
    "wrong rope base",
    "swapped chunk",
    "stale row",
    "off-by-one position",
)
# Only where the model has sliding windows, and prompts longer than them.
WINDOW_MUTANTS = ("ignored window",)


def caught(engine: Engine, given: GateInput, name: str) -> list[str]:
    """The gates that fail, or end in an error, under a mutant; none: they are blind to it."""
    failed = []
    with mutant(name):
        for gate in gate_names(engine):
            try:
                good = GATES[gate](engine, given).passed
            except QuireError:
                good = False
            if not good:
                failed.append(gate)
    return failed
