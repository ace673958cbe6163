"""Prompts through full prefill and every cell: one prompt at a time, its work shared.

The documents are prefilled once; questions go on from copies of that state. Chunks are computed
once for each way they are computed, and encoded once per codec.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..errors import InvalidArgument
from ..transformers import (
    ChunkKv,
    Engine,
    KvSource,
    KvState,
    Prefilled,
    ReusePlan,
    StoredKv,
    generate,
    in_context,
    pack,
)
from ..transformers.policies import AnchorPool, Charge, FullReuse, KvComm, RowPolicy
from ..transformers.recipes import Recipe
from ..transformers.shape import ModelShape
from ..transformers.variants import plan_of_variants
from .anchors import anchor_context_tokens, anchors_of
from .cells import FULL, UNCODED, Cell, parse_cell_policy
from .deviation import Deviation
from .errors import PromptTooLong
from .measure import Fidelity, Oracle, compare, rows_digest, runs_of, says
from .records import Line
from .tasks import OPEN_KINDS, Encoder, Prompt, Question
from .tasks.model import TokenRun
from .variants import parse_variants, recipe_of

SUMMARY_TOKENS = 32
_LEADS_KEPT = 4


@dataclass(frozen=True)
class Options:
    """generate_tokens: of free generation, 0 for none. n_deviation: prompts whose KV is compared
    layer by layer."""

    generate_tokens: int = 0
    dump_rows: bool = False
    n_deviation: int = 2


@dataclass
class CellResult:
    results: list[Line]
    rows: list[Line]
    deviation: list[Line]


class Leads:
    """States of texts that chunks are computed behind; the last few are kept."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._states: OrderedDict[bytes, KvState] = OrderedDict()

    def state(self, recipe: Recipe) -> KvState | None:
        if not len(recipe.lead):
            return None
        key = recipe.lead.tobytes()
        if key not in self._states:
            self._states[key] = self._engine.prefill(recipe.lead).state
            while len(self._states) > _LEADS_KEPT:
                self._states.popitem(last=False)
        self._states.move_to_end(key)
        return self._states[key]


def _cut(state: KvState, n_cells: int) -> KvState:
    """The first cells of a state, to be continued."""
    copy = state.fork()
    copy.tokens, copy.positions = copy.tokens[:n_cells], copy.positions[:n_cells]
    return copy


def _append(engine: Engine, state: KvState, tokens: TokenRun) -> torch.Tensor:
    """Tokens behind a state; logits after the last one (extend() has them after every one)."""
    rows = state.append(engine.tensor(tokens))
    return engine.logits_of(engine.run(state, rows), rows[-1:])[0]


