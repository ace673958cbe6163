"""Models from disk, and what is not one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import quire
import torch
from quire.transformers import Engine, ModelUnsupported
from quire.transformers.tiny import tiny_model


def test_a_folder_with_safetensors(tmp_path: Path) -> None:
    model = tiny_model("qwen3")
    model.save_pretrained(tmp_path)
    engine = Engine.load(tmp_path)
    tokens = np.arange(3, 40)
    wanted = Engine(model).all_logits(tokens)
    assert float((engine.all_logits(tokens) - wanted).abs().max()) < 1e-4
    assert engine.tokenizer is None and engine.model.tokenizer == bytes(32)
    assert engine.model_id == Engine.load(str(tmp_path)).model_id
    half = Engine.load(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and half.model_id == engine.model_id
    tiny_model("qwen3", seed=1).save_pretrained(tmp_path)
    assert Engine.load(tmp_path).model_id != engine.model_id


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(quire.NotFound):
        Engine.load(tmp_path / "nothing")
    with pytest.raises(quire.NotFound, match="local cache"):
        Engine.load("nobody/no-such-model")
    with pytest.raises(quire.InvalidArgument, match="safetensors"):
        Engine.load(tmp_path)
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not a model")
    with pytest.raises(quire.InvalidArgument, match="GGUF"):
        Engine.load(file)
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises((ModelUnsupported, quire.InvalidArgument)):
        Engine.load(tmp_path)
