"""Gates and one quality point on real models: four minutes on two busy cores.

Bounds are those of a measurement on the same kind of prompts with a margin. Prompts are counted,
for a mean is moved by a single outlier; the mean has a wide bound besides.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from quire.eval.exact import codec_kl
from quire.eval.gate import CODEC_KL_MAX, CONTROL, QualityPoint, gate_input, quality_point
from quire.eval.loading import Subject, load_engine, subject_of
from quire.eval.tasks import Layout
from quire.transformers.gates import run_gates
from quire.transformers.policies import DEFAULT_POLICY

pytestmark = pytest.mark.model

QWEN = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
GEMMA = "gemma-3-270m-q4_k_m.gguf"
QWEN_LARGER = "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"  # tools/setup.sh --nightly
POLICY = DEFAULT_POLICY
PROMPTS, WINS_MIN, MEAN_SHARE_MAX = 5, 4, 0.7
# A codec without what keys need must be seen to be worse: a gate that cannot fail is none.
BAD_CODEC, BAD_CODEC_RATIO_MIN = "int4-hadamard", 5


@pytest.fixture(scope="module", params=[QWEN, GEMMA, pytest.param(QWEN_LARGER, marks=pytest.mark.nightly)])
def subject(request: pytest.FixtureRequest, model_path: Callable[[str], Path]) -> Subject:
    engine = load_engine(str(model_path(request.param)))
    # A night has time for contexts in which the question's pass is not half of the charge.
    chunk_tokens = 200 if request.param == QWEN_LARGER else 80
    return subject_of(engine, layout=Layout((4, 4), chunk_tokens), seed=11)


@pytest.fixture(scope="module")
def point(subject: Subject) -> QualityPoint:
    return quality_point(subject, ["reuse", CONTROL, POLICY], n_prompts=PROMPTS)


def test_gates(subject: Subject) -> None:
    results = run_gates(subject.engine, gate_input(subject.engine))
    assert all(result.passed for result in results), "\n".join(map(str, results))


def test_question_guided_rows_are_nearer_than_reuse_and_random(point: QualityPoint) -> None:
    print(point)
    assert point.holds(POLICY, "reuse") >= WINS_MIN, point.kl
    assert point.holds(POLICY, CONTROL) >= WINS_MIN, point.kl
    # Near alone would not do: somewhere it must matter which rows are computed.
    assert np.mean(point.kl[POLICY]) <= MEAN_SHARE_MAX * np.mean(point.kl["reuse"]), point.kl
    assert np.mean(point.kl[POLICY]) <= MEAN_SHARE_MAX * np.mean(point.kl[CONTROL]), point.kl
    # The whole charge is what was asked for, the question's pass in it, but for part of a row.
    assert 0.14 <= point.charge[POLICY] <= 0.15


def test_codecs(subject: Subject) -> None:
    found = codec_kl(subject, [*CODEC_KL_MAX, BAD_CODEC], PROMPTS)
    print(found)
    for codec, bound in CODEC_KL_MAX.items():
        assert np.median(found[codec]) <= bound, found
    assert np.median(found[BAD_CODEC]) >= BAD_CODEC_RATIO_MIN * np.median(found["int4-channel64"]), found
