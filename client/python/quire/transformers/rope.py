"""Rotary embeddings: which pairs turn how fast, and whether keys may be moved at all.

Angles are either "exact" (64-bit products of position and fp32 frequency, one rounding of the
result, as the C kernels do) or the "engine"'s own table (fp32 angles of the model's rotary module,
in the model's dtype): bit parity with the model's own forward is defined only for the latter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..models import rope_frequencies
from .errors import ModelUnsupported

Angles = Literal["exact", "engine"]

# Types whose angles are linear in the position, whatever the prompt's length.
_MOVABLE_TYPES = ("default", "linear", "llama3", "yarn")
_TABLE_POSITIONS_MAX = 1 << 20


@dataclass(frozen=True)
class RopeSpec:
    """The rotation of one kind of layer. ``immovable`` says why keys may not be moved, or is
    empty."""

    inverse_frequencies: tuple[float, ...]
    attention_factor: float = 1.0
    rope_type: str = "default"
    layer_type: str | None = None
    immovable: str = ""
    # Prompts up to here use one frequency set; 0 where the length does not matter.
    same_set_tokens: int = 0

    @property
    def rotary_dims(self) -> int:
        return 2 * len(self.inverse_frequencies)


def _immovable_reason(parameters: dict[str, Any], rope_type: str) -> str:
    if parameters.get("mrope_section"):
        return "M-RoPE turns by several position axes; a shift along one of them is not a move"
    if rope_type == "dynamic":
        return "dynamic NTK changes the frequencies with the length of the prompt"
    if rope_type == "longrope":
        return "longrope changes the frequencies at the original context length"
    if rope_type not in _MOVABLE_TYPES:
        return f"rope type {rope_type!r} is not known to be linear in the position"
    return ""


def learn_rope(rotary: nn.Module, config: PreTrainedConfig, layer_type: str | None) -> RopeSpec:
    """The rotation of the layers of one type, from the model's rotary module and configuration."""
    parameters = dict(config.rope_parameters or {})
    prefix = ""
    if layer_type is not None and hasattr(rotary, f"{layer_type}_inv_freq"):
        parameters = dict(parameters[layer_type])
        prefix = f"{layer_type}_"
    elif not hasattr(rotary, "inv_freq"):
        raise ModelUnsupported("the rotary module has no inverse frequencies")
    else:
        layer_type = None
    rope_type = str(parameters.get("rope_type", "default"))
    buffer: Tensor = getattr(rotary, f"{prefix}inv_freq")
    factor = float(getattr(rotary, f"{prefix}attention_scaling", 1.0))
    frequencies = tuple(float(value) for value in buffer.detach().float().cpu())
    if rope_type in ("default", "linear"):
        # The model's fp32 powers differ from the exact ones in the last bit, and so would its id
        # from that of another engine with the same weights.
        scale = float(parameters.get("factor", 1.0)) if rope_type == "linear" else 1.0
        base = float(parameters["rope_theta"])
        plain = np.array(rope_frequencies(buffer.numel() * 2, base), dtype=np.float64)
        wanted = (plain / scale).astype(np.float32)
        if np.allclose(wanted, np.array(frequencies, dtype=np.float32), rtol=1e-5, atol=0):
            frequencies = tuple(float(value) for value in wanted)
    reason = _immovable_reason(parameters, rope_type)
    same_set = 0
    if rope_type in ("dynamic", "longrope"):
        same_set = int(
            parameters.get("original_max_position_embeddings") or config.max_position_embeddings
        )
    return RopeSpec(frequencies, factor, rope_type, layer_type, reason, same_set)


def turn_table(spec: RopeSpec, positions: Tensor) -> tuple[Tensor, Tensor]:
    """(cos, sin) as fp32 [position][pair] from 64-bit angles."""
    frequencies = torch.tensor(
        spec.inverse_frequencies, dtype=torch.float64, device=positions.device
    )
    angles = positions.to(torch.float64)[:, None] * frequencies
    factor = spec.attention_factor
    return (angles.cos() * factor).float(), (angles.sin() * factor).float()


def rotate(vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """NEOX rotation of [head][row][dim] by [row][pair]; dims past the pairs stay."""
    pairs = cos.shape[-1]
    wide = vectors.float() if cos.dtype == torch.float32 else vectors
    low, high = wide[..., :pairs], wide[..., pairs : 2 * pairs]
    turned = [low * cos - high * sin, high * cos + low * sin]
    if 2 * pairs < vectors.shape[-1]:
        turned.append(wide[..., 2 * pairs :])
    return torch.cat(turned, dim=-1).to(vectors.dtype)


def unrotate(vectors: Tensor, spec: RopeSpec, positions: Tensor) -> Tensor:
    """Keys before rope of rotated ones; the attention factor, in them once, is taken off."""
    cos, sin = turn_table(spec, positions)
    squared = spec.attention_factor**2
    return rotate(vectors, cos / squared, -sin / squared)


class Rope:
    """Tables of one model for the rows of one forward."""

    def __init__(self, rotary: nn.Module, specs: list[RopeSpec], angles: Angles) -> None:
        self._rotary = rotary
        self.specs = specs
        self.angles = angles

    def table(
        self, spec: RopeSpec, positions: Tensor, context_tokens: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """(cos, sin) [position][pair]. context_tokens decides the frequency set where the length
        does."""
        if self.angles == "exact" and not spec.same_set_tokens:
            return turn_table(spec, positions)
        if context_tokens > _TABLE_POSITIONS_MAX:
            raise ModelUnsupported(f"prompts over {_TABLE_POSITIONS_MAX} tokens")
        # The largest position comes along so that the model picks the set of the whole prompt.
        last = torch.full((1,), max(context_tokens - 1, 0), device=positions.device)
        asked = torch.cat([positions, last])[None]
        like = torch.empty(0, dtype=dtype, device=positions.device)
        extra = {} if spec.layer_type is None else {"layer_type": spec.layer_type}
        cos, sin = self._rotary(like, asked, **extra)
        pairs = cos.shape[-1] // 2
        return cos[0, :-1, :pairs], sin[0, :-1, :pairs]
