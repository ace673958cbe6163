"""Cache-Craft's formulas on matrices written out, and variants chosen by them."""

from __future__ import annotations

from collections.abc import Callable
from math import exp

import numpy as np
import pytest
import quire
import torch
from policy_examples import (
    REUSABLE,
    Source,
    exact_plan,
    given_mass,
    layer_view,
    make_plan,
    make_shape,
    reuse_plan,
)
from quire.transformers import (
    ChunkStats,
    Engine,
    ReusePlan,
    behind_dummies,
    behind_neighbours,
    behind_prefix,
    in_context,
    isolated,
    plan_of_variants,
    run_digest,
)
from quire.transformers.gates import random_input
from quire.transformers.policies import CacheCraft, PolicyInput, VariantCandidate, parse_policy
from quire.transformers.policies.cachecraft import focused, overhead, prefix_overlap
from quire.transformers.policies.candidates import order_distance

SEED = 17
A, B, C, D, S = (run_digest([i]) for i in range(5))

# A chunk of two tokens behind runs of 4, 2 and 2 tokens; [layer][token][run, itself last].
GIVEN = torch.tensor(
    [
        [[0.2, 0.1, 0.1, 0.6], [0.4, 0.2, 0.0, 0.4]],
        [[0.0, 0.3, 0.1, 0.6], [0.2, 0.2, 0.2, 0.4]],
    ]
)
STATS = ChunkStats(torch.ones(2, 2), torch.ones(2, 2), GIVEN, (4, 2, 2, 2))
CONTEXTUAL = quire.ContextKind.CONTEXTUAL


def candidate(
    before: tuple[bytes, ...], n_prefix: int = 0, lead: tuple[bytes, ...] = (A, B, C)
) -> VariantCandidate:
    return VariantCandidate(CONTEXTUAL, n_tokens=2, stats=STATS, lead=lead, before=before, n_prefix=n_prefix)


def test_statistics_by_hand() -> None:
    # Means over layers of the masses on the runs: (.2+.4 + 0+.2) / 2 = .4; (.3 + .5) / 2 = .4; (.1 + .3) / 2 = .2.
    assert STATS.inter_mass.tolist() == pytest.approx([0.4, 0.4, 0.2])
    assert STATS.inter.tolist() == pytest.approx([0.4, 0.6])
    assert STATS.intra_mass == pytest.approx(1.0)
    assert STATS.a() == pytest.approx(0.4 / (2 * 4) + 0.4 / (2 * 2) + 0.2 / (2 * 2))
    assert STATS.b == pytest.approx(0.25)
    assert STATS.cci() == pytest.approx(1 / (1 + exp(-0.2 / 0.25)))
    assert STATS.cci([0]) == pytest.approx(1 / (1 + exp(-0.05 / 0.25)))
    assert STATS.cci([]) == 0.5
    windowed = ChunkStats(STATS.received, STATS.received_rows, GIVEN, STATS.segments, (1,))
    assert windowed.inter_mass.tolist() == pytest.approx([0.2, 0.5, 0.3])


def test_statistics_travel_in_half_precision() -> None:
    vectors = STATS.vectors()
    assert {k: (v.dtype, v.shape) for k, v in vectors.items()} == {
        "received": (np.float16, (2,)),
        "given": (np.float16, (2, 4)),
    }
    back = ChunkStats.of_vectors(vectors, STATS.segments)
    assert back.cci() == pytest.approx(STATS.cci(), abs=1e-3)
    assert back.inter.tolist() == pytest.approx([0.4, 0.6], abs=1e-3)
    assert back.received_rows.tolist() == [[2, 1]]
    with pytest.raises(quire.InvalidArgument, match="fit"):
        ChunkStats.of_vectors(vectors, (4, 2, 2))
    broken = {**vectors, "given": np.full((2, 4), np.nan)}
    with pytest.raises(quire.NonFinite):
        ChunkStats.of_vectors(broken, STATS.segments)


def test_order_distance() -> None:
    assert order_distance("abc", "abc") == 0
    assert order_distance("abc", "cba") == 1
    assert order_distance("abc", "acb") == pytest.approx(1 / 3)
    # Only what both have counts: b d of abd against dxb are one pair, in the wrong order.
    assert order_distance("abd", "dxb") == 1
    assert order_distance("a", "b") == 0


