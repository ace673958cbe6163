"""What a codec costs by itself: full prefill's KV through the codec, and nothing else changed."""

from __future__ import annotations

import numpy as np

from ..transformers import StoredKv, extend, in_context, pack, plan_of_parts
from ..transformers.policies import FullReuse
from .loading import Subject
from .measure import Oracle, compare


def exact_codec_kl(
    subject: Subject, codec: str, n_prompts: int, task: str = "needle"
) -> list[float]:
    """Mean KL of the first question's answer, per prompt: its whole context stored as a prefix."""
    engine, found = subject.engine, []
    for index in range(n_prompts):
        prompt = subject.generator.prompt(task, index)
        question = prompt.questions[0]
        said = np.concatenate([question.opening, question.answer])[:-1]
        tail = np.concatenate([question.tokens, said])
        first = len(tail) - len(question.answer)
        context = engine.capture(prompt.context_tokens, in_context(()))
        logits = []
        for source in (context, StoredKv(pack(engine, context, codec=codec).data, engine.model)):
            plan = plan_of_parts([tail[:1]], prefix=source)
            start = engine.prefill(plan=plan, policy=FullReuse())
            logits.append(extend(engine, start.state, tail[1:])[first - 1 :])
        found.append(compare(Oracle.of(logits[0]), logits[1], question.answer).kl)
    return found
