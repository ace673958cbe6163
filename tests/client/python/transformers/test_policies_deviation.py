"""Policies that look at how far new KV is from old: KVShare, gradual CacheBlend, PSR, Relay."""

from __future__ import annotations

import numpy as np
import pytest
import quire
import torch
from policy_examples import REUSABLE, Source, given_mass, layer_view, make_plan, make_shape
from quire.transformers import ChunkStats
from quire.transformers.policies import (
    CacheBlendGradual,
    DecodeView,
    KvShare,
    LayerView,
    Psr,
    Relay,
    parse_policy,
)


def kvshare_view(notes: dict | None = None) -> LayerView:
    """Two dims; |dV|_1 of the nine rows: 3 1 0 4 .5 2 0 1 .25, in both signs."""
    old = torch.zeros(1, 9, 2)
    new = old.clone()
    new[0, :, 0] = torch.tensor([1.0, -1, 0, 2, 0.5, -1, 0, 0.5, 0])
    new[0, :, 1] = torch.tensor([-2.0, 0, 0, 2, 0, 1, 0, -0.5, 0.25])
    # What the cells receive: prefix and gap do not count.
    mass = [9.0, 9, 9, 1, 4, 9, 0.5, 2, 9, 9, 0.1, 3, 3, 8, 1, 1, 1]
    return layer_view(1, REUSABLE, new, old, column_mass=mass, notes=notes)


def test_kvshare_weighs_deviation_by_attention() -> None:
    policy = KvShare(0.3)
    needs = policy.needs(make_shape())
    assert needs.probe_layers == needs.needs_column_sums == needs.needs_old_values_at == (1,)
    assert not needs.needs_decode_hook
    assert policy.select_rows(given_mass()).tolist() == REUSABLE
    # Products: 3: 3, 4: 4, 5: 0, 6: 2, 7: 1, 10: .2, 11: 0, 12: 3, 13: 2; ceil(.3 x 9) = 3 rows, and
    # of the equal 3 and 12 both.
    assert policy.on_layer(kvshare_view()).tolist() == [3, 4, 12]
    # CacheBlend's squares on the same view: 3: 5, 4: 1, 6: 8, 10: 2.
    blend = parse_policy("cacheblend-v:0.3")
    assert blend.on_layer(kvshare_view()).tolist() == [3, 6, 10]


def test_kvshare_refreshes_while_decoding() -> None:
    policy = KvShare(0.1, refresh_per_step=2)
    assert policy.needs(make_shape()).needs_decode_hook
    notes: dict = {}
    assert policy.on_layer(kvshare_view(notes)).tolist() == [4]
    plan, stale = make_plan(), np.array([3, 5, 6, 7, 10, 11, 12, 13])
    seen = np.zeros(18, dtype=np.float32)
    seen[[3, 6, 7, 12, 13]] = [0.1, 0.05, 0.3, 0.3, 0.9]
    # attention x |dV|_1: 3: .3, 6: .2, 7: .15, 12: .3, 13: .225
    assert policy.on_decode(DecodeView(1, seen, stale, plan, notes)).tolist() == [3, 12]
    assert policy.on_decode(DecodeView(2, seen, np.array([6, 7, 13]), plan, notes)).tolist() == [6, 13]
    # Nobody has looked yet; nothing is left.
    assert policy.on_decode(DecodeView(0, seen, stale, plan, notes)).tolist() == []
    assert policy.on_decode(DecodeView(3, seen, stale[:0], plan, notes)).tolist() == []
    with pytest.raises(quire.InvalidArgument, match="prefilled"):
        policy.on_decode(DecodeView(1, seen, stale, plan, {}))


