"""Whether reuse may be turned on for a model, in a minute or two: exactness, then a quality point.

Quality is judged by how many prompts agree, not by a ratio of means: over five prompts a single
outlier moves a mean past any bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..errors import InvalidArgument
from ..transformers import Engine
from ..transformers.gates import GateInput, GateResult, random_input, run_gates
from ..transformers.mutants import MUTANTS, WINDOW_MUTANTS, caught
from ..transformers.policies import DEFAULT_POLICY, ExactPrefix, FullPrefill
from .cells import make_cells, parse_cell_policy
from .exact import codec_kl
from .loading import Subject
from .records import Line
from .runner import Leads, Options, PromptRun, needs_anchors, needs_stats

CONTROL = "random:0.15"
CODECS = ("int4-channel64", "int8-channel")  # the smallest first
DEFAULT_PROMPTS = 5
# A share of prompts in which the policy's KL is below plain reuse's, and below random rows', or
# below KL_NEAR: where plain reuse is near as well, which of the two is nearer is a coin's toss.
# What was as near as this on average, on three models, had as many answers right as full prefill,
# or an interval that reaches that (docs/fidelity.md).
WINS_MIN = 0.8
KL_NEAR = 0.1
# KL that a codec may add (median over prompts), an exact prefix under it: four times what two
# small models showed on eight other prompts (.012 and .016; 1.2e-4 and 6e-5). Single prompts reach
# .09 and 7e-4, so two are too few.
CODEC_KL_MAX = {"int4-channel64": 0.06, "int8-channel": 5e-4}
# Where plain reuse is this near to full prefill (models trained for it), no row need be computed.
REUSE_KL_ENOUGH = 0.01
# The policy's own distance (median over prompts): beyond it answers differ too often.
POLICY_KL_MAX = 0.3


@dataclass(frozen=True)
class Verdict:
    """pic_safe: "yes", "no" (gates fail: nothing may be reused but by the same engine's own cache),
    "prefix-only" (exact prefixes are right, moved chunks are not, or not good enough)."""

    pic_safe: str
    reason: str
    policy: str
    variant: str
    budget: float
    codec: str
    figures: dict[str, Any] = field(default_factory=dict)
    gates: list[dict[str, Any]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return self.pic_safe == "yes"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def as_dict(result: GateResult) -> dict[str, Any]:
    """For JSON, which has no NaN."""
    value = float(result.value)
    return {
        "gate": result.name,
        "value": value if math.isfinite(value) else None,
        "bound": result.bound,
        "passed": result.passed,
    }


def mutant_names(engine: Engine) -> tuple[str, ...]:
    """The defects that apply: those of windows where the model has them."""
    windows = any(layer.window_tokens for layer in engine.shape.layers)
    return MUTANTS + (WINDOW_MUTANTS if windows else ())


def gate_input(engine: Engine, seed: int = 0) -> GateInput:
    """Random tokens, longer than the model's windows where those are short."""
    windows = [layer.window_tokens for layer in engine.shape.layers if layer.window_tokens]
    n_chunk = 24
    if windows and min(windows) <= 64:
        n_chunk = max(n_chunk, min(windows) + 8)
    return random_input(engine, n_chunk=n_chunk, seed=seed)


def mutants_caught(
    engine: Engine, given: GateInput, progress: Callable[[str], None] = lambda name: None
) -> dict[str, list[str]]:
    """mutant -> the gates that catch it; none: the gates are blind."""
    n_tokens = len(given.tokens)
    found = {}
    for name in mutant_names(engine):
        windows = [layer.window_tokens for layer in engine.shape.layers if layer.window_tokens]
        if name in WINDOW_MUTANTS and min(windows) >= n_tokens:
            continue  # no prompt of this length can show it
        found[name] = caught(engine, given, name)
        progress(name)
    return found


@dataclass(frozen=True)
class QualityPoint:
    """Per prompt: mean KL of each policy; answers right of all. variant: of the chunks of each."""

    kl: dict[str, list[float]]
    right: dict[str, float]
    charge: dict[str, float]
    n_questions: int
    variant: dict[str, str] = field(default_factory=dict)

    def holds(self, one: str, other: str) -> int:
        """In how many prompts one is nearer to full prefill than the other, or near enough."""
        pairs = zip(self.kl[one], self.kl[other], strict=True)
        return sum(a < b or a <= KL_NEAR for a, b in pairs)

    def median(self, cell: str) -> float:
        return float(np.median(self.kl[cell]))


def quality_point(
    subject: Subject,
    policies: Sequence[str],
    *,
    n_prompts: int = DEFAULT_PROMPTS,
    n_questions: int = 1,
    variant: str = "sys",
    task: str = "needle",
    progress: Callable[[str], None] = lambda name: None,
) -> QualityPoint:
    """A few prompts of a task under some policies, each once; the first questions of each prompt
    (two-hop). A policy that refuses the variant gets the one it asks for."""
    cells = make_cells(policies, [variant])
    lines: dict[str, list[list[Line]]] = {cell.policy: [] for cell in cells}
    leads, with_stats = Leads(subject.engine), needs_stats(cells, subject.engine.shape)
    for index in range(n_prompts):
        prompt = subject.generator.prompt(task, index)
        short = type(prompt)(**{**prompt.__dict__, "questions": prompt.questions[:n_questions]})
        run = PromptRun(
            subject.engine,
            subject.encoder,
            short,
            Options(),
            leads,
            with_stats=with_stats,
            with_anchors=needs_anchors(cells),
        )
        for cell in cells:
            lines[cell.policy].append(run.run(cell).results)
            progress(f"{prompt.id} {cell.policy}")
    return QualityPoint(
        {p: [float(np.mean([x["kl"] for x in of])) for of in runs] for p, runs in lines.items()},
        {p: float(np.mean([x["right"] for of in runs for x in of])) for p, runs in lines.items()},
        {p: float(np.mean([x["charge"] for of in runs for x in of])) for p, runs in lines.items()},
        n_prompts * n_questions,
        {cell.policy: cell.variant for cell in cells},
    )


def check_judged(policy: str) -> None:
    """Raises InvalidArgument for what is no policy, or none that reuses chunks."""
    parsed = parse_cell_policy(policy)
    if parsed is None or isinstance(parsed, (FullPrefill, ExactPrefix)):
        raise InvalidArgument(f"--policy {policy}: no chunks are reused by it")


def _decide(
    point: QualityPoint, codecs: dict[str, list[float]], policy: str
) -> tuple[str, str, str, str]:
    """(pic_safe, reason, policy, codec)"""
    n = len(point.kl[policy])
    good = [codec for codec in CODECS if np.median(codecs[codec]) <= CODEC_KL_MAX[codec]]
    codec = good[0] if good else "bf16-exp4"
    if point.median("reuse") <= REUSE_KL_ENOUGH:
        return "yes", f"plain reuse is near to full prefill in {n} prompts", "reuse", codec
    near = sum(kl <= KL_NEAR for kl in point.kl["reuse"])
    if near == n and point.median("reuse") <= point.median(policy):
        why = f"plain reuse is near to full prefill in {n} prompts, and {policy} is no nearer"
        return "yes", why, "reuse", codec
    charge = point.charge.get(policy, 0.0)
    if charge >= 1.0:
        why = f"{policy} is charged {charge:.0%}: no less than a full prefill"
        return "prefix-only", why, "prefix", codec
    against_reuse, against_random = point.holds(policy, "reuse"), point.holds(policy, CONTROL)
    need = math.ceil(WINS_MIN * n)
    if min(against_reuse, against_random) < need:
        return (
            "prefix-only",
            f"{policy} is near to full prefill, or nearer than plain reuse, in {against_reuse} of "
            f"{n} prompts, and than random rows in {against_random}; {need} are wanted",
            "prefix",
            codec,
        )
    median = point.median(policy)
    if median > POLICY_KL_MAX:
        return (
            "prefix-only",
            f"{policy} stays {median:.2f} nats from full prefill (median; at most {POLICY_KL_MAX})",
            "prefix",
            codec,
        )
    return (
        "yes",
        f"gates pass; {policy} is near to full prefill, or nearer than plain reuse, in "
        f"{against_reuse}, and than random rows in {against_random} of {n} prompts",
        policy,
        codec,
    )


def refused(engine: Engine) -> Verdict | None:
    """The verdict on a model whose rope cannot move, without any measurement."""
    why = engine.shape.immovable
    return Verdict("prefix-only", why, "prefix", "-", 0.0, "int8-channel") if why else None


def judge(
    subject: Subject,
    *,
    policy: str = DEFAULT_POLICY,
    n_prompts: int = DEFAULT_PROMPTS,
    progress: Callable[[str], None] = lambda name: None,
) -> Verdict:
    """Gates, then the quality point, then codecs. Raises as check_judged() does."""
    check_judged(policy)
    engine = subject.engine
    results = run_gates(engine, gate_input(engine))
    gates = [as_dict(result) for result in results]
    progress("gates")
    failed = [result for result in results if not result.passed]
    if failed:
        why = "; ".join(f"{r.name} is {r.value:.3g}, at most {r.bound:.3g}" for r in failed)
        return Verdict("no", why, "full", "-", 1.0, "-", gates=gates)
    if immovable := refused(engine):
        return Verdict(**{**immovable.__dict__, "gates": gates})
    point = quality_point(
        subject, ["reuse", CONTROL, policy], n_prompts=n_prompts, progress=progress
    )
    codecs = codec_kl(subject, CODECS, n_prompts)
    progress("codecs")
    safe, reason, chosen, codec = _decide(point, codecs, policy)
    figures = {
        "prompts": n_prompts,
        "questions": point.n_questions,
        "kl_median": {p: point.median(p) for p in point.kl},
        "right": point.right,
        "charge": point.charge,
        "codec_kl": {name: float(np.median(values)) for name, values in codecs.items()},
    }
    variant, budget = point.variant.get(chosen, "-"), point.charge.get(chosen, 0.0)
    return Verdict(safe, reason, chosen, variant, budget, codec, figures, gates)
