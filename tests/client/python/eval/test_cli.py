"""The program: exit codes, errors in one line, verdicts. Models are random ones on disk."""

from __future__ import annotations

import importlib.abc
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from quire.eval import cli, gate, loading
from quire.eval.__main__ import main
from quire.eval.cli import app
from quire.eval.exact import codec_kl
from quire.eval.loading import Subject
from quire.eval.tasks import TASKS
from quire.transformers import Engine
from quire.transformers.gates import GATES, GateResult
from quire.transformers.mutants import MUTANTS
from quire.transformers.policies import DEFAULT_POLICY
from quire.transformers.tiny import tiny_model
from tiny_texts import Characters, make_corpus
from typer.testing import CliRunner

RUN = ["run", "--model", "m", "--chunks", "3", "--chunk-tokens", "150", "--prompts", "1"]


@pytest.fixture
def program(
    monkeypatch: pytest.MonkeyPatch, engine_of: Callable[[str], Engine]
) -> Callable[..., tuple[int, str, str]]:
    """program("gate", "m", kind="gemma3"): (exit code, stdout, stderr)."""

    def run(*arguments: str, kind: str = "llama") -> tuple[int, str, str]:
        monkeypatch.setattr(loading, "load_engine", lambda *_: engine_of(kind))
        monkeypatch.setattr(loading, "read_corpus", lambda folder: make_corpus())
        result = CliRunner().invoke(app, list(arguments))
        return result.exit_code, result.stdout, result.stderr

    return run


