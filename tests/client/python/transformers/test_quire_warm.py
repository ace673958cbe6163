"""What quire-warm stores behind neighbours, used by quire.transformers: one store, two engines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quire
import torch
from quire import ContextKind
from quire.transformers import (
    Engine,
    KvSource,
    ReusePlan,
    behind_neighbours,
    behind_prefix,
    in_context,
    plan_from_store,
    plan_of_parts,
)
from quire.transformers.compose import compose
from quire.transformers.policies import parse_policy
from quire.transformers.policies.candidates import stands_as_computed
from quire.transformers.state import OldKv
from support import BIN

pytestmark = pytest.mark.model

GEMMA = "gemma-3-270m-q4_k_m.gguf"
SYSTEM = "You answer questions about the documents you are given."
QUESTION = "\nQuestion: what is the code name of project Lantern?\nAnswer: The code name is"
DOCUMENTS = {
    "lantern": "The code name of project Lantern is Heron. It was chosen by its first two members. ",
    "orchard": "The code name of project Orchard is Magpie. It was chosen by all of its members. ",
    "rope": "Rotary embeddings turn pairs of dimensions by an angle that grows with the position. ",
    "pages": "Pages of a cache hold the keys and values of a fixed number of positions each. ",
}
# Counts letters: near enough, and the line protocol is a stranger's.
EMBED = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    counts = [asked["text"].lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz"]
    print(json.dumps({"id": asked["id"], "vector": counts}))
"""
# llama.cpp rounds activations to 8 bits: .09 at the last layers was seen, a share of .021. The same
# chunk behind the prefix alone is five times as far.
KV_RELATIVE_MAX = 0.2
SHARES_MAX = 0.05
KL_MAX = 0.1  # .029


