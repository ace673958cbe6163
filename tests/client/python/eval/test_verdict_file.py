"""What a gate found, given to a real server by quirectl."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import quire
from quire.eval.gate import Verdict
from quire.eval.verdict_file import FIGURES_MAX, TEXT_BYTES_MAX, stored_verdict, write_verdict
from support import BIN, run_server

VERDICT = Verdict(
    "prefix-only",
    "query:0.15 stays 0.61 nats from full prefill (median; at most 0.3)",
    "prefix",
    "sys",
    0.0,
    "int4-channel64",
    {
        "prompts": 5,
        "right": {"full": 0.8, "query:0.15": 0.2},
        "codec_kl": {"int8-channel": float("nan"), "int4-channel64": 0.02},
    },
)


def test_fields_are_flat_and_within_limits() -> None:
    stored = stored_verdict(VERDICT, bytes(range(32)), 1_700_000_000_000)
    assert stored["model"] == bytes(range(32)).hex() and stored["chunks"] is False
    assert stored["figures"] == {
        "prompts": 5.0,
        "right full": 0.8,
        "right query:0.15": 0.2,
        "codec_kl int4-channel64": 0.02,
    }
    long = Verdict("yes", "ä\n" * 500, "p", "sys", 1.7, "c", {"x": {str(i): i for i in range(100)}})
    stored = stored_verdict(long, bytes(32), 1)
    assert stored["chunks"] is True and stored["budget"] == 1.0
    assert len(stored["reason"].encode()) <= TEXT_BYTES_MAX and stored["reason"].endswith("...")
    assert "\n" not in stored["reason"] and len(stored["figures"]) == FIGURES_MAX


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(socket of the data plane, address of the control plane) of a quired."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    for path in run_server(tmp_path_factory, control=address):
        yield path, address


def test_the_server_takes_it(control: tuple[str, str], tmp_path: Path) -> None:
    path, address = control
    layer = quire.Layer(
        kv_heads=1,
        key_dims=8,
        value_dims=8,
        rope_style=quire.RopeStyle.NEOX,
        inverse_frequencies=quire.rope_frequencies(8, 10000.0),
    )
    model = quire.Model(weights=bytes([1] * 32), tokenizer=bytes([2] * 32), layers=(layer,))
    with quire.connect(path) as client:
        client.register_model("judged", model)
    file = tmp_path / "verdict.json"
    write_verdict(file, VERDICT, model.id)

    def quirectl(*arguments: str) -> str:
        command = [str(BIN / "quirectl"), "--server", address, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    quirectl("verdict", "set", "judged", "--file", str(file))
    (shown,) = json.loads(quirectl("models", "-o", "json"))["models"]
    assert shown["verdict"]["reason"] == VERDICT.reason and shown["verdict"]["chunks"] is False
    assert shown["verdict"]["figures"]["right query:0.15"] == 0.2
    quirectl("verdict", "clear", "judged")
    (shown,) = json.loads(quirectl("models", "-o", "json"))["models"]
    assert shown["verdict"] is None
