"""A policy's moments inside a prefill: the question's first pass, row choice, probe layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InvalidArgument, NonFinite
from ..reuse import SegmentKind
from .attention import Observer
from .forward import LayerEvent
from .plan import PlanSegment, ReusePlan
from .policies.base import (
    LayerView,
    Notes,
    PolicyInput,
    PolicyNeeds,
    RowPolicy,
    Rows,
)
from .policies.candidates import candidate_of
from .shape import ModelShape
from .state import KvState, OldKv
from .stats import ColumnMass, ValueMass

if TYPE_CHECKING:
    from .engine import Engine


def accepts(policy: RowPolicy, needs: PolicyNeeds, plan: ReusePlan, segment: PlanSegment) -> bool:
    """Whether a policy uses what a plan offers for a segment."""
    if segment.source is None:
        return False
    if segment.kind == SegmentKind.PREFIX:
        return needs.uses_prefix
    rank = policy.rank_candidate(
        candidate_of(plan, segment.token_begin, segment.source, segment.source_begin)
    )
    return needs.uses_chunks and rank < float("inf")


def arranged(policy: RowPolicy, plan: ReusePlan) -> ReusePlan:
    """The plan with the policy's positions; InvalidArgument where it changed anything else."""
    changed = policy.arrange(plan)
    if changed is plan:
        return plan
    same = len(changed.segments) == len(plan.segments) and all(
        (a.kind, a.token_begin, a.n_tokens, a.source_begin)
        == (b.kind, b.token_begin, b.n_tokens, b.source_begin)
        and a.source is b.source
        for a, b in zip(changed.segments, plan.segments, strict=True)
    )
    if not same or not np.array_equal(changed.tokens, plan.tokens):
        raise InvalidArgument(f"{policy.name}: only positions may be arranged")
    return changed


def question_pass(
    engine: Engine, plan: ReusePlan, ids: Tensor, old: OldKv, policy: RowPolicy
) -> tuple[dict[int, NDArray[np.float32]], list[int]]:
    """(layer -> [cell] mass of the question, rows computed at each layer).

    All fresh cells run over the old KV as it is, and no further than the last layer that is asked
    for; what they write is thrown away.
    """
    layers = policy.question_layers(plan, engine.shape)
    if any(not 0 <= layer < engine.shape.n_layers for layer in layers):
        raise InvalidArgument(f"{policy.name}: the model has {engine.shape.n_layers} layers")
    if not layers or not len(plan.reusable):
        return {}, []
    positions = torch.from_numpy(plan.positions).to(engine.device)
    state = KvState.over(engine.shape, ids, old, engine.dtype, positions)
    mass = ColumnMass(layers, plan.n_tokens, plan.question_begin)
    if policy.needs(engine.shape).weighs_by_values:
        norms = {layer: old.values[layer].float().norm(dim=-1) for layer in layers}
        mass = ValueMass(layers, norms, plan.n_tokens, plan.question_begin)
    rows = torch.from_numpy(plan.fresh).to(engine.device)
    result = engine.run(state, rows, observers=(mass,), stop_after=max(layers))
    by_layer = {layer: mass.by_layer[layer].cpu().numpy() for layer in mass.layers}
    for layer, values in by_layer.items():
        if not np.isfinite(values).all():
            raise NonFinite(f"the question's attention at layer {layer} is not finite")
    return by_layer, [r.numel() for r in result.rows_by_layer]


def _checked(rows: Rows, allowed: Rows, who: str) -> Rows:
    array = np.asarray(rows, dtype=np.int64)
    if array.ndim != 1 or (len(array) > 1 and not (np.diff(array) > 0).all()):
        raise InvalidArgument(f"{who}: rows must be ascending and distinct")
    if not np.isin(array, allowed, assume_unique=True).all():
        raise InvalidArgument(f"{who}: rows outside those it may choose from")
    return array


def select_checked(policy: RowPolicy, given: PolicyInput) -> Rows:
    """The policy's rows at layer 0; InvalidArgument where they break the rules."""
    return _checked(policy.select_rows(given), given.plan.reusable, policy.name)


class LayerHooks:
    """Turns a forward's events into a policy's on_layer() calls."""

    def __init__(
        self,
        shape: ModelShape,
        policy: RowPolicy,
        needs: PolicyNeeds,
        plan: ReusePlan,
        rows: Tensor,
        notes: Notes | None = None,
    ) -> None:
        self._policy, self._needs, self._plan = policy, needs, plan
        self._shape, self._notes = shape, {} if notes is None else notes
        self._fresh = torch.from_numpy(plan.fresh).to(rows.device)
        late = needs.needs_column_sums
        if not set(late) <= set(needs.probe_layers):
            raise InvalidArgument("column sums are for probe layers")
        if any(not 0 <= layer < shape.n_layers for layer in needs.probe_layers):
            raise InvalidArgument(f"{policy.name}: the model has {shape.n_layers} layers")
        self._columns = ColumnMass(late, plan.n_tokens) if late else None
        self._question = ColumnMass(late, plan.n_tokens, plan.question_begin) if late else None
        watching = (self._columns, self._question)
        self.observers: list[Observer] = [o for o in watching if o is not None]

    def __call__(self, event: LayerEvent) -> Tensor | None:
        layer = event.layer
        if layer not in self._needs.probe_layers:
            return None
        own = ~torch.isin(event.rows, self._fresh)
        rows = event.rows[own].cpu().numpy()
        want_keys = layer in self._needs.needs_old_keys_at
        want_values = layer in self._needs.needs_old_values_at
        late = self._columns is not None and self._columns.wants(layer)
        view = LayerView(
            layer,
            rows,
            event.keys[:, own],
            event.values[:, own],
            event.old_keys[:, own] if want_keys else None,
            event.old_values[:, own] if want_values else None,
            self._columns.by_layer[layer] if late and self._columns else None,
            self._question.by_layer[layer] if late and self._question else None,
            self._plan,
            self._shape,
            dict(self._question.by_layer) if self._question else {},
            self._notes,
        )
        kept = self._policy.on_layer(view)
        if kept is None:
            return None
        checked = _checked(kept, rows, f"{self._policy.name} at layer {layer}")
        both = np.union1d(checked, self._plan.fresh)
        return torch.from_numpy(both).to(event.rows.device)
