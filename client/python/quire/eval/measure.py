"""What is measured at the positions of an answer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import NonFinite
from .tasks.model import TokenRun


@dataclass(frozen=True)
class Oracle:
    """Full prefill at the positions of an answer: log shares in fp32 and the greatest."""

    log_shares: Tensor
    top: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Oracle:
        return cls(logits.float().log_softmax(-1), logits.argmax(-1))


@dataclass(frozen=True)
class Fidelity:
    """kl: KL(full || policy), mean over positions. top1: share of positions whose greatest token is
    full prefill's. right: every answer token is the greatest. answer_nll: mean over positions."""

    kl: float
    kl_max: float
    top1: float
    right: bool
    answer_nll: float


def compare(oracle: Oracle, logits: Tensor, answer: TokenRun) -> Fidelity:
    """logits: [position][vocabulary], those that predict the answer's tokens. Raises NonFinite."""
    wanted = oracle.top.new_tensor(answer.astype(np.int64))
    log_q = logits.float().log_softmax(-1)
    log_p = oracle.log_shares
    # Sums of 1e5 terms that cancel: double.
    kl = (log_p.exp().double() * (log_p.double() - log_q.double())).sum(-1).clamp(min=0)
    if not bool(kl.isfinite().all()):
        raise NonFinite("KL is not finite: NaN in the logits")
    top = logits.argmax(-1)
    nll = -log_q.gather(1, wanted[:, None])
    return Fidelity(
        float(kl.mean()),
        float(kl.max()),
        float((top == oracle.top).float().mean()),
        bool((top == wanted).all()),
        float(nll.mean()),
    )


def squeeze(text: str) -> str:
    """Lower case, everything but letters and digits made one blank."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def says(text: str, answer: str) -> bool:
    """Whether a generated text contains an answer as whole words."""
    return f" {squeeze(answer)} " in f" {squeeze(text)} "


def rows_digest(rows_by_layer: Sequence[NDArray[np.int64]]) -> str:
    """Of the rows at every layer: equal digests, equal choices."""
    digest = hashlib.sha256()
    for rows in rows_by_layer:
        digest.update(np.int64(len(rows)).tobytes())
        digest.update(np.ascontiguousarray(rows, dtype=np.int64).tobytes())
    return digest.hexdigest()[:16]


def runs_of(rows: NDArray[np.int64]) -> list[list[int]]:
    """Ascending rows as [first, last] pairs."""
    if not len(rows):
        return []
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    return [[int(part[0]), int(part[-1])] for part in np.split(rows, cuts)]
