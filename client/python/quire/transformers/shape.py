"""What a model's layers are, learnt by running the model once with a recording attention."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PreTrainedConfig,
    PreTrainedModel,
)

from ..models import AttentionKind, Layer, Model, RopeStyle
from .errors import ModelUnsupported
from .rope import RopeSpec, learn_rope

_PROBE_NAME = "quire_probe"
_PROBE_TOKENS = 4
# Arguments of attention functions that change nothing in a plain causal forward.
_HARMLESS = {
    "dropout",
    "scaling",
    "softcap",
    "sliding_window",
    "position_ids",
    "use_cache",
    "cache_position",
    "output_attentions",
    "output_hidden_states",
    "is_causal",
    "position_embeddings",
}


@dataclass(frozen=True)
class LayerSpec:
    """One decoder layer. window_tokens counts the token itself; 0 is full attention."""

    heads: int
    kv_heads: int
    key_dims: int
    value_dims: int
    scale: float
    softcap: float
    window_tokens: int
    rope: RopeSpec

    @property
    def is_full(self) -> bool:
        return self.window_tokens == 0


@dataclass(frozen=True)
class ModelShape:
    """All layers of a model."""

    layers: tuple[LayerSpec, ...]

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @cached_property
    def full_layers(self) -> tuple[int, ...]:
        """Layers that see the whole prompt; all of them where every layer has a window."""
        full = tuple(i for i, layer in enumerate(self.layers) if layer.is_full)
        return full or tuple(range(len(self.layers)))

    @cached_property
    def immovable(self) -> str:
        """Why KV cannot be moved to other positions; empty where it can."""
        return next((layer.rope.immovable for layer in self.layers if layer.rope.immovable), "")

    @cached_property
    def same_set_tokens(self) -> int:
        """The longest prompt whose frequencies are those of a short one; 0: any."""
        return min((la.rope.same_set_tokens for la in self.layers if la.rope.immovable), default=0)

    def descriptor(self, weights: bytes, tokenizer: bytes) -> Model:
        """The store's description: equal for every engine that computes the same KV."""
        return Model(
            weights,
            tokenizer,
            tuple(
                Layer(
                    kv_heads=layer.kv_heads,
                    key_dims=layer.key_dims,
                    value_dims=layer.value_dims,
                    rope_style=RopeStyle.NEOX,
                    inverse_frequencies=layer.rope.inverse_frequencies,
                    attention=AttentionKind.FULL if layer.is_full else AttentionKind.SLIDING_WINDOW,
                    window_tokens=layer.window_tokens,
                    attention_factor=layer.rope.attention_factor,
                    length_dependent=bool(layer.rope.immovable),
                )
                for layer in self.layers
            ),
        )


_records: list[dict[str, Any]] | None = None


def _record_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **arguments: object,
) -> tuple[Tensor, None]:
    if _records is not None:
        _records.append({"query": query, "key": key, "value": value, "arguments": arguments})
    batch, heads, tokens, _ = query.shape
    return query.new_zeros(batch, tokens, heads, value.shape[-1]), None


def _no_mask(*_: object, **__: object) -> None:
    return None


AttentionInterface.register(_PROBE_NAME, _record_attention)
AttentionMaskInterface.register(_PROBE_NAME, _no_mask)


@contextmanager
def _recording(config: PreTrainedConfig) -> Iterator[list[dict[str, Any]]]:
    global _records
    before = config._attn_implementation
    config._attn_implementation = _PROBE_NAME
    _records = []
    try:
        yield _records
    finally:
        _records = None
        config._attn_implementation = before


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """The stack of layers with its embedding, norm and rotary module."""
    decoder: nn.Module = model.get_decoder()
    for name in ("embed_tokens", "layers", "norm", "rotary_emb"):
        if not hasattr(decoder, name):
            raise ModelUnsupported(f"{type(model).__name__} has no {name}: not a rope decoder")
    return decoder


def _check_block(block: nn.Module, name: str) -> None:
    attention = getattr(block, "self_attn", None)
    if attention is None or hasattr(attention, "kv_a_proj_with_mqa"):
        raise ModelUnsupported(f"{name}: latent or missing attention is not supported")
    separate = all(hasattr(attention, part) for part in ("q_proj", "k_proj", "v_proj"))
    if not (separate or hasattr(attention, "qkv_proj")) or not hasattr(attention, "o_proj"):
        raise ModelUnsupported(f"{name}: attention without plain projections")
    for part in ("input_layernorm", "post_attention_layernorm", "mlp"):
        if not hasattr(block, part):
            raise ModelUnsupported(f"{name}: a layer without {part}")


def learn_shape(model: PreTrainedModel) -> ModelShape:
    """Raises ModelUnsupported where the layers are not those of a plain rope decoder."""
    decoder: Any = decoder_of(model)  # its parts are what decoder_of() looked for
    config = model.config.get_text_config()
    name = type(model).__name__
    for block in decoder.layers:
        _check_block(block, name)
    device = next(model.parameters()).device
    tokens = torch.arange(_PROBE_TOKENS, device=device)[None] % config.vocab_size
    with torch.inference_mode(), _recording(decoder.config) as records:
        decoder(input_ids=tokens, use_cache=False)
    if len(records) != len(decoder.layers):
        raise ModelUnsupported(f"{name}: not every layer calls the attention interface once")
    types = getattr(config, "layer_types", None) or [None] * len(records)
    layers = []
    for record, layer_type in zip(records, types, strict=True):
        arguments = record["arguments"]
        unknown = {k for k, v in arguments.items() if v is not None and k not in _HARMLESS}
        if unknown:
            raise ModelUnsupported(f"{name}: attention with {', '.join(sorted(unknown))}")
        query, key, value = record["query"], record["key"], record["value"]
        layers.append(
            LayerSpec(
                heads=query.shape[1],
                kv_heads=key.shape[1],
                key_dims=key.shape[3],
                value_dims=value.shape[3],
                scale=float(arguments.get("scaling") or key.shape[3] ** -0.5),
                softcap=float(arguments.get("softcap") or 0.0),
                window_tokens=int(arguments.get("sliding_window") or 0),
                rope=learn_rope(decoder.rotary_emb, config, layer_type),
            )
        )
    return ModelShape(tuple(layers))


_DIGEST_BLOCK_BYTES = 1 << 22


def file_digest(paths: list[Path]) -> bytes:
    """SHA-256 over the files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_DIGEST_BLOCK_BYTES):
                digest.update(block)
    return digest.digest()


def parameters_digest(model: PreTrainedModel) -> bytes:
    """For models made in memory: SHA-256 over names and values."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.digest()
