"""From a plan to a request's old KV, in memory of its own."""

from __future__ import annotations

import torch

from .errors import RopeCannotMove
from .plan import ReusePlan
from .rope import Rope
from .shape import ModelShape
from .sources import KvSource, Target
from .state import OldKv


def check_movable(plan: ReusePlan, shape: ModelShape) -> None:
    """Raises RopeCannotMove where the plan needs what the model's rope does not allow."""
    if not shape.immovable:
        return
    if plan.chunks:
        raise RopeCannotMove(f"{shape.immovable}: only exact prefixes can be reused")
    loaded = any(segment.source is not None for segment in plan.segments)
    limit = shape.same_set_tokens
    if loaded and limit and plan.n_tokens > limit:
        raise RopeCannotMove(
            f"{shape.immovable}: a prefix stored for prompts up to {limit} tokens cannot serve one "
            f"of {plan.n_tokens}"
        )


def compose(
    plan: ReusePlan, shape: ModelShape, rope: Rope, dtype: torch.dtype, device: torch.device
) -> OldKv:
    """All loaded segments decoded and moved to their cells; fresh cells are zero."""
    check_movable(plan, shape)
    n = plan.n_tokens
    keys = [
        torch.zeros(la.kv_heads, n, la.key_dims, dtype=dtype, device=device) for la in shape.layers
    ]
    values = [
        torch.zeros(la.kv_heads, n, la.value_dims, dtype=dtype, device=device)
        for la in shape.layers
    ]
    loaded = torch.zeros(n, dtype=torch.bool, device=device)
    for segment in plan.segments:
        if segment.source is None:
            continue
        target = Target(
            keys,
            values,
            segment.token_begin,
            segment.first_position,
            segment.source_begin,
            segment.n_tokens,
            shape,
            rope,
            n,
        )
        place(segment.source, target)
        loaded[segment.token_begin : segment.token_end] = True
    return OldKv(tuple(keys), tuple(values), loaded)


def place(source: KvSource, target: Target) -> None:
    """Writes a source's KV to its cells."""
    source.place(target)
