"""How far KV is from full prefill's, layer by layer, as a share of isolated chunks' distance."""

from __future__ import annotations

import torch
from torch import Tensor

from ..transformers import Engine, KvState, ReusePlan
from ..transformers.compose import compose


def _distances(planes: list[Tensor], full: list[Tensor], cells: Tensor) -> list[float]:
    return [
        float((a[:, cells].double() - b[:, cells].double()).norm())
        for a, b in zip(planes, full, strict=True)
    ]


def _ratios(
    distance: list[float], reference: list[float], floor: list[float]
) -> list[float | None]:
    """None where isolated chunks do not deviate either (layer 0)."""
    return [
        round(d / r, 6) if r > 1e-5 * f else None
        for d, r, f in zip(distance, reference, floor, strict=True)
    ]


class Deviation:
    """||KV - KV_full|| / ||KV_iso - KV_full|| over the reusable cells of one prompt."""

    def __init__(self, engine: Engine, isolated_plan: ReusePlan, full: KvState) -> None:
        self._full = full
        self._cells = torch.from_numpy(isolated_plan.reusable).to(engine.device)
        with torch.inference_mode():
            old = compose(isolated_plan, engine.shape, engine.rope, engine.dtype, engine.device)
        self._alone = (
            _distances(list(old.keys), full.keys, self._cells),
            _distances(list(old.values), full.values, self._cells),
        )
        nothing = [[torch.zeros_like(p) for p in planes] for planes in (full.keys, full.values)]
        self._norms = (
            _distances(nothing[0], full.keys, self._cells),
            _distances(nothing[1], full.values, self._cells),
        )

    def of(self, state: KvState) -> tuple[list[float | None], list[float | None]]:
        """(keys, values) per layer."""
        keys = _distances(state.keys, self._full.keys, self._cells)
        values = _distances(state.values, self._full.values, self._cells)
        return (
            _ratios(keys, self._alone[0], self._norms[0]),
            _ratios(values, self._alone[1], self._norms[1]),
        )
