"""Every gate on every kind of layer, and the defects that gates must catch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from quire.transformers import Engine, gates
from quire.transformers.gates import GATES, gate_names, random_input, run_gates
from quire.transformers.mutants import MUTANTS, WINDOW_MUTANTS, caught, mutant
from quire.transformers.state import OldKv
from quire.transformers.tiny import TINY_KINDS

SEED = 4

# What each defect must fail, at least.
BLAMED = {
    "leaked mask": {"G3", "G3b"},
    "wrong rope base": {"G0", "G0a", "G2s"},
    "swapped chunk": {"G2", "G5"},
    "stale row": {"G4"},
    "off-by-one position": {"G2", "G2s", "G5"},
    "ignored window": {"G0", "G0a"},
}


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_gates_hold(tiny: Callable[[str], Engine], kind: str) -> None:
    engine = tiny(kind)
    results = run_gates(engine, random_input(engine, seed=SEED))
    assert len(results) == len(GATES) - (2 if engine.shape.immovable else 0)
    assert all(result.passed for result in results), "\n".join(map(str, results))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3"])
@pytest.mark.parametrize("name", MUTANTS)
def test_defects_are_caught(tiny: Callable[[str], Engine], kind: str, name: str) -> None:
    engine = tiny(kind)
    assert set(caught(engine, random_input(engine, seed=SEED), name)) >= BLAMED[name]


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gemma3"])
@pytest.mark.parametrize("name", WINDOW_MUTANTS)
def test_windows_are_tested(tiny: Callable[[str], Engine], kind: str, name: str) -> None:
    engine = tiny(kind)
    assert set(caught(engine, random_input(engine, seed=SEED), name)) >= BLAMED[name]


def test_an_immovable_rope_still_has_gates(tiny: Callable[[str], Engine]) -> None:
    engine = tiny("llama-dynamic")
    given = random_input(engine, seed=SEED)
    assert "G5" in gate_names(engine) and "G2" not in gate_names(engine)
    for name in ("leaked mask", "stale row", "off-by-one position"):
        assert caught(engine, given, name)


def test_what_is_no_number_fails(llama: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    given = random_input(llama, seed=SEED)
    real = gates.compose

    def broken(*arguments: object) -> OldKv:
        old = real(*arguments)  # type: ignore[arg-type]
        old.keys[0][:, len(given.prefix)] = float("nan")
        return old

    monkeypatch.setattr(gates, "compose", broken)
    (result,) = run_gates(llama, given, ["G2"])
    assert np.isnan(result.value) and not result.passed


def test_mutants_leave_nothing_behind(llama: Engine) -> None:
    given = random_input(llama, seed=SEED)
    before = llama.prefill(given.tokens).logits
    with mutant("wrong rope base"):
        changed = llama.prefill(given.tokens).logits
    after = llama.prefill(given.tokens).logits
    assert not np.allclose(before, changed)
    np.testing.assert_array_equal(before, after)
    with pytest.raises(ValueError, match="unknown mutant"), mutant("no such"):
        pass
