"""Prompts for people to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from ..errors import NotFound
from .gate import Verdict
from .tasks import Encoder, Prompt


def load_tokenizer(path: str) -> Any:  # noqa: ANN401
    """The tokenizer of a model without its weights; None where it has none."""
    from transformers import AutoTokenizer

    from ..transformers.loading import _parsing_once

    found = Path(path)
    if not found.exists():
        raise NotFound(f"no model at {path}")
    try:
        if found.is_dir():
            return AutoTokenizer.from_pretrained(found, local_files_only=True)
        with _parsing_once():
            return AutoTokenizer.from_pretrained(
                found.parent, gguf_file=found.name, local_files_only=True
            )
    except (OSError, ValueError, KeyError):
        return None


def print_verdict(console: Console, verdict: Verdict) -> None:
    """A verdict for people."""

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    for gate in verdict.gates:
        value = "NaN" if gate["value"] is None else f"{gate['value']:.3g}"
        passed = "pass" if gate["passed"] else "FAIL"
        say(f"{passed} {gate['gate']}: {value} (at most {gate['bound']:.3g})")
    for policy, median in verdict.figures.get("kl_median", {}).items():
        charge, right = verdict.figures["charge"][policy], verdict.figures["right"][policy]
        say(f"     {policy}: KL {median:.4f} (median), right {right:.2f}, charged {charge:.1%}")
    for codec, value in verdict.figures.get("codec_kl", {}).items():
        say(f"     {codec}: KL {value:.2g}")
    say(f"chunks may be reused: {verdict.pic_safe} ({verdict.reason})")
    say(f"recommended: policy {verdict.policy}, chunks {verdict.variant}, codec {verdict.codec}")


def print_prompt(console: Console, prompt: Prompt, encoder: Encoder) -> None:
    n_tokens = len(prompt.context_tokens)
    console.rule(f"{prompt.id}: {n_tokens} tokens, {len(prompt.chunks)} chunks")
    console.print(encoder.decode(prompt.system_tokens), style="dim", markup=False)
    for i, chunk in enumerate(prompt.chunks):
        note = "computed anew" if chunk.fresh else ""
        if chunk.behind is not None:
            note = f"reused from behind {len(chunk.behind)} other tokens"
        console.print(f"[chunk {i}: {len(chunk.tokens)} tokens {note}]", style="bold", markup=False)
        console.print(encoder.decode(chunk.tokens), markup=False)
    for question in prompt.questions:
        console.print(f"[{question.kind}]", style="bold", markup=False)
        console.print(encoder.decode(question.tokens), markup=False)
        answer = encoder.decode(question.answer) or "(full prefill's own words)"
        console.print(f"{encoder.decode(question.opening)} ->{answer}", style="green", markup=False)
