"""Policies led by the question, combinations, names."""

from __future__ import annotations

import numpy as np
import pytest
import quire
import torch
from policy_examples import REUSABLE, given_mass, layer_view, make_plan, make_shape
from quire.transformers import run_digest
from quire.transformers.policies import (
    Epic,
    FusionRag,
    PolicyInput,
    ProphetKv,
    QuestionLayers,
    RowPolicy,
    Union,
    VariantCandidate,
    parse_policy,
)

ONE = [9.0, 0, 0, 0.1, 0.5, 0.2, 0, 0, 9.0, 9.0, 0.3, 0, 0.2, 0, 9, 9, 9]
TWO = [0.0, 0, 0, 0.1, 0.1, 0.2, 0, 0, 0, 0, 0.7, 0, 0.2, 0, 0, 0, 0]


def choose(policy: RowPolicy, given: PolicyInput | None = None) -> list[int]:
    return policy.select_rows(given or given_mass({0: ONE, 2: TWO})).tolist()


def test_prophetkv_gives_every_layer_one_voice() -> None:
    # Layer 0 looks at the chunks with 2.0 in all, layer 2 with 0.04: raw means follow layer 0.
    strong = [0.0, 0, 0, 1.0, 0.6, 0, 0, 0, 0, 0, 0.4, 0, 0, 0, 0, 0, 0]
    weak = [0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.03, 0.01, 0, 0, 0]
    given = given_mass({0: strong, 2: weak})
    assert choose(parse_policy("query:0.2"), given) == [3, 4]
    # Shares: 3 .5, 4 .3, 10 .2 in layer 0; 12 .75, 13 .25 in layer 2.
    assert choose(ProphetKv(0.2), given) == [3, 12]
    assert choose(ProphetKv(0.4), given) == [3, 4, 12, 13]
    shape = make_shape((8, 0, 8, 0))
    assert ProphetKv(0.2).needs(shape).question_layers(shape) == (1, 3)
    nothing = given_mass({0: [0.0] * 17})
    assert choose(ProphetKv(0.2), nothing) == [3, 4]


def test_layers_of_the_question_can_be_named() -> None:
    policy = parse_policy("query:0.15@1,3")
    shape = make_shape()
    assert policy.needs(shape).question_layers(shape) == (1, 3)
    for text in ("query:0.1@", "query:0.1@3,1", "query:0.1@1,1", "query:0.1@-1"):
        with pytest.raises(quire.InvalidArgument):
            parse_policy(text)


def test_fusionrag_wants_its_neighbours() -> None:
    policy = FusionRag(0.3)
    assert policy.layers is QuestionLayers.LAST
    assert choose(policy, given_mass({3: ONE})) == [4, 5, 10]
    a, b, c, here = (run_digest([i]) for i in range(4))
    synthetic = quire.ContextKind.SYNTHETIC

    def rank(kind: quire.ContextKind, lead: tuple[bytes, ...]) -> float:
        return policy.rank_candidate(VariantCandidate(kind, lead=lead, before=(here, c, a)))

    assert rank(synthetic, (a, c)) == 0
    assert rank(synthetic, (a, b)) == 0.25
    assert rank(synthetic, (b,)) == 0.5
    assert rank(quire.ContextKind.FIXED_PREFIX, (here,)) == 1
    assert rank(quire.ContextKind.ISOLATED, ()) == 2
    assert rank(quire.ContextKind.DUMMY_SINK, ()) == float("inf")


def test_a_combination_stays_within_its_budget() -> None:
    # Means: 3 .1, 4 .3, 5 .2, 10 .5, 12 .2.
    assert choose(parse_policy("epic:1")) == [3, 10]
    assert choose(parse_policy("query:0.4")) == [4, 5, 10, 12]
    # ceil(.4 x 9) = 4 rows in all: both heads, then the best two of the others.
    assert choose(parse_policy("epic:1+query:0.4")) == [3, 4, 5, 10]
    assert choose(parse_policy("query:0.4+epic:1")) == [3, 4, 5, 10]
    # Heads alone are more than the budget.
    assert choose(parse_policy("epic:2+query:0.1")) == [3, 4, 10, 11]
    assert choose(parse_policy("epic:2+pie:1")) == [3, 4, 10, 11]


def test_scored_parts_fill_their_shares_in_turn() -> None:
    given = given_mass({0: ONE, 3: TWO})
    policy = parse_policy("query:0.2@0+query:0.2@3")
    assert policy.needs(make_shape()).question_layers(make_shape()) == (0, 3)
    # Layer 0 takes 4 and 10; of what is left layer 3 takes 5 and 12.
    assert choose(policy, given) == [4, 5, 10, 12]
    assert choose(parse_policy("query:0.2@3+query:0.2@0"), given) == [4, 5, 10, 12]
    # By layer 3 10 and 5 (5 before 12), then 4 and 12 by layer 0.
    assert choose(parse_policy("query:0.2@3+query:0.1@0"), given) == [4, 5, 10]


