"""Row choices against small examples written out, and against the C++ rules of the same names."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import quire
import torch
from quire.transformers import LayerSpec, ModelShape, PlanSegment, ReusePlan
from quire.transformers.policies import (
    CacheBlend,
    Epic,
    LayerView,
    Link0,
    PolicyInput,
    QueryGuided,
    QuestionLayers,
    RandomRows,
    RowPolicy,
    charge_of,
    parse_policy,
    policy_names,
    share_of_budget,
)
from quire.transformers.rope import RopeSpec

N_LAYERS = 4


@dataclass(frozen=True)
class Source:
    """Stands for KV of some tokens; holds none."""

    tokens: np.ndarray
    base_position: int = 0
    stats: None = None
    lossless: bool = True
    context_kind: quire.ContextKind = quire.ContextKind.ISOLATED

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


def make_plan(kinds: list[tuple[quire.SegmentKind, int]] = KINDS) -> ReusePlan:
    tokens = np.arange(100, 100 + sum(n for _, n in kinds), dtype=np.uint32)
    segments, at = [], 0
    for kind, n in kinds:
        source = None if kind == quire.SegmentKind.FRESH else Source(tokens[at : at + n])
        segments.append(PlanSegment(kind, at, n, source))
        at += n
    return ReusePlan(tokens, tuple(segments), segments[-1].token_begin)


def make_shape(windows: tuple[int, ...] = (0,) * N_LAYERS) -> ModelShape:
    return ModelShape(
        tuple(LayerSpec(2, 1, 4, 4, 0.5, 0.0, window, RopeSpec((1.0, 0.1))) for window in windows)
    )


def choose(policy: RowPolicy, mass: dict[int, list[float]] | None = None) -> list[int]:
    arrays = {layer: np.array(values, np.float32) for layer, values in (mass or {}).items()}
    return [int(row) for row in policy.select_rows(PolicyInput(make_plan(), make_shape(), arrays))]


def test_plans_know_their_cells() -> None:
    plan = make_plan()
    assert plan.reusable.tolist() == REUSABLE
    assert plan.fresh.tolist() == [8, 9, 14, 15, 16]
    assert plan.question_begin == 14
    kept = plan.keeping(lambda segment: segment.kind == quire.SegmentKind.PREFIX)
    assert kept.reusable.tolist() == []
    assert kept.fresh.tolist() == list(range(3, 17))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segments": make_plan().segments[1:]}, "in order and without gaps"),
        ({"segments": make_plan().segments[:-1]}, "the prompt at"),
        ({"question_begin": 17}, "inside the prompt"),
        ({"tokens": np.arange(17, dtype=np.uint32)}, "of other tokens"),
        ({"tokens": np.arange(0, dtype=np.uint32), "segments": ()}, "segments end"),
    ],
)
def test_broken_plans_are_refused(change: dict, message: str) -> None:
    with pytest.raises(quire.InvalidArgument, match=message):
        replace(make_plan(), **change)


def test_a_plan_ends_fresh() -> None:
    with pytest.raises(quire.InvalidArgument, match="last segment"):
        make_plan(KINDS[:4])


@pytest.mark.parametrize("name", ["full", "prefix", "reuse", "link0"])
def test_policies_without_rows(name: str) -> None:
    assert choose(parse_policy(name)) == []


def test_what_policies_load() -> None:
    shape = make_shape()
    used = {name: parse_policy(name).needs(shape) for name in ("full", "prefix", "reuse")}
    assert [(n.uses_prefix, n.uses_chunks) for n in used.values()] == [
        (False, False),
        (True, False),
        (True, True),
    ]
    assert Link0().rank(quire.ContextKind.ISOLATED, None) == float("inf")
    assert Link0().rank(quire.ContextKind.DUMMY_SINK, None) == 0
    assert parse_policy("reuse").rank(quire.ContextKind.ISOLATED, None) == 0


def test_epic_takes_heads() -> None:
    assert choose(Epic(2)) == [3, 4, 10, 11]
    assert choose(Epic(100)) == REUSABLE
    first = make_plan([(quire.SegmentKind.CHUNK, 4), (quire.SegmentKind.FRESH, 2)])
    assert Epic(2).select_rows(PolicyInput(first, make_shape())).tolist() == []


def test_random_rows_follow_the_seed() -> None:
    rows = choose(RandomRows(0.5, seed=3))
    assert len(rows) == 5 and set(rows) <= set(REUSABLE) and rows == sorted(rows)
    assert rows == choose(RandomRows(0.5, seed=3)) != choose(RandomRows(0.5, seed=4))
    assert choose(RandomRows(1.0)) == REUSABLE and choose(RandomRows(0.0)) == []


def test_query_guided_takes_what_the_question_sees() -> None:
    # Mass of cells outside chunks (9.0) is not theirs to take.
    one = [9.0, 0, 0, 0.1, 0.5, 0.2, 0, 0, 9.0, 9.0, 0.3, 0, 0.2, 0, 9, 9, 9]
    two = [0.0, 0, 0, 0.1, 0.1, 0.2, 0, 0, 0, 0, 0.7, 0, 0.2, 0, 0, 0, 0]
    # Means: 3 .1, 4 .3, 5 .2, 10 .5, 12 .2; a share of 0.4 is ceil(3.6) = 4 rows.
    assert choose(QueryGuided(0.4), {0: one, 2: two}) == [4, 5, 10, 12]
    # ceil(0.3 * 9) = 3: of the equal 5 and 12 the first one.
    assert choose(QueryGuided(0.3), {0: one, 2: two}) == [4, 5, 10]
    assert choose(QueryGuided(0.0), {0: one}) == []


def test_which_layers_are_the_questions() -> None:
    gemma = make_shape((16, 0, 16, 0, 16))
    assert QueryGuided(0.1).needs(gemma).question_layers(gemma) == (1, 3)
    last = QueryGuided(0.1, QuestionLayers.LAST)
    assert last.needs(gemma).question_layers(gemma) == (3,)
    assert QueryGuided(0.1, (0, 4)).needs(gemma).question_layers(gemma) == (0, 4)
    everywhere = make_shape((16, 16))
    assert QueryGuided(0.1).needs(everywhere).question_layers(everywhere) == (0, 1)


@pytest.mark.parametrize("name", ["full", "prefix", "reuse", "epic:2", "epic:7", "query:0.15", "query:0.6"])
def test_rows_equal_the_library(name: str) -> None:
    generator = np.random.default_rng(12)
    for _ in range(20):
        sizes = [(kind, int(generator.integers(1, 9))) for kind, _ in KINDS]
        plan = make_plan(sizes)
        # Few values, so that ties are common.
        mass = (generator.integers(0, 4, plan.n_tokens) / 4).astype(np.float32)
        theirs = quire.select_rows(plan.bare_segments(), mass, policy=name).tolist()
        policy = parse_policy(name)
        needs = policy.needs(make_shape())
        ours = policy.select_rows(PolicyInput(plan, make_shape(), {0: mass})).tolist()
        if not needs.uses_chunks:  # here such chunks are fresh, there they are rows
            first = 0 if not needs.uses_prefix else plan.segments[0].token_end
            ours = [int(t) for s in plan.segments if s.source for t in range(s.token_begin, s.token_end)]
            ours = [t for t in ours if t >= first]
        assert ours == theirs


def view(layer: int, rows: list[int], deviations: list[float], plane: str = "v") -> LayerView:
    old = torch.zeros(1, len(rows), 4)
    new = old.clone()
    new[0, :, 1] = torch.tensor(deviations)
    new[0, :, 2] = torch.tensor(deviations)
    keys, values = (old, new) if plane == "v" else (new, old)
    return LayerView(
        layer, np.array(rows), keys, values, old if plane == "k" else None, old if plane == "v" else None,
        None, None, make_plan(),
    )  # fmt: skip


@pytest.mark.parametrize("plane", ["v", "k"])
def test_cacheblend_keeps_what_deviates(plane: str) -> None:
    policy = CacheBlend(0.3, plane)  # type: ignore[arg-type]
    needs = policy.needs(make_shape())
    assert needs.probe_layers == (1,)
    assert needs.needs_old_values_at == ((1,) if plane == "v" else ())
    assert choose(policy) == REUSABLE  # layers 0 and 1 project all
    # Squares: the sign does not matter; 3 = ceil(0.3 * 9) rows; of equals the first.
    deviations = [0.1, -3.0, 0.2, 0.0, 0.2, 0.0, 0.0, 1.0, 0.2]
    kept = policy.on_layer(view(1, REUSABLE, deviations, plane))
    assert kept.tolist() == [4, 5, 12]


def test_cacheblend_filters_gradually() -> None:
    policy = CacheBlend(0.5, steps=((2, 0.2),))
    assert policy.needs(make_shape()).probe_layers == (1, 2)
    kept = policy.on_layer(view(1, REUSABLE, [1, 2, 3, 4, 5, 0, 0, 0, 0]))
    assert kept.tolist() == [3, 4, 5, 6, 7]
    # The share is of the 9 reusable tokens, not of the 5 rows left.
    assert policy.on_layer(view(2, [3, 4, 5, 6, 7], [9, 0, 0, 1, 0])).tolist() == [3, 6]
    with pytest.raises(quire.InvalidArgument, match="gradual"):
        CacheBlend(0.2, steps=((2, 0.5),))
    with pytest.raises(quire.InvalidArgument, match="gradual"):
        CacheBlend(0.2, steps=((1, 0.1),))


def test_the_charge_is_one_formula() -> None:
    # (9 + 9 + 2 + 1) rows inside, of 4 layers x 9; gap and question rows are not counted.
    rows = [np.array([*REUSABLE, 8, 9]), np.array([*REUSABLE, 14]), np.array([4, 12, 15]), np.array([4])]
    charge = charge_of(rows, np.array(REUSABLE), 4, [5, 5])
    assert charge.rows == pytest.approx(21 / 36)
    assert charge.question == pytest.approx(10 / 36)
    assert charge.total == pytest.approx(31 / 36)
    assert charge_of(rows, np.array([], dtype=np.int64), 4).total == 0
    # Layers 0 and 1 of 24 in full leave 7.3 % of the rows for a budget of 15 %.
    assert share_of_budget(0.15, 24) == pytest.approx((0.15 * 24 - 2) / 22)
    assert 2 / 24 + 22 / 24 * share_of_budget(0.15, 24) == pytest.approx(0.15)


def test_names_round_trip() -> None:
    names = "full prefix reuse link0 epic:8 random:0.15:7 query:0.15 query-last:0.05 cacheblend-v:0.15"
    for name in [*names.split(), "cacheblend-k:0.3,4=0.2,8=0.1"]:
        assert parse_policy(name).name == name
    assert len(policy_names()) == 23


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing",
        "epic",
        "epic:0",
        "epic:x",
        "query:1.5",
        "query:nan",
        "random:",
        "random:0.1:-1",
        "reuse:1",
        "cacheblend-v:0.1,2",
    ],
)
def test_unknown_names_are_refused(text: str) -> None:
    with pytest.raises(quire.InvalidArgument):
        parse_policy(text)
