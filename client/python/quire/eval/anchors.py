"""What KVCOMM corrects the chunks of a prompt by: texts of its documents that are not in it."""

from __future__ import annotations

import numpy as np

from ..errors import InvalidArgument
from ..transformers import Engine, KvState, behind_prefix, in_context
from ..transformers.policies import Anchor, AnchorPool
from .tasks.model import Prompt, TokenRun

# An anchor must be as long as the chunk that it corrects, and chunks hold facts besides a passage.
PASSAGES_PER_ANCHOR = 2


def anchors_of(engine: Engine, prompt: Prompt, full: KvState) -> AnchorPool:
    """full: the prompt's documents, prefilled. An anchor's base is behind the prompt's prefix; its
    real KV stands behind the documents, as that of a text does which comes after them."""
    if not prompt.spare:
        raise InvalidArgument(
            f"kvcomm: prompt {prompt.id} has no passages beside it to make anchors of (task needle "
            "has)"
        )
    pool, base = AnchorPool(), behind_prefix(prompt.system_tokens)
    behind = in_context(prompt.context_tokens)
    for text in _texts(prompt):
        pool.add(Anchor(engine.capture(text, base), engine.capture(text, behind, lead=full)))
    return pool


def anchor_context_tokens(prompt: Prompt) -> int:
    """The longest context that anchors_of() computes in; 0 without texts to make anchors of."""
    longest = max((len(text) for text in _texts(prompt)), default=0)
    return len(prompt.context_tokens) + longest if longest else 0


def _texts(prompt: Prompt) -> list[TokenRun]:
    n = len(prompt.spare)
    return [
        np.concatenate([prompt.spare[(i + k) % n] for k in range(PASSAGES_PER_ANCHOR)])
        for i in range(n)
    ]
