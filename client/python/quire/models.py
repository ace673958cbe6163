"""Model descriptors (docs/formats/ids.md): what makes two engines' KV interchangeable."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from .ids import model_id


class AttentionKind(IntEnum):
    """Which earlier tokens a layer sees."""

    FULL = 0
    SLIDING_WINDOW = 1
    LATENT = 2
    NONE = 3


class RopeStyle(IntEnum):
    """Which dims rotate together: none, (j, j + rotary_dims / 2), or (2j, 2j + 1)."""

    NONE = 0
    NEOX = 1
    INTERLEAVED = 2


_HEAD = struct.Struct("<32s32s32sI")
_LAYER = struct.Struct("<BBBx5IfI")


@dataclass(frozen=True)
class Layer:
    """One layer. ``inverse_frequencies`` has rotary_dims / 2 values (:func:`rope_frequencies`)."""

    kv_heads: int
    key_dims: int
    value_dims: int
    rope_style: RopeStyle = RopeStyle.NONE
    inverse_frequencies: tuple[float, ...] = ()
    attention: AttentionKind = AttentionKind.FULL
    window_tokens: int = 0
    attention_factor: float = 1.0
    length_dependent: bool = False

    @property
    def rotary_dims(self) -> int:
        return 2 * len(self.inverse_frequencies)


@dataclass(frozen=True)
class Model:
    """A model. The ids of weights, tokenizer and LoRA are SHA-256 digests of the files."""

    weights: bytes
    tokenizer: bytes
    layers: tuple[Layer, ...]
    lora: bytes = field(default=bytes(32))

    def encode(self) -> bytes:
        """The canonical bytes; :meth:`parse` is the inverse."""
        for name in ("weights", "tokenizer", "lora"):
            if len(getattr(self, name)) != 32:
                raise ValueError(f"{name} must be a SHA-256 digest of 32 bytes")
        out = _HEAD.pack(self.weights, self.tokenizer, self.lora, len(self.layers))
        for layer in self.layers:
            n_pairs = len(layer.inverse_frequencies)
            out += _LAYER.pack(
                layer.attention,
                layer.rope_style,
                layer.length_dependent,
                layer.window_tokens,
                layer.kv_heads,
                layer.key_dims,
                layer.value_dims,
                layer.rotary_dims,
                layer.attention_factor,
                n_pairs,
            )
            out += struct.pack(f"<{n_pairs}f", *layer.inverse_frequencies)
        return out

    @classmethod
    def parse(cls, descriptor: bytes) -> Model:
        """Of canonical bytes; anything else raises InvalidArgument or Corrupt."""
        model_id(descriptor)
        weights, tokenizer, lora, n_layers = _HEAD.unpack_from(descriptor)
        layers = []
        offset = _HEAD.size
        for _ in range(n_layers):
            attention, style, dynamic, window, heads, key, value, _, factor, n_pairs = (
                _LAYER.unpack_from(descriptor, offset)
            )
            offset += _LAYER.size
            frequencies = struct.unpack_from(f"<{n_pairs}f", descriptor, offset)
            offset += 4 * n_pairs
            layers.append(
                Layer(
                    heads,
                    key,
                    value,
                    RopeStyle(style),
                    frequencies,
                    AttentionKind(attention),
                    window,
                    factor,
                    bool(dynamic),
                )
            )
        return cls(weights, tokenizer, tuple(layers), lora)

    @property
    def id(self) -> bytes:
        """The model id."""
        return model_id(self.encode())


def rope_frequencies(rotary_dims: int, base: float = 10000.0) -> tuple[float, ...]:
    """The fp32 inverse frequencies base ** (-2j / rotary_dims) of plain rope, without scaling."""
    if rotary_dims < 0 or rotary_dims % 2:
        raise ValueError("rotary_dims must be even")
    exponents = -2.0 * np.arange(rotary_dims // 2) / max(rotary_dims, 1)
    return tuple(float(value) for value in (np.float64(base) ** exponents).astype(np.float32))


def as_model(model: Model | bytes) -> Model:
    """A model, or its descriptor's canonical bytes."""
    return model if isinstance(model, Model) else Model.parse(bytes(model))