def test_run_report_and_go_on(program: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    code, _, said = program(*RUN, "-o", out, "-p", "reuse,query:B", "--budgets", "0.1,0.2")
    assert code == 0 and "4 cells measured, 0 known before" in said
    code, _, said = program(*RUN, "-o", out, "-p", "reuse,query:B,epic:4", "--budgets", "0.1,0.2")
    assert code == 0 and "1 cells measured, 4 known before" in said
    code, said, _ = program("report", out, "--draws", "200", "--no-plots")
    assert code == 0 and "report.md" in said
    assert "`epic:4`" in (tmp_path / "out" / "report.md").read_text()
    code, _, said = program(*RUN, "-o", out, "--seed", "5")
    assert code == 2 and "another seed" in said
    code, _, said = program(*RUN, "-o", str(tmp_path / "other"), "-p", "relay:99")
    assert code == 1 and "6 layers" in said


def test_interrupted(
    program: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("quire.eval.runner.PromptRun.run", interrupt)
    code, _, said = program(*RUN, "-o", str(tmp_path))
    assert code == 130 and "goes on" in said


def test_interrupted_while_libraries_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupting(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, *_: object) -> None:
            if name == "quire.eval.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "quire.eval.cli")
    monkeypatch.delattr("quire.eval.cli", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    assert main() == 130 and capsys.readouterr().err == "quire-eval: interrupted\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "nothing"], "unknown policy"),
        (["-p", "reuse@moon"], "unknown policy"),
        (["--variants", "moon"], "unknown variant"),
        (["-p", "reuse", "--codecs", "zip"], "zip"),
        (["--budgets", "2"], "--budgets"),
        (["--tasks", "riddle"], "unknown task"),
        (["--chunks", "1"], "--chunks"),
        (["--chunk-tokens", "5"], "--chunk-tokens"),
        (["--chunk-tokens", "8000"], "too little text"),
        (["--template", "chat"], "no chat template"),
    ],
)
def test_wrong_use(
    program: Callable[..., tuple[int, str, str]], tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, _, said = program(*RUN, "-o", str(tmp_path), *arguments)
    assert code in (1, 2) and message in said and "Traceback" not in said
    assert (code == 1) == (message == "zip")


def test_errors_of_models_and_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner()
    monkeypatch.setenv("QUIRE_CACHE", str(tmp_path / "cache"))
    result = run.invoke(app, ["gate", str(tmp_path / "no.gguf")])
    assert result.exit_code == 2 and "no model at" in result.stderr and "cache has" not in result.stderr
    (tmp_path / "cache" / "models").mkdir(parents=True)
    (tmp_path / "cache" / "models" / "gemma-q4.gguf").touch()
    result = run.invoke(app, ["gate", "gemma"])
    assert result.exit_code == 2 and "Quire's cache has gemma-q4.gguf" in result.stderr
    (tmp_path / "no.gguf").write_bytes(b"nothing at all")
    result = run.invoke(app, ["gates", str(tmp_path / "no.gguf")])
    assert result.exit_code == 2 and "not a GGUF file" in result.stderr
    # A folder without a tokenizer: gates run, questions cannot be asked.
    tiny_model("llama").save_pretrained(tmp_path / "tiny")
    result = run.invoke(app, ["gate", str(tmp_path / "tiny")])
    assert result.exit_code == 2 and "no tokenizer" in result.stderr
    result = run.invoke(app, ["tasks", "--show", "needle", "-m", str(tmp_path / "tiny")])
    assert result.exit_code == 2 and "no tokenizer" in result.stderr
    result = run.invoke(app, ["tasks", "--show", "needle"])
    assert result.exit_code == 2 and "needs a model" in result.stderr
    result = run.invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 2 and "no results" in result.stderr
    for device in ("moon", "meta", "cuda:99"):
        result = run.invoke(app, ["gates", str(tmp_path / "tiny"), "--device", device])
        assert result.exit_code == 2 and f"--device {device}" in result.stderr, result.output
    assert run.invoke(app, ["run"]).exit_code == 2
    assert run.invoke(app, ["tasks"]).exit_code == 0
    listed = run.invoke(app, ["tasks", "-o", "json"])
    assert {json.loads(line)["task"] for line in listed.output.splitlines()} == set(TASKS)


def test_help_has_examples() -> None:
    for command in ("run", "report", "gates", "gate", "tasks"):
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0 and "Examples:" in result.stdout, command


def test_gates_and_mutants(program: Callable[..., tuple[int, str, str]]) -> None:
    code, said, _ = program("gates", "m", kind="gemma3")
    assert code == 0 and "FAIL" not in said and "MISSED" not in said
    assert "caught off-by-one position" in said and "caught ignored window" in said
    code, said, _ = program("gates", "m", "-o", "json")
    found = json.loads(said)
    assert code == 0 and found["passed"] and all(g["passed"] for g in found["gates"])
    assert set(found["mutants"]) == set(MUTANTS) and all(found["mutants"].values())
    assert program("gates", "m", "-o", "xml")[0] == 2


def test_a_rope_that_cannot_move_is_refused(program: Callable[..., tuple[int, str, str]]) -> None:
    code, said, _ = program("gate", "m", "-o", "json", kind="llama-dynamic")
    verdict = json.loads(said)
    assert code == 1 and verdict["pic_safe"] == "prefix-only" and verdict["policy"] == "prefix"
    assert "dynamic" in verdict["reason"]
    code, said, _ = program("gates", "m", kind="llama-dynamic")
    assert code == 0 and "chunks are refused" in said


def test_a_failing_gate_is_a_no(
    program: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GATES, "G3", lambda engine, given: GateResult("G3 broken", 1.5, 1e-3))
    code, said, _ = program("gate", "m", "-o", "json", "--chunk-tokens", "150")
    verdict = json.loads(said)
    assert code == 1 and verdict["pic_safe"] == "no" and "G3 broken is 1.5" in verdict["reason"]
    assert program("gates", "m", "--no-mutants")[0] == 1


def test_verdict_on_a_random_model(program: Callable[..., tuple[int, str, str]]) -> None:
    code, said, _ = program("gate", "m", "-n", "3", "-o", "json", "--chunk-tokens", "150")
    verdict = json.loads(said)
    assert verdict["pic_safe"] in ("yes", "prefix-only") and code == (verdict["pic_safe"] != "yes")
    assert set(verdict["figures"]["kl_median"]) == {"full", "reuse", "random:0.15", DEFAULT_POLICY}
    assert verdict["figures"]["kl_median"]["full"] < 1e-9
    assert all(g["passed"] for g in verdict["gates"])


@pytest.mark.parametrize("policy", ["reuse", "random:0.15", "link0", "cachecraft"])
def test_any_policy_can_be_judged(program: Callable[..., tuple[int, str, str]], policy: str) -> None:
    code, said, _ = program("gate", "m", "-n", "3", "-o", "json", "--chunk-tokens", "150", "--policy", policy)
    verdict = json.loads(said)
    assert code in (0, 1) and set(verdict["figures"]["kl_median"]) == {"full", "reuse", "random:0.15", policy}
    # Over chunks that it uses: one that computes what it refuses is as right as full prefill.
    assert verdict["figures"]["charge"][policy] < 1
    if verdict["policy"] == policy == "link0":
        assert verdict["variant"] == "sink:4"


@pytest.mark.parametrize("policy", ["full", "prefix", "no-documents", "nothing"])
def test_what_cannot_be_judged(
    program: Callable[..., tuple[int, str, str]], tmp_path: Path, policy: str
) -> None:
    code, said, error = program("gate", "m", "--policy", policy)
    assert code == 2 and not said and ("no chunks" in error or "unknown policy" in error)


def test_a_verdict_is_not_left_from_before(
    program: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    file = tmp_path / "verdict.json"
    file.write_text("an earlier one")
    assert program("gate", "m", "--verdict", str(file), "--chunk-tokens", "5")[0] == 2
    assert not file.exists()
    code, _, said = program("gate", "m", "--verdict", str(tmp_path / "no" / "folder.json"))
    assert code == 2 and "folder.json" in said
    assert program("gate", "m", "--verdict", str(file), kind="llama-dynamic")[0] == 1
    assert json.loads(file.read_text())["chunks"] is False


@pytest.mark.parametrize(
    ("policy", "reuse", "random", "codecs", "wanted"),
    [
        ([0.1] * 5, [0.5] * 5, [0.4] * 5, (0.01, 1e-5), ("yes", "query:0.15", "int4-channel64")),
        ([0.1] * 5, [0.5] * 5, [0.4] * 5, (0.08, 1e-5), ("yes", "query:0.15", "int8-channel")),
        ([0.1] * 5, [0.5] * 5, [0.4] * 5, (0.08, 1e-2), ("yes", "query:0.15", "bf16-exp4")),
        # One outlier is borne, two are not.
        ([0.1] * 4 + [9], [0.5] * 5, [0.4] * 5, (0.01, 1e-5), ("yes", "query:0.15", "int4-channel64")),
        (
            [0.1] * 3 + [9] * 2,
            [0.5] * 5,
            [0.4] * 5,
            (0.01, 1e-5),
            ("prefix-only", "prefix", "int4-channel64"),
        ),
        # What is not near must be nearer than both.
        ([0.2] * 5, [0.5] * 5, [0.4] * 5, (0.01, 1e-5), ("yes", "query:0.15", "int4-channel64")),
        ([0.2] * 5, [0.5] * 5, [0.05] * 5, (0.01, 1e-5), ("prefix-only", "prefix", "int4-channel64")),
        ([0.2] * 5, [0.15] * 5, [0.4] * 5, (0.01, 1e-5), ("prefix-only", "prefix", "int4-channel64")),
        # Where all are near, none need be the nearest; the policy must be worth its charge.
        ([0.07] * 5, [0.08] * 5, [0.05] * 5, (0.01, 1e-5), ("yes", "query:0.15", "int4-channel64")),
        ([0.1] * 5, [0.08] * 5, [0.05] * 5, (0.01, 1e-5), ("yes", "reuse", "int4-channel64")),
        (
            [0.1] * 5,
            [0.08] * 4 + [2.0],
            [0.05] * 5,
            (0.01, 1e-5),
            ("yes", "query:0.15", "int4-channel64"),
        ),
        ([0.4] * 5, [0.9] * 5, [0.8] * 5, (0.01, 1e-5), ("prefix-only", "prefix", "int4-channel64")),
        ([0.1] * 5, [0.001] * 5, [0.4] * 5, (0.01, 1e-5), ("yes", "reuse", "int4-channel64")),
    ],
)
def test_decisions(
    policy: list[float],
    reuse: list[float],
    random: list[float],
    codecs: tuple[float, float],
    wanted: tuple[str, str, str],
) -> None:
    kl = {"query:0.15": policy, "reuse": reuse, "random:0.15": random}
    point = gate.QualityPoint(kl, {}, {}, 5)
    measured = dict(zip(gate.CODECS, ([value] * 2 for value in codecs), strict=True))
    safe, _, chosen, codec = gate._decide(point, measured, "query:0.15")
    assert (safe, chosen, codec) == wanted


def test_what_costs_a_full_prefill_is_no_reuse() -> None:
    kl = {"query:1": [0.0] * 5, "reuse": [0.5] * 5, "random:0.15": [0.4] * 5}
    measured = {codec: [1e-5] * 5 for codec in gate.CODECS}
    point = gate.QualityPoint(kl, {}, {"query:1": 1.06}, 5)
    safe, reason, chosen, _ = gate._decide(point, measured, "query:1")
    assert (safe, chosen) == ("prefix-only", "prefix") and "106%" in reason


def test_codecs_alone(subject: Subject) -> None:
    found = codec_kl(subject, ["raw-f32", "int8-channel", "int2-kivi"], 2)
    assert max(found["raw-f32"]) < 1e-9
    assert 0 < max(found["int8-channel"]) < min(found["int2-kivi"])


def test_characters_are_a_tokenizer() -> None:
    text = "The code name.\n"
    assert Characters().decode(Characters()(text)["input_ids"]) == text
    assert cli.EXIT_INTERRUPTED == 130
