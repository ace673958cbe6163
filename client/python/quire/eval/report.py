"""A run's results as Markdown, JSON and plots."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .bootstrap import DRAWS, Interval
from .claims import claim_of
from .summary import Row, Summary, summarise

REPORT, NUMBERS = "report.md", "summary.json"


def _number(value: float | None, digits: int = 3) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.{digits}f}" if abs(value) >= 10**-digits or value == 0 else f"{value:.1e}"


def _interval(found: Interval | None, *, signed: bool = False) -> str:
    if found is None or math.isnan(found.value):
        return "-"
    value = f"{found.value:+.3f}" if signed else _number(found.value)
    return f"{value} [{_number(found.low)}, {_number(found.high)}]"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(row).replace("\n", " ") + " |" for row in rows)]


def _name(row: Row) -> list[str]:
    return [f"`{row.policy}`", row.variant, row.codec, _percent(row.charge)]


_NAME = ["policy", "variant", "codec", "charged"]


def _main_table(rows: list[Row]) -> list[str]:
    head = [*_NAME, "n", "KL", "median", "top-1", "right", "- full", "of full", "KL of reuse's"]
    free = any(row.generated_right is not None for row in rows)
    if free:
        head.append("right in free generation")
    out = []
    for row in rows:
        line = [
            *_name(row),
            f"{row.n_prompts} / {row.n_questions}",
            _interval(row.kl),
            _number(row.kl_median),
            _number(row.top1),
            _interval(row.right),
            _interval(row.right_minus_full, signed=True),
            _interval(row.right_of_full),
            _interval(row.kl_of_reuse),
        ]
        out.append([*line, _number(row.generated_right)] if free else line)
    return _table(head, out)


def _kind_table(rows: list[Row]) -> list[str]:
    kinds = sorted({kind for row in rows for kind in row.by_kind})
    if len(kinds) < 2:
        return []
    body = [[*_name(row), *(_number(row.by_kind.get(kind), 2) for kind in kinds)] for row in rows]
    return ["", "Right, by kind:", "", *_table([*_NAME, *kinds], body)]


def _reuse_table(rows: list[Row]) -> list[str]:
    mine = [row for row in rows if row.kl_minus_reuse is not None and row.policy != "full"]
    if not mine:
        return []
    body = [
        [
            *_name(row),
            " ".join(part for part in row.reference.split("|") if part != "none"),
            _interval(row.kl_minus_reuse, signed=True),
            _interval(row.right_minus_reuse, signed=True),
            f"{row.better_than_reuse[0]} of {row.better_than_reuse[1]}",
        ]
        for row in mine
    ]
    head = [*_NAME, "against", "KL", "right", "prompts with lower KL"]
    return ["", "Against plain reuse, paired:", "", *_table(head, body)]


def _claims_table(groups: dict[str, list[Row]]) -> list[str]:
    rows = next(iter(groups.values()), [])
    body = []
    for row in rows:
        claim = claim_of(row.policy)
        if claim is None or row.codec != "none":
            continue
        ours = f"KL {_interval(row.kl)}"
        if row.right_of_full is not None and math.isfinite(row.right_of_full.value):
            ours = f"{_interval(row.right_of_full)} of full prefill's answers, {ours}"
        cell = f"`{row.policy}` over {row.variant}, {_percent(row.charge)} charged"
        body.append([claim.method, f"{claim.text} ({claim.source})", cell, ours])
    if not body:
        return []
    head = ["method", "claim", "measured here", "figure"]
    return ["", "## Claims and figures", "", *_table(head, body)]


_NOTES = """\
charged: rows computed again x layers, as a share of all reusable tokens x layers, with the
question's first pass. KL: full prefill against the policy, nats, mean over answer positions. right:
every token of the answer is the greatest. Brackets: 95 %, bootstrap over prompts, {draws} draws,
paired where two cells are compared. Small models recall; absolute figures are not those of large
ones."""


def markdown(summary: Summary, plots: list[str], draws: int = DRAWS) -> str:
    """The whole report."""
    settings = summary.settings
    out = [f"# Fidelity of reuse: {settings.get('model', '')}", ""]
    shown = {k: v for k, v in settings.items() if k not in ("model", "model_id")}
    out += [", ".join(f"{key} {value}" for key, value in sorted(shown.items())) + ".", ""]
    out += [_NOTES.format(draws=f"{draws:,}")]
    for name, rows in summary.groups.items():
        out += ["", f"## {name}", "", *_main_table(rows), *_kind_table(rows), *_reuse_table(rows)]
    out += _claims_table(summary.groups)
    if plots:
        out += [
            "",
            "## Plots",
            "",
            *(f"![{Path(p).stem}]({p})" for p in plots if p.endswith(".png")),
        ]
    return "\n".join(out) + "\n"


def _plain(value: Any) -> Any:  # noqa: ANN401
    """NaN and infinity have no place in JSON."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_report(folder: Path, draws: int = DRAWS, *, plots: bool = True) -> list[Path]:
    """report.md, summary.json and plots, in the run's folder; what was written."""
    summary = summarise(folder, draws)
    written: list[Path] = []
    if plots:
        from .plots import draw_all

        written += draw_all(summary, folder)
    numbers = folder / NUMBERS
    text = json.dumps(_plain(asdict(summary)), indent=1, sort_keys=True, ensure_ascii=False)
    numbers.write_text(text + "\n", encoding="utf-8")
    report = folder / REPORT
    names = [path.relative_to(folder).as_posix() for path in written]
    report.write_text(markdown(summary, names, draws), encoding="utf-8")
    return [report, numbers, *written]
