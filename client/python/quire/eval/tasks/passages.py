"""Passages of about so many tokens, cut at sentences from anywhere in the documents."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..errors import DocumentsMissing
from .documents import Document

Count = Callable[[str], int]
_SENTENCE_END = re.compile(r"(?<=[.!?:])\s+(?=[\"'(]?[A-Z])")
SENTENCE_CHARACTERS_MAX = 600
_TRIES_MAX = 200


@dataclass(frozen=True)
class Passage:
    """sentences of one document from sentence ``begin`` on."""

    document: int
    begin: int
    sentences: tuple[str, ...]

    @property
    def end(self) -> int:
        return self.begin + len(self.sentences)


@lru_cache(maxsize=4096)
def sentences_of(document: Document) -> tuple[str, ...]:
    found = []
    for paragraph in document.paragraphs:
        found += [part.strip() for part in _SENTENCE_END.split(paragraph)]
    return tuple(s for s in found if 0 < len(s) <= SENTENCE_CHARACTERS_MAX)


class Passages:
    """Draws passages; two draws of one prompt never overlap."""

    def __init__(
        self,
        documents: Sequence[Document],
        count: Count,
        generator: np.random.Generator,
        n_tokens: int,
    ) -> None:
        self._documents, self._count = documents, count
        self._generator, self._n_tokens = generator, n_tokens
        self._taken: dict[int, set[int]] = {}
        if not documents:
            raise DocumentsMissing("no prose among the documents")

    def _cut(self, document: int, begin: int, n_tokens: int) -> Passage | None:
        sentences = sentences_of(self._documents[document])
        chosen: list[str] = []
        have = 0
        for at in range(begin, len(sentences)):
            if at in self._taken.get(document, ()):
                return None
            size = self._count(" " + sentences[at])
            if chosen and have + size > 1.1 * n_tokens:
                break
            chosen.append(sentences[at])
            have += size
            if have >= 0.9 * n_tokens:
                break
        if not 0.7 * n_tokens <= have <= 1.3 * n_tokens:
            return None
        return Passage(document, begin, tuple(chosen))

    def _take(self, passage: Passage) -> Passage:
        self._taken.setdefault(passage.document, set()).update(range(passage.begin, passage.end))
        return passage

    def draw(self, n_tokens: int | None = None) -> Passage:
        """Raises DocumentsMissing where no free passage is found."""
        wanted = self._n_tokens if n_tokens is None else n_tokens
        for _ in range(_TRIES_MAX):
            document = int(self._generator.integers(len(self._documents)))
            n = len(sentences_of(self._documents[document]))
            if not n:
                continue
            passage = self._cut(document, int(self._generator.integers(n)), wanted)
            if passage:
                return self._take(passage)
        raise DocumentsMissing(
            f"the documents have too little text for chunks of {wanted} tokens: take shorter or "
            "fewer chunks, or more documents"
        )

    def follow(self, passage: Passage, n_tokens: int | None = None) -> Passage | None:
        """What comes next in the document, where it is free and long enough."""
        found = self._cut(passage.document, passage.end, n_tokens or self._n_tokens)
        return self._take(found) if found else None


def words_after(documents: Sequence[Document], passage: Passage, n_words: int) -> list[str]:
    """The words that follow a passage in its document; fewer where the document ends."""
    after = sentences_of(documents[passage.document])[passage.end :]
    words: list[str] = []
    for sentence in after:
        if len(words) >= n_words:
            break
        words += sentence.split()
    return words[:n_words]


def with_facts(passage: Passage, facts: Sequence[str], generator: np.random.Generator) -> str:
    """The passage with sentences put in at random places; ends a paragraph."""
    sentences = list(passage.sentences)
    for fact in facts:
        sentences.insert(int(generator.integers(1, len(sentences) + 1)), fact)
    return " ".join(sentences) + "\n\n"
