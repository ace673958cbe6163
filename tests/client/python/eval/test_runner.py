"""The runner on a random model: what it measures, that work shared is work equal, and resuming."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from quire.errors import InvalidArgument, NonFinite
from quire.eval.anchors import anchor_context_tokens
from quire.eval.cells import Cell, make_cells, split_policies
from quire.eval.errors import PromptTooLong, RunDamaged, RunMismatch
from quire.eval.loading import Subject
from quire.eval.measure import Oracle, compare, rows_digest, runs_of, says
from quire.eval.records import RunFolder, read_lines, read_settings
from quire.eval.runner import Options, PromptRun
from quire.eval.session import run_session
from quire.eval.summary import summarise
from quire.eval.variants import parse_variant, recipe_of
from quire.transformers import Engine
from quire.transformers.policies import PolicyNeeds
from quire.transformers.recipes import Recipe

CELLS = make_cells(["reuse", "query:0.2", "random:0.3", "no-documents"], ["sys"])


def lines_of(folder: Path) -> dict[str, bytes]:
    """All files but the timings."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != "timings.jsonl"}


def session(
    subject: Subject, folder: Path, cells: list[Cell], tasks: list[str], n: int, **more: object
) -> None:
    outcome = run_session(
        subject,
        RunFolder(folder, subject.settings("m")),
        tasks,
        cells,
        n,
        options=Options(generate_tokens=2, dump_rows=True, n_deviation=1),
        **more,  # type: ignore[arg-type]
    )
    assert not outcome.errors, outcome.errors


def test_kvcomm_has_anchors_of_texts_beside_the_prompt(subject: Subject, tmp_path: Path) -> None:
    session(subject, tmp_path, make_cells(["reuse", "kvcomm"]), ["needle"], 1)
    lines = list(read_lines(tmp_path / "results.jsonl"))
    reuse, kvcomm = ([x for x in lines if x["policy"] == name] for name in ("reuse", "kvcomm"))
    assert len(kvcomm) == len(reuse) == 3
    # Without anchors every chunk would be computed.
    assert all(line["charge"] < 1 for line in kvcomm)
    # Random chunks are like no anchor or get its differences: neither is plain reuse.
    assert all(a["charge"] > 0 or abs(a["kl"] - b["kl"]) > 1e-9 for a, b in zip(kvcomm, reuse, strict=True))
    prompt = subject.generator.prompt("edit", 0)
    with pytest.raises(InvalidArgument, match="anchors"):
        PromptRun(subject.engine, subject.encoder, prompt).run(Cell("kvcomm", "sys", "none"))


def test_results(subject: Subject, tmp_path: Path) -> None:
    session(subject, tmp_path, CELLS, ["needle", "continue", "edit", "relay", "copy"], 1)
    lines = list(read_lines(tmp_path / "results.jsonl"))
    by_cell = {(line["prompt"], line["cell"], line["question"]): line for line in lines}
    n_questions = {line["prompt"]: line["n_questions"] for line in lines}
    assert len(n_questions) == 5 and n_questions["needle-7-0"] == 3
    assert len(by_cell) == len(lines) == len(CELLS) * sum(n_questions.values())
    for line in lines:
        if line["policy"] == "full":
            assert line["kl"] < 1e-9 and line["top1"] == 1.0 and line["charge"] == 1.0
        elif line["policy"] == "reuse":
            assert line["charge"] == 0.0 and line["kl"] > 1e-6
        elif line["policy"] == "query:0.2":
            assert 0.19 < line["charge_rows"] < 0.23 and line["charge_question"] > 0.01
            assert line["charge"] == pytest.approx(line["charge_rows"] + line["charge_question"])
        open_ended = line["kind"] in ("continuation", "summary")
        assert (line["right"] is None) == open_ended
        assert ("generated" in line) == (not open_ended)
    # Chunk rows dumped give the digest that the results have.
    for line in read_lines(tmp_path / "rows.jsonl"):
        result = by_cell[line["prompt"], line["cell"], line["question"]]
        runs, rows = [], []
        for layer in range(6):
            runs = line["layers"].get(str(layer), runs)
            parts = [np.arange(a, b + 1) for a, b in runs]
            rows.append(np.concatenate(parts) if parts else np.empty(0, dtype=np.int64))
        assert rows_digest(rows) == line["rows"] == result["rows"]
    deviation = list(read_lines(tmp_path / "deviation.jsonl"))
    assert {line["cell"] for line in deviation} == {
        c.key for c in CELLS if c.policy not in ("full", "no-documents")
    }
    for line in deviation:
        assert line["keys"][0] is None and all(0 < x < 3 for x in line["keys"][1:])


