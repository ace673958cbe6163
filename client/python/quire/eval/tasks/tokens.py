"""Text into tokens: every run on its own, so that chunks are the same ids wherever they stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import TokenizerMissing
from .model import Chunk, Prompt, Question, TextPrompt, TextQuestion, TokenRun

_MARK = "\u2042"  # stands for the documents while a chat template is cut in two

FILLER = (
    "The following pages were put together for people who keep computers running. They say how "
    "things are meant to work, what to look at first when they do not, and where to read on. "
    "Nothing here has to be read in order. Each part stands for itself, uses plain words, and "
    "names its sources. Commands are given as they are typed. Paths are absolute unless it is "
    "said otherwise. Where a part was written for an older release, a note tells what has "
    "changed since. Examples use names and addresses that are kept free for this purpose, so "
    "that nobody's machine is meant. Corrections are welcome at any time; they are checked, "
    "dated and added to the list at the end. Whoever is in a hurry may jump to the summary of a "
    "part and come back later. Tables are numbered by part, figures as well. Words in italics "
    "are explained where they are first used. Thanks go to all who sent questions, since the "
    "answers became these pages.\n\n"
)


class Encoder:
    """A tokenizer and the way a model wants its prompts."""

    def __init__(self, tokenizer: Any, template: str = "auto") -> None:  # noqa: ANN401
        """template: "chat" by the tokenizer's own template, "plain" for base models, "auto": chat
        where the tokenizer has one. Raises TokenizerMissing."""
        if tokenizer is None:
            raise TokenizerMissing("the model's files hold no tokenizer")
        self.tokenizer = tokenizer
        has_chat = bool(getattr(tokenizer, "chat_template", None))
        if template == "chat" and not has_chat:
            raise TokenizerMissing("the tokenizer has no chat template: use the template 'plain'")
        self.chat = has_chat if template == "auto" else template == "chat"
        self._bos = self._leading_special()

    def _leading_special(self) -> list[int]:
        """What the tokenizer puts before any text (BOS, or nothing)."""
        plain = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = self.tokenizer("a")["input_ids"]
        for cut in range(len(whole)):
            if whole[cut : cut + len(plain)] == plain:
                return list(whole[:cut])
        return []

    @property
    def sink_token(self) -> int:
        """The token that stands for the beginning in dummy_sink variants."""
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            token = getattr(self.tokenizer, name, None)
            if token is not None:
                return int(token)
        return 0

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        token = getattr(self.tokenizer, "eos_token_id", None)
        return () if token is None else (int(token),)

    def run(self, text: str) -> TokenRun:
        """The ids of a text by itself, no special tokens added."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return np.array(ids, dtype=np.uint32)

    def count(self, text: str) -> int:
        return len(self.run(text))

    def decode(self, tokens: TokenRun | list[int]) -> str:
        return str(self.tokenizer.decode([int(token) for token in tokens]))

    def _frame(self, system: str) -> tuple[str, str]:
        """(text before the documents, text behind the question)"""
        if not self.chat:
            return system + "\n\n", "\nAnswer:"
        for messages in (
            [{"role": "system", "content": system}, {"role": "user", "content": _MARK}],
            [{"role": "user", "content": f"{system}\n\n{_MARK}"}],
        ):
            try:
                text = self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True
                )
            except Exception:
                continue  # templates raise their own errors where they know no system role
            if text.count(_MARK) == 1 and system in text:
                before, after = text.split(_MARK)
                return before, after
        raise TokenizerMissing("the chat template cannot be cut around the documents")

    def system(self, text: str) -> TokenRun:
        """The prefix of every prompt: BOS, the template's begin, the system text."""
        before, _ = self._frame(text)
        tokens = self.run(before)
        begin = np.array(self._bos, dtype=np.uint32)
        if len(begin) and len(tokens) >= len(begin) and (tokens[: len(begin)] == begin).all():
            return tokens
        return np.concatenate([begin, tokens])

    def question(self, question: TextQuestion, system: str) -> Question:
        if question.raw:
            tokens, opening = self.run(question.text), self.run(question.opening)
            answer = self.run(question.answer)
        else:
            _, after = self._frame(system)
            tokens = self.run(f"\nQuestion: {question.text}{after}")
            lead = "" if self.chat else " "
            opening = self.run(lead + question.opening) if question.opening else self.run("")
            first = " " if question.opening or lead else ""
            answer = self.run(first + question.answer) if question.answer else self.run("")
        return Question(question.kind, tokens, opening, answer, question.answer, question.text)

    def prompt(self, text: TextPrompt) -> Prompt:
        system = self.system(text.system) if not text.code else self._code_system(text.system)
        chunks = tuple(
            Chunk(
                self.run(chunk.text),
                None if chunk.behind is None else self._behind(chunk.behind, text.code),
                chunk.fresh,
            )
            for chunk in text.chunks
        )
        return Prompt(
            text.id,
            text.task,
            system,
            chunks,
            tuple(self.question(question, text.system) for question in text.questions),
            tuple(self.run(spare) for spare in text.spare),
            self.run(FILLER),
            text,
        )

    def _code_system(self, text: str) -> TokenRun:
        """Code is its own beginning: no words in front."""
        return np.concatenate([np.array(self._bos, dtype=np.uint32), self.run(text)])

    def _behind(self, parts: tuple[str, ...], code: bool) -> TokenRun:
        if code:
            return self._code_system("".join(parts))
        system, *texts, asked = parts
        task = self.question(TextQuestion("", asked), system).tokens
        return np.concatenate([self.system(system), *map(self.run, texts), task])


def make_counter(encoder: Encoder) -> Callable[[str], int]:
    """encoder.count with a memory, for cutting text."""
    known: dict[str, int] = {}

    def count(text: str) -> int:
        if text not in known:
            known[text] = encoder.count(text)
        return known[text]

    return count
