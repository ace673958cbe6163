"""One interface for every reuse method: what it needs to see, and the three moments it may act.

A method differs from another in the variant of a chunk it wants, in the rows it computes again at
which layers, and in what it does to the KV it keeps. A policy says all three:

  needs()          what the engine must gather, so that loads and passes can be planned
  question_layers() how deep the question's first pass goes in this prompt
  rank_candidate() which of several stored variants of a chunk it prefers in this prompt
  arrange()        the positions of the chunks, where they are not those of the prompt
  select_rows()    rows at layer 0, from the plan and (where asked for) the question's attention
  on_layer()       at probe layers: the subset of the rows that goes on
  on_decode()      rows to compute again with the next token
  fixup()          changes of the kept KV (deltas) or of logits (temperatures, scales)
  row_scores(), layer_scores()  the scores behind a choice, for policies that combine others

Rows are cells of the prompt inside reused chunks, ascending. Fresh cells (the question, gaps) are
always computed and never listed. The engine enforces: rows only shrink with depth; a row attends
to nothing behind itself; stored KV is never written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...errors import InvalidArgument
from ...ids import ContextKind, Phase
from ..plan import PlanSegment, ReusePlan
from ..shape import ModelShape
from ..stats import ChunkStats

if TYPE_CHECKING:
    from ..state import OldKv

Rows = NDArray[np.int64]
# What a policy remembers of one request, by names of its own ("kvshare.deviation"). Policies are
# shared by requests and keep nothing themselves.
Notes = dict[str, NDArray[Any]]


class Scores(NamedTuple):
    """Greater is computed first; n_rows of the candidates are wanted."""

    values: NDArray[np.floating]
    n_rows: int


class QuestionLayers(Enum):
    """Whose attention is the question's: every full-attention layer, or the last of them."""

    NONE = "none"
    FULL_ATTENTION = "full-attention"
    LAST = "last"


@dataclass(frozen=True)
class Variant:
    """The contexts a policy wants its chunks computed in, best first; empty: whatever is best by
    :func:`quire.plan`'s order. dummy_tokens: for dummy_sink variants, how many come first."""

    kinds: tuple[ContextKind, ...] = ()
    dummy_tokens: int = 0


@dataclass(frozen=True)
class VariantCandidate:
    """A stored variant of a chunk and the prompt it would be used in.

    lead: digests (recipes.run_digest) of the runs of tokens that it was computed behind, in order;
    empty where unknown. before: of the runs that stand before the chunk in the prompt; the first
    n_prefix of them are the exact prefix. text: the digest of all of them as one run, where known.
    in_place: it was computed at the very position where it would stand. own_prefix: of
    fixed_prefix: behind a text that the deployment names, or that this prompt begins with.
    """

    kind: ContextKind
    phase: Phase = Phase.PREFILL
    n_tokens: int = 0
    stats: ChunkStats | None = None
    lead: tuple[bytes, ...] = ()
    before: tuple[bytes, ...] = ()
    n_prefix: int = 0
    text: bytes = b""
    in_place: bool = True
    own_prefix: bool = True


