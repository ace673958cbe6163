"""Results of a folder as numbers: one row per cell and group of questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .bootstrap import DRAWS, Bootstrap, Interval, PerPrompt
from .cells import FULL
from .errors import DocumentsMissing
from .records import DEVIATION, RESULTS, Line, read_lines, read_settings
from .tasks import CROSS_CHUNK_KINDS, OPEN_KINDS

GROUPS: dict[str, tuple[str, ...]] = {
    "Questions across chunks": CROSS_CHUNK_KINDS,
    "Single facts": ("single",),
    "Copies, word for word": ("copy",),
    "Edited code": ("edit-insert", "edit-change", "edit-delete"),
    "Continuation and summary": OPEN_KINDS,
}


@dataclass(frozen=True)
class Row:
    """A cell within a group. right and what follows from it: None for open questions. Differences
    and ratios are paired over the prompts that both cells have."""

    cell: str
    policy: str
    variant: str
    codec: str
    n_prompts: int
    n_questions: int
    charge: float
    kl: Interval
    kl_median: float
    top1: float
    right: Interval | None
    right_minus_full: Interval | None
    right_of_full: Interval | None
    generated_right: float | None
    reference: str = ""
    kl_of_reuse: Interval | None = None
    kl_minus_reuse: Interval | None = None
    right_minus_reuse: Interval | None = None
    better_than_reuse: tuple[int, int] = (0, 0)
    by_kind: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    settings: dict[str, Any]
    groups: dict[str, list[Row]]
    deviation: dict[str, list[float | None]]


class _Cells:
    """Lines of one group, by cell and prompt."""

    def __init__(self, lines: Sequence[Line], draws: int) -> None:
        self.by_cell: dict[str, dict[str, list[Line]]] = {}
        for line in lines:
            self.by_cell.setdefault(line["cell"], {}).setdefault(line["prompt"], []).append(line)
        self._draws = draws
        self._known: dict[int, Bootstrap] = {}

    def bootstrap(self, n: int) -> Bootstrap:
        if n not in self._known:
            self._known[n] = Bootstrap(n, self._draws)
        return self._known[n]

    def per_prompt(self, cell: str, prompts: Sequence[str], key: str) -> PerPrompt:
        mine = self.by_cell[cell]
        return PerPrompt.of(
            [[line[key] for line in mine[p] if line.get(key) is not None] for p in prompts]
        )

    def paired(
        self, one: str, other: str, key: str
    ) -> tuple[Bootstrap, PerPrompt, PerPrompt] | None:
        shared = [p for p in self.by_cell[one] if p in self.by_cell[other]]
        if not shared:
            return None
        pair = self.per_prompt(one, shared, key), self.per_prompt(other, shared, key)
        if not pair[0].counts.sum():
            return None
        return self.bootstrap(len(shared)), *pair

    def compare(
        self,
        how: Callable[[Bootstrap], Callable[[PerPrompt, PerPrompt], Interval]],
        one: str,
        other: str,
        key: str,
    ) -> Interval | None:
        found = self.paired(one, other, key)
        return None if found is None else how(found[0])(found[1], found[2])

    def reference(self, first: Line) -> str:
        """Plain reuse as near to a cell as there is: its variant and codec, its variant, any."""
        wanted = (
            f"reuse|{first['variant']}|{first['codec']}",
            f"reuse|{first['variant']}|none",
            "reuse|sys|none",
        )
        near = next((key for key in wanted if key in self.by_cell), "")
        return near or next((key for key in self.by_cell if key.startswith("reuse|")), "")

    def wins(self, one: str, other: str) -> tuple[int, int]:
        """(prompts whose mean KL is lower, prompts)"""
        found = self.paired(one, other, "kl")
        if found is None:
            return 0, 0
        a, b = found[1].sums / found[1].counts, found[2].sums / found[2].counts
        return int((a < b).sum()), len(a)

    def row(self, cell: str) -> Row:
        prompts = list(self.by_cell[cell])
        lines = [line for p in prompts for line in self.by_cell[cell][p]]
        draw = self.bootstrap(len(prompts))
        full = next((key for key in self.by_cell if key.startswith(f"{FULL}|")), "")
        reference = self.reference(lines[0])
        right = self.per_prompt(cell, prompts, "right")
        said = [line["generated_right"] for line in lines if "generated_right" in line]
        kinds = sorted({line["kind"] for line in lines if line["right"] is not None})
        has_reuse = bool(reference) and reference != cell
        first = lines[0]
        return Row(
            cell,
            first["policy"],
            first["variant"],
            first["codec"],
            len(prompts),
            len(lines),
            float(np.mean([line["charge"] for line in lines])),
            draw.mean(self.per_prompt(cell, prompts, "kl")),
            float(np.median([line["kl"] for line in lines])),
            float(np.mean([line["top1"] for line in lines])),
            draw.mean(right) if right.counts.sum() else None,
            self.compare(lambda b: b.difference, cell, full, "right") if full else None,
            self.compare(lambda b: b.ratio, cell, full, "right") if full else None,
            float(np.mean(said)) if said else None,
            reference,
            self.compare(lambda b: b.ratio, cell, reference, "kl") if reference else None,
            self.compare(lambda b: b.difference, cell, reference, "kl") if has_reuse else None,
            self.compare(lambda b: b.difference, cell, reference, "right") if has_reuse else None,
            self.wins(cell, reference) if has_reuse else (0, 0),
            {
                kind: float(np.mean([line["right"] for line in lines if line["kind"] == kind]))
                for kind in kinds
            },
        )


def _deviation(folder: Path) -> dict[str, list[float | None]]:
    """cell -> per layer, mean over prompts and over keys and values."""
    found: dict[str, list[list[float | None]]] = {}
    for line in read_lines(folder / DEVIATION):
        found.setdefault(line["cell"], []).extend([line["keys"], line["values"]])

    def mean(values: tuple[float | None, ...]) -> float | None:
        known = [v for v in values if v is not None]
        return float(np.mean(known)) if known else None

    return {cell: [mean(v) for v in zip(*runs, strict=True)] for cell, runs in found.items()}


def summarise(folder: Path, draws: int = DRAWS) -> Summary:
    """Raises DocumentsMissing where the folder has no results, RunDamaged."""
    lines = list(read_lines(folder / RESULTS))
    if not lines:
        raise DocumentsMissing(f"{folder} has no results: quire-eval run --out {folder}")
    settings = read_settings(folder)
    groups: dict[str, list[Row]] = {}
    for name, kinds in GROUPS.items():
        mine = [line for line in lines if line["kind"] in kinds]
        if mine:
            cells = _Cells(mine, draws)
            groups[name] = [cells.row(cell) for cell in cells.by_cell]
    return Summary(settings, groups, _deviation(folder))