def test_gradual_shares_fall_around_their_mean() -> None:
    policy = CacheBlendGradual(0.2)
    five = make_shape((0,) * 5)
    shares = policy.shares(five)
    assert shares == pytest.approx({1: 0.3, 2: 0.2, 3: 0.1})  # what layers 2, 3, 4 compute
    assert policy.needs(five).probe_layers == policy.needs(five).needs_old_values_at == (1, 2, 3)
    assert CacheBlendGradual(0.2, top=1).shares(five) == pytest.approx({i: 0.2 for i in range(1, 4)})
    assert CacheBlendGradual(0.2).shares(make_shape((0,) * 3)) == pytest.approx({1: 0.2})
    assert max(CacheBlendGradual(0.9).shares(five).values()) == 1.0
    new, old = torch.zeros(1, 9, 2), torch.zeros(1, 9, 2)
    new[0, :, 0] = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8, 9])
    # ceil(.3 x 9) = 3, then ceil(.2 x 9) = 2 of what is left, then ceil(.1 x 9) = 1.
    kept = policy.on_layer(layer_view(1, REUSABLE, new, old, shape=five))
    assert kept.tolist() == [11, 12, 13]
    fewer = layer_view(2, [11, 12, 13], -new[:, 6:].flip(1), old[:, 6:], shape=five)
    assert policy.on_layer(fewer).tolist() == [11, 12]
    with pytest.raises(quire.InvalidArgument):
        CacheBlendGradual(0.2, top=2.5)


def test_psr_is_keys_behind_dummies_with_scaling() -> None:
    policy = Psr(0.2)
    assert policy.needs(make_shape()).needs_old_keys_at == (1,)
    assert policy.rank(quire.ContextKind.DUMMY_SINK, None) == 0
    assert policy.rank(quire.ContextKind.FIXED_PREFIX, None) == float("inf")
    assert policy.variant.dummy_tokens == 4
    new, old = torch.zeros(1, 9, 2), torch.zeros(1, 9, 2)
    new[0, :, 1] = torch.tensor([0.0, 0, 3, 0, 0, -5, 1, 0, 0])
    assert policy.on_layer(layer_view(1, REUSABLE, new, old, plane="k")).tolist() == [5, 10]
    assert policy.fixup(given_mass()) is not None
    assert Psr(0.2, 1, 1).fixup(given_mass()) is None
    with pytest.raises(quire.InvalidArgument, match="positive"):
        Psr(0.2, 0.0)


def test_relay_takes_deviation_influence_and_suffix() -> None:
    policy = Relay(2, 3)
    assert policy.needs(make_shape()).probe_layers == (2, 3)
    assert policy.needs(make_shape()).needs_old_values_at == (2,)
    # A chunk of 14 tokens, so that its last ten are not all; the second has four.
    n = 14
    tokens = np.arange(n + 4 + 1, dtype=np.uint32)
    received = torch.full((1, n), 1.0)
    received[0, 1] = 3.0  # mean 16 / 14 = 1.14; 1.45 times it: 1.66
    received[0, 3] = 1.6
    stats = ChunkStats(received, torch.ones(1, n), torch.ones(1, n, 1), (n,))
    chunk, other = quire.SegmentKind.CHUNK, quire.SegmentKind.FRESH
    from quire.transformers import PlanSegment, ReusePlan

    plan = ReusePlan(
        tokens,
        (
            PlanSegment(chunk, 0, n, Source(tokens[:n], stats=stats)),
            PlanSegment(chunk, n, 4, Source(tokens[n : n + 4])),
            PlanSegment(other, n + 4, 1),
        ),
        n + 4,
    )
    rows = list(range(18))
    old = torch.zeros(1, 18, 2)
    old[0, :, 0] = 1.0
    new = 5 * old  # a length is no deviation
    new[0, 0] = torch.tensor([0.0, 1.0])  # cosine 0: d = 1
    new[0, 2] = torch.tensor([-1.0, 0.0])  # cosine -1: d = 2; the mean is 3 / 18
    chosen = policy.on_layer(layer_view(2, rows, new, old, plan=plan)).tolist()
    assert chosen == [0, 1, 2, *range(4, 14), *range(14, 18)]
    assert policy.on_layer(layer_view(3, chosen, new[:, chosen], old[:, chosen], plan=plan)).tolist() == []
    assert (
        parse_policy("relay:2").on_layer(layer_view(2, rows[:0], new[:, :0], old[:, :0], plan=plan)).size == 0
    )
    for wrong in ((0, None), (2, 2)):
        with pytest.raises(quire.InvalidArgument):
            Relay(*wrong)
