"""A model, its tokenizer and the documents, as the command line names them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import InvalidArgument, NotFound, Unsupported
from ..transformers import Engine
from .tasks import Corpus, Encoder, Generator, Layout, read_corpus

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CHUNKS_MAX = 512
CHUNK_TOKENS_MIN, CHUNK_TOKENS_MAX = 40, 8192


def _cached_models() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quire"
    return Path(os.environ.get("QUIRE_CACHE", default)) / "models"


def find_model(name: str) -> str:
    """A path, a file in Quire's cache of models, or a hub's name."""
    path = Path(name).expanduser()
    if path.exists():
        return str(path)
    models = _cached_models()
    for candidate in (models / name, models / f"{name}.gguf"):
        if candidate.exists():
            return str(candidate)
    return name


def _checked_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidArgument(f"--device {name}: cpu, cuda or cuda:NUMBER") from error
    if device.type not in ("cpu", "cuda"):
        raise InvalidArgument(f"--device {name}: cpu, cuda or cuda:NUMBER")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        n = torch.cuda.device_count()
        raise Unsupported(f"--device {name}: torch finds {n} CUDA devices on this machine")
    return device


def load_engine(model: str, dtype: str = "fp32", device: str = "cpu", threads: int = 0) -> Engine:
    """threads: of the CPU; 0 leaves torch's choice. Raises NotFound, ModelUnsupported,
    Unsupported (no such device), ..."""
    if dtype not in DTYPES:
        raise InvalidArgument(f"unknown dtype {dtype!r}: one of {', '.join(DTYPES)}")
    if threads > 0:
        torch.set_num_threads(threads)
    where = _checked_device(device)
    try:
        return Engine.load(find_model(model), DTYPES[dtype], where)
    except NotFound as error:
        known = sorted(path.name for path in _cached_models().glob("*.gguf"))
        hint = f"; Quire's cache has {', '.join(known)}" if known else ""
        raise NotFound(f"{error.args[0]}{hint}") from error


def parse_layout(chunks: str, chunk_tokens: int) -> Layout:
    """chunks: "5" or "4-7"."""
    least, _, most = chunks.partition("-")
    try:
        bounds = int(least), int(most or least)
    except ValueError:
        bounds = 0, 0
    if not 3 <= bounds[0] <= bounds[1] <= CHUNKS_MAX:
        raise InvalidArgument(f"--chunks {chunks}: a number from 3 to {CHUNKS_MAX}, or two as 4-7")
    if not CHUNK_TOKENS_MIN <= chunk_tokens <= CHUNK_TOKENS_MAX:
        raise InvalidArgument(
            f"--chunk-tokens {chunk_tokens}: from {CHUNK_TOKENS_MIN} to {CHUNK_TOKENS_MAX}"
        )
    return Layout(bounds, chunk_tokens)


@dataclass(frozen=True)
class Subject:
    """A model with the prompts that are put to it."""

    engine: Engine
    encoder: Encoder
    generator: Generator

    def settings(self, model: str) -> dict[str, Any]:
        """What results depend on."""
        layout = self.generator.layout
        return {
            "model": Path(model).name,
            "model_id": self.engine.model_id.hex(),
            "dtype": str(self.engine.dtype).removeprefix("torch."),
            "template": "chat" if self.encoder.chat else "plain",
            "documents": self.generator.corpus.digest,
            "seed": self.generator.seed,
            "chunks": f"{layout.n_chunks[0]}-{layout.n_chunks[1]}",
            "chunk_tokens": layout.chunk_tokens,
        }


def subject_of(
    engine: Engine,
    *,
    corpus: Corpus | None = None,
    documents: Path | None = None,
    template: str = "auto",
    layout: Layout | None = None,
    seed: int = 0,
) -> Subject:
    """Raises TokenizerMissing, DocumentsMissing."""
    encoder = Encoder(engine.tokenizer, template)
    known = read_corpus(documents) if corpus is None else corpus
    return Subject(engine, encoder, Generator(known, encoder, layout, seed))
