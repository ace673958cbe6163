"""PIE: what an edit keeps, where it goes, and that undoing one changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import quire
import torch
from policy_examples import Source, kl
from quire.transformers import Engine, behind_prefix, in_context, kept_runs, plan_of_edit
from quire.transformers.gates import random_input
from quire.transformers.policies import Pie, PolicyInput, parse_policy

SEED = 5
OLD = [*range(10, 30)]


def test_what_an_edit_keeps() -> None:
    inserted = [*OLD[:8], 90, 91, 92, *OLD[8:]]
    assert kept_runs(OLD, inserted) == [(0, 0, 8), (8, 11, 12)]
    deleted = [*OLD[:8], *OLD[13:]]
    assert kept_runs(OLD, deleted) == [(0, 0, 8), (13, 8, 7)]
    replaced = [*OLD[:2], 90, *OLD[3:9], 91, *OLD[10:12], 92, *OLD[13:]]
    # [10, 12) is too short to keep; the beginning never is.
    assert kept_runs(OLD, replaced) == [(0, 0, 2), (3, 3, 6), (13, 13, 7)]
    assert kept_runs(OLD, [90, 91]) == [] and kept_runs(OLD, OLD) == [(0, 0, 20)]


def segments(plan: object) -> list[tuple]:
    return [(s.kind.name, s.token_begin, s.n_tokens, s.source_begin) for s in plan.segments]


def test_plans_of_edits() -> None:
    source = Source(np.array(OLD, dtype=np.uint32))
    plan = plan_of_edit(source, [*OLD[:8], 90, 91, *OLD[13:]], [1, 2])
    assert segments(plan) == [
        ("PREFIX", 0, 8, 0),
        ("FRESH", 8, 2, 0),
        ("CHUNK", 10, 7, 13),
        ("FRESH", 17, 2, 0),
    ]
    assert plan.question_begin == 17
    # The head deleted: the rest is moved down. Tokens behind the last kept run are fresh.
    plan = plan_of_edit(source, [*OLD[4:], 90], [1])
    assert segments(plan) == [("CHUNK", 0, 16, 4), ("FRESH", 16, 1, 0), ("FRESH", 17, 1, 0)]
    # Computed elsewhere: its beginning is no exact prefix.
    moved = Source(np.array(OLD, dtype=np.uint32), base_position=7)
    assert segments(plan_of_edit(moved, OLD, [1]))[0] == ("CHUNK", 0, 20, 0)
    with pytest.raises(quire.InvalidArgument, match="question"):
        plan_of_edit(source, OLD, [])


def test_rows_behind_every_edit() -> None:
    source = Source(np.array(OLD, dtype=np.uint32))
    plan = plan_of_edit(source, [*OLD[:4], 90, *OLD[5:10], *OLD[14:]], [1])
    given = PolicyInput(plan, None)  # type: ignore[arg-type]
    # Kept behind edits: [5, 10) and [10, 16).
    assert Pie().select_rows(given).tolist() == []
    assert Pie(2).select_rows(given).tolist() == [5, 6, 10, 11]
    assert Pie(99).select_rows(given).tolist() == list(range(5, 16))
    head = PolicyInput(plan_of_edit(source, OLD[4:], [1]), None)  # type: ignore[arg-type]
    assert Pie(2).select_rows(head).tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_edits_on_a_model(tiny: Callable[[str], Engine], kind: str) -> None:
    engine = tiny(kind)
    given = random_input(engine, seed=SEED)
    prefix = engine.capture(given.prefix, in_context(()))
    text = np.concatenate(given.chunks)
    source = engine.capture(text, behind_prefix(given.prefix))
    edited = np.concatenate([text[:20], [7, 8, 9], text[25:]]).astype(np.uint32)
    plan = plan_of_edit(source, edited, given.question, prefix=prefix)
    assert [s.kind.name for s in plan.segments] == ["PREFIX", "PREFIX", "FRESH", "CHUNK", "FRESH"]
    full = engine.prefill(plan.tokens)
    kept = engine.prefill(plan=plan, policy=parse_policy("pie"))
    assert not kept.state.exact and kl(full.logits, kept.logits) > 1e-5
    begin, end = plan.chunks[0].token_begin, plan.chunks[0].token_end
    # Layer 0 of what was moved is that of a full prefill; so is all in front of it.
    torch.testing.assert_close(
        kept.state.keys[0][:, begin:end], full.state.keys[0][:, begin:end], atol=1e-5, rtol=1e-5
    )
    for layer in range(engine.shape.n_layers):
        torch.testing.assert_close(
            kept.state.keys[layer][:, :begin], full.state.keys[layer][:, :begin], atol=1e-3, rtol=1e-3
        )
    whole = engine.prefill(plan=plan, policy=Pie(10**6))
    assert float((whole.logits - full.logits).abs().max()) < 1e-3 and whole.state.exact
    # Undone: bit for bit what there was, however many edits came between.
    undone = plan_of_edit(source, text, given.question, prefix=prefix)
    assert not undone.chunks
    original = engine.prefill(plan=undone, policy=parse_policy("pie"))
    first = engine.prefill(plan=undone, policy=parse_policy("reuse"))
    assert all(torch.equal(a, b) for a, b in zip(original.state.keys, first.state.keys, strict=True))
    assert original.state.exact
