"""Gates on real models and text. Needs the GGUF files in Quire's cache; minutes on a busy machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from quire.transformers import Engine, behind_prefix, generate, in_context, plan_of_parts
from quire.transformers.gates import GateInput, run_gates
from quire.transformers.policies import parse_policy

pytestmark = pytest.mark.model

QWEN = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
GEMMA = "gemma-3-270m-q4_k_m.gguf"
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

    chunks = tuple(run(text * (i + 1)) for i, text in enumerate(DOCUMENTS))
    return GateInput(run(SYSTEM), chunks, run(QUESTION))


def test_gates(engine: Engine) -> None:
    results = run_gates(engine, prompt(engine))
    print("\n".join(map(str, results)))
    assert all(result.passed for result in results), "\n".join(map(str, results))


def test_reuse_generates(engine: Engine) -> None:
    given = prompt(engine)
    prefix = engine.capture(given.prefix, in_context(()))
    lead = engine.prefill(given.prefix).state
    recipe = behind_prefix(given.prefix)
    chunks = [engine.capture(chunk, recipe, lead=lead) for chunk in given.chunks]
    plan = plan_of_parts([*chunks, given.question], prefix=prefix)
    start = engine.prefill(plan=plan, policy=parse_policy("query:0.3"))
    assert start.charge.rows < 0.31
    tokens = generate(engine, start, 6).tokens
    text = engine.tokenizer.decode(tokens)
    print(text)
    assert "Heron" in text


def test_ids_are_those_of_the_llama_cpp_connector(model_path: Callable[[str], Path]) -> None:
    # What quire-warm registers for this file: KV is shared between the two engines.
    engine = Engine.load(model_path(GEMMA), self_test=False)
    assert [layer.window_tokens for layer in engine.shape.layers[:6]] == [512] * 5 + [0]
    assert engine.model.layers[0].inverse_frequencies[1] == np.float32(1e4 ** (-2 / 256))
    assert engine.model.layers[5].inverse_frequencies[1] == np.float32(1e6 ** (-2 / 256))
    assert engine.model.weights == engine.model.tokenizer
