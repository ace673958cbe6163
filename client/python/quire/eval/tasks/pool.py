"""Passages of the whole corpus: what a warm-up would put in front of a chunk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import DocumentsMissing
from .documents import Document
from .passages import Passage, Passages, with_facts

if TYPE_CHECKING:
    from .model import TokenRun
    from .tokens import Encoder

PASSAGES_MAX = 512
_SEED = 0


def similarity(a: Counter[int], b: Counter[int]) -> float:
    """Cosine of token counts: a stand-in for an embedding model, equal everywhere."""
    dot = sum(n * b[token] for token, n in a.items())
    norms = np.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))
    return float(dot / norms) if norms else 0.0


def counts(tokens: TokenRun) -> Counter[int]:
    return Counter(tokens.tolist())


class _Drawn(NamedTuple):
    passage: Passage
    tokens: TokenRun
    counts: Counter[int]


@dataclass(frozen=True)
class PassagePool:
    """The same passages for all prompts of a corpus, drawn when they are first asked for."""

    documents: Sequence[Document]
    encoder: Encoder
    chunk_tokens: int

    @cached_property
    def _drawn(self) -> list[_Drawn]:
        random = np.random.default_rng(_SEED)
        passages = Passages(self.documents, self.encoder.count, random, self.chunk_tokens)
        drawn: list[_Drawn] = []
        while len(drawn) < PASSAGES_MAX:
            try:
                passage = passages.draw()
            except DocumentsMissing:  # all of it is drawn
                break
            tokens = self.encoder.run(with_facts(passage, (), random))
            drawn.append(_Drawn(passage, tokens, counts(tokens)))
        return drawn

    def nearest(self, tokens: TokenRun, prompt_text: str, n: int) -> list[TokenRun]:
        """The n passages most like a chunk, of those with no sentence in the prompt; the most
        similar one last, right in front of the chunk."""
        own = counts(tokens)
        free = [
            one
            for one in self._drawn
            if not any(sentence in prompt_text for sentence in one.passage.sentences)
        ]
        ranked = sorted(free, key=lambda one: -similarity(own, one.counts))[:n]
        return [one.tokens for one in reversed(ranked)]
