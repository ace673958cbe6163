"""APE (ICLR'25, arXiv 2502.05431): contexts side by side behind one shared prefix.

All chunks stand at the same positions, right behind what is in front of the first one, where they
were computed: nothing is rotated or computed again. The question follows the longest of them. Its
attention is a merge of two parts: over the chunks, with logits divided by a temperature T, and over
the rest; the parts weigh softmax(T s LSE_chunks, LSE_rest) for a scale s. Written into the logits z
of the chunks that is z / T + (T s - 1) LSE(z / T), so that one softmax over all cells does it, in
the prefill and while decoding.
With T = s = 1 and one chunk it is an exact prefix reuse.
Departures: a chunk computed alone is used where there is none behind the prefix; fresh tokens
between chunks are part of the rest and follow the longest chunk; a model's softcap comes before the
temperature; on Gemma the released code swaps the parts, here not.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...errors import InvalidArgument
from ...ids import ContextKind
from ...reuse import SegmentKind
from ..plan import ReusePlan
from ..shape import ModelShape
from .base import Fixup, PolicyInput, PolicyNeeds, RowPolicy, Rows, Variant

DEFAULT_TEMPERATURE = DEFAULT_SCALE = 0.9


class ContextScaling(Fixup):
    """Temperature and scale of the attention that rows outside the chunks pay to the chunks."""

    def __init__(self, chunk_cells: Rows, n_cells: int, temperature: float, scale: float) -> None:
        self._inside = torch.zeros(n_cells, dtype=torch.bool)
        self._inside[torch.from_numpy(chunk_cells)] = True
        self._temperature, self._scale = temperature, scale

    def on_logits(self, layer: int, logits: Tensor, rows: Tensor, cell_begin: int) -> Tensor:
        inside = self._inside.to(logits.device)
        cells = inside[cell_begin : cell_begin + logits.shape[2]].nonzero()[:, 0]
        of_chunk = inside[rows.clamp(max=inside.numel() - 1)] & (rows < inside.numel())
        chosen = (~of_chunk).nonzero()[:, 0]
        if not cells.numel() or not chosen.numel():
            return logits
        index = (slice(None), chosen[:, None], cells[None])
        part = logits[index] / self._temperature
        lse = torch.logsumexp(part, dim=-1, keepdim=True)
        shift = (self._temperature * self._scale - 1.0) * lse
        changed = logits.clone()
        # A row before all chunks sees none of them: its logits there are -inf and stay so.
        changed[index] = part + torch.where(torch.isfinite(lse), shift, torch.zeros_like(lse))
        return changed


def checked_scaling(temperature: float, scale: float) -> tuple[float, float]:
    """Both positive and finite."""
    for value in (temperature, scale):
        if not (math.isfinite(value) and value > 0):
            raise InvalidArgument(f"temperature and scale must be positive, not {value}")
    return float(temperature), float(scale)


def scaling(given: PolicyInput, temperature: float, scale: float) -> Fixup | None:
    """None where it would change nothing."""
    cells = given.plan.reusable
    if (temperature == 1.0 and scale == 1.0) or not len(cells):
        return None
    return ContextScaling(cells, given.plan.n_tokens, temperature, scale)


class Ape(RowPolicy):
    variant = Variant((ContextKind.FIXED_PREFIX, ContextKind.CONTEXTUAL, ContextKind.ISOLATED))

    def __init__(
        self, temperature: float = DEFAULT_TEMPERATURE, scale: float = DEFAULT_SCALE
    ) -> None:
        self.temperature, self.scale = checked_scaling(temperature, scale)

    @property
    def name(self) -> str:
        return f"ape:{self.temperature:g},{self.scale:g}"

    def needs(self, shape: ModelShape) -> PolicyNeeds:
        return PolicyNeeds()

    def arrange(self, plan: ReusePlan) -> ReusePlan:
        if not plan.chunks:
            return plan
        first = plan.chunks[0].first_position
        after = first + max(chunk.n_tokens for chunk in plan.chunks)
        segments = []
        for segment in plan.segments:
            if segment.kind == SegmentKind.CHUNK:
                segment = replace(segment, position=first)
            elif segment.token_begin > plan.chunks[0].token_begin:
                segment = replace(segment, position=after)
                after += segment.n_tokens
            segments.append(segment)
        return replace(plan, segments=tuple(segments))

    def select_rows(self, given: PolicyInput) -> Rows:
        return np.empty(0, dtype=np.int64)

    def fixup(self, given: PolicyInput) -> Fixup | None:
        return scaling(given, self.temperature, self.scale)
