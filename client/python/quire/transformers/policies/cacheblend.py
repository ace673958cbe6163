"""CacheBlend (EuroSys'25, arXiv 2405.16444): rows whose KV deviates most at layer 1.

Layers 0 and 1 project every token; a token's score is the squared difference of its new and cached
V (or K) at layer 1, summed over heads and dims; the best share goes on from there.
gradual: the paper's filtering, r1 > r2 > ...: each layer in ``steps`` keeps its share by the
deviation it sees itself (the released code stops at the first).
Departures: rows see nothing behind themselves (the released code's bottom-right mask lets them),
and the whole question is fresh (its examples reuse most of it). The budget is charged two full
layers; :func:`share_of_budget` gives the share of rows that a charged budget leaves.
"""

from __future__ import annotations

import math
from typing import Literal

from ...errors import InvalidArgument
from ..shape import ModelShape
from .base import LayerView, PolicyInput, PolicyNeeds, RowPolicy, Rows, checked_share, heaviest_n

PROBE_LAYER = 1


class CacheBlend(RowPolicy):
    def __init__(
        self,
        share: float,
        plane: Literal["v", "k"] = "v",
        steps: tuple[tuple[int, float], ...] = (),
    ) -> None:
        """steps: (layer, share) after layer 1, layers ascending, shares falling."""
        self.plane = plane
        self.steps = ((PROBE_LAYER, checked_share(share)), *steps)
        for (before, more), (layer, less) in zip(self.steps, self.steps[1:], strict=False):
            if layer <= before or checked_share(less) > more:
                raise InvalidArgument("gradual filtering goes up in layers and down in shares")

    @property
    def name(self) -> str:
        tail = "".join(f",{layer}={share:g}" for layer, share in self.steps[1:])
        return f"cacheblend-{self.plane}:{self.steps[0][1]:g}{tail}"

    def needs(self, shape: ModelShape) -> PolicyNeeds:
        layers = tuple(layer for layer, _ in self.steps)
        return PolicyNeeds(
            static_rows=False,
            probe_layers=layers,
            needs_old_keys_at=layers if self.plane == "k" else (),
            needs_old_values_at=layers if self.plane == "v" else (),
        )

    def select_rows(self, given: PolicyInput) -> Rows:
        return given.plan.reusable

    def on_layer(self, view: LayerView) -> Rows:
        new, old = (
            (view.values, view.old_values) if self.plane == "v" else (view.keys, view.old_keys)
        )
        assert old is not None
        deviation = (new.float() - old.float()).square().sum(dim=(0, 2)).cpu().numpy()
        share = dict(self.steps)[view.layer]
        # Shares are of all reusable tokens, whatever an earlier step has left.
        return heaviest_n(view.rows, deviation, math.ceil(share * len(view.plan.reusable)))


def share_of_budget(charged: float, n_layers: int) -> float:
    """The share of rows above layer 1 for a charged budget that includes layers 0 and 1 in full;
    negative where the budget does not reach."""
    return (charged * n_layers - 2) / (n_layers - 2)
