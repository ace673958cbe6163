"""CacheBlend (EuroSys'25, arXiv 2405.16444): rows whose KV deviates most at layer 1.

Layers 0 and 1 project every token; a token's score is the squared difference of its new and cached
V (or K) at layer 1, summed over heads and dims; the best share goes on from there.
steps: filtering written out, r1 > r2 > ...: each layer in ``steps`` keeps its share by the
deviation it sees itself (the released code stops at the first).
CacheBlendGradual is the paper's filtering with a share at every layer: "a bit above" the mean at
layer 1, falling from layer to layer, so that the mean of the layers above 1 is the share named.
Departures: rows see nothing behind themselves (the released code's bottom-right mask lets them),
and the whole question is fresh (its examples reuse most of it). The budget is charged two full
layers; :func:`share_of_budget` gives the share of rows that a charged budget leaves. How the shares
fall is not published: here in a straight line from ``top`` x share to (2 - top) x share.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from ...errors import InvalidArgument
from ..shape import ModelShape
from .base import (
    LayerView,
    PolicyInput,
    PolicyNeeds,
    RowPolicy,
    Rows,
    Scores,
    checked_share,
    heaviest_n,
)

PROBE_LAYER = 1
GRADUAL_TOP = 1.5


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

    def shares(self, shape: ModelShape | None) -> dict[int, float]:
        """layer -> the share that goes on from it."""
        return dict(self.steps)

    def needs(self, shape: ModelShape) -> PolicyNeeds:
        layers = tuple(self.shares(shape))
        return PolicyNeeds(
            static_rows=False,
            probe_layers=layers,
            needs_old_keys_at=layers if self.plane == "k" else (),
            needs_old_values_at=layers if self.plane == "v" else (),
        )

    def select_rows(self, given: PolicyInput) -> Rows:
        return given.plan.reusable

    def layer_scores(self, view: LayerView) -> Scores:
        new, old = (
            (view.values, view.old_values) if self.plane == "v" else (view.keys, view.old_keys)
        )
        assert old is not None
        deviation = (new.float() - old.float()).square().sum(dim=(0, 2)).cpu().numpy()
        share = self.shares(view.shape)[view.layer]
        # Shares are of all reusable tokens, whatever an earlier step has left.
        return Scores(deviation, math.ceil(share * len(view.plan.reusable)))

    def on_layer(self, view: LayerView) -> Rows:
        return heaviest_n(view.rows, *self.layer_scores(view))


class CacheBlendGradual(CacheBlend):
    def __init__(
        self, share: float, plane: Literal["v", "k"] = "v", top: float = GRADUAL_TOP
    ) -> None:
        """share: mean over the layers above 1, before shares above 1 are cut off."""
        super().__init__(share, plane)
        if not 1.0 <= top <= 2.0:
            raise InvalidArgument(f"the first share is 1 to 2 times the mean, not {top}")
        self.share, self.top = checked_share(share), top

    @property
    def name(self) -> str:
        top = "" if self.top == GRADUAL_TOP else f",{self.top:g}"
        return f"cacheblend-gradual:{self.share:g}{top}"

    def shares(self, shape: ModelShape | None) -> dict[int, float]:
        assert shape is not None
        probed = range(PROBE_LAYER, max(shape.n_layers - 1, PROBE_LAYER + 1))
        falling = np.linspace(self.top, 2 - self.top, len(probed)) if len(probed) > 1 else [1.0]
        return {
            layer: min(1.0, self.share * float(factor))
            for layer, factor in zip(probed, falling, strict=True)
        }


def share_of_budget(charged: float, n_layers: int) -> float:
    """The share of rows above layer 1 for a charged budget that includes layers 0 and 1 in full;
    negative where the budget does not reach."""
    return (charged * n_layers - 2) / (n_layers - 2)
