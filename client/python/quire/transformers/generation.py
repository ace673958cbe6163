"""Continuations of a prefilled prompt: teacher forcing, greedy and sampled generation."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidArgument, ResourceExhausted
from ..ids import Tokens
from .decode_capture import DecodeRecorder
from .engine import Engine, Prefilled
from .policies.base import DecodeView, RowPolicy
from .sources import ChunkKv
from .state import KvState
from .stats import ColumnMass

NEW_TOKENS_MAX = 1 << 16


@dataclass(frozen=True)
class Generated:
    """refreshed: how many reused rows were computed again while decoding. chunk: the KV of the new
    tokens as decoding left it, where it was to be captured."""

    tokens: list[int]
    state: KvState
    logits: Tensor
    refreshed: int = 0
    chunk: ChunkKv | None = None


def extend(engine: Engine, state: KvState, tokens: Tokens) -> Tensor:
    """Appends tokens to a state; fp32 logits [token][vocabulary] after each of them."""
    ids = engine.tensor(tokens)
    if not ids.numel():
        raise InvalidArgument("nothing to append")
    return engine.logits_of(engine.run(state, state.append(ids)))


def force(engine: Engine, start: Prefilled, tokens: Tokens) -> Tensor:
    """Logits [token][vocabulary] that predict each of ``tokens`` after the prompt: row 0 is the
    prompt's own. The prefilled state stays as it is."""
    ids = engine.tensor(tokens)
    if ids.numel() <= 1:
        return start.logits[None, :][: ids.numel()]
    return torch.cat([start.logits[None], extend(engine, start.state.fork(), tokens[:-1])])


def _pick(logits: Tensor, temperature: float, generator: torch.Generator | None) -> int:
    if temperature == 0.0:
        return int(logits.argmax())
    shares = torch.softmax(logits.double().cpu() / temperature, dim=-1)
    return int(torch.multinomial(shares, 1, generator=generator))


def generate(
    engine: Engine,
    start: Prefilled,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    stop: Collection[int] = (),
    policy: RowPolicy | None = None,
    capture: bool = False,
    salt: bytes = b"",
) -> Generated:
    """Tokens after a prefilled prompt; a stop token ends them and is not among them.

    temperature 0 is greedy. policy: for its on_decode(), where it needs it. capture: keep the KV of
    the new tokens, the last one's too, with what later tokens paid to them. The prefilled state
    stays as it is.
    """
    if not 0 < max_new_tokens <= NEW_TOKENS_MAX:
        raise ResourceExhausted(f"1 to {NEW_TOKENS_MAX} new tokens, not {max_new_tokens}")
    if temperature < 0:
        raise InvalidArgument("the temperature must not be negative")
    generator = torch.Generator().manual_seed(seed)
    state, logits = start.state.fork(), start.logits
    wants_hook = policy is not None and policy.needs(engine.shape).needs_decode_hook
    mass = np.zeros(state.n_cells, dtype=np.float32)
    stale, refreshed = state.reused, 0
    notes = dict(start.notes)
    tokens: list[int] = []
    recorder = DecodeRecorder(engine, state.n_cells, max_new_tokens) if capture else None
    for step in range(max_new_tokens):
        token = _pick(logits, temperature, generator)
        if token in stop:
            break
        tokens.append(token)
        if step + 1 == max_new_tokens and not capture:
            break
        rows = state.append(torch.tensor([token], device=engine.device))
        observers: tuple[ColumnMass, ...] = ()
        if wants_hook and policy is not None and start.plan is not None:
            view = DecodeView(step, mass, stale.cpu().numpy(), start.plan, notes)
            chosen = np.asarray(policy.on_decode(view), dtype=np.int64)
            if not np.isin(chosen, start.plan.reusable).all():
                raise InvalidArgument(f"{policy.name}: decode rows outside reused tokens")
            again = torch.from_numpy(chosen).to(engine.device)
            refreshed += again.numel()
            stale = stale[~torch.isin(stale, again)]
            rows = torch.cat([again.unique(), rows])
            observers = (ColumnMass(engine.shape.full_layers, state.n_cells, state.n_cells - 1),)
        watching = [*observers, *(recorder.observers if recorder else ())]
        result = engine.run(state, rows, observers=watching, hook=recorder)
        for observer in observers:
            mass = observer.fused().cpu().numpy()
        logits = engine.logits_of(result, rows[-1:])[0]
    state.reused = stale
    chunk = None
    if recorder is not None and tokens:
        chunk = recorder.chunk(state, start.state.exact, salt)
    return Generated(tokens, state, logits, refreshed, chunk)
