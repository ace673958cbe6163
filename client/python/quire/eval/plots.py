"""Quality against charged budget, and deviation by layer, as PNG and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import Unsupported
from .cells import FULL, NO_DOCUMENTS, UNCODED
from .summary import Row, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KL_FLOOR = 1e-4  # what a logarithmic axis shows of nothing


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Unsupported("plots need matplotlib; --no-plots leaves them out") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, [figure.add_subplot(1, columns, i + 1) for i in range(columns)]


def _save(figure: Figure, folder: Path, name: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    for path in paths:
        # No dates, no random ids: the same results give the same file.
        meta = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=120, metadata=meta)
    return paths


def _families(rows: list[Row]) -> dict[str, list[Row]]:
    """Cells that differ in the budget alone."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.policy in (FULL, NO_DOCUMENTS):
            continue
        family = row.policy.partition(":")[0] if "+" not in row.policy else row.policy
        label = family + (f" @{row.variant}" if row.variant != "sys" else "")
        label += "" if row.codec == UNCODED else f" {row.codec}"
        found.setdefault(label, []).append(row)
    return {label: sorted(mine, key=lambda r: r.charge) for label, mine in found.items()}


def _curves(axes: Axes, rows: list[Row], *, answers: bool) -> None:
    for label, mine in _families(rows).items():
        x = [100 * row.charge for row in mine]
        found = [row.right if answers else row.kl for row in mine]
        if any(interval is None for interval in found):
            continue
        y = np.array([i.value if i else 0.0 for i in found])
        low = np.array([i.low if i else 0.0 for i in found])
        high = np.array([i.high if i else 0.0 for i in found])
        if not answers:
            y, low, high = (np.maximum(v, KL_FLOOR) for v in (y, low, high))
        errors = np.maximum(np.stack([y - low, high - y]), 0)
        axes.errorbar(x, y, yerr=errors, marker="o", capsize=2, linewidth=1, label=label)
    for row in rows:
        if answers and row.right is not None and row.policy in (FULL, NO_DOCUMENTS):
            axes.axhline(row.right.value, color="gray", linestyle="--", linewidth=0.8)
            axes.text(0, row.right.value, f" {row.policy}", fontsize=7, color="gray", va="bottom")
    axes.set_xlabel("charged, % of full prefill")
    axes.set_ylabel("answers right" if answers else "mean KL(full || policy)")
    if not answers:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)


def draw_quality(summary: Summary, folder: Path) -> list[Path]:
    """A figure per group of questions."""
    written: list[Path] = []
    for i, (name, rows) in enumerate(summary.groups.items()):
        if not _families(rows):
            continue
        answers = any(row.right is not None for row in rows)
        figure, axes = _figure(11 if answers else 6, 4.5, 2 if answers else 1)
        if answers:
            _curves(axes[0], rows, answers=True)
        _curves(axes[-1], rows, answers=False)
        axes[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
        figure.suptitle(name, fontsize=10)
        written += _save(figure, folder, f"quality-{i}")
    return written


def draw_deviation(summary: Summary, folder: Path) -> list[Path]:
    """Heat map: cells by layers; 1 is what isolated chunks deviate."""
    if not summary.deviation:
        return []
    cells = list(summary.deviation)
    values = np.array(
        [[np.nan if v is None else v for v in summary.deviation[cell]] for cell in cells]
    )
    figure, (axes,) = _figure(2.5 + 0.3 * values.shape[1], 1.5 + 0.3 * len(cells))
    image = axes.imshow(values, aspect="auto", cmap="viridis_r", vmin=0, vmax=1.2)
    axes.set_yticks(range(len(cells)), [cell.replace("|none", "") for cell in cells], fontsize=7)
    axes.set_xlabel("layer")
    axes.set_title("KV deviation from full prefill, of isolated chunks'", fontsize=9)
    figure.colorbar(image)
    return _save(figure, folder, "deviation")


def draw_all(summary: Summary, folder: Path) -> list[Path]:
    """Everything, into folder/plots."""
    plots = folder / "plots"
    return [*draw_quality(summary, plots), *draw_deviation(summary, plots)]
