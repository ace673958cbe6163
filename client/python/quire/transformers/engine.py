"""The reference engine: full prefill, reuse under a row policy, continuation, generation.

Not for serving: clear, per-layer, one prompt at a time. Results are the oracle of other engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import FailedPrecondition, InvalidArgument, NonFinite
from ..ids import Tokens, as_tokens
from ..models import Model
from .attention import Observer
from .blocks import Blocks
from .compose import check_movable, compose
from .errors import ModelUnsupported
from .forward import ForwardResult, LayerEvent, run_layers
from .plan import ReusePlan
from .policies.base import Charge, Fixup, Notes, PolicyInput, RowPolicy, charge_of
from .policy_run import LayerHooks, accepts, arranged, question_pass, select_checked
from .recipes import Recipe, isolated, run_digest
from .rope import Angles, Rope
from .shape import learn_shape, parameters_digest
from .sources import ChunkKv
from .state import KvState
from .stats import ChunkStats, ColumnMass, SegmentMass

SELF_TEST_TOKENS = 24
SELF_TEST_LOGIT_DIFFERENCE_MAX = 1e-3  # fp32; relative to a logit spread of 1 or more
SELF_TEST_KL_MAX = 0.05  # other dtypes


@dataclass(frozen=True)
class Prefilled:
    """A prompt ready to be continued. logits: fp32 [vocabulary] of its last token. rows_by_layer:
    the cells computed at each layer. question_mass: layer -> [cell], where the policy asked. notes:
    what the policy remembers of this request."""

    state: KvState
    logits: Tensor
    rows_by_layer: tuple[NDArray[np.int64], ...]
    charge: Charge
    policy: str = "full"
    question_mass: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    plan: ReusePlan | None = None
    notes: Notes = field(default_factory=dict)


class Engine:
    """A model with the engine's own forward. One request at a time per engine."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        weights_digest: bytes | None = None,
        tokenizer_digest: bytes = bytes(32),
        angles: Angles = "exact",
        self_test: bool = True,
    ) -> None:
        """Raises ModelUnsupported where the model's own forward cannot be reproduced."""
        self.hf_model = model.eval()
        self.tokenizer = tokenizer
        self.shape = learn_shape(model)
        self._blocks = Blocks(model, self.shape)
        specs = [layer.rope for layer in self.shape.layers]
        self.rope = Rope(self._blocks.rotary, specs, angles)
        parameter = next(model.parameters())
        self.dtype, self.device = parameter.dtype, parameter.device
        if weights_digest is None:
            weights_digest = parameters_digest(model)
        self.model: Model = self.shape.descriptor(weights_digest, tokenizer_digest)
        self.model_id: bytes = self.model.id
        self.vocabulary = int(model.config.get_text_config().vocab_size)
        if self_test:
            self._self_test()

    @classmethod
    def load(
        cls,
        path: str | Path,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        *,
        angles: Angles = "exact",
        self_test: bool = True,
    ) -> Engine:
        """A folder with safetensors, config and tokenizer, a GGUF file (dequantised), or the id
        of a hub's model that was fetched before. Never downloads."""
        from .loading import load_model

        loaded = load_model(path, dtype, device)
        return cls(
            loaded.model,
            loaded.tokenizer,
            weights_digest=loaded.weights_digest,
            tokenizer_digest=loaded.tokenizer_digest,
            angles=angles,
            self_test=self_test,
        )

    # -- one forward -----------------------------------------------------------------------------

    def tensor(self, tokens: Tokens) -> Tensor:
        """Checked token ids on the engine's device."""
        array = as_tokens(tokens)
        if array.size and int(array.max()) >= self.vocabulary:
            raise InvalidArgument(
                f"token id {int(array.max())} is outside a vocabulary of {self.vocabulary}: "
                "ids of another model's tokenizer?"
            )
        return torch.from_numpy(array.astype(np.int64)).to(self.device)

    def new_state(self, tokens: Tokens) -> KvState:
        """Cells for tokens, nothing computed."""
        return KvState.over(self.shape, self.tensor(tokens), None, self.dtype)

    def run(self, state: KvState, rows: Tensor, **arguments: object) -> ForwardResult:
        """The bare forward of forward.py over some cells of a state, with the state's fix-up."""
        fixup = state.fixup
        if fixup is not None:
            if type(fixup).on_layer is not Fixup.on_layer:
                arguments.setdefault("adjust_kv", fixup.on_layer)
            if type(fixup).on_logits is not Fixup.on_logits:
                arguments.setdefault("adjust_logits", fixup.on_logits)
        with torch.inference_mode():
            return run_layers(
                self._blocks,
                self.shape,
                self.rope,
                state,
                rows,
                **arguments,  # type: ignore[arg-type]
            )

    def logits_of(self, result: ForwardResult, cells: Tensor | None = None) -> Tensor:
        """fp32 [row][vocabulary] of a result's rows, or of some cells among them."""
        hidden = result.hidden
        if cells is not None:
            hidden = hidden[torch.searchsorted(result.rows, cells)]
        with torch.inference_mode():
            logits = self._blocks.logits(hidden)
        if not bool(torch.isfinite(logits).all()):
            raise NonFinite("logits with NaN or infinity")
        return logits

    def model_logits(self, tokens: Tokens) -> Tensor:
        """The model's own forward: fp32 [token][vocabulary]."""
        with torch.inference_mode():
            out = self.hf_model(input_ids=self.tensor(tokens)[None], use_cache=False)
        logits: Tensor = out.logits[0].float()
        return logits

    def _self_test(self) -> None:
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(0, self.vocabulary, (SELF_TEST_TOKENS,), generator=generator)
        theirs = self.model_logits(tokens.numpy())
        ours = self.all_logits(tokens.numpy())
        if self.dtype == torch.float32:
            difference = float((ours - theirs).abs().max())
            wrong = difference > SELF_TEST_LOGIT_DIFFERENCE_MAX * max(1.0, float(theirs.std()))
        else:
            log_p, log_q = theirs.log_softmax(-1), ours.log_softmax(-1)
            difference = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
            wrong = difference > SELF_TEST_KL_MAX
        if wrong:
            raise ModelUnsupported(
                f"{type(self.hf_model).__name__}: the engine's forward differs from the model's by "
                f"{difference:.3g}; its layers do something that is not understood"
            )

    def all_logits(self, tokens: Tokens) -> Tensor:
        """fp32 [token][vocabulary] by the engine's own forward."""
        state = self.new_state(tokens)
        return self.logits_of(self.run(state, torch.arange(state.n_cells, device=self.device)))

    # -- prefill ---------------------------------------------------------------------------------

    def prefill(
        self,
        tokens: Tokens | None = None,
        *,
        plan: ReusePlan | None = None,
        policy: RowPolicy | None = None,
        observers: Sequence[Observer] = (),
    ) -> Prefilled:
        """A full prefill of tokens, or a plan under a policy.

        Raises RopeCannotMove, InvalidArgument (rows outside reused tokens, ids of another
        vocabulary), NonFinite, and what the sources' loading raises.
        """
        if plan is None:
            if tokens is None or not len(tokens):
                raise InvalidArgument("an empty prompt")
            state = self.new_state(tokens)
            rows = torch.arange(state.n_cells, device=self.device)
            result = self.run(state, rows, observers=observers)
            logits = self.logits_of(result, rows[-1:])[0]
            return Prefilled(state, logits, _as_arrays(result), Charge(0.0, 0.0))
        if policy is None:
            raise InvalidArgument("a plan needs a policy: which rows are computed again")
        needs = policy.needs(self.shape)
        used = plan.keeping(lambda segment: accepts(policy, needs, plan, segment))
        check_movable(used, self.shape)
        used = arranged(policy, used)
        ids = self.tensor(plan.tokens)
        with torch.inference_mode():
            old = compose(used, self.shape, self.rope, self.dtype, self.device)
        mass, question_rows = question_pass(self, used, ids, old, policy)
        given = PolicyInput(used, self.shape, mass, old)
        reusable = used.reusable
        chosen = select_checked(policy, given)
        rows = torch.from_numpy(np.union1d(used.fresh, chosen)).to(self.device)
        positions = torch.from_numpy(used.positions).to(self.device)
        state = KvState.over(self.shape, ids, old, self.dtype, positions)
        state.fixup = policy.fixup(given)
        hooks = LayerHooks(self.shape, policy, needs, used, rows, given.notes)
        result = self.run(
            state,
            rows,
            hook=hooks if needs.probe_layers else None,
            hook_after_attention=needs.needs_column_sums,
            observers=[*observers, *hooks.observers],
        )
        last = torch.tensor([plan.n_tokens - 1], device=self.device)
        by_layer = _as_arrays(result)
        stale = np.setdiff1d(reusable, by_layer[-1], assume_unique=True)
        state.reused = torch.from_numpy(stale).to(self.device)
        lossy = any(s.source is not None and not s.source.lossless for s in used.segments)
        moved = any(s.first_position != s.token_begin for s in used.segments)
        state.exact = not (len(stale) or lossy or moved or state.fixup is not None)
        charge = charge_of(by_layer, plan.reusable, self.shape.n_layers, question_rows)
        logits = self.logits_of(result, last)[0]
        return Prefilled(state, logits, by_layer, charge, policy.name, mass, used, given.notes)

    # -- chunks ----------------------------------------------------------------------------------

    def capture(
        self,
        tokens: Tokens,
        recipe: Recipe | None = None,
        *,
        salt: bytes = b"",
        stats: bool = False,
        lead: KvState | None = None,
    ) -> ChunkKv:
        """KV of a chunk computed behind a recipe's tokens: keys before rope, values, statistics.

        salt: the tenant's (``client.salt``), for the ids in the chunk's context.
        lead: the recipe's tokens, prefilled already, to compute many chunks behind one prefix.
        """
        recipe = isolated() if recipe is None else recipe
        array = as_tokens(tokens)
        if not len(array):
            raise InvalidArgument("an empty chunk")
        n_lead = len(recipe.lead)
        if lead is not None:
            if not lead.exact or not torch.equal(lead.tokens, self.tensor(recipe.lead)):
                raise FailedPrecondition(
                    "the lead state is not an exact prefill of the recipe's tokens"
                )
            state = lead.fork()
            rows = state.append(self.tensor(array))
        else:
            state = self.new_state(np.concatenate([recipe.lead, array]))
            rows = torch.arange(state.n_cells, device=self.device)
        keys: list[Tensor] = []
        values: list[Tensor] = []

        def record(event: LayerEvent) -> None:
            own = event.rows >= n_lead
            keys.append(event.keys_before_rope[:, own].cpu())
            values.append(event.values[:, own].cpu())

        bounds = _segment_bounds(recipe, len(array))
        layers = range(self.shape.n_layers)
        received = ColumnMass(layers, state.n_cells, n_lead)
        given = SegmentMass(layers, bounds, n_lead, state.n_cells)
        self.run(state, rows, hook=record, observers=(received, given) if stats else ())
        return ChunkKv(
            array,
            tuple(keys),
            tuple(values),
            recipe.context(self.model_id, salt),
            n_lead,
            ChunkStats(
                torch.stack([received.by_layer[i][n_lead:] for i in layers]).cpu(),
                torch.stack([received.rows_seen[i][n_lead:] for i in layers]).cpu(),
                torch.stack([given.by_layer[i] for i in layers]).cpu(),
                tuple(end - begin for begin, end in pairwise(bounds)),
                self.shape.full_layers,
            )
            if stats
            else None,
            tuple(run_digest(run) for run in recipe.runs),
            salt=salt,
        )


def _segment_bounds(recipe: Recipe, n_tokens: int) -> list[int]:
    """Cuts of a recipe's runs and the chunk."""
    lengths = [*(len(run) for run in recipe.runs), n_tokens]
    return [0, *accumulate(lengths)]


def _as_arrays(result: ForwardResult) -> tuple[NDArray[np.int64], ...]:
    return tuple(rows.cpu().numpy() for rows in result.rows_by_layer)
