"""Models from disk: a folder with safetensors, or a GGUF file whose weights are dequantised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from ..errors import InvalidArgument, NotFound
from .errors import ModelUnsupported
from .shape import file_digest

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")


@dataclass(frozen=True)
class LoadedModel:
    """tokenizer: None where the files have none. Digests are SHA-256 of the files."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    weights_digest: bytes
    tokenizer_digest: bytes


def load_model(
    path: str | Path, dtype: torch.dtype, device: str | torch.device = "cpu"
) -> LoadedModel:
    """Never asks a hub. Raises NotFound, InvalidArgument (no model in there), ModelUnsupported."""
    found = Path(path).expanduser()
    if not found.exists():
        raise NotFound(f"no model at {found}")
    progress = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        return (
            _load_gguf(found, dtype, device)
            if found.is_file()
            else _load_folder(found, dtype, device)
        )
    finally:
        if progress:
            hf_logging.enable_progress_bar()


def _load_folder(path: Path, dtype: torch.dtype, device: str | torch.device) -> LoadedModel:
    weights = sorted(path.glob("*.safetensors"))
    if not weights or not (path / "config.json").is_file():
        raise InvalidArgument(f"{path} has no config.json or no safetensors")
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
    except (ValueError, KeyError) as error:
        raise ModelUnsupported(f"{path}: {error}") from error
    files = [path / name for name in _TOKENIZER_FILES if (path / name).is_file()]
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True) if files else None
    digest = file_digest(files) if files else bytes(32)
    return LoadedModel(model.to(device), tokenizer, file_digest(weights), digest)


def _load_gguf(path: Path, dtype: torch.dtype, device: str | torch.device) -> LoadedModel:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise InvalidArgument(f"{path} is not a GGUF file")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=dtype, local_files_only=True
        )
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ModelUnsupported(f"{path.name}: {error}") from error
    tokenizer = AutoTokenizer.from_pretrained(
        path.parent, gguf_file=path.name, local_files_only=True
    )
    # A GGUF carries its tokenizer; llama.cpp's connector names both by the file, too.
    digest = file_digest([path])
    return LoadedModel(model.to(device), tokenizer, digest, digest)
