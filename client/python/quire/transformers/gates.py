"""Exactness gates of reuse on one model.

Bounds are in logits (fp32, 64-bit angles) or relative errors of KV. A gate that no defect can fail
is no gate: see mutants.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .compose import compose
from .engine import Engine
from .forward import LayerEvent
from .plan import plan_of_parts
from .policies import FullReuse
from .recipes import in_context
from .sources import ChunkKv, StoredKv
from .state import KvState, OldKv
from .store import pack

LOGIT_DIFFERENCE_MAX = 1e-3
KV_RELATIVE_ERROR_MAX = 1e-5


@dataclass(frozen=True)
class GateResult:
    """value must not exceed bound."""

    name: str
    value: float
    bound: float

    @property
    def passed(self) -> bool:
        return self.value <= self.bound  # False for NaN

    def __str__(self) -> str:
        verdict = "pass" if self.passed else "FAIL"
        return f"{verdict} {self.name}: {self.value:.3g} (at most {self.bound:.3g})"


@dataclass(frozen=True)
class GateInput:
    """A prompt as runs of tokens: prefix, chunks (two at least), question."""

    prefix: NDArray[np.uint32]
    chunks: tuple[NDArray[np.uint32], ...]
    question: NDArray[np.uint32]
    seed: int = 0

    @property
    def tokens(self) -> NDArray[np.uint32]:
        return np.concatenate([self.prefix, *self.chunks, self.question])

    @property
    def question_begin(self) -> int:
        return len(self.tokens) - len(self.question)


def random_input(
    engine: Engine, n_prefix: int = 7, n_chunk: int = 24, n_chunks: int = 3, seed: int = 0
) -> GateInput:
    """Random token ids; any text would do."""
    generator = np.random.default_rng(seed)

    def run(n: int) -> NDArray[np.uint32]:
        return generator.integers(0, engine.vocabulary, n).astype(np.uint32)

    return GateInput(run(n_prefix), tuple(run(n_chunk + i) for i in range(n_chunks)), run(9), seed)


def _worst(*values: float) -> float:
    """The greatest; NaN where any is, which max() would lose behind a number."""
    return float(np.max(values))


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def _relative(new: Tensor, old: Tensor) -> float:
    return float((new.float() - old.float()).norm() / old.float().norm())


def _own_forward(engine: Engine, given: GateInput) -> tuple[float, float]:
    """(greatest difference to the model's own logits, their spread)."""
    ours = engine.prefill(given.tokens)
    all_rows = engine.all_logits(given.tokens)
    theirs = engine.model_logits(given.tokens)
    value = _worst(_difference(all_rows, theirs), _difference(ours.logits, theirs[-1]))
    return value, float(theirs.std())


def gate_own_forward(engine: Engine, given: GateInput) -> GateResult:
    """G0: with the model's rotary table the engine's forward is the model's own."""
    angles, engine.rope.angles = engine.rope.angles, "engine"
    try:
        value, _ = _own_forward(engine, given)
    finally:
        engine.rope.angles = angles
    return GateResult("G0 own forward = the model's", value, LOGIT_DIFFERENCE_MAX)


def gate_own_angles(engine: Engine, given: GateInput) -> GateResult:
    """G0a: so it is with the engine's angles, up to the rounding of the model's own (fp32, which
    grows with the position): the bound is a share of the spread of the logits."""
    value, spread = _own_forward(engine, given)
    bound = LOGIT_DIFFERENCE_MAX * max(1.0, spread)
    return GateResult("G0a the same with the engine's angles", value, bound)


def _chunk_cells(given: GateInput) -> Iterator[tuple[int, int]]:
    at = len(given.prefix)
    for chunk in given.chunks:
        yield at, at + len(chunk)
        at += len(chunk)


def gate_layer0(engine: Engine, given: GateInput, *, through_store: bool = False) -> GateResult:
    """G2: layer 0 of chunks computed alone and moved equals full prefill's, K and V."""
    full = engine.prefill(given.tokens).state
    captured = [engine.capture(chunk) for chunk in given.chunks]
    sources = [
        StoredKv(pack(engine, chunk, codec="raw-f32").data, engine.model)
        if through_store
        else chunk
        for chunk in captured
    ]
    plan = plan_of_parts([given.prefix, *sources, given.question])
    old = compose(plan, engine.shape, engine.rope, engine.dtype, engine.device)
    value = 0.0
    for begin, end in _chunk_cells(given):
        for moved, wanted in ((old.keys[0], full.keys[0]), (old.values[0], full.values[0])):
            value = _worst(value, _relative(moved[:, begin:end], wanted[:, begin:end]))
    name = "G2 layer 0 moves exactly" + (" (through the store)" if through_store else "")
    return GateResult(name, value, KV_RELATIVE_ERROR_MAX)


def _rerun(
    engine: Engine, tokens: NDArray[np.uint32], old: OldKv, rows_at: dict[int, Tensor]
) -> tuple[Tensor, KvState]:
    """Recomputes rows over old KV; rows_at: layer -> rows from there on."""
    fresh = KvState.over(engine.shape, engine.tensor(tokens), old, engine.dtype)

    def shrink(event: LayerEvent) -> Tensor | None:
        return rows_at.get(event.layer) if event.layer else None

    result = engine.run(fresh, rows_at[0], hook=shrink)
    last = torch.tensor([len(tokens) - 1], device=engine.device)
    return engine.logits_of(result, last)[0], fresh


def gate_exact_cache(
    engine: Engine, given: GateInput, *, shrinking: bool = False, share: float = 0.3
) -> GateResult:
    """G3: over an exact cache, any scattered rows change nothing; also when rows shrink by depth.

    Also compares the KV that the rows write, which a causal leak changes first.
    """
    full = engine.prefill(given.tokens)
    n, question = len(given.tokens), given.question_begin
    generator = np.random.default_rng(given.seed + 1)
    rows_at: dict[int, Tensor] = {}
    chosen = np.sort(generator.choice(question, max(1, int(share * question)), replace=False))
    for layer in (0, 1, 3, 5) if shrinking else (0,):
        if layer >= engine.shape.n_layers:
            break
        rows_at[layer] = torch.from_numpy(np.concatenate([chosen, np.arange(question, n)]))
        chosen = chosen[generator.random(len(chosen)) < 0.6]
    rows_at = {layer: rows.to(engine.device) for layer, rows in rows_at.items()}
    logits, after = _rerun(engine, given.tokens, full.state.as_old(), rows_at)
    value = _difference(logits, full.logits)
    for layer in range(engine.shape.n_layers):
        planes = (after.keys, full.state.keys), (after.values, full.state.values)
        value = _worst(
            value, *(_relative(new[layer][:, :n], old[layer][:, :n]) for new, old in planes)
        )
    name = "G3 exact cache, " + ("rows shrinking by depth" if shrinking else "scattered rows")
    return GateResult(name, value, LOGIT_DIFFERENCE_MAX)


def gate_all_rows(engine: Engine, given: GateInput) -> GateResult:
    """G4: all rows over a garbage cache are a full prefill."""
    full = engine.prefill(given.tokens)
    generator = torch.Generator().manual_seed(given.seed)

    def garbage(planes: Sequence[Tensor]) -> tuple[Tensor, ...]:
        n = len(given.tokens)
        return tuple(
            torch.randn(p.shape[0], n, p.shape[2], generator=generator).mul(3).to(p) for p in planes
        )

    n = len(given.tokens)
    old = OldKv(
        garbage(full.state.keys),
        garbage(full.state.values),
        torch.ones(n, dtype=torch.bool, device=engine.device),
    )
    logits, _ = _rerun(engine, given.tokens, old, {0: torch.arange(n, device=engine.device)})
    return GateResult(
        "G4 all rows on garbage", _difference(logits, full.logits), LOGIT_DIFFERENCE_MAX
    )


def gate_prefix(engine: Engine, given: GateInput) -> GateResult:
    """G5: chunks used where and behind what they were computed are a full prefill; the last chunk
    comes through the store."""
    full = engine.prefill(given.tokens)
    if engine.shape.immovable:
        known = engine.capture(given.tokens[: given.question_begin], in_context(()))
        stored = StoredKv(pack(engine, known, codec="raw-f32").data, engine.model)
        plan = plan_of_parts([given.question], prefix=stored)
        reused = engine.prefill(plan=plan, policy=FullReuse())
        value = _difference(reused.logits, full.logits)
        return GateResult("G5 exact prefix", value, LOGIT_DIFFERENCE_MAX)
    before = given.prefix
    prefix = engine.capture(given.prefix, in_context(()))
    parts: list[ChunkKv | StoredKv] = []
    for chunk in given.chunks:
        parts.append(engine.capture(chunk, in_context(before)))
        before = np.concatenate([before, chunk])
    last = parts[-1]
    assert isinstance(last, ChunkKv)
    parts[-1] = StoredKv(pack(engine, last, codec="raw-f32").data, engine.model)
    plan = plan_of_parts([*parts, given.question], prefix=prefix)
    reused = engine.prefill(plan=plan, policy=FullReuse())
    return GateResult(
        "G5 exact prefix", _difference(reused.logits, full.logits), LOGIT_DIFFERENCE_MAX
    )


GATES: dict[str, Callable[[Engine, GateInput], GateResult]] = {
    "G0": gate_own_forward,
    "G0a": gate_own_angles,
    "G2": gate_layer0,
    "G2s": lambda engine, given: gate_layer0(engine, given, through_store=True),
    "G3": gate_exact_cache,
    "G3b": lambda engine, given: gate_exact_cache(engine, given, shrinking=True),
    "G4": gate_all_rows,
    "G5": gate_prefix,
}


def gate_names(engine: Engine) -> tuple[str, ...]:
    """The gates that apply: a model whose rope cannot move has no G2."""
    immovable = bool(engine.shape.immovable)
    return tuple(name for name in GATES if not (immovable and name in ("G2", "G2s")))


def run_gates(
    engine: Engine, given: GateInput, names: Sequence[str] | None = None
) -> list[GateResult]:
    """All gates that apply, or some of them."""
    return [GATES[name](engine, given) for name in (names or gate_names(engine))]
