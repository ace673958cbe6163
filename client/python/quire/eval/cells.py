"""What is measured: a policy over chunks of a variant, kept by a codec."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import InvalidArgument
from ..transformers.policies import AnchorPool, KvComm, RowPolicy, parse_policy
from .variants import Variant, own_variant, parse_variants

UNCODED = "none"
FULL = "full"
NO_DOCUMENTS = "no-documents"
KVCOMM = "kvcomm"  # has no text form of its own: the runner finds its anchors
_BUDGET_MARK = re.compile(r"(?<=:)B(?=$|[,@+])")
DEFAULT_BUDGETS = (0.05, 0.15, 0.3)
CELLS_MAX = 10_000


@dataclass(frozen=True)
class Cell:
    """policy: as parse_policy() reads it, or NO_DOCUMENTS. variant: one, or several that the policy
    chooses from, parted by &. codec: UNCODED or a codec's name."""

    policy: str
    variant: str
    codec: str

    @property
    def key(self) -> str:
        return f"{self.policy}|{self.variant}|{self.codec}"

    @property
    def is_baseline(self) -> bool:
        return self.policy in (FULL, NO_DOCUMENTS)


def parse_cell_policy(text: str) -> RowPolicy | None:
    """None for the baselines, which load nothing."""
    if text == KVCOMM:
        return KvComm(AnchorPool())
    return None if text in (FULL, NO_DOCUMENTS) else parse_policy(text)


def _is_policy(text: str) -> bool:
    policy = _split_variant(text)[0]
    try:
        parse_cell_policy(_BUDGET_MARK.sub("0.1", policy))
    except InvalidArgument:
        return False
    return True


def _split_variant(text: str) -> tuple[str, str | None]:
    """ "query:0.15@sys" into policy and variant; a policy may hold an @ of its own."""
    policy, mark, variant = text.rpartition("@")
    if mark:
        try:
            return policy, "&".join(map(str, parse_variants(variant)))
        except InvalidArgument:
            pass
    return text, None


def split_policies(text: str) -> list[str]:
    """A list by commas, where policies have commas of their own: the longest runs that are
    policies. Blanks and semicolons part them as well."""
    found: list[str] = []
    for part in text.replace(";", " ").split():
        pieces = part.split(",")
        at = 0
        while at < len(pieces):
            ends = [e for e in range(len(pieces), at, -1) if _is_policy(",".join(pieces[at:e]))]
            end = ends[0] if ends else at + 1
            if piece := ",".join(pieces[at:end]):
                found.append(piece)
            at = end
    return found


def make_cells(
    policies: Iterable[str],
    variants: Sequence[str] = ("sys",),
    codecs: Sequence[str] = (UNCODED,),
    budgets: Sequence[float] = DEFAULT_BUDGETS,
) -> list[Cell]:
    """Policies x variants x codecs, full prefill first. "query:B" stands for one policy a budget.

    A policy that refuses a variant gets the one it asks for. Raises InvalidArgument.
    """
    cells = [Cell(FULL, "-", UNCODED)]
    chosen: list[tuple[str, str | None]] = []
    for text in policies:
        name, variant = _split_variant(text)
        if _BUDGET_MARK.search(name):
            chosen += [(_BUDGET_MARK.sub(f"{budget:g}", name), variant) for budget in budgets]
        else:
            chosen.append((name, variant))
    for name, wanted in chosen:
        policy = parse_cell_policy(name)
        if policy is None:
            cells.append(Cell(name, "-", UNCODED))
            continue
        for text in [wanted] if wanted else variants:
            offered = [v for v in parse_variants(text) if accepts(policy, v)]
            variant = "&".join(map(str, offered or [own_variant(policy)]))
            cells += [Cell(name, variant, codec) for codec in codecs]
    unique = list(dict.fromkeys(cells))
    if len(unique) > CELLS_MAX:
        raise InvalidArgument(f"{len(unique)} cells, at most {CELLS_MAX}")
    return unique


def accepts(policy: RowPolicy, variant: Variant) -> bool:
    return policy.rank(variant.kind, None) < float("inf")
