"""Combinations, A+B+...: the rows of any of them, within one budget.

Parts whose rows do not follow from scores (epic, random, pie, cachecraft) come first and are taken
out of the budget, which is the sum of the shares of the others. Those fill it in turn: each takes
the tokens it scores highest among those not taken yet, until all that is taken is as much as the
shares up to and with its own. So epic:8+query:0.10 computes a tenth of the chunks (or all heads,
where they are more), and query:0.05+query-last:0.05 a tenth, half of it by either.
At a probe layer the probing part chooses anew, the others keep what they have.
The variant asked for is that of the first part that wants any. Of stored ones the sum of all
ranks decides: parts that refuse each other's variants (psr+fusionrag) refuse every one, and all is
computed. Positions and fix-ups follow one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import numpy as np
from torch import Tensor

from ...errors import InvalidArgument
from ..plan import ReusePlan
from ..shape import ModelShape
from .base import (
    DecodeView,
    Fixup,
    LayerView,
    Notes,
    PolicyInput,
    PolicyNeeds,
    RowPolicy,
    Rows,
    Scores,
    Variant,
    VariantCandidate,
    heaviest_n,
)

PARTS_MAX = 8


class _Chain(Fixup):
    def __init__(self, parts: Sequence[Fixup]) -> None:
        self._parts = parts

    def on_layer(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        for part in self._parts:
            keys, values = part.on_layer(layer, keys, values)
        return keys, values

    def on_logits(self, layer: int, logits: Tensor, rows: Tensor, cell_begin: int) -> Tensor:
        for part in self._parts:
            logits = part.on_logits(layer, logits, rows, cell_begin)
        return logits


def _filled(candidates: Rows, scores: Scores, taken: Rows, total: int) -> Rows:
    """What is taken of the candidates, and the best of the rest until they are ``total``."""
    # -inf: never to be computed, whatever the budget.
    free = ~np.isin(candidates, taken, assume_unique=True) & (scores.values > -np.inf)
    more = heaviest_n(candidates[free], scores.values[free], max(total - len(taken), 0))
    return np.union1d(taken, more)


class Union(RowPolicy):
    def __init__(self, parts: Sequence[RowPolicy]) -> None:
        if not 2 <= len(parts) <= PARTS_MAX:
            raise InvalidArgument(f"a combination has 2 to {PARTS_MAX} parts")
        self.parts = tuple(parts)
        wanted = [part.variant for part in parts if part.variant.kinds]
        self.variant = wanted[0] if wanted else Variant()

    @property
    def name(self) -> str:
        return "+".join(part.name for part in self.parts)

    def needs(self, shape: ModelShape) -> PolicyNeeds:
        each = [part.needs(shape) for part in self.parts]
        weighs = {needs.weighs_by_values for needs in each if needs.question_layers(shape)}
        if len(weighs) > 1:
            raise InvalidArgument(
                f"{self.name}: only some parts weigh the question's attention by values"
            )

        def all_of(layers: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
            return tuple(sorted(set().union(*layers)))

        return PolicyNeeds(
            static_rows=all(needs.static_rows for needs in each),
            probe_layers=all_of([needs.probe_layers for needs in each]),
            needs_old_keys_at=all_of([needs.needs_old_keys_at for needs in each]),
            needs_old_values_at=all_of([needs.needs_old_values_at for needs in each]),
            needs_query_attention_at=all_of([needs.question_layers(shape) for needs in each]),
            needs_column_sums=all_of([needs.needs_column_sums for needs in each]),
            weighs_by_values=any(weighs),
            needs_decode_hook=any(needs.needs_decode_hook for needs in each),
            needs_stats=any(needs.needs_stats for needs in each),
            uses_prefix=any(needs.uses_prefix for needs in each),
            uses_chunks=any(needs.uses_chunks for needs in each),
        )

    def question_layers(self, plan: ReusePlan, shape: ModelShape) -> tuple[int, ...]:
        each = [part.question_layers(plan, shape) for part in self.parts]
        return tuple(sorted(set().union(*each)))

    def _given(self, part: RowPolicy, given: PolicyInput) -> PolicyInput:
        """What the part asked for, and no more: it fuses what it gets."""
        layers = part.question_layers(given.plan, given.shape)
        mass = {layer: mass for layer, mass in given.question_mass.items() if layer in layers}
        return replace(given, question_mass=mass)

    def _held(self, index: int) -> str:
        return f"union.{index}"

    def _union(self, notes: Notes) -> Rows:
        every = [notes[self._held(index)] for index in range(len(self.parts))]
        rows: Rows = np.unique(np.concatenate(every)).astype(np.int64)
        return rows

    def select_rows(self, given: PolicyInput) -> Rows:
        candidates = given.plan.reusable
        taken, total = candidates[:0], 0
        scored: list[tuple[int, Scores]] = []
        for index, part in enumerate(self.parts):
            own = self._given(part, given)
            scores = part.row_scores(own)
            if scores is not None:
                scored.append((index, scores))
                continue
            rows = part.select_rows(own)
            given.notes[self._held(index)] = rows
            if not part.needs(given.shape).probe_layers:
                taken = np.union1d(taken, rows)
        for index, scores in scored:
            total += scores.n_rows
            here = Scores(scores.values[candidates], scores.n_rows)
            taken = _filled(candidates, here, taken, total)
            given.notes[self._held(index)] = taken
        given.notes["union.budget"] = np.array([total])
        return self._union(given.notes)

    def on_layer(self, view: LayerView) -> Rows:
        assert view.shape is not None
        probing = [
            index
            for index, part in enumerate(self.parts)
            if view.layer in part.needs(view.shape).probe_layers
        ]
        total = int(view.notes["union.budget"][0])
        # Parts without probes have made their choice; it counts against every budget that follows.
        taken = view.rows[:0]
        for index, part in enumerate(self.parts):
            if not part.needs(view.shape).probe_layers:
                held = np.intersect1d(view.notes[self._held(index)], view.rows)
                taken = np.union1d(taken, held)
        for index in probing:
            scores = self.parts[index].layer_scores(view)
            if scores is not None:
                total += scores.n_rows
                taken = _filled(view.rows, scores, taken, total)
                view.notes[self._held(index)] = taken
                continue
            kept = self.parts[index].on_layer(view)
            if kept is not None:
                held = view.notes[self._held(index)]
                view.notes[self._held(index)] = np.intersect1d(held, kept)
        return np.intersect1d(self._union(view.notes), view.rows)

    def on_decode(self, view: DecodeView) -> Rows:
        return reduce(np.union1d, [part.on_decode(view) for part in self.parts]).astype(np.int64)

    def arrange(self, plan: ReusePlan) -> ReusePlan:
        return reduce(lambda arranged, part: part.arrange(arranged), self.parts, plan)

    def fixup(self, given: PolicyInput) -> Fixup | None:
        each = [part.fixup(self._given(part, given)) for part in self.parts]
        parts = [fixup for fixup in each if fixup is not None]
        return _Chain(parts) if len(parts) > 1 else next(iter(parts), None)

    def rank_candidate(self, candidate: VariantCandidate) -> float:
        return sum(part.rank_candidate(candidate) for part in self.parts)
