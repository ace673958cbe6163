"""APE: positions side by side, the merge of two parts, and its use in prefill and decoding."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log

import numpy as np
import pytest
import quire
import torch
from policy_examples import exact_plan, make_plan, reuse_plan
from quire.transformers import Engine, behind_prefix, force, generate, in_context, plan_of_parts
from quire.transformers.gates import GateInput, random_input
from quire.transformers.policies import Ape, ContextScaling, FullReuse, parse_policy

SEED = 21


def test_chunks_stand_side_by_side() -> None:
    plan = Ape().arrange(make_plan())
    # prefix [0, 3); chunks of 5 and 4 at 3; the gap and the question behind the longer one, at 8.
    wanted = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 4, 5, 6, 10, 11, 12]
    assert plan.positions.tolist() == wanted
    nothing = make_plan().keeping(lambda segment: False)
    assert Ape().arrange(nothing).positions.tolist() == list(range(17))


def test_scaling_is_the_merge_of_two_parts() -> None:
    # One head, one row at cell 4 over cells 0..4, of which 1 and 2 are a chunk's.
    t, s = 0.5, 0.8
    fixup = ContextScaling(np.array([1, 2]), 5, t, s)
    logits = torch.tensor([[[0.2, 1.0, 0.4, -0.3, 0.1]]])
    weights = torch.softmax(fixup.on_logits(0, logits.clone(), torch.tensor([4]), 0), dim=-1)[0, 0]
    # By hand: the chunk's own softmax at temperature t, weighed against the rest.
    chunk, rest = [exp(1.0 / t), exp(0.4 / t)], [exp(z) for z in (0.2, -0.3, 0.1)]
    chunk_part, rest_part = exp(t * s * log(sum(chunk))), sum(rest)
    whole = chunk_part + rest_part
    by_hand = [
        rest[0] / whole,
        chunk[0] / sum(chunk) * chunk_part / whole,
        chunk[1] / sum(chunk) * chunk_part / whole,
        rest[1] / whole,
        rest[2] / whole,
    ]
    assert weights.tolist() == pytest.approx(by_hand, abs=1e-6)
    assert chunk_part == pytest.approx(sum(chunk) ** 0.4)


def test_who_is_scaled() -> None:
    fixup = ContextScaling(np.array([1, 2]), 4, 0.5, 0.8)
    low = float("-inf")
    # Rows 0 (sees no chunk), 2 (of the chunk), 3, and a generated cell 5; two heads.
    logits = torch.tensor(
        [
            [0.3, low, low, low, low, low],
            [0.3, 1, 2, low, low, low],
            [0.3, 1, 2, 0, low, low],
            [0.3, 1, 2, 0, 1, 1],
        ]
    ).repeat(2, 1, 1)
    before = logits.clone()
    rows = torch.tensor([0, 2, 3, 5])
    out = fixup.on_logits(0, logits, rows, 0)
    assert torch.equal(logits, before)
    assert torch.equal(out[:, :2], before[:, :2])
    assert not torch.equal(out[:, 2, 1:3], before[:, 2, 1:3])
    assert torch.equal(out[:, 2, 1:3], out[:, 3, 1:3])  # a generated row merges as the question does
    outside = [0, 3, 4, 5]
    assert torch.equal(out[:, :, outside], before[:, :, outside])
    assert bool(torch.isfinite(torch.softmax(out, -1)).all())
    # Blocks that begin later see the same cells.
    assert torch.equal(fixup.on_logits(0, logits[:, 2:, 1:], rows[2:], 1), out[:, 2:, 1:])


def one_chunk(engine: Engine, given: GateInput) -> object:
    prefix = engine.capture(given.prefix, in_context(()))
    chunk = engine.capture(given.chunks[0], behind_prefix(given.prefix))
    return plan_of_parts([chunk, given.question], prefix=prefix)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3"])
def test_ape_without_scaling_over_one_chunk_is_exact(tiny: Callable[[str], Engine], kind: str) -> None:
    engine = tiny(kind)
    given = random_input(engine, seed=SEED)
    plan = one_chunk(engine, given)
    full = engine.prefill(plan.tokens)
    done = engine.prefill(plan=plan, policy=Ape(1, 1))
    assert float((done.logits - full.logits).abs().max()) < 1e-3
    assert done.state.fixup is None
    scaled = engine.prefill(plan=plan, policy=Ape(0.9, 0.9))
    assert float((scaled.logits - full.logits).abs().max()) > 1e-3
    assert not scaled.state.exact and scaled.charge.total == 0


def test_ape_moves_nothing(llama: Engine) -> None:
    given = random_input(llama, seed=SEED)
    plan = reuse_plan(llama, given)
    done = llama.prefill(plan=plan, policy=Ape())
    begin = len(given.prefix)
    for chunk in plan.chunks:
        assert done.state.positions[chunk.token_begin : chunk.token_end].tolist() == list(
            range(begin, begin + chunk.n_tokens)
        )
    longest = max(len(chunk) for chunk in given.chunks)
    assert int(done.state.positions[given.question_begin]) == begin + longest
    alone = llama.prefill(np.concatenate([given.prefix, given.chunks[2]])).state
    last = plan.chunks[2]
    for layer in range(llama.shape.n_layers):
        kept = done.state.keys[layer][:, last.token_begin : last.token_end]
        torch.testing.assert_close(kept, alone.keys[layer][:, begin:], atol=1e-4, rtol=1e-4)


def test_the_order_of_chunks_is_no_matter(llama: Engine) -> None:
    given = random_input(llama, seed=SEED)
    prefix = llama.capture(given.prefix, in_context(()))
    chunks = [llama.capture(chunk, behind_prefix(given.prefix)) for chunk in given.chunks]
    one = llama.prefill(plan=plan_of_parts([*chunks, given.question], prefix=prefix), policy=Ape())
    two = llama.prefill(plan=plan_of_parts([*chunks[::-1], given.question], prefix=prefix), policy=Ape())
    assert float((one.logits - two.logits).abs().max()) < 1e-3


def test_scaling_goes_on_while_decoding(llama: Engine) -> None:
    given = random_input(llama, seed=SEED)
    plan = reuse_plan(llama, given)
    start = llama.prefill(plan=plan, policy=Ape())
    done = generate(llama, start, 6)
    logits = force(llama, start, done.tokens)
    assert logits.argmax(dim=-1).tolist() == done.tokens
    # As if the generated tokens had been part of the question.
    longer = np.concatenate([given.question, np.array(done.tokens[:-1], dtype=np.uint32)])
    again = plan_of_parts([*(chunk.source for chunk in plan.chunks), longer], prefix=plan.segments[0].source)
    whole = llama.prefill(plan=again, policy=Ape())
    assert float((logits[-1] - whole.logits).abs().max()) < 1e-3
    bare = start.state.fork()
    bare.fixup = None
    unscaled = llama.logits_of(llama.run(bare, bare.append(llama.tensor(done.tokens[:-1]))))[-1]
    assert float((unscaled - whole.logits).abs().max()) > 1e-3


def test_psr_scales_where_chunks_stand(llama: Engine) -> None:
    given = random_input(llama, seed=SEED)
    plan = exact_plan(llama, given)
    full = llama.prefill(given.tokens)
    from quire.transformers import behind_dummies

    dummies = [llama.capture(chunk, behind_dummies([1, 1, 1, 1])) for chunk in given.chunks]
    plan = plan_of_parts([*dummies, given.question], prefix=plan.segments[0].source)
    every = llama.prefill(plan=plan, policy=parse_policy("psr:1,1,1"))
    assert float((every.logits - full.logits).abs().max()) < 1e-3 and every.state.exact
    scaled = llama.prefill(plan=plan, policy=parse_policy("psr:1,0.9,0.9"))
    assert float((scaled.logits - full.logits).abs().max()) > 1e-3 and not scaled.state.exact
    assert scaled.state.positions.tolist() == list(range(len(given.tokens)))
    # Chunk rows attend as ever: their KV is that of the full prefill.
    for layer in range(llama.shape.n_layers):
        rows = slice(0, given.question_begin)
        torch.testing.assert_close(
            scaled.state.keys[layer][:, rows], full.state.keys[layer][:, rows], atol=1e-3, rtol=1e-3
        )


def test_only_positions_may_be_arranged(llama: Engine) -> None:
    class Wrong(FullReuse):
        def arrange(self, plan: object) -> object:
            return plan.keeping(lambda segment: segment.kind == quire.SegmentKind.PREFIX)

    given = random_input(llama, seed=SEED)
    with pytest.raises(quire.InvalidArgument, match="only positions"):
        llama.prefill(plan=reuse_plan(llama, given), policy=Wrong())
