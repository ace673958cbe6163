"""What random models cannot show: variants computed behind their neighbours are nearer to the truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from quire.transformers import (
    ChunkKv,
    Engine,
    behind_neighbours,
    behind_prefix,
    in_context,
    isolated,
    plan_of_variants,
)
from quire.transformers.policies import parse_policy

pytestmark = pytest.mark.model

GEMMA = "gemma-3-270m-q4_k_m.gguf"
SYSTEM = "You answer questions about the documents you are given.\n"
TEXTS = (
    "The code name of project Lantern is Heron. It was chosen by its first two members in a cafe. ",
    "Heron is led by Ada, who keeps its password in a blue notebook. The others never saw it. ",
)
QUESTION = "\nQuestion: who leads project Lantern?\nAnswer:"


def distance(a: ChunkKv, b: ChunkKv, layer: int) -> float:
    return float((a.values[layer] - b.values[layer]).norm() / b.values[layer].norm())


def test_neighbours_in_front_bring_a_chunk_nearer(model_path: Callable[[str], Path]) -> None:
    engine = Engine.load(model_path(GEMMA))

    def run(text: str) -> np.ndarray:
        ids = engine.tokenizer(text, add_special_tokens=False)["input_ids"]
        return np.array(ids, dtype=np.uint32)

    system = np.concatenate([[engine.tokenizer.bos_token_id], run(SYSTEM)]).astype(np.uint32)
    first, second = (run(text) for text in TEXTS)
    before = np.concatenate([system, first])
    real = engine.capture(second, in_context(before, [first]), stats=True)
    near = engine.capture(second, behind_neighbours([first], system), stats=True)
    far = engine.capture(second, behind_prefix(system), stats=True)
    alone = engine.capture(second, isolated(), stats=True)
    # The neighbour in its place is the prompt itself; other orders of the same are further away.
    turned = engine.capture(second, behind_neighbours([first, run("Ada keeps birds. ")], system), stats=True)
    for layer in (1, engine.shape.n_layers // 2, engine.shape.n_layers - 1):
        truth = [distance(kv, real, layer) for kv in (near, turned, far, alone)]
        print(layer, [f"{value:.4f}" for value in truth])
        assert truth[0] < 1e-4 and truth[0] < truth[1] < truth[3] and truth[2] < truth[3]
    one = engine.capture(first, behind_prefix(system), stats=True)
    prefix = engine.capture(system, in_context(()))
    for name, wanted in (("cachecraft", real), ("fusionrag:0.1", near), ("least-cfo/reuse", real)):
        parts = [one, [alone, far, turned, real, near], run(QUESTION)]
        plan = plan_of_variants(parts, parse_policy(name), prefix=prefix)
        chosen = plan.segments[2].source
        assert chosen is wanted, name
        full = engine.prefill(plan.tokens)
        done = engine.prefill(plan=plan, policy=parse_policy(name))
        assert float((done.logits - full.logits).abs().max()) < 1e-3, name
    assert torch.isfinite(full.logits).all()
