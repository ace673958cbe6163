"""RelayCaching (ICML'26, arXiv 2603.13289): what one agent wrote, read by the next one.

The KV of generated text is captured while it is decoded (generation.generate with ``capture``),
with the attention that later tokens paid to it. Read again elsewhere, all rows are computed up to
the layer ``detect``; from there on go those whose V deviates most there (1 - cosine of new and old,
above 1.5 times the mean), those of great influence (attention received while decoding, above 1.45
times the mean of their chunk), and the last 10 of each chunk. After the layer ``end`` the rest of
the model takes the stored KV.
Departures: the paper skips the layers below a first boundary, for which a hidden state at that
boundary would be needed; here those rows are computed from layer 0, and charged. It also finds the
boundaries from an offline profile of the model; here they are given.
"""

from __future__ import annotations

import numpy as np
import torch

from ...errors import InvalidArgument
from ..shape import ModelShape
from .base import LayerView, PolicyInput, PolicyNeeds, RowPolicy, Rows

DEVIATION_FACTOR = 1.5
INFLUENCE_FACTOR = 1.45
SUFFIX_ROWS = 10


class Relay(RowPolicy):
    def __init__(self, detect: int, end: int | None = None) -> None:
        """end: the last layer whose KV is computed again; None: the model's last."""
        if detect < 1 or (end is not None and end <= detect):
            raise InvalidArgument("deviations show from layer 1 on, and rows end after they do")
        self.detect, self.end = detect, end

    @property
    def name(self) -> str:
        return f"relay:{self.detect}" + ("" if self.end is None else f",{self.end}")

    def needs(self, shape: ModelShape) -> PolicyNeeds:
        return PolicyNeeds(
            static_rows=False,
            probe_layers=(self.detect,) if self.end is None else (self.detect, self.end),
            needs_old_values_at=(self.detect,),
            needs_stats=True,
        )

    def select_rows(self, given: PolicyInput) -> Rows:
        return given.plan.reusable

    def on_layer(self, view: LayerView) -> Rows:
        if view.layer == self.end:
            return view.rows[:0]  # their KV of this layer is written, and none follows
        assert view.old_values is not None
        new, old = (v.float().transpose(0, 1).flatten(1) for v in (view.values, view.old_values))
        deviation = (1.0 - torch.cosine_similarity(new, old, dim=1)).cpu().numpy()
        chosen = (
            deviation > DEVIATION_FACTOR * deviation.mean() if len(deviation) else deviation > 0
        )
        for chunk in view.plan.chunks:
            inside = (view.rows >= chunk.token_begin) & (view.rows < chunk.token_end)
            chosen |= inside & (view.rows >= chunk.token_end - SUFFIX_ROWS)
            stats = None if chunk.source is None else chunk.source.stats
            if stats is None:
                continue
            received = stats.received_mass.numpy()
            wanted = (received > INFLUENCE_FACTOR * received.mean()).nonzero()[0]
            chosen |= np.isin(view.rows, wanted - chunk.source_begin + chunk.token_begin) & inside
        return view.rows[chosen]
