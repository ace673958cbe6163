"""Scopes, feedback and statistics, against a quired of its own."""

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import quire
from quire import ids, statistics
from quire.statistics import Statistics, VectorType
from support import BIN, run_server

TOKENS = list(range(100, 164))


def sample(n_tokens: int = len(TOKENS), n_layers: int = 2) -> Statistics:
    half = np.linspace(0, 1, n_tokens, dtype=np.float16)
    return Statistics(
        n_tokens,
        n_layers,
        segments=(4, 2),
        vectors={
            VectorType.RECEIVED: half,
            VectorType.INTER_OF_SEGMENT: np.stack([half, half * 2]),
            VectorType.CACHE_CRAFT: np.array([0.5, 0.25, 0.88], np.float32),
            1024: np.arange(6, dtype=np.uint32).reshape(1, 2, 3),
        },
    )


def test_block_round_trip() -> None:
    source = sample()
    found = statistics.parse(statistics.encode(source))
    assert (found.n_tokens, found.n_layers, found.segments) == (64, 2, (4, 2))
    assert set(found.vectors) == set(source.vectors)
    for kind, values in source.vectors.items():
        assert found[kind].dtype == values.dtype
        assert np.array_equal(found[kind], values)
    # float64 becomes what the format holds; one token keeps its dims.
    rounded = statistics.encode(Statistics(3, 1, vectors={VectorType.RECEIVED: [0.1, 0.2, 0.3]}))
    assert np.allclose(statistics.parse(rounded)[VectorType.RECEIVED], [0.1, 0.2, 0.3], atol=1e-3)
    one = Statistics(1, 2, (5,), {VectorType.INTER_OF_SEGMENT: np.ones((1, 1))})
    assert statistics.parse(statistics.encode(one))[VectorType.INTER_OF_SEGMENT].shape == (1, 1)


def test_the_golden_block() -> None:
    path = Path(__file__).resolve().parents[2] / "data" / "statistics_v1.bin"
    found = statistics.parse(path.read_bytes())
    assert (found.n_tokens, found.n_layers, found.segments) == (3, 2, (4, 2))
    assert found[VectorType.RECEIVED].tolist() == [0.5, 0.25, 0]
    assert found[VectorType.INTER_OF_SEGMENT].tolist() == [[0.5, 0.5, 0.5], [0.25, 0, 0.25]]
    assert found[1024].tolist() == [7]
    assert statistics.encode(found) == path.read_bytes()


@pytest.mark.parametrize(
    "vectors",
    [
        {},
        {VectorType.RECEIVED: np.ones(3)},
        {VectorType.RECEIVED: np.full(64, np.nan)},
        {VectorType.RECEIVED: np.full(64, -1.0)},
        {VectorType.RECEIVED: np.full(64, 1e9)},
        {VectorType.DEVIATION_OF_LAYER: np.ones(5)},
        {2000: np.zeros(0, np.float32)},
    ],
)
def test_bad_vectors_are_refused(vectors: dict) -> None:
    with pytest.raises((quire.Corrupt, quire.InvalidArgument)):
        statistics.encode(Statistics(64, 2, vectors=vectors))


def test_damaged_blocks_are_refused() -> None:
    block = statistics.encode(sample())
    for size in range(0, len(block), 7):
        with pytest.raises(quire.Corrupt):
            statistics.parse(block[:size])
    with pytest.raises(quire.VersionMismatch):
        statistics.parse(block[:8] + b"\x02" + block[9:])


