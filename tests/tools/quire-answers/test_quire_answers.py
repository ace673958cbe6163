"""quire-answers end to end: a group of questions over the handbook under some policies. Needs a GGUF model
(QUIRE_MODELS, else the cache directory of tools/setup.sh), the package debian-handbook and the programs
(QUIRE_BIN_DIR)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

BIN_DIRECTORY = Path(os.environ.get("QUIRE_BIN_DIR", "build/release/bin"))
CACHE = Path(
    os.environ.get("QUIRE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quire"
)
MODEL = Path(os.environ.get("QUIRE_MODELS", CACHE / "models")) / "gemma-3-270m-q4_k_m.gguf"
QUESTIONS = Path(__file__).resolve().parents[3] / "bench/answers/questions.json"
POLICIES = ["full", "reuse", "query-value:0.15", "query-value:1"]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    program = BIN_DIRECTORY / "quire-answers"
    assert program.exists(), f"{program} is missing: build it first"
    command = [str(program), "--questions", str(QUESTIONS), "--threads", "1", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


def test_one_group_of_questions(tmp_path: Path) -> None:
    if not MODEL.exists():
        pytest.skip(f"the model {MODEL} is missing (tools/setup.sh --test fetches it)")
    path = tmp_path / "answers.jsonl"
    options = ["--groups", "1", "--context-tokens", "800", "--max-tokens", "6", "--neighbours", "1"]
    result = run("--model", str(MODEL), "--policies", ",".join(POLICIES[1:]), "--json", str(path), *options)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    group = json.loads(QUESTIONS.read_text())["groups"][0]["questions"]
    totals = {line["policy"]: line for line in lines if "asked" in line}
    assert list(totals) == POLICIES
    assert {line["asked"] for line in totals.values()} == {len(group)}
    for policy in POLICIES:
        of_policy = [line for line in lines if line["policy"] == policy and "question" in line]
        assert len(of_policy) == len(group)
        assert totals[policy]["correct"] == sum(line["correct"] for line in of_policy)
        assert totals[policy]["kl"] == pytest.approx(sum(line["kl"] for line in of_policy) / len(group))
    # All rows again are a full prefill, but for how the engine rounds another cut of the batch.
    assert totals["full"]["kl"] == 0 and totals["query-value:1"]["kl"] < 0.01
    assert totals["query-value:0.15"]["kl"] < totals["reuse"]["kl"]
    assert result.stdout.count(f" of {len(group):3d}") == len(POLICIES)


def test_wrong_use_is_said(tmp_path: Path) -> None:
    missing = run("--model", str(tmp_path / "none.gguf"))
    assert missing.returncode == 1 and "none.gguf" in missing.stderr
    unknown = run("--model", str(MODEL), "--policies", "magic")
    assert unknown.returncode != 0 and unknown.stderr