def test_all_rows_are_full_prefill(subject: Subject) -> None:
    run = PromptRun(subject.engine, subject.encoder, subject.generator.prompt("needle", 0))
    for policy in ("query:1", "epic:9999"):
        for line in run.run(Cell(policy, "sys", "none")).results:
            assert line["kl"] < 1e-8 and line["top1"] == 1.0, line


def test_codecs_are_the_real_ones(subject: Subject) -> None:
    run = PromptRun(subject.engine, subject.encoder, subject.generator.prompt("needle", 0))
    kl = {
        codec: np.mean([line["kl"] for line in run.run(Cell("reuse", "beside:1", codec)).results])
        for codec in ("none", "raw-f32", "int8-channel", "int2-kivi")
    }
    assert kl["raw-f32"] == pytest.approx(kl["none"], rel=1e-4, abs=1e-9)
    assert kl["int8-channel"] == pytest.approx(kl["none"], rel=0.05)
    assert abs(kl["int2-kivi"] / kl["none"] - 1) > 0.001


@pytest.mark.parametrize("task", ["edit", "relay"])
def test_chunks_that_a_policy_refuses_are_charged(subject: Subject, task: str) -> None:
    # They have a context of their own, whatever the variant.
    run = PromptRun(subject.engine, subject.encoder, subject.generator.prompt(task, 0))
    for line in run.run(Cell("link0", "sink:4", "none")).results:
        assert line["kl"] < 1e-8 and line["charge"] == 1.0


