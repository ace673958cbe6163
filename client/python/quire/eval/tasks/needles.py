"""Facts strewn over chunks, and questions that need one, two or three of them.

Facts name everything in plain words; every prompt holds more facts than are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .model import Fact, TextChunk, TextPrompt, TextQuestion
from .passages import Passage, Passages, with_facts
from .words import CODE_NAMES, COLOURS, PASSWORDS, PEOPLE, PROJECTS

SYSTEM = (
    "You answer questions about the documents that follow. They are excerpts from manuals, with "
    "notes of the team in between. Answer with what the documents say, in a few words."
)
SENTENCES: dict[str, str] = {
    "leads": "{subject} leads project {value}.",
    "code name": "The code name of project {subject} is {value}.",
    "password": "The password of {subject} is {value}.",
    "former code name": "Years ago the code name of project {subject} was {value}.",
    "former password": "An expired password of {subject} was {value}.",
    "guest password": "The guest password of {subject} is {value}.",
    "correction": "Correction: the password of {subject} has been changed to {value}.",
    "lamp": "Then the lamp of project {subject} was switched to {value}.",
}
SPARE_CHUNKS = 3


@dataclass(frozen=True)
class Layout:
    """n_chunks: the least and the greatest number of chunks."""

    n_chunks: tuple[int, int] = (4, 7)
    chunk_tokens: int = 200


class Board:
    """The chunks of one prompt while facts are put on them."""

    def __init__(self, passages: Passages, generator: np.random.Generator, layout: Layout) -> None:
        self.generator = generator
        least, most = layout.n_chunks
        self.n_chunks = int(generator.integers(least, most + 1))
        self._passages = [passages.draw() for _ in range(self.n_chunks)]
        spare = [passages.follow(p) for p in self._passages]
        self._spare = [p for p in spare if p][:SPARE_CHUNKS]
        self.facts: list[Fact] = []
        self._words: dict[str, list[str]] = {}

    def word(self, pool: Sequence[str]) -> str:
        """A word of a pool that this prompt has not used."""
        key = pool[0]
        if key not in self._words:
            self._words[key] = [str(w) for w in self.generator.permutation(pool)]
        return self._words[key].pop()

    def places(self, n: int) -> list[int]:
        """Different chunks, in random order; more facts than chunks begin anew."""
        found: list[int] = []
        while len(found) < n:
            found += [int(c) for c in self.generator.permutation(self.n_chunks)]
        return found[:n]

    def passage(self, chunk: int) -> Passage:
        return self._passages[chunk]

    def sentences(self, chunk: int) -> tuple[str, ...]:
        return self._passages[chunk].sentences

    def put(self, relation: str, subject: str, value: str, chunk: int) -> None:
        sentence = SENTENCES[relation].format(subject=subject, value=value)
        self.facts.append(Fact(relation, subject, value, sentence, chunk))

    def prompt(self, name: str, task: str, questions: Sequence[TextQuestion]) -> TextPrompt:
        chunks = []
        for i, passage in enumerate(self._passages):
            here = [fact.sentence for fact in self.facts if fact.chunk == i]
            chunks.append(TextChunk(with_facts(passage, here, self.generator)))
        spare = tuple(with_facts(p, (), self.generator) for p in self._spare)
        return TextPrompt(
            name, task, SYSTEM, tuple(chunks), tuple(questions), tuple(self.facts), spare
        )


def two_hop(project: str, password: str, kind: str = "two-hop") -> TextQuestion:
    return TextQuestion(
        kind,
        f"What is the password of project {project}? It is the password of its code name.",
        f"The password of project {project} is",
        password,
        project,
        ("code name", "password"),
    )


def single(code_name: str, password: str, kind: str = "single") -> TextQuestion:
    return TextQuestion(
        kind,
        f"What is the password of {code_name}?",
        f"The password of {code_name} is",
        password,
        code_name,
        ("password",),
    )


def _triples(board: Board, n: int) -> list[tuple[str, str, str]]:
    """n projects with code name and password, the two facts in different chunks."""
    found = []
    for _ in range(n):
        project = board.word(PROJECTS)
        code_name, password = board.word(CODE_NAMES), board.word(PASSWORDS)
        first, second = board.places(2)
        board.put("code name", project, code_name, first)
        board.put("password", code_name, password, second)
        found.append((project, code_name, password))
    return found


def needle(board: Board) -> list[TextQuestion]:
    """Two-hop, single and pair, over three projects."""
    (p0, _, w0), (p1, c1, w1), (p2, c2, _) = _triples(board, 3)
    pair = TextQuestion(
        "pair",
        f"What are the code names of project {p1} and project {p2}?",
        f"The code names of project {p1} and project {p2} are",
        f"{c1} and {c2}",
        f"{p1}|{p2}",
        ("code name",),
    )
    return [two_hop(p0, w0), single(c1, w1), pair]


def three_hop(board: Board) -> list[TextQuestion]:
    """Who leads a project -> its code name -> the password, in three chunks."""
    questions = []
    for _ in range(3):
        person, project = board.word(PEOPLE), board.word(PROJECTS)
        code_name, password = board.word(CODE_NAMES), board.word(PASSWORDS)
        places = board.places(3)
        board.put("leads", person, project, places[0])
        board.put("code name", project, code_name, places[1])
        board.put("password", code_name, password, places[2])
        questions.append(
            TextQuestion(
                "three-hop",
                f"What is the password of the project that {person} leads? It is the password of "
                "the project's code name.",
                f"The password of the project that {person} leads is",
                password,
                person,
                ("leads", "code name", "password"),
            )
        )
    return questions


def distract(board: Board) -> list[TextQuestion]:
    """Two-hop and single, with sentences about the same things that do not answer."""
    triples = _triples(board, 3)
    for project, code_name, _ in triples:
        a, b, c = board.places(3)
        board.put("former code name", project, board.word(CODE_NAMES), a)
        board.put("former password", code_name, board.word(PASSWORDS), b)
        board.put("guest password", code_name, board.word(PASSWORDS), c)
    (p0, _, w0), (p1, _, w1), (_, c2, w2) = triples
    return [
        two_hop(p0, w0, "distractor"),
        two_hop(p1, w1, "distractor"),
        single(c2, w2, "distractor"),
    ]


def contradict(board: Board) -> list[TextQuestion]:
    """A later chunk says that what an earlier one says has changed."""
    questions = []
    for _ in range(2):
        code_name, old, new = board.word(CODE_NAMES), board.word(PASSWORDS), board.word(PASSWORDS)
        first, second = sorted(board.places(2))
        board.put("password", code_name, old, first)
        board.put("correction", code_name, new, second)
        questions.append(
            TextQuestion(
                "contradiction",
                f"What is the password of {code_name} now, after the correction?",
                f"The password of {code_name} has been changed to",
                new,
                code_name,
                ("correction",),
            )
        )
    code_name, password = board.word(CODE_NAMES), board.word(PASSWORDS)
    board.put("password", code_name, password, board.places(1)[0])
    questions.append(single(code_name, password))
    return questions


def order(board: Board) -> list[TextQuestion]:
    """The same sentence with different values: only the order of the chunks decides."""
    questions = []
    for _ in range(3):
        project = board.word(PROJECTS)
        colours = [str(c) for c in board.generator.permutation(COLOURS)[:2]]
        for colour, chunk in zip(colours, sorted(board.places(2)), strict=True):
            board.put("lamp", project, colour, chunk)
        questions.append(
            TextQuestion(
                "order",
                f"In the order of the documents, which colour was the lamp of project {project} "
                "switched to last?",
                f"The lamp of project {project} was last switched to",
                colours[-1],
                project,
                ("lamp",),
            )
        )
    return questions


NEEDLE_TASKS: dict[str, Callable[[Board], list[TextQuestion]]] = {
    "needle": needle,
    "three-hop": three_hop,
    "distract": distract,
    "contradict": contradict,
    "order": order,
}
