"""Prompts: the same for the same seed, and answered by what their chunks say."""

from __future__ import annotations

import re

import numpy as np
import pytest
from quire.errors import InvalidArgument
from quire.eval.errors import DocumentsMissing, TokenizerMissing
from quire.eval.tasks import TASKS, Corpus, Encoder, Generator, Layout, TextPrompt, read_corpus
from quire.eval.tasks.documents import paragraphs_of_html
from quire.eval.tasks.pool import counts, similarity
from tiny_texts import Characters

LAYOUT = Layout((4, 6), 160)
PATTERNS = {
    "leads": r"(\w+) leads project (\w+)\.",
    "code name": r"The code name of project (\w+) is (\w+)\.",
    "password": r"The password of (\w+) is (\w+)\.",
    "correction": r"Correction: the password of (\w+) has been changed to (\w+)\.",
    "lamp": r"Then the lamp of project (\w+) was switched to (\w+)\.",
}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(Characters())


def generator(corpus: Corpus, encoder: Encoder, seed: int = 3) -> Generator:
    return Generator(corpus, encoder, LAYOUT, seed)


def look_up(text: str, relation: str, subject: str) -> str:
    """What the text says last about a subject."""
    found = [value for name, value in re.findall(PATTERNS[relation], text) if name == subject]
    assert found, f"nothing about {relation} of {subject}"
    return found[-1]


def derive(prompt: TextPrompt, subject: str, hops: tuple[str, ...]) -> str:
    text = "".join(chunk.text for chunk in prompt.chunks)
    for relation in hops:
        subject = look_up(text, relation, subject)
    return subject


@pytest.mark.parametrize("task", ["needle", "three-hop", "distract", "contradict", "order", "relay"])
def test_answers_follow_from_the_chunks(corpus: Corpus, encoder: Encoder, task: str) -> None:
    for index in range(20):
        prompt = generator(corpus, encoder).text(task, index)
        assert prompt.questions
        for question in prompt.questions:
            answers = [derive(prompt, s, question.hops) for s in question.subject.split("|")]
            assert question.answer == " and ".join(answers), f"{prompt.id}: {question}"


@pytest.mark.parametrize("task", ["needle", "three-hop", "relay"])
def test_no_single_chunk_answers_a_hop_question(corpus: Corpus, encoder: Encoder, task: str) -> None:
    prompt = generator(corpus, encoder).text(task, 1)
    for question in prompt.questions:
        if len(question.hops) < 2:
            continue
        for chunk in prompt.chunks:
            if question.answer in chunk.text:
                assert question.subject not in chunk.text, f"{prompt.id}: {question}"


def test_corrections_and_switches_come_later(corpus: Corpus, encoder: Encoder) -> None:
    for index in range(10):
        prompt = generator(corpus, encoder).text("contradict", index)
        for fact in prompt.facts:
            if fact.relation == "correction":
                old = [f for f in prompt.facts if f.relation == "password" and f.subject == fact.subject]
                assert len(old) == 1 and old[0].chunk < fact.chunk and old[0].value != fact.value


@pytest.mark.parametrize("index", range(12))
def test_edited_code_says_the_answer(corpus: Corpus, encoder: Encoder, index: int) -> None:
    prompt = generator(corpus, encoder).text("edit", index)
    new = prompt.system + "".join(chunk.text for chunk in prompt.chunks)
    reused = prompt.chunks[-1]
    assert reused.behind is not None and not reused.fresh
    old = "".join(reused.behind) + reused.text
    scope: dict[str, str] = {}
    for line in new.splitlines():
        if found := re.fullmatch(r'([A-Z]+_MODE) = "(\w+)"', line):
            scope[found[1]] = found[2]
    (setting, value), *rest = scope.items()
    assert not rest and [q.answer for q in prompt.questions] == [value, value]
    function = prompt.questions[1].subject
    assert f"def {function}():\n    return {setting}\n" in new
    # What was stored before the edit says something else, or nothing.
    before = re.findall(rf'^{setting} = "(\w+)"', old, re.M)
    assert not before or before[-1] != value


def test_copies_and_continuations_are_the_text(corpus: Corpus, encoder: Encoder) -> None:
    prompt = generator(corpus, encoder).text("copy", 0)
    whole = "".join(chunk.text for chunk in prompt.chunks)
    assert all(f"{q.opening} {q.answer}" in whole for q in prompt.questions)
    prompt = generator(corpus, encoder).text("continue", 0)
    question = prompt.questions[0]
    paragraphs = " ".join(p for d in corpus.documents for p in d.paragraphs)
    last = prompt.chunks[-1].text
    assert last.strip() in paragraphs and question.raw
    assert last + question.text + question.answer in paragraphs


@pytest.mark.parametrize("task", list(TASKS))
def test_prompts_depend_on_seed_and_number_alone(corpus: Corpus, encoder: Encoder, task: str) -> None:
    one = generator(corpus, encoder)
    one.text(task, 0)
    assert one.text(task, 5) == generator(corpus, encoder).text(task, 5)
    assert one.text(task, 5) != one.text(task, 6)
    assert one.text(task, 5) != generator(corpus, encoder, seed=4).text(task, 5)
    assert TextPrompt.from_json(one.text(task, 5).to_json()) == one.text(task, 5)