@dataclass
class Warm:
    """A corpus and how it is warmed."""

    folder: Path
    model: Path
    socket: str

    @property
    def manifest(self) -> Path:
        return self.folder / "near.manifest"

    def run(self, *extra: str) -> dict[str, Any]:
        embed = self.folder / "embed.py"
        embed.write_text(EMBED)
        command = [str(BIN / "quire-warm"), "--model", str(self.model), "--socket", self.socket]
        command += ["--system", SYSTEM, "--chunk-tokens", "128", "--neighbours", "2", "--stats"]
        command += ["--codec", "raw-f16", "--manifest", str(self.manifest), "-o", "json", "--quiet"]
        command += ["--embed-command", f"{sys.executable} {embed}", *extra, str(self.folder / "docs")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def lines(self) -> dict[str, Mapping[str, Any]]:
        """The manifest's last word on each document's only chunk, by the file's stem."""
        lines = [json.loads(line) for line in self.manifest.read_text().splitlines()]
        return {Path(x["document"]).stem: x for x in lines if x.get("type") == "chunk"}


@pytest.fixture(scope="module")
def warm(server: str, model_path: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Warm:
    model = model_path(GEMMA)
    if not (BIN / "quire-warm").is_file():
        pytest.skip(f"no quire-warm in {BIN}: this build is without llama.cpp")
    folder = tmp_path_factory.mktemp("warm")
    (folder / "docs").mkdir()
    for name, text in DOCUMENTS.items():
        (folder / "docs" / f"{name}.txt").write_text(text * 2)
    return Warm(folder, model, server)


@pytest.fixture(scope="module")
def engine(warm: Warm) -> Engine:
    return Engine.load(warm.model)


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    a, b = p.log_softmax(-1), q.log_softmax(-1)
    return float((a.exp() * (a - b)).sum())


def nearest(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative distance of two tensors, of their norms."""
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def test_chunks_behind_neighbours_are_exact_where_they_stand(warm: Warm, engine: Engine) -> None:
    report = warm.run()
    assert report["chunks_stored"] == report["chunks"] == len(DOCUMENTS)
    assert report["chunks_failed"] == report["files_failed"] == 0

    def run(text: str) -> np.ndarray:
        return np.array(engine.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.uint32)

    prefix = np.array([engine.tokenizer.bos_token_id, *run(SYSTEM + "\n\n")], dtype=np.uint32)
    tokens = {name: run(text * 2) for name, text in DOCUMENTS.items()}
    lines = warm.lines()
    with quire.connect(warm.socket) as client:
        objects = {
            quire.ids.object_id(engine.model_id, run, client.salt).hex(): name for name, run in tokens.items()
        }
        assert all(objects[line["object"]] == name for name, line in lines.items())
        # The last member of the larger group: everything it was computed behind stands before it.
        last = max(lines, key=lambda name: len(lines[name]["neighbours"]))
        order = [objects[key] for key in lines[last]["neighbours"]] + [last]
        assert len(order) >= 3
        question = run(QUESTION)
        prompt = np.concatenate([prefix, *[tokens[name] for name in order], question])
        # Fresh tokens are a fifth of the others: a pass to the first full layer takes .072 of them.
        policy = parse_policy("query-value:0.225")
        stored = plan_from_store(engine, client, prompt, policy, question_tokens=len(question))
        with stored as plan:
            assert [s.n_tokens for s in plan.chunks] == [len(tokens[name]) for name in order]
            kinds = {s.source.context_kind for s in plan.chunks if s.source is not None}
            assert kinds == {ContextKind.SYNTHETIC}
            exact = [stands_as_computed(plan, s) for s in plan.chunks]
            assert exact == [False] + [True] * (len(order) - 1)
            check_against_own_capture(engine, prefix, [tokens[name] for name in order], plan)
            reused = engine.prefill(plan=plan, policy=policy)
        full = engine.prefill(prompt)
        # Only the lead stands in another place than where it was computed.
        assert kl(full.logits, reused.logits) < KL_MAX
        assert 0.2 < reused.charge.total <= 0.225


def check_against_own_capture(
    engine: Engine, prefix: np.ndarray, runs: list[np.ndarray], plan: ReusePlan
) -> None:
    """The last chunk's KV and statistics are those that this engine computes in the same context."""
    own = engine.capture(runs[-1], behind_neighbours(runs[:-1], prefix), stats=True)
    stored = plan.chunks[-1].source
    assert stored is not None
    assert np.array_equal(stored.tokens, own.tokens) and stored.base_position == own.base_position
    question = np.array([1], dtype=np.uint32)
    lead = engine.capture(np.concatenate([prefix, *runs[:-1]]), in_context(()))
    far = engine.capture(runs[-1], behind_prefix(prefix))

    def placed(source: KvSource) -> OldKv:
        plan = plan_of_parts([source, question], prefix=lead)
        return compose(plan, engine.shape, engine.rope, engine.dtype, engine.device)

    cells = slice(len(lead.tokens), len(lead.tokens) + len(runs[-1]))
    stored_kv, own_kv, far_kv = placed(stored), placed(own), placed(far)
    for layer in range(engine.shape.n_layers):
        for planes in ("keys", "values"):
            found, wanted, other = (
                getattr(kv, planes)[layer][:, cells] for kv in (stored_kv, own_kv, far_kv)
            )
            distance = nearest(found, wanted)
            assert distance < KV_RELATIVE_MAX, (layer, planes)
            assert layer == 0 or distance < nearest(other, wanted) / 3, (layer, planes)
    assert stored.stats is not None and own.stats is not None
    assert stored.stats.segments == own.stats.segments
    n = len(runs[-1])
    sees = np.arange(n, 0, -1)
    received = [np.asarray(s.received_mass) / sees for s in (stored.stats, own.stats)]
    assert np.abs(received[0] - received[1]).max() < SHARES_MAX
    shares = [np.asarray(s.inter_by_run) for s in (stored.stats, own.stats)]
    assert np.abs(shares[0] - shares[1]).max() < SHARES_MAX


def test_a_second_run_computes_nothing(warm: Warm) -> None:
    warm.run()
    again = warm.run()
    assert again["chunks_already_stored"] == len(DOCUMENTS)
    assert again["tokens_computed"] == again["chunks_stale"] == 0


def test_a_changed_document_takes_its_group_along(warm: Warm) -> None:
    warm.run()
    before = warm.lines()
    changed = "lantern"
    old = before[changed]["object"]
    text = DOCUMENTS[changed].replace("Heron", "Osprey") * 2
    (warm.folder / "docs" / f"{changed}.txt").write_text(text)
    stale = [name for name, line in before.items() if name != changed and old in line["neighbours"]]
    report = warm.run()
    after = warm.lines()
    assert report["chunks_stale"] == len(stale)
    assert report["chunks_stored"] >= 1 + len(stale)
    assert all(old not in line["neighbours"] for line in after.values())
    kept = set(before) - {changed, *stale}
    assert all(after[name]["representation"] == before[name]["representation"] for name in kept)
