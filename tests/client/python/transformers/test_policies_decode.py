"""Decode-phase capture, relayed text, and refreshing reused rows while decoding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import quire
import torch
from policy_examples import exact_plan, reuse_plan
from quire.transformers import (
    Engine,
    StoredKv,
    extend,
    generate,
    in_context,
    pack,
    plan_from_store,
    plan_of_parts,
    put,
    run_digest,
)
from quire.transformers.gates import random_input
from quire.transformers.policies import KvShare, parse_policy

SEED = 29


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3"])
def test_decoded_kv_is_prefilled_kv(tiny: Callable[[str], Engine], kind: str) -> None:
    engine = tiny(kind)
    prompt = random_input(engine, seed=SEED).tokens
    start = engine.prefill(prompt)
    done = generate(engine, start, 12, capture=True)
    assert done.tokens == generate(engine, start, 12).tokens
    chunk = done.chunk
    assert chunk is not None and chunk.tokens.tolist() == done.tokens  # the last one, too
    assert chunk.phase == quire.Phase.DECODE and chunk.base_position == len(prompt) and chunk.exact
    wanted = engine.capture(done.tokens, in_context(prompt), stats=True)
    for ours, theirs in ((chunk.keys, wanted.keys), (chunk.values, wanted.values)):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    # The same attention, seen a token at a time.
    assert chunk.stats is not None and wanted.stats is not None
    torch.testing.assert_close(chunk.stats.received, wanted.stats.received, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(chunk.stats.given, wanted.stats.given, atol=1e-4, rtol=1e-4)
    assert torch.equal(chunk.stats.received_rows, wanted.stats.received_rows)
    assert chunk.stats.segments == wanted.stats.segments
    # And the state is ready to go on.
    more = extend(engine, done.state.fork(), [5, 6])
    again = engine.all_logits(np.concatenate([prompt, done.tokens, [5, 6]]))
    assert float((more - again[-2:]).abs().max()) < 1e-3


def test_what_a_decoded_chunk_is_called(llama: Engine) -> None:
    prompt = random_input(llama, seed=SEED).tokens
    done = generate(llama, llama.prefill(prompt), 20, capture=True, salt=b"tenant-of-tests-1")
    chunk = done.chunk
    assert chunk is not None
    assert chunk.context.kind == quire.ContextKind.CONTEXTUAL
    assert chunk.context.phase == quire.Phase.DECODE
    assert chunk.context.reference == quire.ids.prefix_digest(llama.model_id, prompt, b"tenant-of-tests-1")
    assert chunk.lead_runs == (run_digest(prompt),)
    packed = pack(llama, chunk, codec="raw-f32", salt=b"tenant-of-tests-1")
    stored = StoredKv(packed.data, llama.model)
    assert stored.phase == quire.Phase.DECODE and stored.context_kind == quire.ContextKind.CONTEXTUAL
    # Not the identity of the same text prefilled there, nor of another tenant's.
    prefilled = llama.capture(chunk.tokens, in_context(prompt), salt=b"tenant-of-tests-1")
    assert (
        pack(llama, prefilled, codec="raw-f32", salt=b"tenant-of-tests-1").representation
        != packed.representation
    )
    theirs = generate(llama, llama.prefill(prompt), 20, capture=True, salt=b"tenant-of-tests-2").chunk
    assert theirs is not None and theirs.context.reference != chunk.context.reference
    # The planner never takes one as a chunk, whatever resolve lists.
    match = quire.Match(
        quire.MatchKind.CHUNK, 0, 20, context_kind=quire.ContextKind.ISOLATED, phase=quire.Phase.DECODE
    )
    assert [s.kind for s in quire.plan(24, [match])] == [quire.SegmentKind.FRESH]


def test_the_store_finds_an_answer_only_where_it_was_given(llama: Engine, server: str) -> None:
    given = random_input(llama, n_chunk=30, seed=SEED + 1)
    prompt, policy = given.tokens, parse_policy("reuse")
    with quire.connect(server) as client:
        client.register_model("tiny-llama", llama.model)
        asked = llama.capture(prompt, in_context(()), salt=client.salt)
        answer = generate(llama, llama.prefill(prompt), 32, capture=True, salt=client.salt).chunk
        assert answer is not None
        for chunk in (asked, answer):
            put(llama, client, chunk, codec="raw-f32")
        # The next turn: prompt and answer are an exact prefix.
        turn = np.concatenate([prompt, answer.tokens, given.question])
        with plan_from_store(llama, client, turn, policy, question_tokens=9) as plan:
            loaded = [s for s in plan.segments if s.source is not None]
            assert {s.kind.name for s in loaded} == {"PREFIX"} and loaded[-1].token_end == len(turn) - 9
            done = llama.prefill(plan=plan, policy=policy)
        assert float((done.logits - llama.prefill(turn).logits).abs().max()) < 1e-3 and done.state.exact
        # The same words in another prompt, and behind nothing: not there.
        for before in (given.chunks[0], prompt[:-1], prompt[:0]):
            other = np.concatenate([before, answer.tokens, given.question])
            matches = client.resolve(llama.model_id, other)
            assert not [m for m in matches if m.phase == quire.Phase.DECODE]


def test_stop_tokens_and_empty_answers(llama: Engine) -> None:
    start = llama.prefill(random_input(llama, seed=SEED).tokens)
    tokens = generate(llama, start, 8).tokens
    stop = next(i for i, token in enumerate(tokens) if token not in tokens[:i] and i > 1)
    done = generate(llama, start, 8, stop=[tokens[stop]], capture=True)
    assert done.chunk is not None and done.chunk.tokens.tolist() == tokens[:stop]
    assert done.chunk.stats is not None and done.chunk.stats.received.shape[1] == stop
    assert generate(llama, start, 8, stop=[tokens[0]], capture=True).chunk is None


def test_approximate_text_is_never_stored(llama: Engine) -> None:
    given = random_input(llama, seed=SEED)
    start = llama.prefill(plan=reuse_plan(llama, given), policy=parse_policy("reuse"))
    chunk = generate(llama, start, 20, capture=True).chunk
    assert chunk is not None and not chunk.exact and not chunk.lossless
    with pytest.raises(quire.FailedPrecondition, match="not stored"):
        pack(llama, chunk)
    # It may be read by another agent of this process, whose state is approximate as well.
    plan = plan_of_parts([given.prefix, chunk, given.question])
    done = llama.prefill(plan=plan, policy=parse_policy("epic:99"))
    assert not done.state.exact


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_one_agent_reads_what_another_wrote(tiny: Callable[[str], Engine], kind: str) -> None:
    engine = tiny(kind)
    given = random_input(engine, seed=SEED)
    written = generate(engine, engine.prefill(given.tokens), 30, capture=True).chunk
    assert written is not None
    # Where it was written nothing is to be computed again: the same logits from any rows.
    prompt = engine.capture(given.tokens, in_context(()))
    here = plan_of_parts([written, given.question], prefix=prompt)
    full = engine.prefill(here.tokens)
    same = engine.prefill(plan=here, policy=parse_policy("relay:2,4"))
    assert float((same.logits - full.logits).abs().max()) < 1e-3
    # Elsewhere the suffix, the influential and the deviating go on.
    there = plan_of_parts([given.prefix, written, given.question])
    done = engine.prefill(plan=there, policy=parse_policy("relay:2,4"))
    inside = [rows[np.isin(rows, there.reusable)] for rows in done.rows_by_layer]
    assert [len(rows) for rows in inside[:3]] == [30] * 3 and len(inside[5]) == 0
    assert inside[3].tolist() == inside[4].tolist() and 10 <= len(inside[3]) < 30
    assert set(range(len(given.prefix) + 20, len(given.prefix) + 30)) <= set(inside[3])
    received = written.stats.received_mass
    great = (received > 1.45 * received.mean()).nonzero()[:, 0] + len(given.prefix)
    assert len(great) and set(great.tolist()) <= set(inside[3].tolist())


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_kvshare_refreshes_a_few_rows_a_step(tiny: Callable[[str], Engine], kind: str) -> None:
    engine = tiny(kind)
    given = random_input(engine, seed=SEED)
    plan, policy = reuse_plan(engine, given), KvShare(0.2, 3)
    start = engine.prefill(plan=plan, policy=policy)
    stale = start.state.reused.numel()
    assert stale == len(plan.reusable) - int(np.ceil(0.2 * len(plan.reusable)))
    done = generate(engine, start, 6, policy=policy)
    # Five forwards; at the first nobody has looked yet.
    assert done.refreshed == 4 * 3 and done.state.reused.numel() == stale - 12
    # All at once, and none before: the chunks are a full prefill's.
    greedy = KvShare(0.0, 10**6)
    whole = generate(engine, engine.prefill(plan=plan, policy=greedy), 4, policy=greedy)
    assert whole.refreshed == len(plan.reusable)
    oracle = engine.prefill(given.tokens).state
    for layer in range(engine.shape.n_layers):
        rows = slice(0, given.question_begin)
        torch.testing.assert_close(
            whole.state.keys[layer][:, rows], oracle.keys[layer][:, rows], atol=1e-3, rtol=1e-3
        )


def test_refreshing_an_exact_cache_changes_nothing(llama: Engine) -> None:
    given = random_input(llama, seed=SEED)
    full = generate(llama, llama.prefill(given.tokens), 8)
    policy = KvShare(0.1, 3)
    start = llama.prefill(plan=exact_plan(llama, given), policy=policy)
    done = generate(llama, start, 8, policy=policy)
    assert done.tokens == full.tokens and done.refreshed > 0
    assert float((done.logits - full.logits).abs().max()) < 1e-3
    # Requests do not share memory: the prefilled notes are as they were.
    assert set(start.notes) == {"kvshare.deviation"}
