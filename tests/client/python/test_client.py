"""Sessions: without a server, and against a real quired."""

import gc
import uuid
from pathlib import Path

import ids_reference as reference
import numpy as np
import pytest
import quire

GOLDEN = (Path(__file__).resolve().parents[2] / "data" / "representation_raw_f16_v1.bin").read_bytes()
# The model of the golden file (tests/codecs/representation_fixture.h).
LAYER = {
    "attention": 0,
    "rope_style": 1,
    "length_dependent": False,
    "window_tokens": 0,
    "kv_heads": 1,
    "key_dims": 4,
    "value_dims": 4,
    "rotary_dims": 4,
    "attention_factor": 1.0,
    "inverse_frequencies": [1.0, 0.01],
}
MODEL = {"weights": "01" * 32, "tokenizer": "02" * 32, "lora": "00" * 32, "layers": [LAYER, LAYER]}
MODEL_ID = reference.model_id(MODEL)
OBJECT_ID = reference.object_id(MODEL_ID, [1000, 1001, 1002], b"")
VARIANT_ID = reference.variant_id(OBJECT_ID, {"kind": "isolated", "phase": 0})
REPRESENTATION_ID = reference.representation_id(VARIANT_ID, 1, 1, [0, 2, 0, 1])


def connected(server: str) -> quire.Client:
    client = quire.connect(server, timeout_ms=5000)
    assert client.register_model("golden", reference.descriptor(MODEL)) == MODEL_ID
    return client


def test_no_server_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(quire.Unavailable, match="start it with `quired`") as caught:
        quire.connect(str(tmp_path / "quired.sock"))
    assert isinstance(caught.value, ConnectionError)
    assert caught.value.code == 13
    assert str(caught.value).startswith("UNAVAILABLE: no quired at")


def test_a_session_is_not_made_of_a_path() -> None:
    with pytest.raises(TypeError, match=r"quire\.connect\(\)"):
        quire.Client("/tmp/quired.sock")  # type: ignore[arg-type]


def test_session_facts(server: str) -> None:
    with connected(server) as client:
        client.ping()
        assert client.server_epoch != 0
        assert client.object_bytes_max >= 1 << 20
        assert client.salt == b""
    with pytest.raises(quire.FailedPrecondition, match="closed"):
        client.ping()


def test_put_and_read_without_a_copy(server: str) -> None:
    with connected(server) as client:
        client.put(REPRESENTATION_ID, GOLDEN, quire.Ack.DURABLE)
        client.put(REPRESENTATION_ID, np.frombuffer(GOLDEN, dtype=np.uint8))
        with client.acquire(REPRESENTATION_ID) as lease:
            assert bytes(lease.data) == GOLDEN
            assert len(lease) == len(GOLDEN)
            assert not lease.data.flags.owndata
            with pytest.raises(ValueError):
                lease.data[0] = 1
            with pytest.raises(ValueError):
                lease.data.flags.writeable = True
            lease.renew(20_000)
            lease.check()
        with pytest.raises(quire.StaleLease):
            lease.check()
        with pytest.raises(quire.StaleLease):
            _ = lease.data


def test_views_outlive_lease_and_client(server: str) -> None:
    client = connected(server)
    client.put(REPRESENTATION_ID, GOLDEN)
    view = client.acquire(REPRESENTATION_ID).data
    client.close()
    del client
    gc.collect()
    assert bytes(view) == GOLDEN


def test_windows(server: str) -> None:
    other = bytes([9] * 32)
    with connected(server) as client:
        with client.reserve(other, len(GOLDEN)) as window:
            window.data[:] = 0
        with pytest.raises(quire.FailedPrecondition):
            window.commit()
        with client.reserve(other, len(GOLDEN)) as window:
            window.data[:] = np.frombuffer(GOLDEN, dtype=np.uint8)
            with pytest.raises(quire.QuireError):  # these are another id's bytes
                window.commit()
        with pytest.raises(quire.ResourceExhausted):
            client.reserve(other, client.object_bytes_max + 1)


def test_misses(server: str) -> None:
    with connected(server) as client:
        missing = bytes([7] * 32)
        with pytest.raises(quire.NotFound) as caught:
            client.acquire(missing)
        assert isinstance(caught.value, KeyError)
        client.put(REPRESENTATION_ID, GOLDEN)
        found = client.acquire_many([missing, REPRESENTATION_ID])
        assert isinstance(found[0], quire.NotFound)
        assert isinstance(found[1], quire.Lease)
        assert bytes(found[1].data) == GOLDEN
        assert client.resolve(MODEL_ID, list(range(100))) == []
        assert client.resolve(MODEL_ID, [1], prefix=False, chunks=False) == []


def test_unknown_tenant(server: str) -> None:
    with pytest.raises(quire.QuireError):
        quire.connect(server, tenant=f"nobody-{uuid.uuid4()}")
