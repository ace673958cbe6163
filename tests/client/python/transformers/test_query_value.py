"""query-value: weights by value norms, neighbours, exact chunks left out, one charge for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import quire
import torch
from policy_examples import REUSABLE, Source, given_mass, make_plan, make_shape, reuse_plan
from quire.transformers import ColumnMass, Engine, PlanSegment, ReusePlan, run_digest
from quire.transformers.attention import Block
from quire.transformers.gates import random_input
from quire.transformers.policies import (
    Epic,
    PolicyInput,
    QueryValue,
    Union,
    VariantCandidate,
    parse_policy,
)
from quire.transformers.policies.candidates import exact_cells
from quire.transformers.stats import ValueMass

# Cells 8, 9 and 14 on are no candidates, whatever they weigh.
MASS = [9.0, 0, 9.0, 0.1, 0.5, 0.2, 0, 0, 9.0, 9.0, 0.3, 0, 0.2, 0, 9, 9, 9]
ASKED = 5 / 9 / 4  # the five fresh tokens at one layer of four; nine reusable ones


def choose(charge: float, given: PolicyInput | None = None) -> list[int]:
    return QueryValue(charge).select_rows(given or given_mass({0: MASS})).tolist()


def test_a_token_weighs_with_its_neighbours_in_the_chunk() -> None:
    # Chunk one: .6 .8 .7 .2 0; chunk two: .3 .5 .2 .2. Cell 9 beside the second does not count.
    assert choose(ASKED + 1 / 9) == [4]
    assert choose(ASKED + 3 / 9) == [3, 4, 5]
    assert choose(ASKED + 4 / 9) == [3, 4, 5, 11]


def test_the_pass_of_the_question_is_in_the_charge() -> None:
    assert choose(ASKED) == [] and choose(0.1) == [] and choose(0.0) == []
    assert choose(ASKED + 2.9 / 9) == choose(ASKED + 2 / 9) == [4, 5]
    assert choose(1.0) == REUSABLE
    deep = given_mass({0: MASS, 1: MASS})
    assert choose(2 * ASKED + 2.9 / 9, deep) == [4, 5]


def test_the_pass_ends_where_it_takes_a_third_of_the_charge() -> None:
    plan, shape = make_plan(), make_shape((0, 0, 8, 8))
    assert QueryValue(6.01 * ASKED).question_layers(plan, shape) == (0, 1)
    assert QueryValue(5.9 * ASKED).question_layers(plan, shape) == (0,)
    assert QueryValue(3.01 * ASKED).question_layers(plan, shape) == (0,)
    assert QueryValue(2.9 * ASKED).question_layers(plan, shape) == ()
    chosen = parse_policy("neighbours/query-value:0.5")
    assert chosen.question_layers(plan, shape) == (0,)
    assert chosen.needs(shape).question_layers(shape) == (0, 1)
    # Beside others too: what a deeper pass would cost is not taken off its rows.
    both = Union([Epic(1), QueryValue(3.01 * ASKED)])
    assert both.question_layers(plan, shape) == (0,)
    asked = Union([Epic(1), QueryValue(ASKED + 3 / 9)])
    given = given_mass({0: MASS, 1: [0.0] * 17})
    alone = QueryValue(ASKED + 3 / 9).question_layers(plan, given.shape)
    assert asked.question_layers(plan, given.shape) == alone == (0,)
    assert asked.select_rows(given).tolist() == [3, 4, 10]


def test_windows_count_a_little_where_the_charge_allows_it() -> None:
    shape = make_shape((8, 0, 8, 0, 8))
    assert [round(QueryValue(c).window_weight, 9) for c in (0, 0.05, 0.1, 0.15, 1)] == [0, 0, 0.05, 0.1, 0.1]
    # Chunks so long that the whole pass is cheap: few rows go to what the full layers read.
    tokens = np.arange(605, dtype=np.uint32)
    chunk = PlanSegment(quire.SegmentKind.CHUNK, 0, 600, Source(tokens[:600]))
    long = ReusePlan(tokens, (chunk, PlanSegment(quire.SegmentKind.FRESH, 600, 5, None)), 600)
    assert QueryValue(0.05).question_layers(long, shape) == (1, 3)
    assert QueryValue(0.06).question_layers(long, shape) == (0, 1, 2, 3)

    def rows(window: dict[int, float], full: dict[int, float]) -> list[int]:
        masses = []
        for weights in (window, full):
            mass = np.zeros(17, dtype=np.float32)
            mass[list(weights)] = list(weights.values())
            masses.append(mass)
        asked = 2 * 5 / 9 / 5
        given = replace(given_mass({0: masses[0], 1: masses[1]}), shape=shape)
        return QueryValue(asked + 3 / 9).select_rows(given).tolist()

    # The mean over windows counts a tenth.
    assert rows({12: 9.9}, {4: 1.0}) == [3, 4, 5]
    assert rows({12: 10.1}, {4: 1.0}) == [11, 12, 13]


def test_which_variant_it_takes() -> None:
    lead, near, far = (run_digest([i]) for i in range(3))

    def rank(kind: quire.ContextKind, *runs: bytes) -> float:
        return QueryValue(0.15).rank_candidate(VariantCandidate(kind, lead=runs, before=(lead, near)))

    kinds = quire.ContextKind
    assert rank(kinds.FIXED_PREFIX, lead, near) == 0.0
    some, none = rank(kinds.SYNTHETIC, near, far), rank(kinds.SYNTHETIC, far)
    assert 0 < some < none < rank(kinds.FIXED_PREFIX, lead) < rank(kinds.ISOLATED)
    # Any text in front is better than none, as in plans of the library.
    assert rank(kinds.SYNTHETIC) == none


def test_chunks_that_stand_as_computed_are_left_alone() -> None:
    prefix = make_plan().segments[0].source
    assert prefix is not None
    tokens = make_plan().tokens
    lead = (run_digest(prefix.tokens),)
    first = Source(tokens[3:8], base_position=3, lead_runs=lead)
    second = Source(tokens[10:14], base_position=3, lead_runs=lead)
    plan = make_plan((first, second))
    assert exact_cells(plan).tolist() == [3, 4, 5, 6, 7]
    given = given_mass({0: MASS}, plan)
    assert choose(ASKED + 2 / 9, given) == [10, 11]
    # Never more than there are, and never the exact ones.
    assert choose(0.999, given) == [10, 11, 12, 13]
    # Behind the whole text before it as one run, and an exact prefix in two pieces.
    whole = replace(second, base_position=10, lead_runs=(run_digest(tokens[:10]),))
    assert exact_cells(make_plan((first, whole))).tolist() == [3, 4, 5, 6, 7, 10, 11, 12, 13]
    pieces = [replace(plan.segments[0], n_tokens=2), replace(plan.segments[0], token_begin=2, n_tokens=1)]
    pieces[1] = replace(pieces[1], source_begin=2)
    runs = tuple(run_digest(tokens[a:b]) for a, b in ((0, 3), (3, 8), (8, 10)))
    beside = make_plan((first, replace(second, base_position=10, lead_runs=runs)))
    cut = replace(beside, segments=(*pieces, *beside.segments[1:]))
    assert exact_cells(cut).tolist() == exact_cells(beside).tolist() == [3, 4, 5, 6, 7, 10, 11, 12, 13]
    elsewhere = make_plan((replace(first, base_position=4), second))
    unknown = make_plan((replace(first, lead_runs=()), second))
    other = make_plan((replace(first, lead_runs=(run_digest([7]),)), second))
    generated = make_plan((replace(first, exact=False), second))
    for approximate in (elsewhere, unknown, other, generated):
        assert not len(exact_cells(approximate))


def test_a_chunk_whose_head_is_covered() -> None:
    """The exact prefix covers the first two tokens of a chunk that was computed behind one."""
    plan = make_plan()
    tokens, fresh = plan.tokens, plan.segments[2]
    beginning = (run_digest(tokens[:1]),)
    chunk = Source(tokens[1:8], base_position=1, lead_runs=beginning)

    def exact(source: Source) -> list[int]:
        tail = replace(plan.segments[1], source=source, source_begin=2)
        cut = replace(plan, segments=(plan.segments[0], tail, fresh, *plan.segments[3:]))
        return exact_cells(cut).tolist()

    assert exact(chunk) == [3, 4, 5, 6, 7]
    beside = replace(chunk, context_kind=quire.ContextKind.SYNTHETIC)
    assert exact(beside) == [3, 4, 5, 6, 7]
    assert exact(replace(beside, lead_runs=(run_digest(tokens[:3]),))) == []
    assert exact(replace(chunk, lead_runs=(run_digest(tokens[:3]),), base_position=3)) == []
    assert exact(replace(chunk, base_position=3)) == []
    # The head that it was computed with is not the prompt's: an edited text.
    edited = tokens[1:8].copy()
    edited[0] += 1
    assert exact(replace(chunk, tokens=edited)) == []
    given = given_mass(
        {0: MASS},
        replace(
            plan,
            segments=(
                plan.segments[0],
                replace(plan.segments[1], source=chunk, source_begin=2),
                *plan.segments[2:],
            ),
        ),
    )
    assert choose(0.999, given) == [10, 11, 12, 13]


def test_synthetic_runs_are_compared_one_by_one() -> None:
    a, b = run_digest([1]), run_digest([2])
    text = run_digest([1, 2])

    def rank(kind: quire.ContextKind, *lead: bytes, in_place: bool = True) -> float:
        candidate = VariantCandidate(kind, lead=lead, before=(a, b), text=text, in_place=in_place)
        return QueryValue(0.15).rank_candidate(candidate)

    kinds = quire.ContextKind
    assert rank(kinds.SYNTHETIC, a, b) == rank(kinds.FIXED_PREFIX, text) == 0.0
    # The library's plans do not hash a whole text for each chunk.
    assert rank(kinds.SYNTHETIC, text) > 0
    assert rank(kinds.SYNTHETIC, a, b, in_place=False) > 0
    other = VariantCandidate(kinds.FIXED_PREFIX, lead=(a,), own_prefix=False)
    ranks = [
        QueryValue(0.15).rank_candidate(candidate)
        for candidate in (
            replace(other, own_prefix=True),
            VariantCandidate(kinds.ISOLATED),
            VariantCandidate(kinds.DUMMY_SINK),
            other,
        )
    ]
    assert ranks == sorted(set(ranks))


def test_nothing_to_choose() -> None:
    assert choose(0.5, given_mass()) == []
    same = given_mass({0: [1.0] * 17})
    assert choose(ASKED + 2 / 9, same) == [4, 5]  # of equals the first ones
    for text in ("query-value:", "query-value:1.1", "query-value:nan", "query-value:0.1@2"):
        with pytest.raises(quire.InvalidArgument):
            parse_policy(text)
    with pytest.raises(quire.InvalidArgument, match="values"):
        parse_policy("query:0.1+query-value:0.1").needs(make_shape())
    assert parse_policy("epic:1+query-value:0.1").needs(make_shape()).weighs_by_values


def test_value_mass_by_hand() -> None:
    # Four heads on two KV heads, rows 2 and 3 of four cells; row 3 is the question.
    weights = torch.zeros(4, 2, 4)
    weights[:, 1] = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]])
    weights[:, 0] = 9.0
    norms = torch.tensor([[1.0, 2, 3, 4], [10, 20, 30, 40]])
    mass = ValueMass([0], {0: norms}, 4, row_begin=3)
    mass.see(Block(0, weights, torch.tensor([2, 3]), 0))
    # KV head 0: 1.5 x 1, .5 x 2; KV head 1: 1 x 20, 1 x 30; mean over four heads.
    assert mass.by_layer[0].tolist() == [0.375, 5.25, 7.5, 0.0]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3"])
def test_on_an_engine(tiny: Callable[[str], Engine], kind: str) -> None:
    engine = tiny(kind)
    given = random_input(engine, seed=5)
    plan = reuse_plan(engine, given)
    policy = QueryValue(0.5)
    done = engine.prefill(plan=plan, policy=policy)
    assert done.plan is not None
    first = done.plan.chunks[0]
    chosen = np.intersect1d(done.rows_by_layer[0], done.plan.reusable)
    assert len(chosen) and chosen[0] >= first.token_end
    assert 0.5 - 1 / len(plan.reusable) < done.charge.total <= 0.5
    # The weights are the question's attention times the norms of the values it found.
    layer = engine.shape.full_layers[0]
    mass = ColumnMass([layer], plan.n_tokens, plan.question_begin)
    reuse = engine.prefill(plan=plan, policy=parse_policy("query:0"), observers=[mass])
    assert reuse.plan is not None
    if engine.shape.layers[layer].kv_heads == 1:
        norms = reuse.state.values[layer][0, : plan.n_tokens].norm(dim=-1)
        cells = plan.reusable
        expected = (mass.by_layer[layer] * norms)[cells].numpy()
        np.testing.assert_allclose(done.question_mass[layer][cells], expected, rtol=1e-4, atol=1e-7)
