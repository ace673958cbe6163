"""What the engine refuses, and why; both are :class:`quire.Unsupported`."""

from __future__ import annotations

from ..errors import Unsupported


class ModelUnsupported(Unsupported):
    """The model's layers are not of a kind the engine's own forward can drive."""


class RopeCannotMove(Unsupported):
    """KV of this model is right only where it was computed: exact prefixes are served, nothing
    else."""
