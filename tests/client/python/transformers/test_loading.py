"""Models from disk, and what is not one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import quire
import torch
from quire.transformers import Engine, ModelUnsupported
from quire.transformers.tiny import tiny_model
from safetensors.torch import load_file, save_file


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


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    for changed in (
        {**weights, name: weights[name][:7].clone()},
        {k: v for k, v in weights.items() if k != name},
    ):
        save_file(changed, file, metadata={"format": "pt"})
        # Random ones in their place would pass every gate.
        with pytest.raises(ModelUnsupported, match="up_proj"):
            Engine.load(tmp_path)


@pytest.mark.parametrize("kind", ["gemma3", "phi3"])
def test_tied_weights_are_there(tmp_path: Path, kind: str) -> None:
    tiny_model(kind).save_pretrained(tmp_path)
    assert Engine.load(tmp_path).shape.n_layers == 6


def test_damaged_files(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(quire.InvalidArgument, match="tokenizer"):
        Engine.load(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ModelUnsupported, match="header"):
        Engine.load(tmp_path)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(b"GGUF" + bytes([3, 0, 0, 0, 2]))
    with pytest.raises(quire.InvalidArgument, match="ends early"):
        Engine.load(cut)