@pytest.mark.parametrize("task", list(TASKS))
def test_tokens_are_those_of_each_run_by_itself(corpus: Corpus, encoder: Encoder, task: str) -> None:
    prompt = generator(corpus, encoder).prompt(task, 2)
    text = prompt.text
    assert text is not None
    for chunk, source in zip(prompt.chunks, text.chunks, strict=True):
        np.testing.assert_array_equal(chunk.tokens, encoder.run(source.text))
        assert (chunk.behind is None) == (source.behind is None)
    assert prompt.system_tokens[0] == 1 and 1 not in prompt.system_tokens[1:]
    assert len(prompt.context_tokens) == len(prompt.system_tokens) + sum(len(c.tokens) for c in prompt.chunks)
    for question in prompt.questions:
        assert len(question.tokens) and (len(question.answer) or question.kind == "summary")


def test_needle_questions(corpus: Corpus, encoder: Encoder) -> None:
    prompt = generator(corpus, encoder).prompt("needle", 0)
    assert [question.kind for question in prompt.questions] == ["two-hop", "single", "pair"]
    assert LAYOUT.n_chunks[0] <= len(prompt.chunks) <= LAYOUT.n_chunks[1]
    question = prompt.questions[1]
    said = encoder.decode(question.opening) + encoder.decode(question.answer)
    assert re.fullmatch(r" The password of \w+ is \w+", said)


def test_chat_templates_are_cut_around_the_documents() -> None:
    class Chat(Characters):
        chat_template = "yes"

        def apply_chat_template(self, messages: list[dict[str, str]], **_: object) -> str:
            if messages[0]["role"] == "system":
                raise ValueError("no system role")
            return "".join(f"<{m['role']}>{m['content']}</>" for m in messages) + "<bot>"

    encoder = Encoder(Chat())
    assert encoder.decode(encoder.system("Be brief.")) == "<user>Be brief.\n\n"
    assert encoder._frame("Be brief.")[1] == "</><bot>"


def test_errors(corpus: Corpus, encoder: Encoder, tmp_path: object) -> None:
    with pytest.raises(TokenizerMissing, match="no tokenizer"):
        Encoder(None)
    with pytest.raises(InvalidArgument, match="unknown task"):
        generator(corpus, encoder).text("riddle", 0)
    with pytest.raises(DocumentsMissing, match="no prose"):
        generator(Corpus((), ()), encoder).text("needle", 0)
    with pytest.raises(DocumentsMissing, match="no source files"):
        generator(Corpus(corpus.documents, ()), encoder).text("edit", 0)
    with pytest.raises(DocumentsMissing, match="too little text"):
        Generator(corpus, encoder, Layout((40, 40), 900)).text("needle", 0)


def test_documents_of_a_folder(tmp_path) -> None:  # noqa: ANN001
    with pytest.raises(DocumentsMissing, match="no folder"):
        read_corpus(tmp_path / "none")
    with pytest.raises(DocumentsMissing, match="has no text"):
        read_corpus(tmp_path)
    sentence = "Pages are kept in the order in which they were written, and nobody removes them. "
    (tmp_path / "a.html").write_text(
        "<head><title>T</title><style>p{}</style></head><body><script>x()</script>"
        + f"<p>{sentence}&amp; more.</p>" * 30
    )
    (tmp_path / "b.txt").write_text(f"{sentence * 3}\n\n" * 10)
    (tmp_path / "c.py").write_text("def f(a):\n\treturn a\n" * 100)
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe" * 4000)
    (tmp_path / "e.bin").write_bytes(b"x" * 4000)
    corpus = read_corpus(tmp_path)
    assert [d.name for d in corpus.documents] == ["a.html", "b.txt"]
    assert corpus.documents[0].paragraphs[0] == f"{sentence}& more."
    assert corpus.code[0].paragraphs[:2] == ("def f(a):", "    return a")
    assert read_corpus(tmp_path).digest == corpus.digest
    (tmp_path / "b.txt").write_text(f"{sentence * 3}\n\n" * 11)
    assert read_corpus(tmp_path).digest != corpus.digest


def test_html_paragraphs() -> None:
    assert paragraphs_of_html("<p>one <b>two</b>\nthree<ul><li>four<li>five</ul>") == [
        "one two three",
        "four",
        "five",
    ]


def test_similar_passages_are_of_the_corpus_and_not_of_the_prompt(corpus: Corpus, encoder: Encoder) -> None:
    prompt = generator(corpus, encoder).prompt("needle", 0)
    assert prompt.pool is not None and prompt.text is not None
    text = " ".join(chunk.text for chunk in prompt.text.chunks)
    near = prompt.pool.nearest(prompt.chunks[0].tokens, text, 3)
    assert len(near) == 3
    own = counts(prompt.chunks[0].tokens)
    likeness = [similarity(own, counts(tokens)) for tokens in near]
    assert likeness == sorted(likeness)
    everything = prompt.pool.nearest(prompt.chunks[0].tokens, text, 10_000)
    assert likeness == [similarity(own, counts(tokens)) for tokens in everything[-3:]]
    free = prompt.pool.nearest(prompt.chunks[0].tokens, "", 10_000)
    assert 0 < len(everything) < len(free)
    again = generator(corpus, encoder, seed=4).prompt("copy", 1)
    assert again.pool is not None
    same = again.pool.nearest(prompt.chunks[0].tokens, text, 3)
    assert all(np.array_equal(a, b) for a, b in zip(near, same, strict=True))
