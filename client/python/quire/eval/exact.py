"""What a codec costs by itself: full prefill's KV through the codec, and nothing else changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..transformers import KvSource, KvState, StoredKv, in_context, pack, plan_of_parts
from ..transformers.compose import compose
from .loading import Subject
from .measure import Oracle, compare
from .tasks.model import TokenRun


def codec_kl(
    subject: Subject, codecs: Sequence[str], n_prompts: int = 2, task: str = "needle"
) -> dict[str, list[float]]:
    """codec -> mean KL of the first question's answer, per prompt, where the whole context is an
    exact prefix that went through the codec."""
    engine = subject.engine
    found: dict[str, list[float]] = {codec: [] for codec in codecs}
    for index in range(n_prompts):
        prompt = subject.generator.prompt(task, index)
        question = prompt.questions[0]
        said = np.concatenate([question.opening, question.answer])[:-1]
        tail = np.concatenate([question.tokens, said])
        n_answer = len(question.answer)
        context = engine.capture(prompt.context_tokens, in_context(()))

        def logits_over(
            source: KvSource,
            tail: TokenRun = tail,
            n_answer: int = n_answer,
        ) -> Tensor:
            plan = plan_of_parts([tail], prefix=source)
            with torch.inference_mode():
                old = compose(plan, engine.shape, engine.rope, engine.dtype, engine.device)
            state = KvState.over(engine.shape, engine.tensor(plan.tokens), old, engine.dtype)
            rows = torch.from_numpy(plan.fresh).to(engine.device)
            return engine.logits_of(engine.run(state, rows), rows[-n_answer:])

        oracle = Oracle.of(logits_over(context))
        for codec in codecs:
            stored = StoredKv(pack(engine, context, codec=codec).data, engine.model)
            found[codec].append(compare(oracle, logits_over(stored), question.answer).kl)
    return found