@dataclass(frozen=True)
class PolicyNeeds:
    """What the engine must gather for a policy.

    static_rows: the rows follow from the plan (and the question's attention) alone.
    probe_layers: layers at which on_layer() is called.
    needs_old_keys_at, needs_old_values_at: probe layers whose view carries the cache's KV.
    needs_query_attention_at: layers of the question's first pass, or QuestionLayers.
    needs_column_sums: probe layers whose view carries the mass each cell receives; on_layer() is
      then called after the layer's attention, else before it.
    weighs_by_values: the question's first pass sums attention times the norm of each cell's value.
    needs_decode_hook: on_decode() is called at every step.
    needs_stats: the chunks' attention statistics, where their variants have them.
    uses_prefix, uses_chunks: False loads none of them.
    """

    static_rows: bool = True
    probe_layers: tuple[int, ...] = ()
    needs_old_keys_at: tuple[int, ...] = ()
    needs_old_values_at: tuple[int, ...] = ()
    needs_query_attention_at: QuestionLayers | tuple[int, ...] = QuestionLayers.NONE
    needs_column_sums: tuple[int, ...] = ()
    weighs_by_values: bool = False
    needs_decode_hook: bool = False
    needs_stats: bool = False
    uses_prefix: bool = True
    uses_chunks: bool = True

    @property
    def blind_to_question(self) -> bool:
        """Whether the rows are the same for every question over the same documents."""
        asked = self.needs_query_attention_at not in (QuestionLayers.NONE, ())
        return self.static_rows and not (asked or self.probe_layers or self.needs_decode_hook)

    def question_layers(self, shape: ModelShape) -> tuple[int, ...]:
        wanted = self.needs_query_attention_at
        if isinstance(wanted, tuple):
            return wanted
        if wanted is QuestionLayers.NONE:
            return ()
        return (
            shape.full_layers if wanted is QuestionLayers.FULL_ATTENTION else shape.full_layers[-1:]
        )


@dataclass(frozen=True)
class PolicyInput:
    """What select_rows() and fixup() see.

    question_mass: layer -> [cell] column sums of the question's rows, mean over heads, each head's
    times the norm of the cell's value where needs().weighs_by_values; empty unless asked for.
    old: the loaded KV, moved to its place. notes: this request's memory.
    """

    plan: ReusePlan
    shape: ModelShape
    question_mass: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)
    old: OldKv | None = None
    notes: Notes = field(default_factory=dict)

    def fused_mass(self) -> NDArray[np.float32]:
        """The mean over the layers that were asked for."""
        masses = [self.question_mass[layer] for layer in sorted(self.question_mass)]
        result: NDArray[np.float32] = np.mean(masses, axis=0, dtype=np.float32)
        return result


@dataclass(frozen=True)
class LayerView:
    """What on_layer() sees: the reused rows computed at this layer, [kv head][row][dim] tensors.

    old_keys, old_values, column_mass are None unless asked for. column_mass, question_mass: [cell],
    summed over all rows of this layer, and over the question's alone. question_masses: the latter
    of all layers up to this one that were asked for. notes: this request's memory.
    """

    layer: int
    rows: Rows
    keys: Tensor
    values: Tensor
    old_keys: Tensor | None
    old_values: Tensor | None
    column_mass: Tensor | None
    question_mass: Tensor | None
    plan: ReusePlan
    shape: ModelShape | None = None
    question_masses: Mapping[int, Tensor] = field(default_factory=dict)
    notes: Notes = field(default_factory=dict)


@dataclass(frozen=True)
class DecodeView:
    """What on_decode() sees: the last token's attention, [cell] mean over full-attention layers
    (zeros at step 0), the reused cells that were never computed here, this request's memory."""

    step: int
    column_mass: NDArray[np.float32]
    stale: Rows
    plan: ReusePlan
    notes: Notes = field(default_factory=dict)


