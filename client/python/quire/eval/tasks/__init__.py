"""Prompts by task, seed and number: the same on every machine that has the same documents."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ...errors import InvalidArgument
from ..errors import DocumentsMissing
from .documents import Corpus, Document, read_corpus
from .model import Chunk, Fact, Prompt, Question, TextChunk, TextPrompt, TextQuestion
from .needles import NEEDLE_TASKS, Board, Layout
from .others import copy, edit, proceed, relay
from .passages import Passages
from .pool import PassagePool
from .tokens import Encoder, make_counter

TASKS: dict[str, str] = {
    "needle": "two facts from two chunks (two-hop), one fact, a pair of facts",
    "three-hop": "three facts from three chunks, one leading to the next",
    "distract": "two-hop and single among sentences about the same that do not answer",
    "contradict": "a later chunk corrects an earlier one",
    "order": "equal sentences with different values: the order decides",
    "copy": "sentences repeated word for word",
    "continue": "the real continuation of the last chunk; a summary in full prefill's words",
    "edit": "code after an insertion, a change or a deletion, the rest reused (PIE)",
    "relay": "reports of agents, reused as each wrote them behind other documents",
}
CROSS_CHUNK_KINDS = (
    "two-hop",
    "three-hop",
    "pair",
    "distractor",
    "contradiction",
    "order",
    "relay",
)
# What is said is not checked against a truth: KL and agreement only.
OPEN_KINDS = ("continuation", "summary")


_BOARDS_MAX = 50


class Generator:
    """Prompts of a corpus for one tokenizer."""

    def __init__(
        self, corpus: Corpus, encoder: Encoder, layout: Layout | None = None, seed: int = 0
    ) -> None:
        self.corpus, self.encoder, self.seed = corpus, encoder, seed
        self.layout = layout or Layout()
        self._count = make_counter(encoder)
        self._pool = PassagePool(corpus.documents, encoder, self.layout.chunk_tokens)

    def text(self, task: str, index: int) -> TextPrompt:
        """Raises InvalidArgument for an unknown task, DocumentsMissing."""
        if task not in TASKS:
            raise InvalidArgument(f"unknown task {task[:64]!r}; tasks: {', '.join(TASKS)}")
        random = np.random.default_rng([self.seed, zlib.crc32(task.encode()), index])
        name = f"{task}-{self.seed}-{index}"
        if task == "edit":
            return edit(name, self.corpus.code, random, self._count, self.layout)
        size = self.layout.chunk_tokens
        documents = self.corpus.documents
        passages = Passages(documents, self._count, random, size)
        board = Board(passages, random, self.layout)
        if task in NEEDLE_TASKS:
            return board.prompt(name, task, NEEDLE_TASKS[task](board))
        if task == "continue":
            return proceed(name, documents, passages, board)
        if task == "relay":
            return relay(name, board)
        for _ in range(_BOARDS_MAX):
            if found := copy(name, board):
                return found
            board = Board(Passages(documents, self._count, random, size), random, self.layout)
        raise DocumentsMissing("no sentence is long enough to be copied")

    def prompt(self, task: str, index: int) -> Prompt:
        return replace(self.encoder.prompt(self.text(task, index)), pool=self._pool)

    def prompts(self, tasks: list[str], n: int, first: int = 0) -> Iterator[tuple[str, int]]:
        """(task, index), all tasks of an index before the next index."""
        for index in range(first, first + n):
            for task in tasks:
                yield task, index


__all__ = [
    "CROSS_CHUNK_KINDS",
    "OPEN_KINDS",
    "TASKS",
    "Chunk",
    "Corpus",
    "Document",
    "Encoder",
    "Fact",
    "Generator",
    "Layout",
    "Prompt",
    "Question",
    "TextChunk",
    "TextPrompt",
    "TextQuestion",
    "read_corpus",
]
