"""KV of generated tokens as decoding leaves it, and the attention they get while it goes on.

Such a chunk is of phase decode and of the context it was generated in (contextual, by the digest of
the prompt): the store finds it only as the exact continuation of that prompt, by its own tenant,
and never as a chunk. Another agent of the same process takes it from memory (policies/relay.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ids
from ..ids import Context, ContextKind, Phase
from .attention import Observer
from .engine import Engine
from .forward import LayerEvent
from .recipes import run_digest
from .sources import ChunkKv
from .state import KvState
from .stats import ChunkStats, ColumnMass, SegmentMass


class DecodeRecorder:
    """A forward's hook: keeps keys before rope and values of cells from n_prompt on."""

    def __init__(self, engine: Engine, n_prompt: int, new_tokens_max: int) -> None:
        self._engine, self._n_prompt = engine, n_prompt
        n_layers = engine.shape.n_layers
        self._keys: list[list[Tensor]] = [[] for _ in range(n_layers)]
        self._values: list[list[Tensor]] = [[] for _ in range(n_layers)]
        end = n_prompt + new_tokens_max
        self._received = ColumnMass(range(n_layers), end, n_prompt, end)
        self._given = SegmentMass(range(n_layers), (0, n_prompt, end), n_prompt, end)
        self.observers: tuple[Observer, ...] = (self._received, self._given)

    def __call__(self, event: LayerEvent) -> None:
        new = event.rows >= self._n_prompt
        self._keys[event.layer].append(event.keys_before_rope[:, new].cpu())
        self._values[event.layer].append(event.values[:, new].cpu())

    def chunk(self, state: KvState, exact: bool, salt: bytes) -> ChunkKv:
        """The generated cells of a state, all of which went through the hook once."""
        shape, n_prompt = self._engine.shape, self._n_prompt
        n = state.n_cells - n_prompt
        layers = range(shape.n_layers)
        tokens = state.tokens.cpu().numpy()
        prompt = ids.as_tokens(tokens[:n_prompt])
        received, given = self._received, self._given
        stats = ChunkStats(
            torch.stack([received.by_layer[i][n_prompt : n_prompt + n] for i in layers]).cpu(),
            torch.stack([received.rows_seen[i][n_prompt : n_prompt + n] for i in layers]).cpu(),
            torch.stack([given.by_layer[i][:n] for i in layers]).cpu(),
            (n_prompt, n),
            shape.full_layers,
        )
        reference = ids.prefix_digest(self._engine.model_id, prompt, salt)
        return ChunkKv(
            ids.as_tokens(tokens[n_prompt:]),
            tuple(torch.cat(self._keys[i], dim=1) for i in layers),
            tuple(torch.cat(self._values[i], dim=1) for i in layers),
            Context(ContextKind.CONTEXTUAL, Phase.DECODE, reference),
            int(state.positions[n_prompt]),
            stats,
            (run_digest(prompt),),
            exact,
            salt,
        )
