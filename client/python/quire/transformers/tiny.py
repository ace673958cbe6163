"""Random models of six layers, made in memory: exactness is tested on them in seconds.

They rank nothing: random weights say nothing about which policy keeps answers.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

N_LAYERS = 6
WINDOW_TOKENS = 16
_COMMON: dict[str, Any] = {
    "vocab_size": 199,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.15,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ALTERNATING = ["sliding_attention", "full_attention"] * (N_LAYERS // 2)
_THETA = {"rope_type": "default", "rope_theta": 10000.0}

_KINDS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": _THETA}),
    "llama-yarn": (
        LlamaConfig,
        LlamaForCausalLM,
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 1024,
            }
        },
    ),
    "llama-linear": (
        LlamaConfig,
        LlamaForCausalLM,
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "llama-dynamic": (
        LlamaConfig,
        LlamaForCausalLM,
        {
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
            "max_position_embeddings": 128,
        },
    ),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"rope_parameters": _THETA}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"rope_parameters": _THETA, "head_dim": 32}),
    "mistral": (
        MistralConfig,
        MistralForCausalLM,
        {"rope_parameters": _THETA, "sliding_window": WINDOW_TOKENS},
    ),
    "gemma2": (
        Gemma2Config,
        Gemma2ForCausalLM,
        {
            "rope_parameters": _THETA,
            "head_dim": 16,
            "query_pre_attn_scalar": 24,
            "sliding_window": WINDOW_TOKENS,
            "layer_types": _ALTERNATING,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 30.0,
        },
    ),
    "gemma3": (
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": WINDOW_TOKENS,
            "layer_types": _ALTERNATING,
        },
    ),
    "phi3": (
        Phi3Config,
        Phi3ForCausalLM,
        {"rope_parameters": {**_THETA, "partial_rotary_factor": 0.5}},
    ),
}

TINY_KINDS = tuple(_KINDS)


def tiny_model(kind: str, seed: int = 0) -> PreTrainedModel:
    """A random model of a kind in TINY_KINDS, fp32 on the CPU."""
    config_class, model_class, extra = _KINDS[kind]
    config = config_class(**{**_COMMON, **extra})
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model: PreTrainedModel = model_class(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Norms and biases of fresh models are constants, which would hide their misuse.
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            del name
    model.eval()
    return model
