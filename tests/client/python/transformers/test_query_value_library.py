"""query-value in Python and in the library: equal rows, equal depths of the question's pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import quire
from policy_examples import Source, make_shape
from quire.transformers import PlanSegment, ReusePlan, run_digest
from quire.transformers.policies import PolicyInput, QueryValue
from quire.transformers.policies.candidates import stands_as_computed

N_LAYERS = 24
SEED = 77


def random_plan(random: np.random.Generator) -> ReusePlan:
    """Segments of all kinds; about a third of the chunks stand as they were computed."""
    segments: list[PlanSegment] = []
    at = 0

    def add(kind: quire.SegmentKind, n: int) -> None:
        nonlocal at
        source = None
        if kind != quire.SegmentKind.FRESH:
            source = Source(np.arange(at, at + n, dtype=np.uint32))
            if random.random() < 0.4:
                lead = tuple(
                    run_digest(np.arange(s.token_begin, s.token_end, dtype=np.uint32)) for s in segments
                )
                source = replace(source, base_position=at, lead_runs=lead)
        segments.append(PlanSegment(kind, at, n, source))
        at += n

    for _ in range(int(random.integers(0, 9))):
        add(quire.SegmentKind(int(random.integers(0, 3))), int(random.integers(1, 60)))
    add(quire.SegmentKind.FRESH, int(random.integers(1, 12)))
    return ReusePlan(np.arange(at, dtype=np.uint32), tuple(segments), segments[-1].token_begin)


def library_segments(plan: ReusePlan) -> list[quire.Segment]:
    return [
        replace(bare, exact=bare.kind == quire.SegmentKind.CHUNK and stands_as_computed(plan, segment))
        for bare, segment in zip(plan.bare_segments(), plan.segments, strict=True)
    ]


@pytest.mark.parametrize("ties", [False, True])
def test_rows_are_equal(ties: bool) -> None:
    random = np.random.default_rng(SEED)
    shape = make_shape((0,) * N_LAYERS)
    n_exact = n_rows = 0
    for _ in range(400):
        plan = random_plan(random)
        # Attention spans decades; few values make ties, in sums of neighbours too.
        mass = np.exp(random.normal(-6, 3, plan.n_tokens)).astype(np.float32)
        if ties:
            mass = (random.integers(0, 4, plan.n_tokens) / 4).astype(np.float32)
        charge = float(random.choice([0.0, 0.05, 0.15, 0.3, 0.999, 1.0, random.random()]))
        last = int(random.integers(0, N_LAYERS))
        ours = QueryValue(charge).select_rows(PolicyInput(plan, shape, {last: mass}))
        segments = library_segments(plan)
        theirs = quire.select_rows(
            segments, mass, policy=f"query-value:{charge!r}", layers_run=last + 1, n_layers=N_LAYERS
        )
        assert ours.tolist() == theirs.tolist(), f"seed {SEED}, charge {charge}, layer {last}"
        nothing = QueryValue(charge).select_rows(PolicyInput(plan, shape, {}))
        without = quire.select_rows(
            segments, policy=f"query-value:{charge!r}", layers_run=0, n_layers=N_LAYERS
        )
        assert nothing.tolist() == without.tolist()
        n_exact += sum(s.exact for s in segments)
        n_rows += len(ours)
    assert n_exact > 100 and n_rows > 1000


def test_passes_are_equally_deep() -> None:
    random = np.random.default_rng(SEED + 1)
    depths = set()
    for _ in range(400):
        plan = random_plan(random)
        windows = tuple(int(w) for w in random.choice([0, 8], N_LAYERS))
        shape = make_shape(windows)
        charge = float(random.choice([0.05, 0.15, 0.5, 1.0, random.random()]))
        policy = QueryValue(charge)
        layers = policy.question_layers(plan, shape) if len(plan.reusable) else ()
        ours = max(layers) + 1 if layers else 0
        theirs = quire.question_layers(
            plan.bare_segments(), N_LAYERS, shape.full_layers, policy=f"query-value:{charge!r}"
        )
        assert ours == theirs, f"seed {SEED + 1}, charge {charge}, windows {windows}"
        depths.add(ours)
    assert 0 in depths and len(depths) > 8
