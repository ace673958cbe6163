"""Gates on real models and text. Needs the GGUF files in Quire's cache; minutes on a busy machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from quire.transformers import Engine, behind_prefix, generate, in_context, plan_of_parts
from quire.transformers.gates import GateInput, run_gates
from quire.transformers.policies import parse_policy

pytestmark = pytest.mark.model

QWEN = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
GEMMA = "gemma-3-270m-q4_k_m.gguf"
QWEN_ID = "96e9b02bbf8fba16bc43d85aff7f4348dce33e7cfab091df0e9bb11603574b13"
GEMMA_ID = "d5525a8a5fc844353283c81c21f773b1f7697cb4fdd4b7807c2ac2d97aae7e46"
SYSTEM = "You answer questions about the documents you are given.\n"
DOCUMENTS = (
    "Debian is a free operating system which is developed by volunteers all over the world. ",
    "The code name of project Lantern is Heron. It was chosen by its first two members. ",
    "Rotary embeddings turn pairs of dimensions by an angle that grows with the position. ",
)
QUESTION = "\nQuestion: what is the code name of project Lantern?\nAnswer: The code name is"


@pytest.fixture(scope="module", params=[QWEN, GEMMA])
def engine(request: pytest.FixtureRequest, model_path: Callable[[str], Path]) -> Engine:
    return Engine.load(model_path(request.param))


def prompt(engine: Engine) -> GateInput:
    def run(text: str) -> np.ndarray:
        return np.array(engine.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.uint32)

    begin = [] if engine.tokenizer.bos_token_id is None else [engine.tokenizer.bos_token_id]
    chunks = tuple(run(text * (i + 1)) for i, text in enumerate(DOCUMENTS))
    return GateInput(np.array([*begin, *run(SYSTEM)], dtype=np.uint32), chunks, run(QUESTION))


def test_gates(engine: Engine) -> None:
    results = run_gates(engine, prompt(engine))
    print("\n".join(map(str, results)))
    assert all(result.passed for result in results), "\n".join(map(str, results))


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    a, b = p.log_softmax(-1), q.log_softmax(-1)
    return float((a.exp() * (a - b)).sum())


def test_reuse_answers(engine: Engine) -> None:
    given = prompt(engine)
    full = engine.prefill(given.tokens)
    lead = engine.prefill(given.prefix).state
    prefix = engine.capture(given.prefix, in_context(()))
    recipe = behind_prefix(given.prefix)
    chunks = [engine.capture(chunk, recipe, lead=lead) for chunk in given.chunks]
    plan = plan_of_parts([*chunks, given.question], prefix=prefix)
    far = engine.prefill(plan=plan, policy=parse_policy("reuse"))
    near = engine.prefill(plan=plan, policy=parse_policy("query:0.3"))
    assert 0.29 < near.charge.rows < 0.31
    print(kl(full.logits, far.logits), kl(full.logits, near.logits))
    print([engine.tokenizer.decode(generate(engine, start, 6).tokens) for start in (full, far, near)])
    assert kl(full.logits, near.logits) < max(kl(full.logits, far.logits), 1e-3)


def test_ids_are_those_of_the_llama_cpp_connector(engine: Engine) -> None:
    # What quire-warm registers for these files: the two engines share KV.
    gemma = engine.shape.layers[0].window_tokens == 512
    assert engine.model_id.hex() == (GEMMA_ID if gemma else QWEN_ID)
    assert engine.model.weights == engine.model.tokenizer
