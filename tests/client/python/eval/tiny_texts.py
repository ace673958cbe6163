"""A tokenizer of characters and documents of a few sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quire.eval.tasks import Corpus


class Characters:
    """A tokenizer with a token per character, and a BOS."""

    bos_token_id, eos_token_id, chat_template = 1, 2, None
    FIRST = 4

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = [self.FIRST + min(ord(c), 126 + 1) - 9 for c in text]
        return {"input_ids": [self.bos_token_id, *ids] if add_special_tokens else ids}

    def decode(self, tokens: list[int]) -> str:
        return "".join(chr(t - self.FIRST + 9) for t in tokens if t >= self.FIRST)


SENTENCES = (
    "Whoever has changed {2} must tell it so, and has to wait for the next full hour before the new "
    "pages are shown. The {0} keeps a list of all pages. It reads {1} before it starts. A {0} that is "
    "gone leaves its files. They can be removed by hand at any time. See the part on {1} for more."
)


def make_corpus() -> Corpus:
    from quire.eval.tasks import Corpus, Document

    things = ("daemon", "printer", "mailer", "router", "editor", "shell", "kernel", "archive")
    documents = tuple(
        Document(
            f"{thing}.txt",
            tuple(SENTENCES.format(thing, f"table {i}", f"file {thing}{i}") for i in range(12)),
        )
        for thing in things
    )
    body = [f"def step_{i}(value):" if i % 2 == 0 else f"    return value + {i}" for i in range(80)]
    lines: list[str] = []
    for head, line in zip(body[::2], body[1::2], strict=True):
        lines += [head, line, "", ""]
    return Corpus(documents, (Document("steps.py", tuple(lines)),))