class Fixup:
    """Changes to what is kept; the default changes nothing.

    on_layer() gets a layer's whole cache before its attention and returns new tensors (it must not
    write the ones it got). on_logits() gets logits [head][row][cell] before softmax, -inf where
    hidden, of the given rows over cells from cell_begin on. Both go on while decoding, with the
    cells that generation adds.
    """

    def on_layer(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return keys, values

    def on_logits(self, layer: int, logits: Tensor, rows: Tensor, cell_begin: int) -> Tensor:
        return logits


class RowPolicy:
    """Base of all policies; immutable, so that one object serves many requests."""

    # The chunk variants it wants.
    variant: Variant = Variant()

    @property
    def name(self) -> str:
        raise NotImplementedError

    def needs(self, shape: ModelShape) -> PolicyNeeds:
        raise NotImplementedError

    def question_layers(self, plan: ReusePlan, shape: ModelShape) -> tuple[int, ...]:
        """Whose question attention this prompt gets: those that needs() names, or fewer of
        them where a charge has to pay, and others below the last."""
        return self.needs(shape).question_layers(shape)

    def arrange(self, plan: ReusePlan) -> ReusePlan:
        """The same segments with the positions the policy wants."""
        return plan

    def select_rows(self, given: PolicyInput) -> Rows:
        raise NotImplementedError

    def row_scores(self, given: PolicyInput) -> Scores | None:
        """[cell] scores behind select_rows(); None where rows do not follow from scores."""
        return None

    def layer_scores(self, view: LayerView) -> Scores | None:
        """[row] scores behind on_layer(), likewise."""
        return None

    def on_layer(self, view: LayerView) -> Rows | None:
        """None keeps all rows."""
        return None

    def on_decode(self, view: DecodeView) -> Rows:
        return np.empty(0, dtype=np.int64)

    def fixup(self, given: PolicyInput) -> Fixup | None:
        return None

    def rank(self, kind: ContextKind, stats: ChunkStats | None) -> float:
        """Smaller is better; infinity refuses a variant."""
        kinds = self.variant.kinds
        if not kinds:
            return 0.0
        return float(kinds.index(kind)) if kind in kinds else float("inf")

    def rank_candidate(self, candidate: VariantCandidate) -> float:
        """rank() with the prompt in view."""
        return self.rank(candidate.kind, candidate.stats)


@dataclass(frozen=True)
class Charge:
    """Work as shares of computing every reusable token at every layer.

    rows: sum over layers of |rows(l) within reusable tokens| / (layers x reusable tokens).
    question: the same formula over a first pass of the question, its fresh rows in the numerator.
    """

    rows: float
    question: float

    @property
    def total(self) -> float:
        """charged_total: what the policy cost beyond plain reuse."""
        return self.rows + self.question


def charge_of(
    rows_by_layer: Sequence[Rows],
    reusable: Rows,
    n_layers: int,
    question_rows_by_layer: Sequence[int] = (),
) -> Charge:
    """0 where nothing is reusable."""
    if not len(reusable):
        return Charge(0.0, 0.0)
    whole = n_layers * len(reusable)
    inside = sum(int(np.isin(rows, reusable, assume_unique=True).sum()) for rows in rows_by_layer)
    return Charge(inside / whole, sum(question_rows_by_layer) / whole)


def question_charge(last_layer: int, shape: ModelShape, plan: ReusePlan) -> float:
    """What a first pass of the question up to and with a layer costs, as :class:`Charge` has it."""
    if not len(plan.reusable):
        return 0.0
    return (last_layer + 1) * len(plan.fresh) / (shape.n_layers * len(plan.reusable))


def chunk_head(segment: PlanSegment, n_rows: int) -> Rows:
    """The first rows of a segment."""
    count = min(n_rows, segment.n_tokens)
    return np.arange(segment.token_begin, segment.token_begin + count, dtype=np.int64)


def heaviest(candidates: Rows, scores: NDArray[np.floating], share: float) -> Rows:
    """The ceil(share x n) candidates of greatest score, ascending; of equals the first ones. The
    rule of client/reuse/policy.h."""
    return heaviest_n(candidates, scores, rows_of_share(share, len(candidates)))


def rows_of_share(share: float, n_rows: int) -> int:
    """ceil(share x n)."""
    return int(np.ceil(np.float64(share) * n_rows))


def heaviest_n(candidates: Rows, scores: NDArray[np.floating], n_rows: int) -> Rows:
    """The n_rows candidates of greatest score, ascending; of equals the first ones."""
    order = np.lexsort((candidates, -np.asarray(scores, dtype=np.float64)))
    return np.sort(candidates[order[:n_rows]])


def checked_share(share: float) -> float:
    """A share in [0, 1]."""
    if not 0.0 <= share <= 1.0:
        raise InvalidArgument(f"a share must be between 0 and 1, not {share}")
    return float(share)
