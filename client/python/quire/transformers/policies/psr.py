"""PSR: the best training-free mix of a comparison of eleven systems (arXiv 2603.20218).

Three parts of others put together: chunks computed behind dropped dummy tokens (EPIC's
LegoLink-0), rows whose K deviates most at layer 1 (CacheBlend with K), and APE's temperature and
scale on the question's attention to the chunks.
Departures: written after descriptions of the method, not after its text; chunks keep positions of
their own, since rows that are computed again need an order; rows inside chunks attend unscaled; T
and s are APE's defaults.
"""

from __future__ import annotations

from ...ids import ContextKind
from .ape import DEFAULT_SCALE, DEFAULT_TEMPERATURE, checked_scaling, scaling
from .base import Fixup, PolicyInput, Variant
from .cacheblend import CacheBlend
from .link0 import DUMMY_TOKENS


class Psr(CacheBlend):
    variant = Variant((ContextKind.DUMMY_SINK,), DUMMY_TOKENS)

    def __init__(
        self,
        share: float,
        temperature: float = DEFAULT_TEMPERATURE,
        scale: float = DEFAULT_SCALE,
    ) -> None:
        super().__init__(share, "k")
        self.temperature, self.scale = checked_scaling(temperature, scale)

    @property
    def name(self) -> str:
        return f"psr:{self.steps[0][1]:g},{self.temperature:g},{self.scale:g}"

    def fixup(self, given: PolicyInput) -> Fixup | None:
        return scaling(given, self.temperature, self.scale)
