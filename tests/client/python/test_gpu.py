"""The server's GPU pool in this process, over the fake driver: device pointers are host addresses."""

import ctypes
import gc
import time

import numpy as np
import pytest
import quire

LAYER = quire.Layer(
    kv_heads=2,
    key_dims=8,
    value_dims=8,
    rope_style=quire.RopeStyle.NEOX,
    inverse_frequencies=quire.rope_frequencies(8, 10000.0),
)
MODEL = quire.Model(weights=bytes([3] * 32), tokenizer=bytes([4] * 32), layers=(LAYER,) * 2)
N_TOKENS = 24
WAIT_SECONDS_MAX = 20


def stored(client: quire.Client, seed: int, n_tokens: int = N_TOKENS) -> tuple[bytes, np.ndarray]:
    """The id of a new object and its keys."""
    random = np.random.default_rng(seed)
    shape = (2, 2, n_tokens, 8)
    keys, values = (random.standard_normal(shape).astype(np.float16) for _ in range(2))
    client.register_model("gpu", MODEL)
    tokens = range(1000 * seed, 1000 * seed + n_tokens)
    put = client.put_arrays(MODEL, tokens, keys, values, codec="raw-f16")
    return put.representation, keys


def on_device(pool: quire.GpuPool, representation: bytes) -> quire.GpuLease:
    """Acquires until the object is leased on the device: a copy is made for what is hot."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while True:
        lease = pool.acquire(representation)
        if lease.on_device:
            return lease
        lease.release()
        assert time.monotonic() < deadline, "never copied to the device"
        time.sleep(0.01)


def device_bytes(lease: quire.GpuLease) -> bytes:
    assert lease.device_pointer is not None
    return ctypes.string_at(lease.device_pointer, len(lease))


def test_no_gpu_is_a_typed_error(server: str, gpu_server: str) -> None:
    with quire.connect(server) as client:
        with pytest.raises(quire.Unsupported, match="no GPU tier"):
            client.gpu_pool("fake")
        with pytest.raises(quire.InvalidArgument, match="driver must be"):
            client.gpu_pool("metal")
    # Without a CUDA driver UNAVAILABLE; with one, the server's is of another kind.
    no_driver = pytest.raises((quire.Unavailable, quire.FailedPrecondition))
    with quire.connect(gpu_server) as client, no_driver:
        client.gpu_pool()
    with pytest.raises(quire.FailedPrecondition, match="closed"):
        client.gpu_pool("fake")


def test_a_hot_object_is_leased_on_the_device(gpu_server: str) -> None:
    with quire.connect(gpu_server) as client:
        representation, _ = stored(client, 1)
        with client.acquire(representation) as lease:
            expected = bytes(lease.data)
        pool = client.gpu_pool("fake")
        assert pool.capacity_bytes == 8 << 20
        assert pool.read_only
        with pool.acquire(representation) as first:
            assert not first.on_device
            assert first.device_pointer is None
            assert first.data is not None and bytes(first.data) == expected
            host = first.describe()
        with on_device(pool, representation) as lease:
            assert pool.mapped_bytes > 0
            assert lease.data is None
            assert len(lease) == len(expected)
            assert lease.device_pointer is not None and lease.device_pointer % (16 << 10) == 0
            assert device_bytes(lease) == expected
            info, sections = lease.describe()
            assert info.representation == representation
            assert sections == host[1]
            np.testing.assert_array_equal(info.tokens, np.arange(1000, 1000 + N_TOKENS))
            lease.renew(20_000)
            lease.check()
        with pytest.raises(quire.StaleLease):
            lease.check()
        with pytest.raises(quire.StaleLease):
            _ = lease.device_pointer
        with pytest.raises(quire.StaleLease):
            lease.describe()
        with pytest.raises(quire.NotFound):
            pool.acquire(bytes(32))
        found, missing = pool.acquire_many([representation, bytes(32)])
        assert isinstance(found, quire.GpuLease) and found.on_device
        assert isinstance(missing, quire.NotFound)


def test_sections_load_into_pages(gpu_server: str) -> None:
    """What a load kernel is given: the device address of one layer's K, scattered into pages."""
    page_tokens = 8
    with quire.connect(gpu_server) as client:
        representation, keys = stored(client, 2)
        pool = client.gpu_pool("fake")
        with on_device(pool, representation) as lease:
            _, sections = lease.describe()
            assert [(s.layer, s.plane) for s in sections] == [(0, 0), (0, 1), (1, 0), (1, 1)]
            for layer in range(2):
                section = sections[2 * layer]
                assert section.offset % 64 == 0
                assert lease.device_pointer is not None
                source = ctypes.string_at(lease.device_pointer + section.offset, section.n_bytes)
                rows = np.frombuffer(source, np.float16).reshape(2, N_TOKENS, 8)
                pages = np.zeros((5, page_tokens, 2, 8), np.float16)
                table = [4, 0, 2]
                for token in range(N_TOKENS):
                    pages[table[token // page_tokens], token % page_tokens] = rows[:, token]
                got = pages[table].reshape(N_TOKENS, 2, 8).transpose(1, 0, 2)
                np.testing.assert_array_equal(got, keys[layer])
            lease.check()


def test_long_manifests_are_read_whole(gpu_server: str) -> None:
    with quire.connect(gpu_server) as client:
        representation, _ = stored(client, 3, n_tokens=4000)  # 16,000 bytes of token ids
        pool = client.gpu_pool("fake")
        with on_device(pool, representation) as lease:
            info, _ = lease.describe()
            np.testing.assert_array_equal(info.tokens, np.arange(3000, 7000))


def test_handles_may_go_in_any_order(gpu_server: str) -> None:
    client = quire.connect(gpu_server)
    representation, _ = stored(client, 4)
    lease = on_device(client.gpu_pool("fake"), representation)
    client.close()
    gc.collect()
    assert len(device_bytes(lease)) == len(lease)
    lease.check()
    lease.release()
    lease.release()