def test_overlap_and_overhead() -> None:
    cci = STATS.cci()
    # All there, in order, but with another in between: beta' = 1.
    assert prefix_overlap(candidate((A, B, D, C))) == pytest.approx(1.0)
    assert overhead(candidate((A, B, D, C)), 1.0) == pytest.approx(0.0, abs=1e-6)
    # A and C: .6 of the mass of 1.0, in order.
    assert prefix_overlap(candidate((A, C))) == pytest.approx(0.6)
    assert overhead(candidate((A, C)), 1.0) == pytest.approx(cci * 0.4, abs=1e-6)
    # The same turned round: gamma = 1.
    assert overhead(candidate((C, A)), 0.5) == pytest.approx(0.5 * cci, abs=1e-6)
    # Three, one pair of three wrong: beta' = 2 / 3.
    assert overhead(candidate((B, A, C)), 1.0) == pytest.approx(cci / 3, abs=1e-6)
    assert overhead(candidate((D,)), 10.0) == 1.0


def test_the_exact_prefix_is_no_chunk_that_changes() -> None:
    # A is the prompt's exact prefix: masses of B and C alone, .4 and .2.
    cci = STATS.cci([1, 2])
    assert prefix_overlap(candidate((A, C), 1)) == pytest.approx(0.2 / 0.6)
    assert overhead(candidate((A, C), 1), 1.0) == pytest.approx(cci * (1 - 0.2 / 0.6), abs=1e-6)
    assert overhead(candidate((A, B, C), 1), 1.0) == 0
    # Behind the prefix alone: exact at the first place, half of alpha at a later one.
    alone = ChunkStats(torch.ones(1, 2), torch.ones(1, 2), torch.ones(1, 2, 2) / 2, (4, 2))
    first = VariantCandidate(quire.ContextKind.FIXED_PREFIX, stats=alone, lead=(S,), before=(S,), n_prefix=1)
    later = VariantCandidate(
        quire.ContextKind.FIXED_PREFIX, stats=alone, lead=(S,), before=(S, A), n_prefix=1
    )
    assert overhead(first, 1.0) == 0 and overhead(later, 0.6) == pytest.approx(0.3)


def test_without_statistics_all_is_computed() -> None:
    bare = VariantCandidate(CONTEXTUAL, lead=(A, B), before=(A, D))
    assert overhead(bare, 0.1) == 1.0
    assert overhead(candidate((A,), lead=(A, B)), 0.1) == 1.0  # statistics of other runs
    assert overhead(VariantCandidate(quire.ContextKind.ISOLATED), 1.0) == 0.0  # first in the prompt
    assert overhead(VariantCandidate(CONTEXTUAL), 1.0) == 1.0  # nobody knows behind what


def test_rows_are_those_that_looked_back_most() -> None:
    tokens = make_plan().tokens
    # Four tokens at [10, 14), computed behind the prefix and a run of 8 tokens that is not here.
    gave = torch.tensor([[[0.9, 0.1, 0.0], [0.2, 0.3, 0.5], [0.1, 0.4, 0.5], [0.8, 0.2, 0.0]]])
    stats = ChunkStats(torch.ones(1, 4), torch.ones(1, 4), gave, (3, 8, 4))
    lead = (run_digest(tokens[:3]), run_digest([1] * 8))
    second = Source(tokens[10:14], 11, stats, True, CONTEXTUAL, lead_runs=lead)
    # The first chunk is exact where it is.
    first = Source(tokens[3:8], 3, None, True, quire.ContextKind.FIXED_PREFIX, lead_runs=lead[:1])
    plan = make_plan([first, second])
    a, b = 1.0 / (4 * 8), 1.0 / 16
    cfo = 0.8 / (1 + exp(-a / b))
    assert overhead_of(plan, 0.8) == pytest.approx(cfo, abs=1e-6)  # .498: ceil(1.99) = 2 rows
    # Mass on the run that changes: .1 .3 .4 .2; on the prefix it does not count.
    assert CacheCraft(0.8).select_rows(PolicyInput(plan, make_shape())).tolist() == [11, 12]
    assert CacheCraft(9).select_rows(PolicyInput(plan, make_shape())).tolist() == [10, 11, 12, 13]
    assert CacheCraft(0).select_rows(PolicyInput(plan, make_shape())).tolist() == []
    bare = make_plan()
    assert CacheCraft(1).select_rows(PolicyInput(bare, make_shape())).tolist() == REUSABLE


def overhead_of(plan: object, alpha: float) -> float:
    from quire.transformers.policies.candidates import candidate_of

    chunk = plan.chunks[1]
    return overhead(candidate_of(plan, chunk.token_begin, chunk.source), alpha)