@pytest.fixture(scope="module")
def steered_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A quired with a control plane: its socket and its control address."""
    if not (BIN / "quirectl").is_file():
        pytest.skip(f"no quirectl at {BIN}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    for path in run_server(tmp_path_factory, control=address):
        yield path, address


def test_quirectl_by_scope(steered_server: tuple[str, str], model: quire.Model) -> None:
    path, address = steered_server

    def quirectl(*arguments: str) -> dict:
        command = [str(BIN / "quirectl"), *arguments, "--server", address, "-o", "json"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return json.loads(result.stdout)

    stored: dict[str, bytes] = {}
    for label in ("alice", "bob", ""):
        with quire.connect(path, scope=label) as session:
            session.register_model("tiny", model)
            context = quire.Context(
                kind=quire.ContextKind.SYNTHETIC, neighbours=(b"\x05" * 32,), scope=session.scope
            )
            stored[label] = put_kv(session, model, context)
    for label, representation in stored.items():
        objects = quirectl("ls", "--scope", label)["objects"]
        assert [one["id"] for one in objects] == [representation.hex()]
        scope = ids.scope_id(b"", label)
        assert objects[0]["scope"] == (scope.hex() if label else None)
    assert len(quirectl("ls")["objects"]) == 3
    assert quirectl("clear", "--scope", "alice", "--yes") == {"removed": 1}
    left = {one["id"] for one in quirectl("ls")["objects"]}
    assert left == {stored["bob"].hex(), stored[""].hex()}
    with quire.connect(path, scope="alice") as session:
        assert session.resolve(model.id, TOKENS) == []
    with quire.connect(path, scope="bob") as session:
        assert [m.representation for m in session.resolve(model.id, TOKENS)] == [stored["bob"]]


def put_kv(client: quire.Client, model: quire.Model, context: quire.Context | None = None) -> bytes:
    rows = np.ones((len(model.layers), 1, len(TOKENS), model.layers[0].key_dims), np.float16)
    put = client.put_arrays(model, TOKENS, rows, rows, codec="raw-f16", context=context)
    return put.representation


@pytest.fixture
def model() -> quire.Model:
    frequencies = quire.rope_frequencies(8)
    layer = quire.Layer(1, 8, 8, quire.RopeStyle.NEOX, frequencies)
    return quire.Model(b"\x31" * 32, b"\x32" * 32, (layer, layer))


def test_scopes_statistics_and_feedback(server: str, model: quire.Model) -> None:
    with (
        quire.connect(server, scope="alice") as alice,
        quire.connect(server, scope="bob") as bob,
        quire.connect(server) as nobody,
    ):
        known = alice.register_model("tiny", model)
        scope = ids.scope_id(alice.salt, "alice")
        assert alice.enter_scope("alice") == scope
        context = quire.Context(kind=quire.ContextKind.SYNTHETIC, neighbours=(b"\x05" * 32,), scope=scope)
        kv = put_kv(alice, model, context)
        packed = statistics.pack(model, TOKENS, sample(), context=context, salt=alice.salt)
        alice.put(*packed)

        found = alice.resolve(known, TOKENS)
        assert [match.representation for match in found] == [kv]
        everything = alice.resolve(known, TOKENS, statistics=True)
        assert [match.representation for match in everything] == [kv, packed.representation]
        assert everything[1].codec == statistics.CODEC
        with alice.acquire(packed.representation) as lease:
            read = statistics.unpack(lease)
            assert read.segments == (4, 2)
            assert np.array_equal(read[VectorType.RECEIVED], sample()[VectorType.RECEIVED])
        # A plan loads keys and values, never statistics.
        plan = quire.plan(len(TOKENS) + 1, everything, policy="reuse")
        used = [segment.match.representation for segment in plan if segment.match is not None]
        assert packed.representation not in used

        for other in (bob, nobody):
            assert other.resolve(known, TOKENS, statistics=True) == []
            with pytest.raises(quire.NotFound):
                other.acquire(kv)
            with pytest.raises(quire.PermissionDenied):
                put_kv(other, model, context)
            assert not other.feedback(kv, strike=True)

        assert alice.feedback(kv, strike=True, deviation=0.5)
        assert alice.feedback(packed.representation, strike=True)
        (match,) = alice.resolve(known, TOKENS)
        assert (match.strikes, match.deviation) == (2, 0.5)
        assert alice.feedback(kv, strike=True)
        assert alice.resolve(known, TOKENS, statistics=True) == []
        assert put_kv(alice, model, context) == kv
        assert [match.strikes for match in alice.resolve(known, TOKENS)] == [0]
        with pytest.raises(quire.InvalidArgument):
            alice.feedback(kv)
        with pytest.raises(quire.InvalidArgument):
            alice.feedback(kv, deviation=-1)
        with pytest.raises(quire.InvalidArgument):
            alice.enter_scope("x" * 65)
        with pytest.raises(quire.Unsupported), alice.acquire(kv) as lease:
            statistics.unpack(lease)
        assert alice.enter_scope("") == bytes(32)
        assert alice.resolve(known, TOKENS) == []
