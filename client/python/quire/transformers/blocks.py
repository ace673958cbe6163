"""The model's own modules, called for scattered rows: all arithmetic of a layer but attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .shape import ModelShape, decoder_of


class Blocks:
    """Embedding, projections, norms, MLP and head of a model. Rows are [row][dim]."""

    def __init__(self, model: PreTrainedModel, shape: ModelShape) -> None:
        self._decoder: Any = decoder_of(model)
        self._shape = shape
        self._head: Any = model.get_output_embeddings()
        config = model.config.get_text_config()
        self._final_softcap = float(getattr(config, "final_logit_softcapping", None) or 0.0)

    @property
    def rotary(self) -> nn.Module:
        rotary: nn.Module = self._decoder.rotary_emb
        return rotary

    def embed(self, tokens: Tensor) -> Tensor:
        hidden: Tensor = self._decoder.embed_tokens(tokens[None])[0]
        return hidden

    def project(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [head][row][dim] before rope."""
        block, spec = self._decoder.layers[layer], self._shape.layers[layer]
        attention = block.self_attn
        normed = block.input_layernorm(hidden[None])[0]
        n_rows = hidden.shape[0]
        if hasattr(attention, "qkv_proj"):
            widths = (
                spec.heads * spec.key_dims,
                spec.kv_heads * spec.key_dims,
                spec.kv_heads * spec.value_dims,
            )
            query, key, value = attention.qkv_proj(normed).split(widths, dim=-1)
        else:
            query = attention.q_proj(normed)
            key = attention.k_proj(normed)
            value = attention.v_proj(normed)
        query = query.view(n_rows, spec.heads, spec.key_dims)
        key = key.view(n_rows, spec.kv_heads, spec.key_dims)
        value = value.view(n_rows, spec.kv_heads, spec.value_dims)
        if getattr(attention, "q_norm", None) is not None:
            query, key = attention.q_norm(query), attention.k_norm(key)
        return query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)

    def finish(self, layer: int, hidden: Tensor, mixed: Tensor) -> Tensor:
        """The layer's output for its input rows and their attention [row][head * dim]."""
        block = self._decoder.layers[layer]
        out = block.self_attn.o_proj(mixed[None])
        residual = hidden[None]
        if hasattr(block, "pre_feedforward_layernorm"):
            residual = residual + block.post_attention_layernorm(out)
            fed = block.mlp(block.pre_feedforward_layernorm(residual))
            last: Tensor = (residual + block.post_feedforward_layernorm(fed))[0]
            return last
        residual = residual + out
        last = (residual + block.mlp(block.post_attention_layernorm(residual)))[0]
        return last

    def logits(self, hidden: Tensor) -> Tensor:
        """fp32 [row][vocabulary] of last-layer rows."""
        result: Tensor = self._head(self._decoder.norm(hidden[None]))[0]
        if self._final_softcap:
            result = torch.tanh(result / self._final_softcap) * self._final_softcap
        return result.float()
