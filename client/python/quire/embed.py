"""Vectors of texts, for ``quire-warm --neighbours``: ``python3 -m quire.embed``.

Reads JSON lines ``{"id": "0", "text": "..."}`` from standard input until its end, and writes
``{"id": "0", "vector": [...]}`` for each of them. Any program that does so can take its place
(``quire-warm --embed-command``).

The model is l2_supercat_256 of wordllama: the mean of 256-dim token embeddings, 16 MB of weights
that ship inside its PyPI package, so that nothing is downloaded at run time. Install it with
``pip install 'quire[embed]'``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PACKAGE = "wordllama"
WEIGHTS = "weights/l2_supercat_256.safetensors"
TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"
BATCH_TEXTS = 64
TEXT_CHARACTERS_MAX = 1 << 20
"""Of a text; more says nothing new about what it is like."""


class ModelMissing(RuntimeError):
    """The embedding model, or what it needs, is not installed."""


def _missing(what: str) -> ModelMissing:
    return ModelMissing(
        f"the embedding model needs {what}; install it with: pip install 'quire[embed]' "
        f"(or pip install {PACKAGE} tokenizers safetensors), "
        "or name another program with --embed-command"
    )


def _package_file(name: str) -> Path:
    # The package's own loader is not used: it downloads what it does not find at once.
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise _missing(f"the package {PACKAGE}" if spec is None else f"{name} of {PACKAGE}")


class Embedder:
    """The model, loaded."""

    def __init__(self) -> None:
        """Raises ModelMissing."""
        weights, tokenizer = _package_file(WEIGHTS), _package_file(TOKENIZER)
        try:
            from safetensors.numpy import load_file
            from tokenizers import Tokenizer
        except ImportError as error:
            raise _missing(f"the package {error.name}") from None
        table = load_file(str(weights))["embedding.weight"]
        self._table: NDArray[np.float32] = np.ascontiguousarray(table, dtype=np.float32)
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    @property
    def dims(self) -> int:
        return self._table.shape[1]

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """[text][dim], of length 1; zeros for a text without tokens."""
        cut = [text[:TEXT_CHARACTERS_MAX] for text in texts]
        vectors = np.zeros((len(texts), self.dims), dtype=np.float32)
        for row, encoding in zip(
            vectors, self._tokenizer.encode_batch(cut, add_special_tokens=False), strict=True
        ):
            ids = np.minimum(np.array(encoding.ids, dtype=np.int64), len(self._table) - 1)
            if len(ids):
                row[:] = self._table[ids].mean(axis=0)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.maximum(lengths, np.finfo(np.float32).tiny)
        return vectors


def _requests(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            request = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is not JSON: {error}") from None
        name, text = (
            (request.get("id"), request.get("text")) if isinstance(request, dict) else (None, None)
        )
        if not isinstance(name, str) or not isinstance(text, str):
            raise ValueError(f'line {number} has no "id" and "text" (two strings)')
        yield name, text


def serve(lines: Iterable[str], out: IO[str], embedder: Embedder) -> None:
    """Answers every line; raises ValueError with its number where one is not a request."""
    requests = _requests(lines)
    while batch := list(islice(requests, BATCH_TEXTS)):
        vectors = embedder.embed([text for _, text in batch])
        for (name, _), vector in zip(batch, vectors, strict=True):
            # Six digits are more than such a model knows.
            numbers = ", ".join(f"{value:.6g}" for value in vector.tolist())
            out.write(f'{{"id": {json.dumps(name)}, "vector": [{numbers}]}}\n')
        out.flush()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m quire.embed",
        description='Reads {"id", "text"} lines, writes {"id", "vector"} lines.',
        epilog="""example: printf '{"id": "0", "text": "hello"}\\n' | python3 -m quire.embed""",
    )
    parser.parse_args(arguments)
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    try:
        serve(sys.stdin, sys.stdout, Embedder())
    except (ModelMissing, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
