"""A run's folder: what it is of, and its results as JSON lines that a later run goes on with.

run.json       model, documents, seed, layout: what prompts depend on
results.jsonl  a line per prompt, cell and question
rows.jsonl     the rows of each, where asked for
deviation.jsonl  per layer, how far the KV is from full prefill's
timings.jsonl  seconds per prompt and cell
errors.jsonl   cells that a policy or the model refuses
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from .errors import RunDamaged, RunInUse, RunMismatch

RESULTS, ROWS, DEVIATION = "results.jsonl", "rows.jsonl", "deviation.jsonl"
TIMINGS, ERRORS, SETTINGS = "timings.jsonl", "errors.jsonl", "run.json"
Line = dict[str, Any]


def read_lines(path: Path) -> Iterator[Line]:
    """Whole lines; a last one that was cut off is left out. Raises RunDamaged."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.endswith(b"\n"):
                return
            yield _parsed(raw, path, number)


def _parsed(raw: bytes, path: Path, number: int) -> Line:
    try:
        line = json.loads(raw)
    except ValueError:  # no JSON, or no text
        line = None
    if not isinstance(line, dict) or not {"prompt", "cell"} <= line.keys():
        raise RunDamaged(
            f"{path}: line {number} is damaged; without it the run measures anew what it was of"
        )
    return line


def read_settings(folder: Path) -> dict[str, Any]:
    """Raises RunDamaged, also where there are none."""
    path = folder / SETTINGS
    try:
        settings = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        settings = None
    if not isinstance(settings, dict):
        raise RunDamaged(f"{path} is missing or damaged: of what model and prompts is this run?")
    return settings


def _dump(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n"


def _replace(path: Path, text: str) -> None:
    """As a whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


class RunFolder:
    """One process writes at a time. A (prompt, cell) is written as a whole or not at all: the
    results come last, and what an interruption left without them is removed when the folder is
    opened."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Raises RunMismatch where the folder holds results of other settings, RunInUse, and
        RunDamaged."""
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._check(settings)
        self._lock = self._locked()
        self.done: set[tuple[str, str]] = set()
        self._sizes: dict[tuple[str, str], int] = {}
        self._clean()

    def _check(self, settings: Mapping[str, Any]) -> None:
        file = self.path / SETTINGS
        results = self.path / RESULTS
        if file.exists() or (results.is_file() and results.stat().st_size):
            before = read_settings(self.path)
            differing = sorted(
                key for key in {*before, *settings} if before.get(key) != settings.get(key)
            )
            if differing:
                key = differing[0]
                raise RunMismatch(
                    f"{self.path} holds a run with another {key} ({before.get(key)!r}, now "
                    f"{settings.get(key)!r}): take another folder"
                )
            return
        text = json.dumps(dict(settings), indent=1, sort_keys=True, ensure_ascii=False)
        _replace(file, text + "\n")

    def _locked(self) -> IO[bytes]:
        """The open file whose lock ends with this process."""
        file = (self.path / SETTINGS).open("r+b")
        try:
            # Not lockf(): that lock ends when this process has read the file and closes it.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise RunInUse(f"another quire-eval run writes into {self.path}") from error
        return file

    def _clean(self) -> None:
        groups: dict[tuple[str, str], list[Line]] = {}
        for line in read_lines(self.path / RESULTS):
            groups.setdefault((line["prompt"], line["cell"]), []).append(line)
        self.done = {
            key for key, lines in groups.items() if len(lines) == lines[0].get("n_questions")
        }
        for name in (RESULTS, ROWS, DEVIATION, TIMINGS):
            self._keep(name, lambda line: (line["prompt"], line["cell"]) in self.done)
        (self.path / ERRORS).unlink(missing_ok=True)  # tried again with every run

    def _keep(self, name: str, keep: Any) -> None:  # noqa: ANN401
        path = self.path / name
        if not path.is_file():
            return
        text = "".join(_dump(line) for line in read_lines(path) if keep(line))
        if text.encode() != path.read_bytes():
            _replace(path, text)

    def _append(self, name: str, lines: Iterable[Line]) -> None:
        text = "".join(map(_dump, lines))
        if text:
            with (self.path / name).open("a", encoding="utf-8") as file:
                file.write(text)

    def add(
        self,
        results: list[Line],
        rows: Iterable[Line] = (),
        deviation: Iterable[Line] = (),
        timings: Iterable[Line] = (),
    ) -> None:
        """The lines of one (prompt, cell)."""
        self._append(ROWS, rows)
        self._append(DEVIATION, deviation)
        self._append(TIMINGS, timings)
        self._append(RESULTS, results)
        self.done |= {(line["prompt"], line["cell"]) for line in results}

    def add_error(self, prompt: str, cell: str, message: str) -> None:
        self._append(ERRORS, [{"prompt": prompt, "cell": cell, "error": message}])
