"""Percentile bootstrap over prompts: the questions of a prompt stay together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 10_000
COVERAGE = 0.95


@dataclass(frozen=True)
class Interval:
    """value: of the sample itself. low, high: the 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PerPrompt:
    """sums and numbers of something, one entry a prompt."""

    sums: NDArray[np.float64]
    counts: NDArray[np.float64]

    @classmethod
    def of(cls, values: Sequence[ArrayLike]) -> PerPrompt:
        """values: those of each prompt."""
        arrays = [np.asarray(v, dtype=np.float64) for v in values]
        return cls(np.array([a.sum() for a in arrays]), np.array([float(a.size) for a in arrays]))


class Bootstrap:
    """The same draws for everything that is compared: paired by construction."""

    def __init__(self, n_prompts: int, draws: int = DRAWS, seed: int = 0) -> None:
        if n_prompts < 1:
            raise ValueError("nothing to draw from")
        random = np.random.default_rng(seed)
        shares = np.full(n_prompts, 1.0 / n_prompts)
        self._weights = random.multinomial(n_prompts, shares, size=draws).astype(np.float64)

    def _means(self, what: PerPrompt) -> NDArray[np.float64]:
        # A prompt may have no such question: draws of such prompts alone have no mean.
        with np.errstate(invalid="ignore", divide="ignore"):
            means: NDArray[np.float64] = (self._weights @ what.sums) / (self._weights @ what.counts)
        return means

    def _interval(self, value: float, drawn: NDArray[np.float64]) -> Interval:
        drawn = drawn[~np.isnan(drawn)]
        if not len(drawn):
            return Interval(value, float("nan"), float("nan"))
        tail = 50 * (1 - COVERAGE)
        # Something over nothing is beyond any bound: without such draws intervals of few prompts
        # would end too soon. Between a number and infinity there is nothing to interpolate.
        ends = [tail, 100 - tail]
        if np.isfinite(drawn).all():
            low, high = np.percentile(drawn, ends)
        else:
            low, high = np.percentile(drawn, ends, method="inverted_cdf")
        return Interval(value, float(low), float(high))

    def mean(self, what: PerPrompt) -> Interval:
        return self._interval(_mean(what), self._means(what))

    def difference(self, one: PerPrompt, other: PerPrompt) -> Interval:
        """one - other"""
        drawn = self._means(one) - self._means(other)
        return self._interval(_mean(one) - _mean(other), drawn)

    def ratio(self, one: PerPrompt, other: PerPrompt) -> Interval:
        """one / other; NaN where the other's mean is 0, in draws infinite where one's is not."""
        below = _mean(other)
        value = _mean(one) / below if below else float("nan")
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._interval(value, self._means(one) / self._means(other))


def _mean(what: PerPrompt) -> float:
    n = what.counts.sum()
    return float(what.sums.sum() / n) if n else float("nan")
