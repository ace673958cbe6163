"""The engine's own forward: rows that only shrink with depth, each with its own causal limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InvalidArgument
from .attention import AdjustLogits, Observer, attend
from .blocks import Blocks
from .rope import Rope, RopeSpec, rotate
from .shape import ModelShape
from .state import KvState


@dataclass(frozen=True)
class LayerEvent:
    """What a layer has computed for its rows: KV before and after, for hooks.

    rows: cells, ascending. keys: rotated, keys_before_rope: not; [kv head][row][dim] as are the
    values. old_keys, old_values: what the cells held before. after_attention: the layer's attention
    has run.
    """

    layer: int
    rows: Tensor
    keys: Tensor
    keys_before_rope: Tensor
    values: Tensor
    old_keys: Tensor
    old_values: Tensor
    after_attention: bool


# Returns the rows that go on, a subset, or None for all of them.
LayerHook = Callable[[LayerEvent], Tensor | None]
# Changes the whole cache of a layer (keys, values [kv head][cell][dim]) before attention reads it.
AdjustKv = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class ForwardResult:
    """hidden: last layer's output of ``rows``; rows_by_layer: the cells computed at each layer."""

    hidden: Tensor
    rows: Tensor
    rows_by_layer: list[Tensor]


def _positions_in(kept: Tensor, rows: Tensor) -> Tensor:
    """Where each of the ascending ``kept`` lies in the ascending ``rows``."""
    index = torch.searchsorted(rows, kept)
    clipped = index.clamp(max=max(rows.numel() - 1, 0))
    if rows.numel() == 0 or not torch.equal(rows[clipped], kept):
        raise InvalidArgument("rows may only shrink with depth, and stay ascending")
    return index


def run_layers(
    blocks: Blocks,
    shape: ModelShape,
    rope: Rope,
    state: KvState,
    rows: Tensor,
    *,
    context_tokens: int | None = None,
    hook: LayerHook | None = None,
    hook_after_attention: Sequence[int] = (),
    observers: Sequence[Observer] = (),
    adjust_kv: AdjustKv | None = None,
    adjust_logits: AdjustLogits | None = None,
    stop_after: int | None = None,
) -> ForwardResult:
    """Computes the cells ``rows`` (ascending) of ``state`` through all layers, writing their KV.

    hook is called at every layer, before attention, or after it in the layers named by
    hook_after_attention. stop_after: the last layer whose attention is needed.
    """
    n_context = int(state.positions.max()) + 1 if context_tokens is None else context_tokens
    hidden = blocks.embed(state.tokens[rows])
    rows_by_layer: list[Tensor] = []
    tables: dict[RopeSpec, tuple[Tensor, Tensor]] = {}
    for layer, spec in enumerate(shape.layers):
        if spec.rope not in tables:
            tables[spec.rope] = rope.table(
                spec.rope, state.positions[rows], n_context, hidden.dtype
            )
        cos, sin = tables[spec.rope]
        query, raw, value = blocks.project(layer, hidden)
        key = rotate(raw, cos, sin)
        rows_by_layer.append(rows)
        event = None
        if hook is not None:
            have = state.keys[layer].shape[1]
            inside = rows.clamp(max=max(have - 1, 0))
            event = (state.keys[layer][:, inside], state.values[layer][:, inside])
        state.write(layer, rows, key, value)
        late = layer in hook_after_attention
        kept = None
        if hook is not None and event is not None and not late:
            kept = hook(LayerEvent(layer, rows, key, raw, value, *event, after_attention=False))
        going = rows
        if kept is not None:
            index = _positions_in(kept, rows)
            query, hidden, going = query[:, index], hidden[index], kept
            tables = {r: (c[index], s[index]) for r, (c, s) in tables.items()}
        query = rotate(query, *(tables[spec.rope]))
        keys, values = (
            state.keys[layer][:, : state.n_cells],
            state.values[layer][:, : state.n_cells],
        )
        if adjust_kv is not None:
            keys, values = adjust_kv(layer, keys, values)
        mixed = attend(
            layer, spec, query, keys, values, going, state.positions, observers, adjust_logits
        )
        if hook is not None and event is not None and late:
            kept = hook(LayerEvent(layer, rows, key, raw, value, *event, after_attention=True))
            if kept is not None:
                index = _positions_in(kept, going)
                hidden, mixed, going = hidden[index], mixed[index], kept
                tables = {r: (c[index], s[index]) for r, (c, s) in tables.items()}
        if stop_after is not None and layer >= stop_after:
            break
        hidden = blocks.finish(layer, hidden, mixed)
        rows = going
    return ForwardResult(hidden, rows, rows_by_layer)
