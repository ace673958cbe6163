"""Small plans written out by hand, and plans on tiny models, for the tests of policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import quire
import torch
from quire.transformers import (
    ChunkStats,
    Engine,
    LayerSpec,
    ModelShape,
    PlanSegment,
    ReusePlan,
    behind_prefix,
    in_context,
    plan_of_parts,
)
from quire.transformers.gates import GateInput
from quire.transformers.policies import LayerView, PolicyInput
from quire.transformers.rope import RopeSpec

N_LAYERS = 4


@dataclass(frozen=True)
class Source:
    """Stands for KV of some tokens; holds none."""

    tokens: np.ndarray
    base_position: int = 0
    stats: ChunkStats | None = None
    lossless: bool = True
    context_kind: quire.ContextKind = quire.ContextKind.ISOLATED
    phase: quire.Phase = quire.Phase.PREFILL
    lead_runs: tuple[bytes, ...] = ()
    exact: bool = True

    def place(self, target: object) -> None:
        raise AssertionError("row choices never load")


# prefix [0, 3), chunk [3, 8), gap [8, 10), chunk [10, 14), question [14, 17)
KINDS = [
    (quire.SegmentKind.PREFIX, 3),
    (quire.SegmentKind.CHUNK, 5),
    (quire.SegmentKind.FRESH, 2),
    (quire.SegmentKind.CHUNK, 4),
    (quire.SegmentKind.FRESH, 3),
]
REUSABLE = [3, 4, 5, 6, 7, 10, 11, 12, 13]


def make_plan(sources: Sequence[Source | None] = (None, None)) -> ReusePlan:
    """sources: of the two chunks, where they are not to be bare ones."""
    tokens = np.arange(100, 100 + sum(n for _, n in KINDS), dtype=np.uint32)
    given = iter(sources)
    segments, at = [], 0
    for kind, n in KINDS:
        source = None if kind == quire.SegmentKind.FRESH else Source(tokens[at : at + n])
        if kind == quire.SegmentKind.CHUNK:
            source = next(given) or source
        segments.append(PlanSegment(kind, at, n, source))
        at += n
    return ReusePlan(tokens, tuple(segments), segments[-1].token_begin)


def make_shape(windows: tuple[int, ...] = (0,) * N_LAYERS) -> ModelShape:
    return ModelShape(
        tuple(LayerSpec(2, 1, 4, 4, 0.5, 0.0, window, RopeSpec((1.0, 0.1))) for window in windows)
    )


def given_mass(mass: dict[int, list[float]] | None = None, plan: ReusePlan | None = None) -> PolicyInput:
    arrays = {layer: np.array(values, np.float32) for layer, values in (mass or {}).items()}
    return PolicyInput(plan or make_plan(), make_shape(), arrays)


def layer_view(
    layer: int,
    rows: Sequence[int],
    new: torch.Tensor,
    old: torch.Tensor,
    *,
    plane: str = "v",
    column_mass: Sequence[float] | None = None,
    question_masses: dict[int, list[float]] | None = None,
    notes: dict | None = None,
    plan: ReusePlan | None = None,
    shape: ModelShape | None = None,
) -> LayerView:
    """new, old: [kv head][row][dim] of one plane; the other plane is zero."""
    zero = torch.zeros_like(new)
    keys, values = (zero, new) if plane == "v" else (new, zero)
    return LayerView(
        layer,
        np.array(rows, dtype=np.int64),
        keys,
        values,
        old if plane == "k" else None,
        old if plane == "v" else None,
        None if column_mass is None else torch.tensor(column_mass),
        None,
        plan or make_plan(),
        shape or make_shape(),
        {i: torch.tensor(m) for i, m in (question_masses or {}).items()},
        {} if notes is None else notes,
    )


def reuse_plan(engine: Engine, given: GateInput, *, stats: bool = False) -> ReusePlan:
    """Prefix exact, chunks computed behind it."""
    prefix = engine.capture(given.prefix, in_context(()))
    chunks = [engine.capture(chunk, behind_prefix(given.prefix), stats=stats) for chunk in given.chunks]
    return plan_of_parts([*chunks, given.question], prefix=prefix)


def exact_plan(engine: Engine, given: GateInput, *, stats: bool = True) -> ReusePlan:
    """Every chunk computed behind exactly what stands before it: nothing is approximate."""
    prefix = engine.capture(given.prefix, in_context(()))
    before, parts = given.prefix, []
    for i, chunk in enumerate(given.chunks):
        parts.append(engine.capture(chunk, in_context(before, given.chunks[:i]), stats=stats))
        before = np.concatenate([before, chunk])
    return plan_of_parts([*parts, given.question], prefix=prefix)


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    a, b = p.log_softmax(-1), q.log_softmax(-1)
    return float((a.exp() * (a - b)).sum())