def test_chunks_out_of_focus_are_dropped() -> None:
    assert focused(np.array([0.9, 0.1, 0.2])).tolist() == [True, False, False]
    assert focused(np.array([0.5, 0.3, 0.2])).tolist() == [True, True, True]  # nothing stands out
    assert focused(np.array([0.3, 0.3])).tolist() == [True, True]
    assert focused(np.array([0.6, 0.5, 0.1, 0.2])).tolist() == [True, True, False, False]
    policy = CacheCraft(1.0, stop=2)
    gemma = make_shape((8, 0, 8, 0))
    needs = policy.needs(gemma)
    assert needs.probe_layers == needs.needs_column_sums == (1, 2)
    zero = torch.zeros(1, 3, 1)
    # Chunks [3, 8) and [10, 14). Layer 1 sees the second, layer 2 (a window) the first.
    seen = [0.0] * 17
    one, two = list(seen), list(seen)
    one[12], one[4], two[4] = 0.8, 0.1, 9.0
    view = layer_view(2, [4, 11, 13], zero, zero, question_masses={1: one, 2: two}, shape=gemma)
    assert policy.on_layer(view).tolist() == [11, 13]
    view = layer_view(2, [4, 11, 13], zero, zero, question_masses={1: one, 2: two})
    assert policy.on_layer(view).tolist() == [4]
    view = layer_view(1, [4, 11, 13], zero, zero, question_masses={1: one}, shape=gemma)
    assert policy.on_layer(view) is None


def test_variants_are_chosen_with_the_prompt_in_view(llama: Engine) -> None:
    given = random_input(llama, seed=SEED)
    one, two, three = given.chunks
    prefix = llama.capture(given.prefix, in_context(()))
    before = np.concatenate([given.prefix, one, two])
    here = llama.capture(three, in_context(before, [one, two]), stats=True)
    turned = llama.capture(three, behind_neighbours([two, one], given.prefix), stats=True)
    half = llama.capture(three, behind_neighbours([two], given.prefix), stats=True)
    plain = llama.capture(three, behind_prefix(given.prefix), stats=True)
    alone = llama.capture(three, isolated(), stats=True)
    firsts = [llama.capture(chunk, behind_prefix(given.prefix), stats=True) for chunk in (one, two)]

    def planned(name: str, variants: list, order: tuple[int, int] = (0, 1)) -> ReusePlan:
        parts = [firsts[i] for i in order]
        return plan_of_variants([*parts, variants, given.question], parse_policy(name), prefix=prefix)

    def pick(name: str, variants: list, order: tuple[int, int] = (0, 1)) -> object:
        return planned(name, variants, order).segments[3].source

    variants = [alone, plain, turned, half, here]
    assert pick("cachecraft", variants) is here
    # half has all of its lead, in order; turned has both in the wrong order.
    assert pick("cachecraft", [alone, turned, half]) is half
    assert pick("cachecraft", [turned, alone], (1, 0)) is turned
    assert pick("neighbours/reuse", [alone, plain, turned]) is plain  # all of its lead is there
    assert pick("fusionrag:0.1", [alone, plain, half]) is half
    assert pick("least-cfo/query:0.1", [plain, half]) is half
    assert pick("reuse", variants) is alone  # no preference: the first
    # Refused, all of them: computed, which is not free.
    done = llama.prefill(plan=planned("link0", variants), policy=parse_policy("link0"))
    assert done.plan is not None and not done.plan.chunks and done.charge.total == 1.0
    mixed = [behind_dummies([1] * 4), behind_prefix(given.prefix)]
    parts = [llama.capture(chunk, recipe) for chunk, recipe in zip((one, two), mixed, strict=True)]
    plan = plan_of_variants([*parts, given.question], parse_policy("link0"), prefix=prefix)
    done = llama.prefill(plan=plan, policy=parse_policy("link0"))
    assert done.charge.total == pytest.approx(len(two) / (len(one) + len(two)))
    with pytest.raises(quire.InvalidArgument, match="different tokens"):
        pick("reuse", [alone, firsts[0]])


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_what_stands_where_it_was_computed_costs_nothing(tiny: Callable[[str], Engine], kind: str) -> None:
    engine = tiny(kind)
    given = random_input(engine, seed=SEED)
    full = engine.prefill(given.tokens)
    done = engine.prefill(plan=exact_plan(engine, given), policy=CacheCraft())
    assert done.charge.total == 0
    assert float((done.logits - full.logits).abs().max()) < 1e-3
    elsewhere = engine.prefill(plan=reuse_plan(engine, given, stats=True), policy=CacheCraft(0.4))
    sizes = [len(chunk) for chunk in given.chunks]
    # The first chunk is exact behind the prefix; the others owe half of alpha.
    wanted = sum(int(np.ceil(0.2 * n)) for n in sizes[1:])
    assert len(elsewhere.rows_by_layer[0]) == wanted + len(given.question)
    stopped = engine.prefill(plan=reuse_plan(engine, given, stats=True), policy=CacheCraft(0.4, stop=3))
    assert len(stopped.rows_by_layer[-1]) <= len(elsewhere.rows_by_layer[-1])


def test_a_prompt_of_variants_needs_a_prompt() -> None:
    with pytest.raises(quire.InvalidArgument, match="empty"):
        plan_of_variants([], parse_policy("reuse"))
    assert given_mass().notes == {}