def test_a_probing_part_shares_the_budget() -> None:
    policy = parse_policy("epic:1+cacheblend-v:0.4")
    needs = policy.needs(make_shape())
    assert needs.probe_layers == needs.needs_old_values_at == (1,) and not needs.static_rows
    given = given_mass()
    assert choose(policy, given) == REUSABLE
    assert given.notes["union.0"].tolist() == [3, 10]
    old, new = torch.zeros(1, 9, 1), torch.zeros(1, 9, 1)
    new[0, :, 0] = torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7, 8])
    view = layer_view(1, REUSABLE, new, old, notes=given.notes)
    assert policy.on_layer(view).tolist() == [3, 10, 12, 13]
    three = parse_policy("epic:1+query:0.2+cacheblend-v:0.2")
    given = given_mass({0: ONE, 1: TWO, 2: ONE, 3: TWO})
    assert choose(three, given) == REUSABLE
    # Heads are the question's budget already; two more by deviation.
    view = layer_view(1, REUSABLE, new, old, notes=given.notes)
    assert three.on_layer(view).tolist() == [3, 10, 12, 13]


def test_parts_that_filter_are_intersected_with_what_they_hold() -> None:
    class Late(Epic):
        """Drops its rows at layer 2, but for the first."""

        def needs(self, shape: object) -> object:
            from quire.transformers.policies import PolicyNeeds

            return PolicyNeeds(probe_layers=(2,))

        def on_layer(self, view: object) -> np.ndarray:
            return view.rows[:1]

    policy = Union([Late(2), parse_policy("random:0.2:1")])
    given = given_mass()
    chosen = choose(policy, given)
    other = choose(parse_policy("random:0.2:1"))
    assert chosen == sorted({3, 4, 10, 11} | set(other))
    zero = torch.zeros(1, len(chosen), 1)
    kept = policy.on_layer(layer_view(2, chosen, zero, zero, notes=given.notes)).tolist()
    assert kept == sorted(({3, 4, 10, 11} & {chosen[0]}) | set(other))


def test_combined_variants_and_limits() -> None:
    policy = parse_policy("link0+query:0.1")
    assert policy.rank(quire.ContextKind.ISOLATED, None) == float("inf")
    assert policy.rank_candidate(VariantCandidate(quire.ContextKind.ISOLATED)) == float("inf")
    assert policy.rank_candidate(VariantCandidate(quire.ContextKind.DUMMY_SINK)) == 0
    with pytest.raises(quire.InvalidArgument, match="parts"):
        parse_policy("+".join(["epic:1"] * 9))
    with pytest.raises(quire.InvalidArgument):
        parse_policy("epic:1+" * 200)


@pytest.mark.parametrize(
    "name",
    [
        "query:0.15@1,3", "prophetkv:0.2", "fusionrag:0.15", "cacheblend-gradual:0.15",
        "cacheblend-gradual:0.15,1.2", "kvshare:0.15", "kvshare:0.15,3", "psr:0.15,0.9,0.8", "ape:0.9,0.9",
        "pie:4", "cachecraft:1", "cachecraft:0.5,12", "relay:3", "relay:3,20", "epic:8+query:0.1",
        "least-cfo/query:0.15", "neighbours/fusionrag:0.15+epic:4", "query-value:0.15",
    ],
)  # fmt: skip
def test_names_round_trip(name: str) -> None:
    assert parse_policy(name).name == name


def test_short_names() -> None:
    assert [parse_policy(name).name for name in ("ape", "pie", "cachecraft", "psr:0.15")] == [
        "ape:0.9,0.9",
        "pie:0",
        "cachecraft:1",
        "psr:0.15,0.9,0.9",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "kvshare", "kvshare:0.1,-1", "kvshare:0.1,1,1", "ape:0.9,1,1", "ape:0,1", "ape:nan,1", "pie:-1", "pie:x",
        "cachecraft:-1", "cachecraft:1,-2", "cachecraft:nan", "relay:", "relay:0", "relay:3,3", "psr:2", "+",
        "epic:8+", "epic:8++query:0.1", "least-cfo/", "best/query:0.1", "cacheblend-gradual:0.1,9", "prophetkv:-1",
    ],
)  # fmt: skip
def test_what_is_no_policy(text: str) -> None:
    with pytest.raises(quire.InvalidArgument):
        parse_policy(text)


def test_no_chunks_no_rows() -> None:
    plan = make_plan().keeping(lambda segment: segment.kind == quire.SegmentKind.PREFIX)
    given = PolicyInput(plan, make_shape())
    for name in ("query:0.2", "prophetkv:0.2", "fusionrag:0.2", "epic:2+query:0.1", "cachecraft", "pie:3"):
        assert choose(parse_policy(name), given) == []
