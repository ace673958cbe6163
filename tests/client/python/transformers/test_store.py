"""Chunks through the store: identities, codecs, plans over leases, whose answers stay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import quire
import torch
from quire import ContextKind, PositionFrame
from quire.transformers import (
    Engine,
    RopeCannotMove,
    StoredKv,
    behind_dummies,
    behind_neighbours,
    behind_prefix,
    in_context,
    isolated,
    pack,
    plan_from_store,
    plan_of_parts,
    put,
)
from quire.transformers.gates import random_input
from quire.transformers.policies import FullReuse, parse_policy
from quire.transformers.store import PLAN_TRIES_MAX
from support import run_server

SEED = 21
CODECS = {
    "raw-f32": 1e-4,
    "raw-f16": 0.05,
    "int8-channel": 0.2,
    "fp8-token": 20.0,
    "int4-channel64": 20.0,
}


@pytest.mark.parametrize("kind", ["llama", "gemma3", "llama-yarn"])
@pytest.mark.parametrize("frame", list(PositionFrame))
def test_memory_and_store_agree(tiny: Callable[[str], Engine], kind: str, frame: PositionFrame) -> None:
    engine = tiny(kind)
    given = random_input(engine, seed=SEED)
    chunk = engine.capture(given.chunks[0], behind_prefix(given.prefix))
    stored = StoredKv(pack(engine, chunk, codec="raw-f32", frame=frame).data, engine.model)
    results = [
        engine.prefill(plan=plan_of_parts([given.tokens[:50], part, given.question]), policy=FullReuse())
        for part in (chunk, stored)
    ]
    assert float((results[0].logits - results[1].logits).abs().max()) < 1e-4


@pytest.mark.parametrize("codec", CODECS)
def test_any_codec(llama: Engine, codec: str) -> None:
    given = random_input(llama, seed=SEED)
    chunks = [llama.capture(chunk) for chunk in given.chunks]
    stored = [StoredKv(pack(llama, chunk, codec=codec).data, llama.model) for chunk in chunks]
    reused = [
        llama.prefill(plan=plan_of_parts([given.prefix, *parts, given.question]), policy=FullReuse())
        for parts in (chunks, stored)
    ]
    assert float((reused[0].logits - reused[1].logits).abs().max()) < CODECS[codec]
    assert stored[0].lossless == codec.startswith("raw")
    with pytest.raises(quire.QuireError):
        pack(llama, chunks[0], codec="no-such-codec")


def test_recipes_have_identities(llama: Engine) -> None:
    given = random_input(llama, seed=SEED)
    chunk, model = given.chunks[0], llama.model_id
    object_ = quire.ids.object_id(model, chunk)
    before = tuple(quire.ids.object_id(model, run) for run in (given.prefix, given.chunks[1]))
    dummies = [1, 1, 1, 1]
    wanted = {
        ContextKind.ISOLATED: (isolated(), quire.Context()),
        ContextKind.FIXED_PREFIX: (
            behind_prefix(given.prefix),
            quire.Context(ContextKind.FIXED_PREFIX, reference=quire.ids.prefix_digest(model, given.prefix)),
        ),
        ContextKind.DUMMY_SINK: (
            behind_dummies(dummies),
            quire.Context(ContextKind.DUMMY_SINK, dummy_tokens=(1, 1, 1, 1), dropped_tokens=4),
        ),
        ContextKind.SYNTHETIC: (
            behind_neighbours([given.chunks[1]], given.prefix),
            quire.Context(ContextKind.SYNTHETIC, neighbours=before),
        ),
    }
    keys = []
    for kind, (recipe, context) in wanted.items():
        captured = llama.capture(chunk, recipe)
        info = quire.describe(pack(llama, captured).data)
        assert (info.model, info.object) == (model, object_)
        assert info.variant == quire.ids.variant_id(object_, context)
        assert info.context_kind == kind == captured.context_kind
        assert info.base_position == captured.base_position == len(recipe.lead)
        keys.append(captured.keys)
    # The same text in another context has other keys, but not at layer 0.
    for other in keys[1:]:
        assert torch.allclose(keys[0][0], other[0], atol=1e-5)
        assert float((keys[0][3] - other[3]).abs().max()) > 1e-2
    with pytest.raises(quire.InvalidArgument):
        behind_dummies([])
    with pytest.raises(quire.InvalidArgument):
        behind_neighbours([])


def test_a_whole_round(llama: Engine, server: str) -> None:
    given = random_input(llama, n_chunk=48, seed=SEED)
    prefix_digest = quire.ids.prefix_digest(llama.model_id, given.prefix)
    with quire.connect(server) as client:
        client.register_model("tiny-llama", llama.model)
        for chunk in given.chunks:
            captured = llama.capture(chunk, behind_prefix(given.prefix), salt=client.salt)
            assert put(llama, client, captured, codec="raw-f32").stored
            assert not put(llama, client, captured, codec="raw-f32").stored
        memory = plan_of_parts(
            [
                given.prefix,
                *(llama.capture(chunk, behind_prefix(given.prefix)) for chunk in given.chunks),
                given.question,
            ]
        )
        for name in ("reuse", "query:0.2", "cacheblend-v:0.2", "epic:3", "full"):
            policy = parse_policy(name)
            wanted = llama.prefill(plan=memory, policy=policy)
            found = plan_from_store(
                llama, client, given.tokens, policy, question_tokens=9, fixed_prefixes=[prefix_digest]
            )
            with found as plan:
                n_loaded = 0 if name == "full" else sum(map(len, given.chunks))
                assert len(plan.reusable) == n_loaded
                assert plan.question_begin == given.question_begin
                done = llama.prefill(plan=plan, policy=policy)
            assert float((done.logits - wanted.logits).abs().max()) < 1e-3, name
        with plan_from_store(llama, client, given.tokens, parse_policy("link0"), question_tokens=9) as plan:
            assert len(plan.reusable) == 0  # stored behind a prefix: not its variant


def test_what_cannot_be_had_is_computed(llama: Engine, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = random_input(llama, n_chunk=48, seed=SEED)
    policy = parse_policy("reuse")
    tries = 0
    refusals = 1
    all_late = False

    def acquire_many(client: quire.Client, ids: list[bytes]) -> list[quire.Lease | quire.QuireError]:
        nonlocal tries
        tries += 1
        if all_late:
            raise quire.DeadlineExceeded("the server did not answer in time")
        leases = granted(client, ids)
        if tries > refusals:
            return leases
        leases[0].release()
        return [refusal("memory is full"), *leases[1:]]

    refusal: type[quire.QuireError] = quire.Busy
    granted = quire.Client.acquire_many
    monkeypatch.setattr(quire.Client, "acquire_many", acquire_many)
    with quire.connect(server) as client:
        client.register_model("tiny-llama", llama.model)
        # Three codecs of every chunk: what is refused has others behind it.
        for chunk in given.chunks:
            captured = llama.capture(chunk, behind_prefix(given.prefix), salt=client.salt)
            for codec in ("raw-f32", "raw-f16", "int8-channel"):
                put(llama, client, captured, codec=codec)
        n_loaded = sum(map(len, given.chunks))
        # The first id is refused: three times the first chunk's, then the second's, and what that
        # plan held is what remains.
        n_held = sum(map(len, given.chunks[2:]))
        assert n_held
        for refusals, n_reused, n_tries in (
            (0, n_loaded, 1),
            (1, n_loaded, 2),
            (PLAN_TRIES_MAX, n_held, PLAN_TRIES_MAX + 1),
            (100, 0, PLAN_TRIES_MAX + 1),
        ):
            tries = 0
            found = plan_from_store(llama, client, given.tokens, policy, question_tokens=9)
            assert [type(error) for error in found.lost.values()] == [quire.Busy] * min(refusals, n_tries)
            assert tries == n_tries
            with found as plan:
                assert len(plan.reusable) == n_reused
                assert torch.isfinite(llama.prefill(plan=plan, policy=policy).logits).all()
        # Nobody waits for a second deadline: what came by the first is reused, or nothing.
        tries, refusals, refusal = 0, 1, quire.DeadlineExceeded
        with plan_from_store(llama, client, given.tokens, policy, question_tokens=9) as plan:
            assert tries == 2 and len(plan.reusable) == n_loaded - len(given.chunks[0])
        tries, all_late = 0, True
        found = plan_from_store(llama, client, given.tokens, policy, question_tokens=9)
        assert tries == 1 and len(found.lost) == len(given.chunks) and not len(found.plan.reusable)
        found.close()


def test_bytes_whose_lease_has_ended_are_not_used(llama: Engine, server: str) -> None:
    given = random_input(llama, n_chunk=48, seed=SEED + 1)
    policy = parse_policy("query-value:0.15")
    with quire.connect(server) as client:
        client.register_model("tiny-llama", llama.model)
        for chunk in given.chunks:
            put(llama, client, llama.capture(chunk, behind_prefix(given.prefix), salt=client.salt))
        for statistics in (False, True):
            found = plan_from_store(
                llama, client, given.tokens, policy, question_tokens=9, statistics=statistics
            )
            assert len(found.plan.reusable)
            llama.prefill(plan=found.plan, policy=policy)
            found.close()
            with pytest.raises(quire.StaleLease):
                llama.prefill(plan=found.plan, policy=policy)


def test_a_store_that_cannot_look_is_done_without(
    llama: Engine, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = random_input(llama, n_chunk=48, seed=SEED)

    def resolve(*_: object, **__: object) -> list[quire.Match]:
        raise error

    monkeypatch.setattr(quire.Client, "resolve", resolve)
    with quire.connect(server) as client:
        for error in (
            quire.Busy("queues are full"),
            quire.DeadlineExceeded("too slow"),
            quire.Unavailable("gone"),
        ):
            found = plan_from_store(llama, client, given.tokens, parse_policy("reuse"), question_tokens=9)
            assert found.unresolved is error and not found.lost
            with found as plan:
                assert len(plan.fresh) == len(given.tokens)


def test_bound_variants_go_into_the_session_s_scope(llama: Engine, server: str) -> None:
    given = random_input(llama, n_chunk=48, seed=SEED + 2)
    policy = parse_policy("query-value:0.15")
    recipe = behind_neighbours(given.chunks[1:], given.prefix)
    with quire.connect(server, scope="agents") as client, quire.connect(server) as tenant:
        client.register_model("tiny-llama", llama.model)
        chunk = llama.capture(given.chunks[0], recipe, salt=client.salt)
        assert put(llama, client, chunk).stored
        wanted = len(given.chunks[0])
        for session, n_reused in ((client, wanted), (tenant, 0)):
            with plan_from_store(llama, session, given.tokens, policy, question_tokens=9) as plan:
                assert len(plan.reusable) == n_reused
        # Named with a salt that is not this tenant's, nobody would find it.
        with pytest.raises(quire.InvalidArgument, match=r"salt=client\.salt"):
            put(llama, client, llama.capture(given.chunks[0], recipe, salt=bytes(16)))
        assert put(llama, client, llama.capture(given.chunks[0], salt=bytes(16))).stored


def test_what_cannot_be_planned_keeps_no_lease(
    llama: Engine, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = random_input(llama, n_chunk=48, seed=SEED + 3)
    released: list[object] = []
    release = quire.Lease.release
    monkeypatch.setattr(quire.Lease, "release", lambda self: (released.append(self), release(self)))
    with quire.connect(server) as client:
        client.register_model("tiny-llama", llama.model)
        put(llama, client, llama.capture(given.chunks[0]))
        with pytest.raises(quire.InvalidArgument) as caught:
            plan_from_store(llama, client, given.tokens, parse_policy("reuse"), question_tokens=0)
        # Not by the garbage collector: the traceback keeps the frames.
        assert caught.tb is not None and released


def test_a_server_that_goes_fails_no_prompt(llama: Engine, tmp_path_factory: pytest.TempPathFactory) -> None:
    given = random_input(llama, n_chunk=48, seed=SEED)
    policy = parse_policy("query-value:0.15")
    running = run_server(tmp_path_factory)
    with quire.connect(next(running)) as client:
        client.register_model("tiny-llama", llama.model)
        for chunk in given.chunks:
            put(llama, client, llama.capture(chunk))
        found = plan_from_store(llama, client, given.tokens, policy, question_tokens=9)
        assert len(found.plan.reusable) == sum(map(len, given.chunks))
        next(running, None)
        with pytest.raises(quire.Unavailable):
            llama.prefill(plan=found.plan, policy=policy)
        found.close()
        found = plan_from_store(llama, client, given.tokens, policy, question_tokens=9)
        assert isinstance(found.unresolved, quire.Unavailable)
        with found as plan:
            done = llama.prefill(plan=plan, policy=policy)
        wanted = llama.prefill(given.tokens, policy=parse_policy("full"))
        assert float((done.logits - wanted.logits).abs().max()) < 1e-4


def test_the_store_is_not_asked_for_what_cannot_move(tiny: Callable[[str], Engine], server: str) -> None:
    engine = tiny("llama-dynamic")
    tokens = np.arange(100, dtype=np.uint32)
    policy = parse_policy("query:0.15")
    with quire.connect(server) as client:
        client.register_model("tiny-dynamic", engine.model)
        put(engine, client, engine.capture(tokens[:64], in_context(())), codec="raw-f32")
        put(engine, client, engine.capture(tokens[20:52]), codec="raw-f32")
        with pytest.raises(RopeCannotMove, match="exact prefixes"):
            plan_from_store(engine, client, tokens, policy, question_tokens=9, chunks=True)
        with plan_from_store(engine, client, tokens, policy, question_tokens=9) as plan:
            assert [s.kind for s in plan.segments] == [quire.SegmentKind.PREFIX, quire.SegmentKind.FRESH]
            served = engine.prefill(plan=plan, policy=policy)
        assert float((served.logits - engine.prefill(tokens).logits).abs().max()) < 1e-3
        assert served.state.exact
        long = np.resize(tokens, 300)
        with plan_from_store(engine, client, long, policy, question_tokens=9) as plan:
            assert len(plan.fresh) == 300


def test_kv_of_another_model_is_refused(tiny: Callable[[str], Engine], llama: Engine) -> None:
    given = random_input(llama, seed=SEED)
    data = pack(llama, llama.capture(given.chunks[0])).data
    other = StoredKv(data, tiny("qwen2").model)
    plan = plan_of_parts([given.prefix, other, given.question])
    with pytest.raises(quire.ModelMismatch):
        tiny("qwen2").prefill(plan=plan, policy=FullReuse())
    broken = data.copy()
    broken[-100] ^= 1
    plan = plan_of_parts([given.prefix, StoredKv(broken, llama.model), given.question])
    with pytest.raises(quire.QuireError):
        llama.prefill(plan=plan, policy=FullReuse())


def test_descriptors_are_shared(tiny: Callable[[str], Engine]) -> None:
    gemma = tiny("gemma3").model
    assert [layer.attention.name for layer in gemma.layers] == ["SLIDING_WINDOW", "FULL"] * 3
    assert [layer.window_tokens for layer in gemma.layers] == [16, 0] * 3
    # Bit for bit what an engine computes that knows base and dims alone.
    assert gemma.layers[0].inverse_frequencies == quire.rope_frequencies(16, 1e4)
    assert gemma.layers[1].inverse_frequencies == quire.rope_frequencies(16, 1e6)
    assert quire.Model.parse(gemma.encode()) == gemma
    yarn = tiny("llama-yarn").model.layers[0]
    assert yarn.attention_factor == pytest.approx(0.1 * np.log(4) + 1)
    assert tiny("phi3").model.layers[0].rotary_dims == 8
    assert tiny("llama-dynamic").model.layers[0].length_dependent