@pytest.mark.parametrize("policy", ["reuse", "epic:4", "random:0.3"])
def test_shared_prefills_equal_separate_ones(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    prompt = subject.generator.prompt("needle", 1)

    def measure() -> list[dict[str, object]]:
        run = PromptRun(subject.engine, subject.encoder, prompt)
        return run.run(Cell(policy, "sys", "none")).results

    shared = measure()
    monkeypatch.setattr(PolicyNeeds, "blind_to_question", False)
    for one, other in zip(shared, measure(), strict=True):
        assert one["kl"] == pytest.approx(other["kl"], abs=1e-6)
        assert one["charge"] == other["charge"]


@pytest.mark.parametrize(
    "variant",
    ["iso", "sys", "sink:4", "filler", "neighbours:2", "similar:2", "anew", "beside:1", "sys&beside:1"],
)
def test_variants(subject: Subject, variant: str) -> None:
    prompt = subject.generator.prompt("needle", 0)
    run = PromptRun(subject.engine, subject.encoder, prompt, with_stats=True)
    policy = "least-cfo/reuse" if "&" in variant else "reuse"
    lines = run.run(Cell(policy, variant, "none")).results
    assert len(lines) == 3 and all(line["charge"] == 0.0 for line in lines)


def test_reports_keep_their_writers_context_or_are_computed_anew(subject: Subject) -> None:
    prompt = subject.generator.prompt("relay", 0)
    report, system = prompt.chunks[0], prompt.system_tokens
    assert report.behind is not None and len(report.behind) > len(system)
    for name, lead in [("sys", report.behind), ("iso", report.behind), ("anew", system)]:
        recipe = recipe_of(parse_variant(name), prompt, 0, subject.encoder.sink_token)
        assert np.array_equal(recipe.lead, lead), name


class Stop(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("stop_after", [2, 4])
def test_an_interrupted_run_goes_on(subject: Subject, tmp_path: Path, stop_after: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    session(subject, whole, CELLS, ["edit"], 1)
    seen = 0

    def interrupt(prompt: str, cell: Cell, seconds: float | None) -> None:
        nonlocal seen
        seen += 1
        if seen == stop_after:
            raise Stop

    with pytest.raises(KeyboardInterrupt):
        session(subject, parts, CELLS, ["edit"], 1, progress=interrupt)
    # Killed in the middle of a write, too.
    for name in ("rows.jsonl", "results.jsonl"):
        with (parts / name).open("a") as file:
            file.write((parts / name).read_text().splitlines()[-1].replace("edit-7-0", "edit-7-1") + "\n")
            file.write('{"prompt": "ed')
    session(subject, parts, CELLS, ["edit"], 1)
    assert lines_of(parts) == lines_of(whole)
    before = lines_of(whole)
    session(subject, whole, CELLS, ["edit"], 1)
    assert lines_of(whole) == before


def test_a_folder_of_another_run_is_refused(subject: Subject, tmp_path: Path) -> None:
    RunFolder(tmp_path, subject.settings("m"))
    with pytest.raises(RunMismatch, match="another seed"):
        RunFolder(tmp_path, {**subject.settings("m"), "seed": 8})


DAMAGED = [
    ("results.jsonl", b"{not json\n", "line 2 is damaged"),
    ("results.jsonl", b"[1, 2]\n", "line 2 is damaged"),
    ("results.jsonl", b"\0\0\0\0\n", "line 2 is damaged"),
    ("results.jsonl", b'{"prompt": "\xff"}\n', "line 2 is damaged"),
    ("timings.jsonl", b"\n", "line 2 is damaged"),
    ("run.json", b"{", "missing or damaged"),
]


@pytest.mark.parametrize(("name", "added", "message"), DAMAGED)
def test_damaged_files_are_named(tmp_path: Path, name: str, added: bytes, message: str) -> None:
    line = {"prompt": "p", "cell": "c", "n_questions": 1, "kind": "single"}
    RunFolder(tmp_path, {"model": "m"}).add([line], timings=[{"prompt": "p", "cell": "c"}])
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole + added)
    with pytest.raises(RunDamaged, match=message):
        RunFolder(tmp_path, {"model": "m"})
    if name != "timings.jsonl":
        with pytest.raises(RunDamaged, match=message):
            summarise(tmp_path)
    (tmp_path / name).write_bytes(whole)
    assert RunFolder(tmp_path, {"model": "m"}).done == {("p", "c")}
    # Of which model and prompts they are is not guessed from the next command.
    (tmp_path / "run.json").unlink()
    with pytest.raises(RunDamaged, match="missing"):
        RunFolder(tmp_path, {"model": "another"})


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    held = RunFolder(tmp_path, {"model": "m"})
    read_settings(tmp_path)  # a reader in the same process does not end its lock
    code = (
        "import sys; from pathlib import Path; from quire.eval.records import RunFolder\n"
        "RunFolder(Path(sys.argv[1]), {'model': 'm'})"
    )
    other = [sys.executable, "-c", code, str(tmp_path)]
    # The package is where this process finds it, installed or not.
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run(other, capture_output=True, text=True, check=False, env=where)
    assert found.returncode != 0 and "RunInUse: " in found.stderr, found.stderr
    del held
    subprocess.run(other, check=True, env=where)


def test_one_refusal_stops_no_other_cell(subject: Subject, tmp_path: Path) -> None:
    cells = [Cell("relay:99", "sys", "none"), Cell("reuse", "sys", "none")]
    folder = RunFolder(tmp_path, subject.settings("m"))
    outcome = run_session(subject, folder, ["needle"], cells, 1)
    assert len(outcome.errors) == 1 and "6 layers" in outcome.errors[0]
    assert [json.loads(line)["cell"] for line in (tmp_path / "errors.jsonl").open()] == [cells[0].key]
    assert {line["policy"] for line in read_lines(tmp_path / "results.jsonl")} == {"reuse"}


def test_a_prompt_longer_than_the_context(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject.engine.hf_model.config, "max_position_embeddings", 600)
    with pytest.raises(PromptTooLong, match="the model's context 600"):
        PromptRun(subject.engine, subject.encoder, subject.generator.prompt("needle", 0))


def test_anchors_longer_than_the_context(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = subject.generator.prompt("needle", 0)
    needed = anchor_context_tokens(prompt)
    longest = max(len(q.tokens) + max(len(q.opening) + len(q.answer), 32) for q in prompt.questions)
    assert needed > len(prompt.context_tokens) + longest, "else the prompt does not fit either"
    seen = []
    capture = Engine.capture

    def spied(self: Engine, tokens: np.ndarray, recipe: Recipe, **more: object) -> object:
        seen.append(len(recipe.lead) + len(tokens))
        return capture(self, tokens, recipe, **more)  # type: ignore[arg-type]

    config, kvcomm = subject.engine.hf_model.config, Cell("kvcomm", "sys", "none")
    monkeypatch.setattr(Engine, "capture", spied)
    monkeypatch.setattr(config, "max_position_embeddings", needed)
    run = PromptRun(subject.engine, subject.encoder, prompt, with_anchors=True)
    run.run(kvcomm)
    assert max(seen) == needed

    monkeypatch.setattr(config, "max_position_embeddings", needed - 1)
    too_long = pytest.raises(PromptTooLong, match=f"an anchor behind it has {needed} tokens")
    with too_long:
        session(subject, tmp_path, make_cells(["reuse", "kvcomm"]), ["needle"], 1)
    session(subject, tmp_path / "other", make_cells(["reuse"]), ["needle"], 1)
    alone = PromptRun(subject.engine, subject.encoder, prompt)
    with too_long:
        alone.run(kvcomm)


def test_nan_in_kv_stops_the_run(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = Engine.capture

    def broken(self: Engine, *arguments: object, **more: object) -> object:
        chunk = capture(self, *arguments, **more)  # type: ignore[arg-type]
        values = (torch.full_like(chunk.values[0], float("nan")), *chunk.values[1:])
        return type(chunk)(chunk.tokens, chunk.keys, values, chunk.context, chunk.base_position)

    monkeypatch.setattr(Engine, "capture", broken)
    with pytest.raises(NonFinite, match="NaN"):
        session(subject, tmp_path, CELLS, ["needle"], 1)
    assert {line["policy"] for line in read_lines(tmp_path / "results.jsonl")} == {"full"}


def test_models_with_windows(engine_of: Callable[[str], Engine], corpus: object) -> None:
    from quire.eval.loading import subject_of
    from quire.eval.tasks import Layout

    subject = subject_of(engine_of("gemma3"), corpus=corpus, layout=Layout((3, 3), 150))  # type: ignore[arg-type]
    run = PromptRun(subject.engine, subject.encoder, subject.generator.prompt("needle", 0))
    assert all(line["kl"] < 1e-7 for line in run.run(Cell("query:1", "sys", "none")).results)


def test_fidelity_by_hand() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    q = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]])
    found = compare(Oracle.of(p.log()), q.log(), np.array([0, 1], dtype=np.uint32))
    assert found.kl_max == pytest.approx(0.25 * np.log(2), rel=1e-5)
    assert found.kl == pytest.approx(0.125 * np.log(2), rel=1e-5)
    assert (found.top1, found.right) == (0.5, False)
    assert found.answer_nll == pytest.approx(-(np.log(0.25) + np.log(0.8)) / 2, rel=1e-5)
    with pytest.raises(NonFinite):
        compare(Oracle.of(p.log()), q.log() * float("nan"), np.array([0, 1], dtype=np.uint32))


def test_small_functions() -> None:
    assert runs_of(np.array([1, 2, 3, 7, 9, 10])) == [[1, 3], [7, 7], [9, 10]]
    assert runs_of(np.array([], dtype=np.int64)) == []
    assert says("It is Heron-Falcon, I think.", "heron and falcon") is False
    assert says('It is "Heron and\nFalcon".', "Heron and Falcon")
    assert not says("pineapple", "apple")


def test_cells() -> None:
    assert split_policies("reuse,cacheblend-v:0.2,8=0.1,query:B;epic:8 psr:0.1,0.9,0.9") == [
        "reuse",
        "cacheblend-v:0.2,8=0.1",
        "query:B",
        "epic:8",
        "psr:0.1,0.9,0.9",
    ]
    cells = make_cells(["query:B@filler", "link0", "epic:8+query:B", "reuse", "reuse"], budgets=[0.1])
    assert [cell.key for cell in cells] == [
        "full|-|none",
        "query:0.1|filler|none",
        "link0|sink:4|none",
        "epic:8+query:0.1|sys|none",
        "reuse|sys|none",
    ]
    for wrong in (["nothing"], ["query:2"], ["reuse@nowhere"]):
        with pytest.raises(InvalidArgument):
            make_cells(wrong)
    for wrong in ("sink:0", "sink:x", "iso:1", "near"):
        with pytest.raises(InvalidArgument, match="unknown variant"):
            parse_variant(wrong)
