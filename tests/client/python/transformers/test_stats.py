"""Attention statistics, taken block by block, against the model's own full matrices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from quire.transformers import ColumnMass, Engine, SegmentMass, attention, behind_neighbours, behind_prefix
from quire.transformers.gates import random_input
from quire.transformers.rope import RopeSpec, rotate, turn_table, unrotate

SEED = 33


def full_matrices(engine: Engine, tokens: np.ndarray) -> torch.Tensor:
    """[layer][row][cell], mean over heads, by the model itself."""
    out = engine.hf_model(input_ids=engine.tensor(tokens)[None], output_attentions=True, use_cache=False)
    return torch.stack([layer[0].mean(dim=0) for layer in out.attentions]).detach()


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma3"])
@pytest.mark.parametrize("block_logits", [1 << 23, 1500])
def test_masses_are_those_of_the_full_matrix(
    tiny: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch, kind: str, block_logits: int
) -> None:
    engine = tiny(kind)
    tokens = random_input(engine, seed=SEED).tokens
    n, n_layers = len(tokens), engine.shape.n_layers
    wanted = full_matrices(engine, tokens)
    monkeypatch.setattr(attention, "LOGIT_ELEMENTS_MAX", block_logits)
    everything = ColumnMass(range(n_layers), n)
    question = ColumnMass(engine.shape.full_layers, n, n - 9)
    segments = SegmentMass(range(n_layers), [0, 7, 31, n], 40, n)
    done = engine.prefill(tokens, observers=[everything, question, segments])
    for layer in range(n_layers):
        torch.testing.assert_close(everything.by_layer[layer], wanted[layer].sum(0), atol=1e-4, rtol=1e-4)
        seen = (wanted[layer] > 0).sum(0)
        assert torch.equal(everything.rows_seen[layer], seen)
        parts = [wanted[layer, 40:, a:b].sum(1) for a, b in ((0, 7), (7, 31), (31, n))]
        torch.testing.assert_close(segments.by_layer[layer], torch.stack(parts, 1), atol=1e-4, rtol=1e-4)
    chosen = [wanted[layer, n - 9 :].sum(0) for layer in engine.shape.full_layers]
    torch.testing.assert_close(question.fused(), torch.stack(chosen).mean(0), atol=1e-4, rtol=1e-4)
    assert set(question.by_layer) == set(engine.shape.full_layers)
    assert float((done.logits - engine.prefill(tokens).logits).abs().max()) < 1e-4


def test_a_window_layer_gives_nothing_behind_its_window(tiny: Callable[[str], Engine]) -> None:
    engine = tiny("gemma3")
    tokens = random_input(engine, seed=SEED).tokens
    n = len(tokens)
    mass = ColumnMass(range(engine.shape.n_layers), n, n - 9)
    engine.prefill(tokens, observers=[mass])
    for layer, spec in enumerate(engine.shape.layers):
        hidden = mass.by_layer[layer][: n - 9 - 15]
        assert bool((hidden == 0).all()) == (spec.window_tokens == 16)


def test_statistics_of_a_chunk(llama: Engine) -> None:
    given = random_input(llama, seed=SEED)
    recipe = behind_neighbours(given.chunks[:2], given.prefix)
    chunk = given.chunks[2]
    stats = llama.capture(chunk, recipe, stats=True).stats
    assert stats is not None
    tokens = np.concatenate([recipe.lead, chunk])
    own = full_matrices(llama, tokens)[:, len(recipe.lead) :]
    torch.testing.assert_close(stats.received, own[:, :, len(recipe.lead) :].sum(1), atol=1e-4, rtol=1e-4)
    assert stats.segments == (7, 24, 25, 26)
    torch.testing.assert_close(stats.given.sum(2), torch.ones(6, 26), atol=1e-4, rtol=0)
    torch.testing.assert_close(stats.given[:, :, 1], own[:, :, 7:31].sum(2), atol=1e-4, rtol=1e-4)
    inter = own[:, :, : len(recipe.lead)].sum(2).mean(0)
    torch.testing.assert_close(stats.inter, inter, atol=1e-4, rtol=1e-4)
    assert stats.received_rows[0].tolist() == list(range(26, 0, -1))
    with_lead = llama.capture(
        chunk, behind_prefix(recipe.lead), stats=True, lead=llama.prefill(recipe.lead).state
    ).stats
    assert with_lead is not None
    torch.testing.assert_close(with_lead.received, stats.received, atol=1e-4, rtol=1e-4)


def test_rotations_add_and_undo() -> None:
    generator = torch.Generator().manual_seed(SEED)
    spec = RopeSpec(tuple(10000.0 ** (-j / 6) for j in range(6)), attention_factor=1.2)
    keys = torch.randn(2, 5, 16, generator=generator)
    positions = torch.tensor([0, 1, 17, 900, 100_000])
    turned = rotate(keys, *turn_table(spec, positions))
    torch.testing.assert_close(unrotate(turned, spec, positions), keys, atol=1e-5, rtol=1e-5)
    assert torch.equal(turned[..., 12:], keys[..., 12:])
    # Pair 1 of position 900 by hand.
    angle = 900 * 10000.0 ** (-1 / 6)
    low, high = float(keys[0, 3, 1]), float(keys[0, 3, 7])
    assert float(turned[0, 3, 1]) == pytest.approx(
        1.2 * (low * np.cos(angle) - high * np.sin(angle)), abs=1e-5
    )
    assert float(turned[0, 3, 7]) == pytest.approx(
        1.2 * (low * np.sin(angle) + high * np.cos(angle)), abs=1e-5
    )