class PromptRun:
    """One prompt under any number of cells."""

    def __init__(
        self,
        engine: Engine,
        encoder: Encoder,
        prompt: Prompt,
        options: Options | None = None,
        leads: Leads | None = None,
        *,
        with_stats: bool = False,
        with_anchors: bool = False,
    ) -> None:
        """with_stats: chunks are computed with attention statistics. with_anchors: a cell needs
        anchors, which must fit the model's context, too. Raises PromptTooLong."""
        self.engine, self.encoder, self.options = engine, encoder, options or Options()
        self._leads, self._with_stats = leads or Leads(engine), with_stats
        self._check_length(prompt)
        if with_anchors:
            self._check_anchors(prompt)
        self._full = engine.prefill(prompt.context_tokens).state
        self._starts: dict[int, Prefilled] = {}
        self.prompt = replace(
            prompt, questions=tuple(self._answered(i, q) for i, q in enumerate(prompt.questions))
        )
        self._oracles: dict[int, Oracle] = {}
        self._chunks: dict[tuple[int, bytes], ChunkKv] = {}
        self._stored: dict[tuple[int, bytes, str], KvSource] = {}
        self._deviation: Deviation | None = None
        self._anchors: AnchorPool | None = None

    def _check_length(self, prompt: Prompt) -> None:
        n_context = len(prompt.context_tokens)
        for question in prompt.questions:
            if not len(question.tokens):
                raise InvalidArgument(f"prompt {prompt.id}: an empty question")
            spoken = len(question.opening) + len(question.answer)
            spoken = max(spoken, SUMMARY_TOKENS, self.options.generate_tokens)
            n_tokens = n_context + len(question.tokens) + spoken
            self._check_fits(n_tokens, f"prompt {prompt.id} with its {question.kind} question has")

    def _check_anchors(self, prompt: Prompt) -> None:
        what = f"kvcomm: prompt {prompt.id} with an anchor behind it has"
        self._check_fits(anchor_context_tokens(prompt), what)

    def _check_fits(self, n_tokens: int, what: str) -> None:
        config = self.engine.hf_model.config.get_text_config()
        limit = int(getattr(config, "max_position_embeddings", 0) or 0)
        if limit and n_tokens > limit:
            raise PromptTooLong(
                f"{what} {n_tokens} tokens, the model's context {limit}: take fewer or shorter "
                "chunks"
            )

    # -- full prefill --------------------------------------------------------------------------

    def _full_start(self, index: int, question: Question) -> Prefilled:
        if index not in self._starts:
            state = self._full.fork()
            logits = _append(self.engine, state, question.tokens)
            self._starts[index] = Prefilled(state, logits, (), Charge(1.0, 0.0))
        return self._starts[index]

    def _answered(self, index: int, question: Question) -> Question:
        """An open question gets full prefill's own words as its answer."""
        if len(question.answer):
            return question
        start = self._full_start(index, question)
        words = generate(
            self.engine, start, SUMMARY_TOKENS, stop=self.encoder.stop_tokens
        ).tokens or [int(start.logits.argmax())]
        return replace(question, answer=np.array(words, dtype=np.uint32))

    def _oracle(self, index: int) -> Oracle:
        if index not in self._oracles:
            question = self.prompt.questions[index]
            logits = self._forced(self._full_start(index, question), question)
            self._oracles[index] = Oracle.of(logits)
        return self._oracles[index]

    def _forced(self, start: Prefilled, question: Question) -> torch.Tensor:
        """Logits that predict the answer's tokens, the opening said before."""
        n_opening = len(question.opening)
        said = self.engine.tensor(np.concatenate([question.opening, question.answer])[:-1])
        if not said.numel():
            return start.logits[None]
        state = start.state.fork()
        rows = state.append(said)
        result = self.engine.run(state, rows)
        if n_opening:
            return self.engine.logits_of(result, rows[n_opening - 1 :])
        return torch.cat([start.logits[None], self.engine.logits_of(result)])

    # -- chunks --------------------------------------------------------------------------------

    def _captured(self, index: int, recipe: Recipe, tokens: TokenRun) -> ChunkKv:
        key = (index, recipe.kind.name.encode() + recipe.lead.tobytes())
        known = self._chunks.get(key)
        if known is None:
            lead = self._leads.state(recipe)
            self._chunks[key] = self.engine.capture(
                tokens, recipe, stats=self._with_stats, lead=lead
            )
            known = self._chunks[key]
        return known

    def _source(self, index: int, recipe: Recipe, tokens: TokenRun, codec: str) -> KvSource:
        chunk = self._captured(index, recipe, tokens)
        if codec == UNCODED:
            return chunk
        key = (index, recipe.kind.name.encode() + recipe.lead.tobytes(), codec)
        if key not in self._stored:
            packed = pack(self.engine, chunk, codec=codec)
            self._stored[key] = StoredKv(
                packed.data, self.engine.model, chunk.stats, chunk.lead_runs
            )
        return self._stored[key]

    def plan(self, cell: Cell, question: Question, policy: RowPolicy) -> ReusePlan:
        """The prompt with this question, its chunks as the cell has them."""
        variants = parse_variants(cell.variant)
        parts: list[list[KvSource] | TokenRun] = []
        for i, chunk in enumerate(self.prompt.chunks):
            if chunk.fresh:
                parts.append(chunk.tokens)
                continue
            recipes = [
                recipe_of(variant, self.prompt, i, self.encoder.sink_token) for variant in variants
            ]
            parts.append([self._source(i, r, chunk.tokens, cell.codec) for r in recipes])
        system = self.prompt.system_tokens
        prefix = self._source(-1, in_context(()), system, cell.codec) if len(system) else None
        return plan_of_variants([*parts, question.tokens], policy, prefix=prefix)

    # -- cells ---------------------------------------------------------------------------------

    def _start(self, cell: Cell, policy: RowPolicy, shared: list[Prefilled], at: int) -> Prefilled:
        question = self.prompt.questions[at]
        if shared:
            first = shared[0]
            state = _cut(first.state, len(self.prompt.context_tokens))
            logits = _append(self.engine, state, question.tokens)
            return replace(first, state=state, logits=logits)
        start = self.engine.prefill(plan=self.plan(cell, question, policy), policy=policy)
        if self._shared_by_questions(policy, start):
            shared.append(start)
        return start

    def _shared_by_questions(self, policy: RowPolicy, start: Prefilled) -> bool:
        """One prefill serves all questions: nothing in it came from the question."""
        untouched = start.plan is not None and start.state.fixup is None
        return untouched and policy.needs(self.engine.shape).blind_to_question

    def _no_documents(self, question: Question) -> Prefilled:
        state = self.engine.prefill(np.concatenate([self.prompt.system_tokens, question.tokens]))
        return replace(state, charge=Charge(0.0, 0.0))

    def _policy(self, cell: Cell) -> RowPolicy | None:
        policy = parse_cell_policy(cell.policy)
        if not isinstance(policy, KvComm):
            return policy
        if self._anchors is None:
            self._check_anchors(self.prompt)
            self._anchors = anchors_of(self.engine, self.prompt, self._full)
        return KvComm(self._anchors)

    def run(self, cell: Cell, *, deviation: bool = False) -> CellResult:
        """All questions under one cell. Raises what engine and policy raise."""
        policy = self._policy(cell)
        out = CellResult([], [], [])
        shared: list[Prefilled] = []
        for i, question in enumerate(self.prompt.questions):
            if cell.policy == FULL:
                start = self._full_start(i, question)
            elif policy is None:
                start = self._no_documents(question)
            else:
                start = self._start(cell, policy, shared, i)
            fidelity = compare(self._oracle(i), self._forced(start, question), question.answer)
            out.results.append(self._line(cell, i, start, fidelity, policy))
            if self.options.dump_rows and start.rows_by_layer:
                out.rows.append(self._rows_line(cell, i, start))
            if deviation and i == 0 and policy is not None and start.plan is not None:
                out.deviation.append(self._deviation_line(cell, start))
        return out

    def _line(
        self, cell: Cell, index: int, start: Prefilled, fidelity: Fidelity, policy: RowPolicy | None
    ) -> Line:
        question, prompt = self.prompt.questions[index], self.prompt
        checked = question.kind not in OPEN_KINDS
        line: Line = {
            "prompt": prompt.id,
            "task": prompt.task,
            "cell": cell.key,
            "policy": cell.policy,
            "variant": cell.variant,
            "codec": cell.codec,
            "question": index,
            "n_questions": len(prompt.questions),
            "kind": question.kind,
            "n_context": len(prompt.context_tokens),
            "n_chunks": len(prompt.chunks),
            "tokens": tokens_digest(prompt, question),
            "charge_rows": start.charge.rows,
            "charge_question": start.charge.question,
            "charge": start.charge.total,
            "rows": rows_digest(start.rows_by_layer) if start.rows_by_layer else "",
            "kl": fidelity.kl,
            "kl_max": fidelity.kl_max,
            "top1": fidelity.top1,
            "answer_nll": fidelity.answer_nll,
            "n_answer": len(question.answer),
            "right": fidelity.right if checked else None,
        }
        if self.options.generate_tokens and checked and question.answer_text:
            made = generate(
                self.engine,
                start,
                self.options.generate_tokens,
                stop=self.encoder.stop_tokens,
                policy=policy,
            )
            line["generated"] = self.encoder.decode(made.tokens)
            line["generated_right"] = says(line["generated"], question.answer_text)
            line["refreshed"] = made.refreshed
        return line

    def _rows_line(self, cell: Cell, index: int, start: Prefilled) -> Line:
        """Rows of layer 0 and of every layer that has others than the one below."""
        layers: dict[str, Any] = {}
        before: list[list[int]] | None = None
        for layer, rows in enumerate(start.rows_by_layer):
            runs = runs_of(rows)
            if runs != before:
                layers[str(layer)] = before = runs
        return {
            "prompt": self.prompt.id,
            "cell": cell.key,
            "question": index,
            "rows": rows_digest(start.rows_by_layer),
            "layers": layers,
        }

    def _deviation_line(self, cell: Cell, start: Prefilled) -> Line:
        if self._deviation is None:
            alone = Cell("reuse", "iso", UNCODED)
            plan = self.plan(alone, self.prompt.questions[0], FullReuse())
            self._deviation = Deviation(self.engine, plan, self._full)
        keys, values = self._deviation.of(start.state)
        return {"prompt": self.prompt.id, "cell": cell.key, "keys": keys, "values": values}


def tokens_digest(prompt: Prompt, question: Question) -> str:
    """Of all ids of a prompt, its question and what is forced."""
    runs = (prompt.context_tokens, question.tokens, question.opening, question.answer)
    return hashlib.sha256(b"|".join(run.tobytes() for run in runs)).hexdigest()[:16]


def needs_stats(cells: Sequence[Cell], shape: ModelShape) -> bool:
    """Whether a cell's policy may read attention statistics of chunks."""
    policies = [parse_cell_policy(cell.policy) for cell in cells]
    return any(policy is not None and policy.needs(shape).needs_stats for policy in policies)


def needs_anchors(cells: Sequence[Cell]) -> bool:
    """Whether a cell's policy corrects chunks by anchors."""
    return any(isinstance(parse_cell_policy(cell.policy), KvComm) for cell in cells)
