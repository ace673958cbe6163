"""The rows that quire-ask's query policy chooses are those of the same rule in numpy, on the attention that the
engine really paid. Needs a GGUF model (QUIRE_MODELS, else the cache directory of tools/setup.sh) and the programs
(QUIRE_BIN_DIR)."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

BIN_DIRECTORY = Path(os.environ.get("QUIRE_BIN_DIR", "build/release/bin"))
CACHE = Path(
    os.environ.get("QUIRE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quire"
)
MODELS = Path(os.environ.get("QUIRE_MODELS", CACHE / "models"))

TOPICS = [
    ("at", "runs a command once at a given time and then forgets it"),
    ("cron", "runs commands again and again at the minutes and hours of a table"),
    ("anacron", "runs tasks that were missed because the computer was switched off"),
    ("inetd", "waits for connections on many ports and starts the program for each"),
]


@pytest.mark.parametrize("model", ["gemma-3-270m-q4_k_m.gguf", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"])
@pytest.mark.parametrize("share", [0.05, 0.15])
def test_rows_follow_the_rule(tmp_path: Path, model: str, share: float) -> None:
    model_path = MODELS / model
    program = BIN_DIRECTORY / "quire-ask"
    if not model_path.exists():
        pytest.skip(f"the model {model_path} is missing (tools/setup.sh --test fetches it)")
    assert program.exists(), f"{program} is missing: build it first"
    documents = []
    for name, text in TOPICS:
        path = tmp_path / f"{name}.txt"
        path.write_text(
            f"About {name}. " + " ".join(f"The program {name} {text}; that is point {i}." for i in range(8))
        )
        documents += ["--doc", str(path)]
    dump = tmp_path / "attention.npy"
    command = [str(program), "--model", str(model_path), "--no-store", "--threads", "1", *documents]
    command += [
        "--question",
        "Which program runs a command once?",
        "--policy",
        f"query:{share}",
        "--max-tokens",
        "1",
    ]
    command += ["--ctx", "2048", "--dump-attention", str(dump), "-o", "json", "-q"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    attention = np.load(dump)  # [full-attention layer][head][question token][cell]
    assert np.isfinite(attention).all()
    np.testing.assert_allclose(attention.sum(axis=3), 1.0, atol=1e-3)

    mass = attention.astype(np.float64).sum(axis=2).mean(axis=(0, 1))
    begin, count = answer["prefix_tokens"], answer["chunk_tokens"]
    chunk_mass = mass[begin : begin + count]
    wanted = math.ceil(share * count)
    expected = begin + np.sort(np.argsort(-chunk_mass, kind="stable")[:wanted])
    chosen = np.array([int(line) for line in Path(f"{dump}.rows").read_text().split()])
    assert len(chosen) == answer["recomputed_tokens"] == wanted
    np.testing.assert_array_equal(chosen, expected)
