"""Models from disk: a folder with safetensors, or a GGUF file whose weights are dequantised."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from ..errors import InvalidArgument, NotFound, Unsupported
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
        found = _cached_snapshot(str(path))
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


def _cached_snapshot(name: str) -> Path:
    """The folder of a hub's model that was fetched before."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise NotFound(f"no model at {name}, nor in the local cache of the hub") from error


def _complete(loaded: Any) -> Any:  # noqa: ANN401
    """The model of (model, loading info). Weights that the files lack are random ones, anew at
    every load: no gate could tell, and their KV would be stored under the files' id."""
    model, info = loaded
    # A key, or with shapes: (key, the file's, the model's).
    absent = [*info["missing_keys"], *info["mismatched_keys"]]
    names = sorted(str(key if isinstance(key, str) else key[0]) for key in absent)
    if names:
        raise ValueError(f"the files lack {len(names)} of the model's weights ({names[0]}, ...)")
    return model


def _load_folder(path: Path, dtype: torch.dtype, device: str | torch.device) -> LoadedModel:
    weights = sorted(path.glob("*.safetensors"))
    if not weights or not (path / "config.json").is_file():
        raise InvalidArgument(f"{path} has no config.json or no safetensors")
    try:
        model = _complete(
            AutoModelForCausalLM.from_pretrained(
                path,
                dtype=dtype,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # _complete() refuses them, by name
            )
        )
    except (ValueError, KeyError, SafetensorError) as error:
        raise ModelUnsupported(f"{path}: {error}") from error
    files = [path / name for name in _TOKENIZER_FILES if (path / name).is_file()]
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True) if files else None
    except Exception as error:  # tokenizers raises nothing narrower for a damaged file
        raise InvalidArgument(f"{path}: the tokenizer cannot be read: {error}") from error
    digest = file_digest(files) if files else bytes(32)
    return LoadedModel(model.to(device), tokenizer, file_digest(weights), digest)


@contextmanager
def _parsing_once() -> Iterator[None]:
    """transformers parses a GGUF's vocabulary anew for config, weights and tokenizer, in Python:
    most of the time that loading takes. Here one reader and one parsed header serve all of them."""
    import gguf
    from transformers import modeling_gguf_pytorch_utils as gguf_utils

    class Reader(gguf.GGUFReader):
        """Without the cost of slicing a memmap for every string, and without what only tokenizers
        need, which transformers reads for itself."""

        def _get(
            self,
            offset: int,
            dtype: DTypeLike,
            count: int = 1,
            override_order: Literal["I", "S", "<"] | None = None,
        ) -> NDArray[Any]:
            if isinstance(self.data, np.memmap):
                self.data: Any = self.data.view(np.ndarray)
            result: NDArray[Any] = super()._get(offset, dtype, count, override_order)
            return result

        def _build_fields(self, *arguments: int) -> int:
            end: int = super()._build_fields(*arguments)
            for name in ("merges", "scores", "token_type"):
                self.fields.pop(f"tokenizer.ggml.{name}", None)
            return end

    reader = cache(Reader)
    parse: Any = gguf_utils.load_gguf_checkpoint
    headers: dict[str, dict[str, Any]] = {}

    def parse_once(path: str, return_tensors: bool = False, **arguments: object) -> dict[str, Any]:
        if return_tensors:
            result: dict[str, Any] = parse(path, return_tensors=True, **arguments)
            return result
        if path not in headers:
            headers[path] = parse(path, return_tensors=False, **arguments)
        return {key: dict(value) for key, value in headers[path].items()}

    with (
        patch.object(gguf, "GGUFReader", reader),
        patch.object(gguf_utils, "load_gguf_checkpoint", parse_once),
    ):
        yield


def _load_gguf(path: Path, dtype: torch.dtype, device: str | torch.device) -> LoadedModel:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise InvalidArgument(f"{path} is not a GGUF file")
    try:
        with _parsing_once():
            model = _complete(
                AutoModelForCausalLM.from_pretrained(
                    path.parent,
                    gguf_file=path.name,
                    dtype=dtype,
                    local_files_only=True,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                )
            )
            tokenizer = AutoTokenizer.from_pretrained(
                path.parent, gguf_file=path.name, local_files_only=True
            )
    except ImportError as error:
        raise Unsupported(f"GGUF files need the packages gguf and accelerate: {error}") from error
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ModelUnsupported(f"{path.name}: {error}") from error
    except (struct.error, IndexError) as error:
        raise InvalidArgument(f"{path} ends early or is damaged: {error}") from error
    # A GGUF carries its tokenizer; llama.cpp's connector names both by the file, too.
    digest = file_digest([path])
    return LoadedModel(model.to(device), tokenizer, digest, digest)
