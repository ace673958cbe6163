"""Beyond facts: copying, continuing, summarising, edited code, agents that read each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..errors import DocumentsMissing
from .documents import Document
from .model import Fact, TextChunk, TextPrompt, TextQuestion
from .needles import SYSTEM, Board, Layout, two_hop
from .passages import Count, Passages, with_facts, words_after
from .words import CODE_NAMES, PASSWORDS, PEOPLE, PROJECTS

COPY_OPENING_WORDS, COPY_ANSWER_WORDS = 5, 12
CONTINUE_FRESH_WORDS, CONTINUE_ANSWER_WORDS = 5, 18
_TRIES_MAX = 50


def copy(name: str, board: Board) -> TextPrompt | None:
    """Sentences to be repeated word for word, given their first words, which no other has. None
    where the board has no such sentence."""
    prompt = board.prompt(name, "copy", ())
    need = COPY_OPENING_WORDS + COPY_ANSWER_WORDS
    begins = Counter(
        tuple(s.split()[:COPY_OPENING_WORDS])
        for i in range(board.n_chunks)
        for s in board.sentences(i)
    )
    questions = []
    for i in board.places(3):
        words = [s.split() for s in board.sentences(i) if len(s.split()) >= need]
        words = [w for w in words if begins[tuple(w[:COPY_OPENING_WORDS])] == 1]
        if not words:
            continue
        chosen = words[int(board.generator.integers(len(words)))]
        opening = " ".join(chosen[:COPY_OPENING_WORDS])
        questions.append(
            TextQuestion(
                "copy",
                f'Repeat the sentence that begins with "{opening}", word for word.',
                opening,
                " ".join(chosen[COPY_OPENING_WORDS:need]),
            )
        )
    return prompt.with_questions(questions) if questions else None


def proceed(
    name: str, documents: Sequence[Document], passages: Passages, board: Board
) -> TextPrompt:
    """The real continuation of the last chunk, and a summary in full prefill's own words."""
    cut, need = CONTINUE_FRESH_WORDS, CONTINUE_FRESH_WORDS + CONTINUE_ANSWER_WORDS
    for _ in range(_TRIES_MAX):
        last = passages.draw()
        words = words_after(documents, last, need)
        if len(words) == need:
            break
    else:
        raise DocumentsMissing("no passage goes on long enough to be continued")
    questions = (
        TextQuestion(
            "continuation",
            " ".join(words[:cut]),
            answer=" " + " ".join(words[cut:]),
            raw=True,
        ),
        TextQuestion("summary", "Summarise the documents above in two sentences."),
    )
    prompt = board.prompt(name, "continue", questions)
    chunks = (*prompt.chunks[:-1], TextChunk(" ".join(last.sentences) + " "))
    return prompt.with_chunks(chunks)


def relay(name: str, board: Board) -> TextPrompt:
    """Reports of agents, each written behind documents that the reader has not: the last agent
    reads all reports. KV of a report is that of its writer's context."""
    generator = board.generator
    reports: list[list[str]] = [[] for _ in range(board.n_chunks)]
    questions = []
    for _ in range(3):
        project, code_name = board.word(PROJECTS), board.word(CODE_NAMES)
        password = board.word(PASSWORDS)
        first, second = board.places(2)
        board.put("code name", project, code_name, first)
        board.put("password", code_name, password, second)
        questions.append(two_hop(project, password, "relay"))
    for fact in board.facts:
        reports[fact.chunk].append(fact.sentence)
    chunks = []
    for i, facts in enumerate(reports):
        sentences = [*facts, *board.sentences(i)[:3]]
        text = f"Report of {board.word(PEOPLE)}: " + " ".join(
            str(s) for s in generator.permutation(sentences)
        )
        read = with_facts(board.passage(i), facts, generator)
        task = "Report what matters in this document."
        chunks.append(TextChunk(text + "\n\n", (SYSTEM, read, task)))
    return board.prompt(name, "relay", questions).with_chunks(chunks)


def _window(
    document: Document, generator: np.random.Generator, count: Count, n_tokens: int
) -> list[str] | None:
    """Consecutive lines of about so many tokens."""
    lines = document.paragraphs
    begin = int(generator.integers(max(1, len(lines) // 2)))
    have, end = 0, begin
    while end < len(lines) and have < n_tokens:
        have += count(lines[end] + "\n")
        end += 1
    return list(lines[begin:end]) if have >= n_tokens else None


def _boundary(lines: Sequence[str], near: int) -> int:
    """The line nearest to ``near`` that begins something new at the left margin, else the end."""
    starts = [
        i
        for i, line in enumerate(lines)
        if i and line.startswith(("def ", "class ", "@")) and not lines[i - 1]
    ]
    return min(starts, key=lambda i: abs(i - near), default=len(lines))


def edit(
    name: str,
    code: Sequence[Document],
    generator: np.random.Generator,
    count: Count,
    layout: Layout,
) -> TextPrompt:
    """Code whose KV is known from before an edit: everything behind the edit is reused, moved.

    insert: a definition is new. change: its value was another. delete: a second definition, which
    overruled the first, is gone.
    """
    if not code:
        raise DocumentsMissing("no source files among the documents: *.py is what is looked for")
    total = layout.chunk_tokens * (sum(layout.n_chunks) // 2)
    for _ in range(_TRIES_MAX):
        lines = _window(code[int(generator.integers(len(code)))], generator, count, total)
        if lines and len(lines) >= 20:
            break
    else:
        raise DocumentsMissing(f"no source file of {total} tokens among the documents")
    kind = ("insert", "change", "delete")[int(generator.integers(3))]
    words = [str(w) for w in generator.permutation(PASSWORDS)[:2]]
    setting = f"{generator.permutation(PROJECTS)[0]}_MODE".upper()
    define = [f'{setting} = "{word}"\n' for word in words]
    function = f"{setting.lower()}_name"
    cut = len(lines) // 5
    before = "".join(line + "\n" for line in lines[:cut])
    if kind == "insert":
        old, new, kept, value = "", define[0], "", words[0]
    elif kind == "change":
        old, new, kept, value = define[1], define[0], "", words[0]
    else:
        old, new, kept, value = define[1], "", define[0], words[0]
    before += kept
    use = f"\n\ndef {function}():\n    return {setting}\n\n\n"
    middle = _boundary(lines, (cut + len(lines)) // 2)
    middle = max(middle, cut)
    behind = "".join(line + "\n" for line in lines[cut:middle]) + use
    behind += "".join(line + "\n" for line in lines[middle:])
    chunks = [TextChunk(new, fresh=True)] if new else []
    chunks.append(TextChunk(behind, (before + old,)))
    questions = (
        TextQuestion(
            f"edit-{kind}",
            "\n\ndef test_settings():\n",
            f'    assert {setting} == "',
            value,
            setting,
            ("define",),
            raw=True,
        ),
        TextQuestion(
            f"edit-{kind}",
            "\n\ndef test_functions():\n",
            f'    assert {function}() == "',
            value,
            function,
            ("return", "define"),
            raw=True,
        ),
    )
    facts = (Fact("define", setting, value, (kept or new).strip(), 0),)
    return TextPrompt(name, "edit", before, tuple(chunks), questions, facts, code=True)
