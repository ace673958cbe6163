"""Intervals against numbers worked out by hand, and a report against a golden file."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from quire.eval.bootstrap import Bootstrap, PerPrompt
from quire.eval.claims import claim_of
from quire.eval.errors import DocumentsMissing
from quire.eval.report import _plain, write_report
from quire.eval.summary import summarise

GOLDEN = Path(__file__).parent / "data" / "report.md"
SETTINGS = {"model": "tiny.gguf", "seed": 7, "documents": "abc", "template": "plain"}


def test_two_prompts() -> None:
    # Draws of two: both the first (1/4), one of each (1/2), both the second (1/4).
    draw = Bootstrap(2, draws=40_000, seed=1)
    found = draw.mean(PerPrompt.of([[0.0], [1.0]]))
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
    means = draw._means(PerPrompt.of([[0.0], [1.0]]))
    assert sorted(set(means)) == [0.0, 0.5, 1.0]
    assert np.mean(means == 0.5) == pytest.approx(0.5, abs=0.01)


def test_questions_of_a_prompt_stay_together() -> None:
    # Three right of a prompt, none of another: as whole prompts the mean is 0, 3/4 or 1.
    draw = Bootstrap(2, draws=2000)
    what = PerPrompt.of([[1, 1, 1], [0]])
    assert draw.mean(what).value == 0.75
    assert sorted(set(draw._means(what))) == [0.0, 0.75, 1.0]


def test_differences_are_paired() -> None:
    # One is ten times the spread above the other in every prompt: the difference has no spread.
    values = [[float(v)] for v in range(30)]
    draw = Bootstrap(30)
    one, other = PerPrompt.of([[v[0] + 2] for v in values]), PerPrompt.of(values)
    found = draw.difference(one, other)
    assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))
    assert draw.mean(one).high - draw.mean(one).low > 4
    double = draw.ratio(PerPrompt.of([[2 * v[0]] for v in values]), other)
    assert (double.value, double.low, double.high) == pytest.approx((2, 2, 2))


def test_known_interval() -> None:
    # 100 prompts of which half are right: the binomial interval is .40 to .60.
    found = Bootstrap(100).mean(PerPrompt.of([[i % 2] for i in range(100)]))
    assert found.value == 0.5
    assert (found.low, found.high) == (pytest.approx(0.40, abs=0.011), pytest.approx(0.60, abs=0.011))


def test_nothing_to_compare() -> None:
    draw = Bootstrap(2)
    assert math.isnan(draw.ratio(PerPrompt.of([[1], [1]]), PerPrompt.of([[0], [0]])).value)
    assert math.isnan(draw.mean(PerPrompt.of([[], []])).low)
    with pytest.raises(ValueError, match="nothing"):
        Bootstrap(0)


def test_a_ratio_may_have_no_upper_bound() -> None:
    # A third of the draws has two right of none: the interval does not end at what is left.
    one, other = PerPrompt.of([[1], [1], [1]]), PerPrompt.of([[1], [0], [0]])
    found = Bootstrap(3).ratio(one, other)
    assert (found.value, found.low, found.high) == (3.0, 1.0, math.inf)
    assert _plain(asdict(found)) == {"value": 3.0, "low": 1.0, "high": None}


def line(
    prompt: int, policy: str, kind: str, kl: float, right: bool | None, charge: float
) -> dict[str, object]:
    variant = "-" if policy == "full" else "sys"
    return {
        "prompt": f"needle-0-{prompt}",
        "cell": f"{policy}|{variant}|none",
        "policy": policy,
        "variant": variant,
        "codec": "none",
        "kind": kind,
        "kl": kl,
        "top1": 1.0 if kl < 0.1 else 0.5,
        "right": right,
        "charge": charge,
    }


def write_run(folder: Path) -> None:
    lines = []
    for p in range(4):
        lines += [
            line(p, "full", "two-hop", 0.0, True, 1.0),
            line(p, "full", "pair", 0.0, p != 3, 1.0),
            line(p, "reuse", "two-hop", 0.8, p == 0, 0.0),
            line(p, "reuse", "pair", 0.4, False, 0.0),
            line(p, "query:0.15", "two-hop", 0.08, True, 0.17),
            line(p, "query:0.15", "pair", 0.04, p > 1, 0.17),
            line(p, "full", "continuation", 0.0, None, 1.0),
            line(p, "reuse", "continuation", 0.2, None, 0.0),
            line(p, "query:0.15", "continuation", 0.3, None, 0.17),
        ]
    (folder / "results.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (folder / "run.json").write_text(json.dumps(SETTINGS))
    deviation = {"prompt": "needle-0-0", "cell": "reuse|sys|none", "keys": [None, 0.5], "values": [None, 0.7]}
    (folder / "deviation.jsonl").write_text(json.dumps(deviation) + "\n")


def test_summary_by_hand(tmp_path: Path) -> None:
    write_run(tmp_path)
    summary = summarise(tmp_path, draws=500)
    full, reuse, query = summary.groups["Questions across chunks"]
    assert (full.policy, reuse.policy, query.policy) == ("full", "reuse", "query:0.15")
    assert full.right is not None and full.right.value == 7 / 8
    assert query.right_of_full is not None and query.right_of_full.value == pytest.approx(6 / 7)
    assert query.right_minus_full is not None and query.right_minus_full.value == pytest.approx(-1 / 8)
    assert query.kl_of_reuse is not None and query.kl_of_reuse.low == pytest.approx(0.1)
    assert query.better_than_reuse == (4, 4) and reuse.better_than_reuse == (0, 0)
    assert query.by_kind == {"pair": 0.5, "two-hop": 1.0}
    open_ended = summary.groups["Continuation and summary"][2]
    assert open_ended.right is None and open_ended.better_than_reuse == (0, 4)
    assert summary.deviation == {"reuse|sys|none": [None, pytest.approx(0.6)]}


def test_report(tmp_path: Path) -> None:
    """A new form is accepted by removing the golden file and reading what the next run writes."""
    write_run(tmp_path)
    written = write_report(tmp_path, draws=1000)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in written)
    assert names == [
        "plots/deviation.png",
        "plots/deviation.svg",
        "plots/quality-0.png",
        "plots/quality-0.svg",
        "plots/quality-1.png",
        "plots/quality-1.svg",
        "report.md",
        "summary.json",
    ]
    for path in written:
        begin = path.read_bytes()[:4]
        if path.suffix == ".png":
            assert begin == b"\x89PNG"
    text = (tmp_path / "report.md").read_text()
    if not GOLDEN.is_file():
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text)
        pytest.fail(f"wrote {GOLDEN}: read it, then run again")
    assert text == GOLDEN.read_text()
    json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DocumentsMissing, match="no results"):
        write_report(tmp_path)


def test_claims() -> None:
    claim = claim_of("least-cfo/cacheblend-v:0.15,8=0.1")
    assert claim is not None and claim.method == "CacheBlend"
    assert claim_of("random:0.15") is None
