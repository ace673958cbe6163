"""Link0, EPIC's LegoLink-0 (arXiv 2410.15332): chunks computed behind dropped dummy tokens.

The dummies (three extra BOS and the chunk's own) take the place of the attention sink, so that no
real token becomes one; nothing is computed again. Departure: the variant is required, not assumed:
a chunk that is stored otherwise is computed.
"""

from __future__ import annotations

from ...ids import ContextKind
from .base import Variant
from .full_reuse import FullReuse

DUMMY_TOKENS = 4


class Link0(FullReuse):
    name = "link0"
    variant = Variant((ContextKind.DUMMY_SINK,), DUMMY_TOKENS)
