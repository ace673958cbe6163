"""Variants of a chunk in the store, chosen by their stored statistics."""

from __future__ import annotations

import numpy as np
import pytest
import quire
from quire import ContextKind, statistics
from quire.statistics import Statistics, VectorType
from quire.transformers import (
    ChunkKv,
    Engine,
    behind_neighbours,
    behind_prefix,
    pack,
    plan_from_store,
    plan_of_parts,
    put,
)
from quire.transformers.gates import random_input
from quire.transformers.policies import parse_policy
from quire.transformers.policies.candidates import candidate_of, neighbours_missing
from quire.transformers.recipes import run_digest
from quire.transformers.stored_variants import chunk_stats, neighbours_of

SEED = 5


def stored_statistics(chunk: ChunkKv, n_layers: int) -> Statistics:
    """As quire-warm --stats writes them."""
    assert chunk.stats is not None
    n = chunk.stats.n_tokens
    received = chunk.stats.received_mass.numpy() / np.arange(n, 0, -1)
    vectors = {
        VectorType.RECEIVED: received,
        VectorType.INTER: chunk.stats.inter.numpy(),
        VectorType.INTER_OF_SEGMENT: chunk.stats.inter_by_run.numpy().T,
    }
    return Statistics(n, n_layers, chunk.stats.segments[:-1], vectors)


def put_both(engine: Engine, client: quire.Client, chunk: ChunkKv) -> None:
    assert put(engine, client, chunk, codec="raw-f32").stored
    found = stored_statistics(chunk, engine.shape.n_layers)
    packed = statistics.pack(engine.model, chunk.tokens, found, context=chunk.context, salt=client.salt)
    client.put(*packed)


def test_statistics_come_back(llama: Engine) -> None:
    given = random_input(llama, seed=SEED)
    recipe = behind_neighbours([given.chunks[1]], given.prefix)
    chunk = llama.capture(given.chunks[0], recipe, stats=True)
    assert chunk.stats is not None
    block = statistics.encode(stored_statistics(chunk, llama.shape.n_layers))
    found = chunk_stats(statistics.parse(block))
    assert found is not None and found.segments == chunk.stats.segments
    assert np.allclose(found.received_mass, chunk.stats.received_mass, rtol=2e-3, atol=1e-3)
    assert np.allclose(found.inter_by_run, chunk.stats.inter_by_run, atol=1e-3)
    assert found.intra_mass == pytest.approx(chunk.stats.intra_mass, rel=1e-2)
    assert found.cci() == pytest.approx(chunk.stats.cci(), abs=1e-2)
    assert chunk_stats(Statistics(4, 2, (), {VectorType.RECEIVED: np.ones(4, np.float16)})) is not None
    assert chunk_stats(Statistics(4, 2, (3,), {VectorType.RECEIVED: np.ones(4, np.float16)})) is None


def test_names_of_neighbours(llama: Engine) -> None:
    given = random_input(llama, seed=SEED)
    recipe = behind_neighbours([given.chunks[1], given.chunks[2]], given.prefix)
    names = tuple(quire.ids.object_id(llama.model_id, run) for run in recipe.runs)
    chunk = llama.capture(given.chunks[0], recipe)
    data = pack(llama, chunk).data
    assert neighbours_of(data) == names
    scope = quire.ids.scope_id(b"", "alice")
    context = quire.Context(ContextKind.SYNTHETIC, neighbours=names, scope=scope)
    one = Statistics(
        len(chunk.tokens), llama.shape.n_layers, vectors={VectorType.RECEIVED: np.zeros(len(chunk.tokens))}
    )
    assert neighbours_of(statistics.pack(llama.model, chunk.tokens, one, context=context).data) == names
    assert neighbours_of(pack(llama, llama.capture(given.chunks[0])).data) == ()
    with pytest.raises(quire.Corrupt):
        neighbours_of(data[:300].copy())


@pytest.mark.parametrize("scope", ["", "alice"])
def test_the_policy_gets_the_variant_it_ranks_first(llama: Engine, server: str, scope: str) -> None:
    # Other texts for each scope: the index of one would help the other.
    given = random_input(llama, n_chunk=48, seed=SEED + len(scope))
    first, second, third = given.chunks[:3]
    prefix_digest = quire.ids.prefix_digest(llama.model_id, given.prefix)
    with quire.connect(server, scope=scope) as client:
        client.register_model("tiny-llama", llama.model)
        scope_id = quire.ids.scope_id(client.salt, scope)

        def captured(chunk: np.ndarray, *neighbours: np.ndarray) -> ChunkKv:
            recipe = (
                behind_neighbours(neighbours, given.prefix) if neighbours else behind_prefix(given.prefix)
            )
            found = llama.capture(chunk, recipe, stats=True)
            if not neighbours:
                return found
            context = quire.Context(
                ContextKind.SYNTHETIC, neighbours=found.context.neighbours, scope=scope_id
            )
            return ChunkKv(
                found.tokens,
                found.keys,
                found.values,
                context,
                found.base_position,
                found.stats,
                found.lead_runs,
            )

        right, wrong, alone = captured(second, first), captured(second, third), captured(second)
        for chunk in (captured(first), wrong, alone, right):
            put_both(llama, client, chunk)
        prompt = np.concatenate([given.prefix, first, second, given.question])
        system = llama.capture(given.prefix, quire.transformers.in_context(()))
        put(llama, client, system, codec="raw-f32")

        def chosen(name: str, tokens: np.ndarray = prompt) -> quire.Match:
            policy = parse_policy(name)
            found = plan_from_store(
                llama,
                client,
                tokens,
                policy,
                question_tokens=len(given.question),
                fixed_prefixes=[prefix_digest],
            )
            with found as plan:
                chunk = plan.chunks[-1]
                assert np.array_equal(tokens[chunk.token_begin : chunk.token_end], second)
                if policy.name != "reuse":
                    memory = candidate_of(plan, chunk.token_begin, chunk.source)
                    assert memory.stats is not None and memory.lead
                llama.prefill(plan=plan, policy=policy)
                assert chunk.match is not None
                return chunk.match

        by_context = {
            quire.ids.variant_id(quire.ids.object_id(llama.model_id, second, client.salt), kv.context): name
            for name, kv in (("right", right), ("wrong", wrong), ("alone", alone))
        }
        assert by_context[chosen("reuse").variant] == "alone", "what the plan takes without looking"
        for name in ("neighbours/reuse", "least-cfo/reuse", "cachecraft:1"):
            assert by_context[chosen(name).variant] == "right", name
        # In memory the same choice has the same lead and the same missing share.
        plan = plan_of_parts([given.prefix, first, right, given.question])
        candidate = candidate_of(plan, plan.chunks[-1].token_begin, right)
        assert candidate.lead == (run_digest(given.prefix), run_digest(first))
        assert neighbours_missing(candidate) == 0
