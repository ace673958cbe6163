"""KVCOMM: deltas of anchors on top of what is kept."""

from __future__ import annotations

from collections.abc import Callable
from math import exp

import numpy as np
import pytest
import quire
import torch
from policy_examples import REUSABLE, Source, kl, make_plan, make_shape
from quire.transformers import ChunkKv, Engine, OldKv, in_context, isolated, plan_of_parts
from quire.transformers.gates import random_input
from quire.transformers.policies import Anchor, AnchorPool, FullReuse, KvComm, PolicyInput, parse_policy
from quire.transformers.policies.kvcomm import ANCHORS_MAX, is_new, weights_of
from quire.transformers.policies.union import Union

SEED = 13


def test_who_is_like_an_anchor() -> None:
    # Two equally far: one bit of doubt, more than .3 x log2 2.
    assert is_new(torch.tensor([3.0, 3.0]))
    # exp(-3) / (1 + exp(-3)) = .0474: .275 bits.
    assert weights_of(torch.tensor([0.0, 3.0]))[1] == pytest.approx(exp(-3) / (1 + exp(-3)))
    assert not is_new(torch.tensor([0.0, 3.0]))
    assert is_new(torch.tensor([0.0, 2.5]))  # .3868 bits
    # Four anchors may leave .6 bits.
    assert not is_new(torch.tensor([0.0, 4, 4, 4])) and is_new(torch.tensor([0.0, 2, 2, 2]))
    assert not is_new(torch.tensor([7.0]))


def chunk(values: list[float], keys: list[float], layers: int = 2) -> ChunkKv:
    """One head; a token's KV is its number in the first dim of every layer."""
    planes = []
    for numbers in (keys, values):
        plane = torch.zeros(1, len(numbers), 4)
        plane[0, :, 0] = torch.tensor(numbers)
        planes.append((plane,) * layers)
    return ChunkKv(np.arange(len(values), dtype=np.uint32), *planes)


def test_deltas_by_hand() -> None:
    # Both anchors' base V is the text's, so that it is like them; K tells them apart.
    near = Anchor(chunk([1.0] * 5, [1.0] * 5), chunk([3.0] * 5, [1.5] * 5))
    far = Anchor(chunk([9.0] * 5, [5.0] * 5), chunk([9.0] * 5, [9.0] * 5))
    pool = AnchorPool()
    pool.add(near)
    pool.add(far)
    shape = make_shape((0, 0))
    plan = make_plan([Source(make_plan().tokens[3:8]), None])
    zero = tuple(torch.zeros(1, 17, 4) for _ in range(2))
    values = tuple(plane.clone() for plane in zero)
    for plane in values:
        plane[0, 3:14, 0] = 1.0
    given = PolicyInput(plan, shape, old=OldKv(zero, values, torch.ones(17, dtype=torch.bool)))
    policy = KvComm(pool)
    assert policy.select_rows(given).tolist() == []
    assert near.uses == far.uses == 2
    fixup = policy.fixup(given)
    assert fixup is not None
    keys = zero[1].clone()
    keys[0, 5, 0] = 2.0  # computed again meanwhile: it gets nothing
    new_keys, new_values = fixup.on_layer(1, keys, values[1])
    # K of the text is 0 everywhere: distances 1 / 4 and 5 / 4 in the mean over four dims.
    w = exp(-0.25) / (exp(-0.25) + exp(-1.25))
    assert new_values[0, 3, 0].item() == pytest.approx(1.0 + w * 2.0, abs=1e-5)
    delta = w * 0.5 + (1 - w) * 4.0
    # Turned to position 3 by one radian a position: x stays with cos, goes to dim 2 with sin.
    assert new_keys[0, 3, 0].item() == pytest.approx(delta * np.cos(3.0), abs=1e-5)
    assert new_keys[0, 3, 2].item() == pytest.approx(delta * np.sin(3.0), abs=1e-5)
    assert new_keys[0, 5].tolist() == [2.0, 0, 0, 0] and new_values[0, 5, 0] == 1.0
    assert torch.equal(keys[0, 3], zero[1][0, 3]), "what was given is not written"
    outside = [0, 1, 2, 8, 9, 14, 15, 16]
    assert not new_keys[0, outside].any() and torch.equal(new_values[0, outside], values[1][0, outside])
    first = fixup.on_layer(0, keys, values[0])
    assert first[0] is keys and first[1] is values[0]


def test_without_anchors_all_is_computed() -> None:
    old = OldKv((torch.zeros(1, 17, 4),), (torch.zeros(1, 17, 4),), torch.ones(17, dtype=torch.bool))
    given = PolicyInput(make_plan(), make_shape((0,)), old=old)
    pool = AnchorPool()
    assert KvComm(pool).select_rows(given).tolist() == REUSABLE
    assert KvComm(pool).fixup(given) is None
    pool.add(Anchor(chunk([0.0] * 4, [0.0] * 4, 1), chunk([1.0] * 4, [0.0] * 4, 1)))
    # Long enough for the second chunk alone.
    assert KvComm(pool).select_rows(given).tolist() == [3, 4, 5, 6, 7]
    with pytest.raises(quire.InvalidArgument, match="one text"):
        Anchor(chunk([0.0], [0.0]), chunk([0.0, 1.0], [0.0, 1.0]))


def test_the_pool_makes_room() -> None:
    pool = AnchorPool()
    anchors = [Anchor(chunk([float(i)], [0.0], 1), chunk([0.0], [0.0], 1)) for i in range(ANCHORS_MAX + 1)]
    for i, anchor in enumerate(anchors[:ANCHORS_MAX]):
        anchor.uses = 9 - i if i < 5 else 0
        pool.add(anchor)
    pool.add(anchors[-1])
    # The least used of the five oldest is the fifth; later ones with no use at all stay.
    assert anchors[4] not in pool.anchors and len(pool.anchors) == ANCHORS_MAX


@pytest.mark.parametrize("kind", ["llama", "llama-yarn", "gemma3"])
def test_an_anchor_of_the_same_text_in_the_same_place_is_exact(
    tiny: Callable[[str], Engine], kind: str
) -> None:
    engine = tiny(kind)
    given = random_input(engine, seed=SEED)
    base = engine.capture(given.chunks[0], isolated())
    real = engine.capture(given.chunks[0], in_context(given.prefix))
    pool = AnchorPool()
    pool.add(Anchor(base, real))
    prefix = engine.capture(given.prefix, in_context(()))
    plan = plan_of_parts([base, given.question], prefix=prefix)
    full = engine.prefill(plan.tokens)
    plain = engine.prefill(plan=plan, policy=FullReuse())
    assert kl(full.logits, plain.logits) > 1e-3
    done = engine.prefill(plan=plan, policy=KvComm(pool))
    assert float((done.logits - full.logits).abs().max()) < 1e-3
    assert done.charge.total == 0 and not done.state.exact
    # With rows of another policy: they are computed over corrected KV, and corrected no more.
    both = engine.prefill(plan=plan, policy=Union([KvComm(pool), parse_policy("cacheblend-v:0.4")]))
    assert float((both.logits - full.logits).abs().max()) < 1e-3
    assert all(torch.equal(a, b) for a, b in zip(base.keys, plan.chunks[0].source.keys, strict=True))
