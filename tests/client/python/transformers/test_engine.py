"""Prefill under policies, continuation, generation, refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import quire
import torch
from quire.transformers import (
    ChunkKv,
    Engine,
    KvState,
    ModelUnsupported,
    ReusePlan,
    RopeCannotMove,
    behind_prefix,
    extend,
    force,
    generate,
    in_context,
    plan_of_parts,
)
from quire.transformers.gates import GateInput, random_input
from quire.transformers.policies import (
    DecodeView,
    Fixup,
    FullReuse,
    LayerView,
    PolicyInput,
    PolicyNeeds,
    RowPolicy,
    Rows,
    parse_policy,
)
from quire.transformers.shape import ModelShape
from quire.transformers.tiny import tiny_model

SEED = 9
TINY = ["llama", "qwen2", "gemma3"]


def reuse_plan(engine: Engine, given: GateInput) -> ReusePlan:
    """Prefix exact, chunks computed behind it."""
    prefix = engine.capture(given.prefix, in_context(()))
    chunks = [engine.capture(chunk, behind_prefix(given.prefix)) for chunk in given.chunks]
    return plan_of_parts([*chunks, given.question], prefix=prefix)


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    a, b = p.log_softmax(-1), q.log_softmax(-1)
    return float((a.exp() * (a - b)).sum())


@pytest.mark.parametrize("kind", TINY)
def test_budgets_end_at_the_full_prefill(tiny: Callable[[str], Engine], kind: str) -> None:
    engine = tiny(kind)
    given = random_input(engine, seed=SEED)
    plan = reuse_plan(engine, given)
    full = engine.prefill(given.tokens)
    reused = engine.prefill(plan=plan, policy=FullReuse())
    assert reused.charge.total == 0
    assert not reused.state.exact
    assert kl(full.logits, reused.logits) > 1e-3  # else the rest of this test shows nothing
    for name in ("full", "prefix", "epic:999", "query:1", "query-last:1", "random:1", "cacheblend-v:1"):
        done = engine.prefill(plan=plan, policy=parse_policy(name))
        assert float((done.logits - full.logits).abs().max()) < 1e-3, name
        assert done.charge.rows == 1.0, name
        assert done.state.exact, name
        assert done.state.reused.numel() == 0


@pytest.mark.parametrize("kind", TINY)
def test_rows_and_charges_of_policies(tiny: Callable[[str], Engine], kind: str) -> None:
    engine = tiny(kind)
    plan = reuse_plan(engine, random_input(engine, seed=SEED))
    n, layers = len(plan.reusable), engine.shape.n_layers
    epic = engine.prefill(plan=plan, policy=parse_policy("epic:4"))
    assert epic.charge.rows == pytest.approx(12 / n)
    blend = engine.prefill(plan=plan, policy=parse_policy("cacheblend-v:0.2,3=0.1"))
    inside = [int(np.isin(rows, plan.reusable).sum()) for rows in blend.rows_by_layer]
    few, fewer = int(np.ceil(0.2 * n)), int(np.ceil(0.1 * n))
    assert inside == [n, n, few, few, fewer, fewer] or inside == [n, n, few, few] + [fewer] * 2
    assert blend.charge.rows == pytest.approx(sum(inside) / (layers * n))
    query = engine.prefill(plan=plan, policy=parse_policy("query:0.15"))
    assert query.charge.rows == pytest.approx(np.ceil(0.15 * n) / n)
    passed = engine.shape.full_layers[-1] + 1  # no further than the last layer that is asked for
    assert query.charge.question == pytest.approx(passed * len(plan.fresh) / (layers * n))
    assert query.charge.total == query.charge.rows + query.charge.question
    assert set(query.question_mass) == set(engine.shape.full_layers)
    for rows in query.rows_by_layer:
        assert set(plan.fresh) <= set(rows)


def test_stored_kv_is_never_written(llama: Engine) -> None:
    given = random_input(llama, seed=SEED)
    chunks = [llama.capture(chunk) for chunk in given.chunks]
    before = [plane.clone() for chunk in chunks for plane in (*chunk.keys, *chunk.values)]
    base = llama.prefill(given.tokens).state
    held = [plane.clone() for plane in (*base.keys, *base.values)]
    plan = plan_of_parts([given.prefix, *chunks, given.question])
    for name in ("query:0.3", "cacheblend-k:0.3", "epic:4"):
        llama.prefill(plan=plan, policy=parse_policy(name))
    extend(llama, base.fork(), [1, 2, 3])
    after = [plane for chunk in chunks for plane in (*chunk.keys, *chunk.values)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(held, (*base.keys, *base.values), strict=True))


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma3"])
def test_generation_equals_the_models_own(tiny: Callable[[str], Engine], kind: str) -> None:
    engine = tiny(kind)
    prompt = random_input(engine, seed=SEED).tokens
    start = engine.prefill(prompt)
    done = generate(engine, start, 12)
    wanted = engine.hf_model.generate(
        engine.tensor(prompt)[None], max_new_tokens=12, do_sample=False, eos_token_id=-1, pad_token_id=0
    )[0, len(prompt) :].tolist()
    assert done.tokens == wanted
    logits = force(engine, start, done.tokens)
    assert logits.argmax(dim=-1).tolist() == done.tokens
    whole = engine.model_logits(np.concatenate([prompt, done.tokens]))[len(prompt) - 1 : -1]
    assert float((logits - whole).abs().max()) < 1e-3
    stopped = generate(engine, start, 12, stop=[done.tokens[5]])
    assert stopped.tokens == done.tokens[: done.tokens.index(done.tokens[5])]


@pytest.mark.parametrize("kind", TINY)
def test_only_relative_positions_count(tiny: Callable[[str], Engine], kind: str) -> None:
    engine = tiny(kind)
    plan = reuse_plan(engine, random_input(engine, seed=SEED))
    shifted = replace(plan, segments=tuple(replace(s, position=s.token_begin + 100) for s in plan.segments))
    close = replace(plan, segments=tuple(replace(s, position=s.token_begin // 2) for s in plan.segments))
    for name in ("reuse", "query:0.2", "cacheblend-v:0.2"):
        policy = parse_policy(name)
        here, there, near = (engine.prefill(plan=p, policy=policy) for p in (plan, shifted, close))
        assert float((here.logits - there.logits).abs().max()) < 1e-3
        assert float((here.logits - near.logits).abs().max()) > 1e-2
        assert int(there.state.positions[0]) == 100
    more = [generate(engine, start, 4).tokens for start in (here, there)]
    assert more[0] == more[1]


def test_sampling_follows_the_seed(llama: Engine) -> None:
    start = llama.prefill(random_input(llama, seed=SEED).tokens)
    runs = [generate(llama, start, 8, temperature=2.0, seed=seed).tokens for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    with pytest.raises(quire.ResourceExhausted):
        generate(llama, start, 0)
    with pytest.raises(quire.InvalidArgument):
        generate(llama, start, 1, temperature=-1)


class RefreshAll(RowPolicy):
    """Computes every stale row again at the first decode step."""

    name = "refresh-all"

    def needs(self, shape: ModelShape) -> PolicyNeeds:
        return PolicyNeeds(needs_decode_hook=True)

    def select_rows(self, given: PolicyInput) -> Rows:
        return np.empty(0, dtype=np.int64)

    def on_decode(self, view: DecodeView) -> Rows:
        return view.stale


@pytest.mark.parametrize("kind", TINY)
def test_a_decode_refresh_of_all_rows_is_a_full_prefill(tiny: Callable[[str], Engine], kind: str) -> None:
    engine = tiny(kind)
    given = random_input(engine, seed=SEED)
    plan, policy = reuse_plan(engine, given), RefreshAll()
    start = engine.prefill(plan=plan, policy=policy)
    done = generate(engine, start, 6, policy=policy)
    assert done.refreshed == len(plan.reusable) and done.state.reused.numel() == 0
    # The question was computed over stale rows and stays so; refresh it too by hand.
    state = done.state
    engine.run(state, torch.arange(given.question_begin, state.n_cells))
    oracle = engine.prefill(np.concatenate([given.tokens, done.tokens[:-1]])).state
    for layer in range(engine.shape.n_layers):
        difference = state.keys[layer][:, : state.n_cells] - oracle.keys[layer]
        assert float(difference.abs().max()) < 1e-3


class Probing(RowPolicy):
    """Returns what it is told to; records what it saw."""

    name = "probing"

    def __init__(self, first: Sequence[int], later: Sequence[int] | None, late: bool = False) -> None:
        self.first, self.later, self.late = first, later, late
        self.seen: list[LayerView] = []

    def needs(self, shape: ModelShape) -> PolicyNeeds:
        return PolicyNeeds(
            probe_layers=(2,),
            needs_old_keys_at=(2,),
            needs_column_sums=(2,) if self.late else (),
        )

    def select_rows(self, given: PolicyInput) -> Rows:
        return np.array(self.first, dtype=np.int64)

    def on_layer(self, view: LayerView) -> Rows | None:
        self.seen.append(view)
        return None if self.later is None else np.array(self.later, dtype=np.int64)


@pytest.mark.parametrize("late", [False, True])
def test_what_a_probe_sees(tiny: Callable[[str], Engine], late: bool) -> None:
    engine = tiny("gemma3")
    plan = reuse_plan(engine, random_input(engine, seed=SEED))
    rows = plan.reusable[::3]
    policy = Probing(rows, rows[::2], late)
    done = engine.prefill(plan=plan, policy=policy)
    (seen,) = policy.seen
    assert seen.layer == 2 and seen.rows.tolist() == rows.tolist()
    assert seen.keys.shape[1] == len(rows) and seen.old_values is None and seen.old_keys is not None
    assert not torch.equal(seen.keys, seen.old_keys)
    counts = [len(r) - len(plan.fresh) for r in done.rows_by_layer]
    assert counts == [len(rows)] * 3 + [len(rows[::2])] * 3
    if late:
        assert seen.column_mass is not None and seen.question_mass is not None
        computed = len(rows) + len(plan.fresh)
        assert float(seen.column_mass.sum()) == pytest.approx(computed, rel=1e-4)
        assert float(seen.question_mass.sum()) == pytest.approx(9, rel=1e-4)
    else:
        assert seen.column_mass is None


@pytest.mark.parametrize(
    ("first", "later"),
    [([0], None), ([20, 12], None), ([12, 12], None), ([10**6], None), ([12, 20], [12, 21]), ([12], [20])],
)
def test_rows_that_break_the_rules(llama: Engine, first: list[int], later: list[int] | None) -> None:
    plan = reuse_plan(llama, random_input(llama, seed=SEED))
    with pytest.raises(quire.InvalidArgument, match="rows"):
        llama.prefill(plan=plan, policy=Probing(first, later))


def test_layers_that_the_model_has_not(llama: Engine) -> None:
    plan = reuse_plan(llama, random_input(llama, seed=SEED))
    for text in ("query:0.1@2,99", "relay:99", "cachecraft:1,99"):
        with pytest.raises(quire.InvalidArgument, match="the model has 6 layers"):
            llama.prefill(plan=plan, policy=parse_policy(text))


class WithFixup(FullReuse):
    def __init__(self, change: Fixup) -> None:
        self.change = change

    def fixup(self, given: PolicyInput) -> Fixup:
        return self.change


def test_fixups_reach_cache_and_logits(llama: Engine) -> None:
    given = random_input(llama, seed=SEED)
    full = llama.prefill(given.tokens)
    plan = reuse_plan(llama, given)

    class Deltas(Fixup):
        """Adds what the cache lacks, as a delta variant would: the full prefill comes back."""

        def on_layer(
            self, layer: int, keys: torch.Tensor, values: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            n = given.question_begin
            return (
                torch.cat([full.state.keys[layer][:, :n], keys[:, n:]], dim=1),
                torch.cat([full.state.values[layer][:, :n], values[:, n:]], dim=1),
            )

    fixed = llama.prefill(plan=plan, policy=WithFixup(Deltas()))
    assert float((fixed.logits - full.logits).abs().max()) < 1e-3

    class Blind(Fixup):
        """Hides the chunks: as if they were not in the prompt, but for positions."""

        def on_logits(
            self, layer: int, logits: torch.Tensor, rows: torch.Tensor, cell_begin: int
        ) -> torch.Tensor:
            hidden = torch.from_numpy(plan.reusable)
            logits[:, :, hidden - cell_begin] = float("-inf")
            return logits

    blind = llama.prefill(plan=plan, policy=WithFixup(Blind()))
    plain = llama.prefill(plan=plan, policy=FullReuse())
    assert float((blind.logits - plain.logits).abs().max()) > 1e-2


def test_ropes_that_cannot_move(tiny: Callable[[str], Engine]) -> None:
    engine = tiny("llama-dynamic")
    given = random_input(engine, seed=SEED)
    chunk = engine.capture(given.chunks[0])
    plan = plan_of_parts([given.prefix, chunk, given.question])
    with pytest.raises(RopeCannotMove, match="dynamic NTK"):
        engine.prefill(plan=plan, policy=FullReuse())
    # Policies that do not use the chunk are served.
    assert engine.prefill(plan=plan, policy=parse_policy("prefix")).charge.rows == 1
    long = np.resize(given.tokens, engine.shape.same_set_tokens + 40)
    prefix = engine.capture(long[:50], in_context(()))
    ok = plan_of_parts([long[50:100]], prefix=prefix)
    full = engine.prefill(long[:100])
    served = engine.prefill(plan=ok, policy=parse_policy("prefix"))
    assert float((served.logits - full.logits).abs().max()) < 1e-3
    with pytest.raises(RopeCannotMove, match="up to 128 tokens"):
        engine.prefill(plan=plan_of_parts([long[50:]], prefix=prefix), policy=parse_policy("prefix"))
    theirs = engine.model_logits(long)[-1]
    assert float((engine.prefill(long).logits - theirs).abs().max()) < 1e-3


def test_models_that_are_not_understood() -> None:
    model = tiny_model("llama")
    # A layer that does more than its parts say.
    model.model.layers[2].mlp.register_forward_hook(lambda module, given, out: out * 1.1)
    Engine(model)  # hooks of modules are the model's, too
    inner = type(model.model.layers[3]).forward
    model.model.layers[3].forward = lambda *a, **k: 1.1 * inner(model.model.layers[3], *a, **k)
    with pytest.raises(ModelUnsupported, match="differs"):
        Engine(model)
    with pytest.raises(ModelUnsupported):
        from transformers import GPT2Config, GPT2LMHeadModel

        Engine(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=20)))


def test_latent_attention_is_refused() -> None:
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    config = DeepseekV3Config(
        vocab_size=64, hidden_size=32, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, n_routed_experts=4, num_experts_per_tok=2, n_group=2,
        topk_group=1, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=8, v_head_dim=8, qk_nope_head_dim=8,
        first_k_dense_replace=2, max_position_embeddings=64,
    )  # fmt: skip
    with pytest.raises(ModelUnsupported, match="latent"):
        Engine(DeepseekV3ForCausalLM(config))


def test_bad_input(llama: Engine) -> None:
    given = random_input(llama, seed=SEED)
    with pytest.raises(quire.InvalidArgument, match="vocabulary"):
        llama.prefill([1, 2, 10**6])
    with pytest.raises(quire.InvalidArgument, match="empty"):
        llama.prefill([])
    with pytest.raises(quire.InvalidArgument, match="empty"):
        llama.capture([])
    chunk = llama.capture(given.chunks[0])
    broken = [plane.clone() for plane in chunk.keys]
    broken[2][0, 3, 1] = float("nan")
    with pytest.raises(quire.NonFinite):
        ChunkKv(chunk.tokens, tuple(broken), chunk.values)
    with pytest.raises(quire.InvalidArgument, match="tokens"):
        ChunkKv(chunk.tokens[:-1], chunk.keys, chunk.values)
    plan = plan_of_parts([chunk, given.question])
    with pytest.raises(quire.InvalidArgument, match="policy"):
        llama.prefill(plan=plan)
    approximate = llama.prefill(plan=plan_of_parts([given.prefix, chunk, given.question]), policy=FullReuse())
    again = KvState.over(llama.shape, approximate.state.tokens, approximate.state.as_old(), llama.dtype)
    for state in (approximate.state, approximate.state.fork(), again):
        with pytest.raises(quire.FailedPrecondition, match="exact"):
            llama.capture(given.chunks[1], in_context(approximate.state.tokens), lead=state)


def test_capture_behind_a_ready_prefix(llama: Engine) -> None:
    given = random_input(llama, seed=SEED)
    recipe = behind_prefix(given.prefix)
    plain = llama.capture(given.chunks[0], recipe)
    lead = llama.prefill(given.prefix).state
    for _ in range(2):  # the lead may be used again
        quick = llama.capture(given.chunks[0], recipe, lead=lead)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain.keys, quick.keys, strict=True))
    assert lead.n_cells == len(given.prefix)
    assert plain.context.kind == quire.ContextKind.FIXED_PREFIX
    assert plain.context.reference == quire.ids.prefix_digest(llama.model_id, given.prefix)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    engine = Engine(tiny_model("qwen2").to(dtype), angles="engine")
    given = random_input(engine, seed=SEED)
    own, theirs = engine.all_logits(given.tokens), engine.model_logits(given.tokens)
    assert np.mean([kl(p, q) for p, q in zip(theirs, own, strict=True)]) < 0.05
    plan = reuse_plan(engine, given)
    done = engine.prefill(plan=plan, policy=parse_policy("query:0.3"))
    assert bool(torch.isfinite(done.logits).all()) and done.state.keys[0].dtype == dtype
