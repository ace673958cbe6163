"""Every policy: an exact cache stays exact, all rows are a full prefill, stored KV is not written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from policy_examples import exact_plan, kl, reuse_plan
from quire.transformers import Engine, behind_dummies, generate, plan_of_parts
from quire.transformers.gates import random_input
from quire.transformers.policies import parse_policy

SEED = 41
# Those whose wanted variants a chunk computed in its place is one of, or that take any.
ANY_VARIANT = [
    "reuse", "epic:3", "random:0.3", "query:0.2", "query-last:0.2", "query:0.2@0,2", "prophetkv:0.2",
    "cacheblend-v:0.2", "cacheblend-k:0.2,3=0.1", "cacheblend-gradual:0.3", "kvshare:0.2", "kvshare:0.2,3",
    "pie:0", "pie:5", "cachecraft:1", "cachecraft:0.5,3", "relay:1", "relay:2,4", "epic:2+query:0.2",
    "epic:2+kvshare:0.3", "query:0.1+cacheblend-gradual:0.2", "kvshare:0.2+relay:2,4", "least-cfo/query:0.2",
    "neighbours/kvshare:0.2", "query-value:0.6", "query-value:0.1",
]  # fmt: skip
# Everything, by their own words.
ALL_ROWS = [
    "query:1@1,3", "prophetkv:1", "fusionrag:1", "cacheblend-gradual:1,1", "kvshare:1", "kvshare:1,2", "pie:999",
    "epic:1+kvshare:1", "pie:0+query:1", "query:0.5+query-last:0.5", "query-value:1",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_an_exact_cache_stays_exact(tiny: Callable[[str], Engine], kind: str) -> None:
    engine = tiny(kind)
    given = random_input(engine, seed=SEED)
    plan = exact_plan(engine, given)
    full = engine.prefill(given.tokens)
    for name in ANY_VARIANT:
        policy = parse_policy(name)
        done = engine.prefill(plan=plan, policy=policy)
        assert done.plan is not None and len(done.plan.chunks) == 3, name
        assert float((done.logits - full.logits).abs().max()) < 1e-3, name
        for layer in range(engine.shape.n_layers):
            for ours, theirs in ((done.state.keys, full.state.keys), (done.state.values, full.state.values)):
                assert float((ours[layer] - theirs[layer]).abs().max()) < 2e-3, (name, layer)
        assert generate(engine, done, 5, policy=policy).tokens == generate(engine, full, 5).tokens, name


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_all_rows_are_a_full_prefill(tiny: Callable[[str], Engine], kind: str) -> None:
    engine = tiny(kind)
    given = random_input(engine, seed=SEED)
    plan = reuse_plan(engine, given)
    full = engine.prefill(given.tokens)
    assert kl(full.logits, engine.prefill(plan=plan, policy=parse_policy("reuse")).logits) > 1e-3
    for name in ALL_ROWS:
        done = engine.prefill(plan=plan, policy=parse_policy(name))
        assert float((done.logits - full.logits).abs().max()) < 1e-3, name
        assert done.charge.rows == 1.0 and done.state.exact, name


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_rows_shrink_and_stored_kv_is_not_written(tiny: Callable[[str], Engine], kind: str) -> None:
    engine = tiny(kind)
    given = random_input(engine, seed=SEED)
    plan = reuse_plan(engine, given, stats=True)
    dummies = [engine.capture(chunk, behind_dummies([1, 1, 1, 1])) for chunk in given.chunks]
    behind = plan_of_parts([*dummies, given.question], prefix=plan.segments[0].source)
    sources = [s.source for s in (*plan.segments, *behind.segments) if s.source is not None]
    before = [plane.clone() for source in sources for plane in (*source.keys, *source.values)]
    for name in [*ANY_VARIANT, "ape:0.9,0.9", "fusionrag:0.2", "psr:0.2,0.9,0.9", "ape:0.9,0.9+query:0.2"]:
        policy = parse_policy(name)
        done = engine.prefill(plan=behind if name.startswith("psr") else plan, policy=policy)
        assert done.plan is not None and done.plan.chunks, name
        for more, less in zip(done.rows_by_layer, done.rows_by_layer[1:], strict=False):
            assert set(less.tolist()) <= set(more.tolist()), name
        assert not done.state.exact, name
        generate(engine, done, 3, policy=policy)
    after = [plane for source in sources for plane in (*source.keys, *source.values)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_budgets_are_kept(llama: Engine) -> None:
    plan = reuse_plan(llama, random_input(llama, seed=SEED), stats=True)
    n, layers = len(plan.reusable), llama.shape.n_layers
    for name, share in (("prophetkv:0.2", 0.2), ("fusionrag:0.15", 0.15), ("epic:2+query:0.2", 0.2)):
        done = llama.prefill(plan=plan, policy=parse_policy(name))
        assert done.charge.rows == pytest.approx(np.ceil(share * n) / n), name
    gradual = llama.prefill(plan=plan, policy=parse_policy("cacheblend-gradual:0.2"))
    inside = [int(np.isin(rows, plan.reusable).sum()) for rows in gradual.rows_by_layer]
    # Layers 0 and 1 in full, then .3, .2333, .1667 and .1: .2 in the mean.
    assert inside == [n, n, *(int(np.ceil(s * n - 1e-9)) for s in (0.3, 0.7 / 3, 0.5 / 3, 0.1))]
    both = llama.prefill(plan=plan, policy=parse_policy("epic:2+kvshare:0.2"))
    inside = [int(np.isin(rows, plan.reusable).sum()) for rows in both.rows_by_layer]
    assert inside == [n, n, *[int(np.ceil(0.2 * n))] * (layers - 2)]
