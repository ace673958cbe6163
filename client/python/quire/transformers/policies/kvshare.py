"""KVShare ("DHD" score; arXiv 2503.16525): deviation weighed by attention, also while decoding.

A token's score at layer 1 is the attention it receives there, summed over rows, times the L1
difference of its new and cached V (summed over heads and dims). The best share goes on.
refresh_per_step: at every decode step the tokens still stale are scored again, by the attention of
the token before, and that many of them are computed again with the next token (the paper: 3).
Departures: the paper's decode stage scores by the attention of the token being decoded, which is
known only after its forward; deviations while decoding are those seen at layer 1 in the prefill.
At step 0 nobody has looked yet and nothing is refreshed. On models whose layer 1 has a window the
attention is that of the window.
"""

from __future__ import annotations

import numpy as np

from ...errors import InvalidArgument
from ..shape import ModelShape
from .base import (
    DecodeView,
    LayerView,
    PolicyInput,
    PolicyNeeds,
    RowPolicy,
    Rows,
    Scores,
    checked_share,
    heaviest_n,
    rows_of_share,
)
from .cacheblend import PROBE_LAYER

_DEVIATION = "kvshare.deviation"


class KvShare(RowPolicy):
    def __init__(self, share: float, refresh_per_step: int = 0) -> None:
        if refresh_per_step < 0:
            raise InvalidArgument("rows to refresh per step must not be negative")
        self.share, self.refresh_per_step = checked_share(share), refresh_per_step

    @property
    def name(self) -> str:
        tail = f",{self.refresh_per_step}" if self.refresh_per_step else ""
        return f"kvshare:{self.share:g}{tail}"

    def needs(self, shape: ModelShape) -> PolicyNeeds:
        return PolicyNeeds(
            static_rows=False,
            probe_layers=(PROBE_LAYER,),
            needs_old_values_at=(PROBE_LAYER,),
            needs_column_sums=(PROBE_LAYER,),
            needs_decode_hook=self.refresh_per_step > 0,
        )

    def select_rows(self, given: PolicyInput) -> Rows:
        return given.plan.reusable

    def layer_scores(self, view: LayerView) -> Scores:
        assert view.old_values is not None and view.column_mass is not None
        deviation = (view.values.float() - view.old_values.float()).abs().sum(dim=(0, 2))
        by_cell = np.zeros(view.plan.n_tokens, dtype=np.float32)
        by_cell[view.rows] = deviation.cpu().numpy()
        view.notes[_DEVIATION] = by_cell
        received = view.column_mass.cpu().numpy()[view.rows]
        n_rows = rows_of_share(self.share, len(view.plan.reusable))
        return Scores(received * by_cell[view.rows], n_rows)

    def on_layer(self, view: LayerView) -> Rows:
        return heaviest_n(view.rows, *self.layer_scores(view))

    def on_decode(self, view: DecodeView) -> Rows:
        if view.step == 0 or not self.refresh_per_step or not len(view.stale):
            return np.empty(0, dtype=np.int64)
        if _DEVIATION not in view.notes:
            raise InvalidArgument("kvshare refreshes what it prefilled itself")
        scores = view.column_mass[view.stale] * view.notes[_DEVIATION][view.stale]
        return heaviest_n(view.stale, scores, self.refresh_per_step)
