"""What a task is: text, and the same as a model's tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .pool import PassagePool

TokenRun = NDArray[np.uint32]


@dataclass(frozen=True)
class Fact:
    """A sentence somewhere in a chunk: relation(subject) = value."""

    relation: str
    subject: str
    value: str
    sentence: str
    chunk: int


@dataclass(frozen=True)
class TextQuestion:
    """kind: two-hop, single, ... opening: the assistant's first words, forced before the answer.

    answer: what must follow; "" where full prefill's own words are the reference. hops: (relation)
    names that lead from ``subject`` to the answer. raw: the text follows the chunks as it is,
    without the words around a question.
    """

    kind: str
    text: str
    opening: str = ""
    answer: str = ""
    subject: str = ""
    hops: tuple[str, ...] = ()
    raw: bool = False


@dataclass(frozen=True)
class TextChunk:
    """behind: where it is reused from another prompt, that prompt up to it: its system text, texts
    that follow, and what was asked (else the variant decides). fresh: never reused."""

    text: str
    behind: tuple[str, ...] | None = None
    fresh: bool = False


@dataclass(frozen=True)
class TextPrompt:
    """chunks in the order of the prompt; spare: chunks of the same documents that are not in it."""

    id: str
    task: str
    system: str
    chunks: tuple[TextChunk, ...]
    questions: tuple[TextQuestion, ...]
    facts: tuple[Fact, ...] = ()
    spare: tuple[str, ...] = ()
    code: bool = False

    def with_questions(self, questions: Sequence[TextQuestion]) -> TextPrompt:
        return replace(self, questions=tuple(questions))

    def with_chunks(self, chunks: Sequence[TextChunk]) -> TextPrompt:
        return replace(self, chunks=tuple(chunks))

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> TextPrompt:
        data: dict[str, Any] = json.loads(line)
        data["chunks"] = tuple(
            TextChunk(
                chunk["text"],
                None if chunk["behind"] is None else tuple(chunk["behind"]),
                chunk["fresh"],
            )
            for chunk in data["chunks"]
        )
        data["questions"] = tuple(
            TextQuestion(**{**question, "hops": tuple(question["hops"])})
            for question in data["questions"]
        )
        data["facts"] = tuple(Fact(**fact) for fact in data["facts"])
        data["spare"] = tuple(data["spare"])
        return cls(**data)


@dataclass(frozen=True)
class Chunk:
    """tokens as they stand in the prompt. behind: the tokens in front of it where it was computed,
    or None where the variant decides. fresh: never reused."""

    tokens: TokenRun
    behind: TokenRun | None = None
    fresh: bool = False


@dataclass(frozen=True)
class Question:
    """tokens: the prompt's end. opening, answer: what the assistant is forced to say; an empty
    answer means that full prefill's own greedy words are taken."""

    kind: str
    tokens: TokenRun
    opening: TokenRun
    answer: TokenRun
    answer_text: str
    text: str


@dataclass(frozen=True)
class Prompt:
    """A prompt as runs of ids. The runs are joined as they are, never tokenised again.

    spare: chunks of the same documents that are not in it. pool: passages of all documents.
    """

    id: str
    task: str
    system_tokens: TokenRun
    chunks: tuple[Chunk, ...]
    questions: tuple[Question, ...]
    spare: tuple[TokenRun, ...] = ()
    filler: TokenRun = field(default_factory=lambda: np.empty(0, dtype=np.uint32))
    text: TextPrompt | None = None
    pool: PassagePool | None = None

    @property
    def context_tokens(self) -> TokenRun:
        """System prefix and chunks."""
        return np.concatenate([self.system_tokens, *(chunk.tokens for chunk in self.chunks)])
