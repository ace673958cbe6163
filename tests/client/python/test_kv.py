"""Arrays into representations and back, against rotation in float64."""

import ctypes
from dataclasses import replace

import ids_reference as reference
import numpy as np
import pytest
import quire

N_LAYERS, N_HEADS, N_TOKENS, KEY_DIMS, VALUE_DIMS = 3, 2, 300, 16, 8
LAYER = quire.Layer(
    kv_heads=N_HEADS,
    key_dims=KEY_DIMS,
    value_dims=VALUE_DIMS,
    rope_style=quire.RopeStyle.NEOX,
    inverse_frequencies=quire.rope_frequencies(12, 10000.0),  # four dims do not rotate
)
MODEL = quire.Model(bytes([1] * 32), bytes([2] * 32), (LAYER,) * N_LAYERS)
TOKENS = np.arange(1000, 1000 + N_TOKENS, dtype=np.uint32)
SEED = 20240531


def arrays(dtype: type = np.float16) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(SEED)
    keys = random.standard_normal((N_LAYERS, N_HEADS, N_TOKENS, KEY_DIMS)).astype(dtype)
    values = random.standard_normal((N_LAYERS, N_HEADS, N_TOKENS, VALUE_DIMS)).astype(dtype)
    return keys, values


def rotated(keys: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """NEOX rotation by positions in float64."""
    half = len(LAYER.inverse_frequencies)
    angles = positions[:, None] * np.float64(LAYER.inverse_frequencies)
    low, high = np.float64(keys[..., :half]), np.float64(keys[..., half : 2 * half])
    result = np.array(keys, dtype=np.float64)
    result[..., :half] = low * np.cos(angles) - high * np.sin(angles)
    result[..., half : 2 * half] = low * np.sin(angles) + high * np.cos(angles)
    return result


def test_descriptor_matches_the_reference() -> None:
    layer = {
        "attention": 0,
        "rope_style": 1,
        "length_dependent": False,
        "window_tokens": 0,
        "kv_heads": N_HEADS,
        "key_dims": KEY_DIMS,
        "value_dims": VALUE_DIMS,
        "rotary_dims": 12,
        "attention_factor": 1.0,
        "inverse_frequencies": [10000.0 ** (-j / 6) for j in range(6)],
    }
    model = {
        "weights": "01" * 32,
        "tokenizer": "02" * 32,
        "lora": "00" * 32,
        "layers": [layer] * N_LAYERS,
    }
    assert MODEL.encode() == reference.descriptor(model)
    assert MODEL.id == reference.model_id(model)
    assert quire.Model.parse(MODEL.encode()) == MODEL
    for bad in (MODEL.encode()[:-1], MODEL.encode() + b"\0", b""):
        with pytest.raises(quire.QuireError):
            quire.Model.parse(bad)
    with pytest.raises(ValueError, match="tokenizer"):
        replace(MODEL, tokenizer=b"short").encode()


def test_ids_and_description() -> None:
    prefix = bytes([5] * 32)
    context = quire.Context(quire.ContextKind.FIXED_PREFIX, reference=prefix)
    packed = quire.pack(MODEL, TOKENS, *arrays(), context=context, base_position=70)
    object_ = reference.object_id(MODEL.id, list(TOKENS), b"")
    variant = reference.variant_id(object_, {"kind": "fixed_prefix", "phase": 0, "reference": prefix.hex()})
    wanted = reference.representation_id(variant, 16, 1, [0, N_LAYERS, 0, N_HEADS])
    assert packed.representation == wanted
    info = quire.describe(packed.data)
    assert (info.model, info.object, info.variant) == (MODEL.id, object_, variant)
    assert (info.representation, info.codec, info.base_position) == (wanted, 16, 70)
    assert (info.layers, info.heads) == ((0, N_LAYERS), (0, N_HEADS))
    assert info.context_kind == quire.ContextKind.FIXED_PREFIX
    assert info.frame == quire.PositionFrame.LOCAL
    np.testing.assert_array_equal(info.tokens, TOKENS)
    salted = quire.pack(MODEL, TOKENS, *arrays(), context=context, salt=bytes([9] * 32))
    assert salted.representation != wanted
    assert quire.pack(MODEL, TOKENS, *arrays(), codec=16, context=context).representation == wanted


@pytest.mark.parametrize("base_position", [0, 70])
def test_raw_f16_without_a_move_is_bit_exact(base_position: int) -> None:
    keys, values = arrays()
    packed = quire.pack(MODEL, TOKENS, keys, values, codec="raw-f16", base_position=base_position)
    out_keys, out_values = quire.unpack(packed.data, MODEL.encode(), base_position)
    assert out_keys.dtype == out_values.dtype == np.float16
    np.testing.assert_array_equal(out_keys.view(np.uint16), keys.view(np.uint16))
    np.testing.assert_array_equal(out_values.view(np.uint16), values.view(np.uint16))


@pytest.mark.parametrize(("base_position", "position"), [(0, 4096), (500, 3), (7, 100_000)])
def test_a_move_is_the_rotation(base_position: int, position: int) -> None:
    content, values = arrays(np.float64)
    stored_at = base_position + np.arange(N_TOKENS)
    keys = rotated(content, stored_at).astype(np.float32)
    packed = quire.pack(
        MODEL,
        TOKENS,
        keys,
        values.astype(np.float32),
        codec="raw-f32",
        base_position=base_position,
    )
    out_keys, out_values = quire.unpack(packed.data, MODEL, position, dtype=np.float32)
    wanted = rotated(content, position + np.arange(N_TOKENS))
    np.testing.assert_allclose(out_keys, wanted, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(out_values, values.astype(np.float32))
    assert np.abs(out_keys - keys).max() > 0.5


@pytest.mark.parametrize("before_rope", [False, True])
def test_pre_rope_frame(before_rope: bool) -> None:
    content, values = arrays(np.float32)
    keys = content if before_rope else rotated(content, 40 + np.arange(N_TOKENS))
    packed = quire.pack(
        MODEL,
        TOKENS,
        keys.astype(np.float32),
        values,
        codec="raw-f32",
        frame=quire.PositionFrame.PRE_ROPE,
        key_before_rope=before_rope,
        base_position=40,
    )
    out_keys, _ = quire.unpack(packed.data, MODEL, 900, dtype="f32")
    wanted = rotated(content, 900 + np.arange(N_TOKENS))
    np.testing.assert_allclose(out_keys, wanted, rtol=0, atol=2e-6)


def test_int8_error_bound() -> None:
    keys, values = arrays(np.float32)
    keys[..., 3] += 200.0  # a channel that is a large constant
    packed = quire.pack(MODEL, TOKENS, keys, values)
    out_keys, out_values = quire.unpack(packed.data, MODEL, 0, dtype=np.float32)
    for begin in range(0, N_TOKENS, 256):  # docs/formats/codecs.md: runs of 256 tokens
        run = keys[:, :, begin : begin + 256]
        scale = (run.max(axis=2) - run.min(axis=2)) / 255
        error = np.abs(out_keys[:, :, begin : begin + 256] - run)
        assert (error <= 0.5001 * scale[:, :, None] * (1 + 1e-6) + np.spacing(np.abs(run))).all()
    scale = (values.max(axis=3) - values.min(axis=3)) / 255
    bound = 0.51 * scale + np.abs(values).max(axis=3) * 2**-10 / 255 + 1e-6
    assert (np.abs(out_values - values) <= bound[..., None]).all()
    assert np.abs(out_keys - keys).max() > 0
    assert packed.data.size < 0.7 * (keys.size + values.size) * 2 + 8192


def test_bfloat16_bits() -> None:
    keys, values = arrays(np.float32)
    key_bits = (keys.view(np.uint32) >> 16).astype(np.uint16)
    value_bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    packed = quire.pack(MODEL, TOKENS, key_bits, value_bits, codec="raw-bf16", dtype="bf16")
    out_keys, out_values = quire.unpack(packed.data, MODEL, 0, dtype="bf16")
    np.testing.assert_array_equal(out_keys, key_bits)
    np.testing.assert_array_equal(out_values, value_bits)
    with pytest.raises(TypeError, match="float16, float32 or bfloat16"):
        quire.pack(MODEL, TOKENS, key_bits, value_bits)


def test_any_strides() -> None:
    keys, values = arrays()
    wanted = quire.pack(MODEL, TOKENS, keys, values).data
    rows_first = np.ascontiguousarray(keys.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    dims_first = np.ascontiguousarray(values.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    backwards = np.ascontiguousarray(keys[:, :, ::-1])[:, :, ::-1]
    assert rows_first.strides != keys.strides and backwards.strides[2] < 0
    np.testing.assert_array_equal(quire.pack(MODEL, TOKENS, rows_first, dims_first).data, wanted)
    np.testing.assert_array_equal(quire.pack(MODEL, TOKENS, backwards, values).data, wanted)
    np.testing.assert_array_equal(quire.pack(MODEL, TOKENS, list(keys), list(values)).data, wanted)


def test_slices_masks_and_rows() -> None:
    keys, values = arrays()
    packed = quire.pack(MODEL, TOKENS, keys, values, codec="raw-f16")
    part = slice(20, 120)
    out_keys, out_values = quire.unpack(packed.data, MODEL, 20, source_begin=20, n_tokens=100)
    np.testing.assert_array_equal(out_keys, keys[:, :, part])
    np.testing.assert_array_equal(out_values, values[:, :, part])

    mask = np.arange(N_TOKENS) % 3 != 0
    out_keys, out_values = quire.unpack(packed.data, MODEL, 0, row_mask=mask)
    np.testing.assert_array_equal(out_keys, np.where(mask[:, None], keys, 0))
    np.testing.assert_array_equal(out_values, np.where(mask[:, None], values, 0))

    cache = (
        np.full((N_LAYERS, N_HEADS, 500, KEY_DIMS), 7, np.float16),
        np.full((N_LAYERS, N_HEADS, VALUE_DIMS, 500), 7, np.float16).transpose(0, 1, 3, 2),
    )
    rows = np.random.default_rng(SEED).permutation(500)[:N_TOKENS]
    returned = quire.unpack(packed.data, MODEL, 0, out=cache, row_mask=mask, rows=rows)
    assert returned is cache
    untouched = np.setdiff1d(np.arange(500), rows[mask])
    for cached, source in zip(cache, (keys, values), strict=True):
        np.testing.assert_array_equal(cached[:, :, rows[mask]], source[:, :, mask])
        assert (cached[:, :, untouched] == 7).all()

    only_values = np.zeros((N_LAYERS, N_HEADS, 500, VALUE_DIMS), np.float32)
    quire.unpack(packed.data, MODEL, 0, out=(None, only_values), rows=200)
    np.testing.assert_array_equal(only_values[:, :, 200:], values)
    assert not only_values[:, :, :200].any()


VARIABLE_CODECS = [
    "bf16-exp4",
    "bf16-window3",
    "bf16-shuffle-lz4",
    "bf16-split-zstd",
    "int4-rans",
    "mixed-int8-int4",
    "mixed-int8-int2",
]


@pytest.mark.parametrize("codec", VARIABLE_CODECS)
def test_variable_sizes(codec: str) -> None:
    keys, values = arrays(np.float32)
    key_bits = (keys.view(np.uint32) >> 16).astype(np.uint16)
    value_bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    packed = quire.pack(MODEL, TOKENS, key_bits, value_bits, codec=codec, dtype="bf16")
    assert packed.data.ctypes.data % 64 == 0
    assert packed.data.base is None or packed.data.base.size <= packed.data.size + 64
    raw = quire.pack(MODEL, TOKENS, key_bits, value_bits, codec="raw-bf16", dtype="bf16")
    assert packed.data.size < raw.data.size
    out_keys, out_values = quire.unpack(packed.data, MODEL, 0, dtype="bf16")
    if codec.startswith("bf16"):
        np.testing.assert_array_equal(out_keys, key_bits)
        np.testing.assert_array_equal(out_values, value_bits)
    else:
        _, out_values = quire.unpack(packed.data, MODEL, 0, dtype=np.float32)
        assert np.abs(out_values - values).mean() < 0.5


@pytest.mark.parametrize("codec", ["mixed-int8-int4", "mixed-int8-int2"])
def test_salient_tokens(codec: str) -> None:
    keys, values = arrays(np.float32)
    none = quire.pack(MODEL, TOKENS, keys, values, codec=codec)
    salient = np.zeros(N_TOKENS, bool)
    salient[[0, 7, 200]] = True
    packed = quire.pack(MODEL, TOKENS, keys, values, codec=codec, salient=salient)
    assert packed.data.size > none.data.size
    _, out_values = quire.unpack(packed.data, MODEL, 0, dtype=np.float32)
    error = np.abs(out_values - values).mean(axis=(0, 1, 3))
    assert error[salient].max() < 0.3 * error[~salient].mean()
    with pytest.raises(ValueError, match="salient must have 300 values"):
        quire.pack(MODEL, TOKENS, keys, values, codec=codec, salient=[True])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("codec", ["raw-f16", "raw-f32", "int8-channel"])
@pytest.mark.parametrize("plane", [0, 1])
def test_non_finite_is_refused(bad: float, codec: str, plane: int) -> None:
    planes = arrays()
    planes[plane][1, 1, 257, 5] = bad
    with pytest.raises(quire.NonFinite):
        quire.pack(MODEL, TOKENS, *planes, codec=codec)


def test_corrupt_bytes_are_refused() -> None:
    data = quire.pack(MODEL, TOKENS, *arrays()).data
    random = np.random.default_rng(SEED)
    for position in [*range(0, 64, 7), *random.integers(0, data.size, 50)]:
        broken = data.copy()
        broken[position] ^= 16
        with pytest.raises(quire.QuireError):
            quire.unpack(broken, MODEL, 0)
    for size in (0, 8, 255, 4096, data.size - 1):
        with pytest.raises(quire.QuireError):
            quire.describe(data[:size])
    with pytest.raises(quire.InvalidArgument, match="aligned"):
        quire.describe(np.concatenate([data[:1], data])[1:])


def test_wrong_arguments_of_pack() -> None:
    keys, values = arrays()
    cases = [
        (keys[:, :, :-1], values, ValueError, r"keys\[0\] must be \[head\]\[token\]\[dim\]"),
        (keys, values[..., :-1], ValueError, r"values\[0\] must be"),
        (keys[:-1], values, ValueError, "keys has 2 layers, not 3"),
        (keys[0], values, ValueError, "3-dimensional"),
        (keys.astype(np.float64), values, TypeError, "float16, float32 or bfloat16"),
        (keys.astype(">f2"), values, TypeError, "native byte order"),
        (keys.tolist(), values, TypeError, "numpy array"),
    ]
    for bad_keys, bad_values, error, message in cases:
        with pytest.raises(error, match=message):
            quire.pack(MODEL, TOKENS, bad_keys, bad_values)
    raw = np.zeros(keys.nbytes + 1, np.uint8)
    with pytest.raises(ValueError, match="aligned"):
        quire.pack(MODEL, TOKENS, raw[1:].view(np.float16).reshape(keys.shape), values)
    for codec in ("int4", 99, 0, ""):
        with pytest.raises(quire.QuireError):
            quire.pack(MODEL, TOKENS, keys, values, codec=codec)
    with pytest.raises(ValueError, match="negative"):
        quire.pack(MODEL, TOKENS, keys, values, base_position=-1)
    with pytest.raises(quire.InvalidArgument, match="before rope"):
        quire.pack(MODEL, TOKENS, keys, values, key_before_rope=True)
    with pytest.raises(quire.QuireError):
        quire.pack(MODEL, [], keys[:, :, :0], values[:, :, :0])
    mixed = replace(MODEL, layers=(LAYER, replace(LAYER, kv_heads=1), LAYER))
    with pytest.raises(ValueError, match=r"keys\[1\] must be"):
        quire.pack(mixed, TOKENS, keys, values)


def test_wrong_arguments_of_unpack() -> None:
    keys, values = arrays()
    data = quire.pack(MODEL, TOKENS, keys, values).data
    with pytest.raises(quire.ModelMismatch):
        quire.unpack(data, replace(MODEL, weights=bytes([3] * 32)), 0)
    read_only = keys.copy()
    read_only.flags.writeable = False
    cases = [
        ({"dtype": np.int8}, TypeError, "float16"),
        ({"row_mask": [True]}, ValueError, "row_mask must have 300 values"),
        ({"source_begin": 300}, ValueError, "300 tokens"),
        ({"n_tokens": 301}, ValueError, "300 tokens"),
        ({"out": (read_only, values)}, ValueError, "read-only"),
        ({"out": (keys, values), "dtype": np.float32}, TypeError, "float16, not float32"),
        ({"out": (keys[:, :, :299], values)}, ValueError, "must be"),
        ({"out": (keys, values), "rows": 1}, ValueError, "do not fit"),
        ({"out": (keys, values), "rows": np.zeros(3, int)}, ValueError, "300 entries"),
    ]
    for options, error, message in cases:
        with pytest.raises(error, match=message):
            quire.unpack(data, MODEL, 0, **options)
    with pytest.raises(ValueError, match="negative"):
        quire.unpack(data, MODEL, -1)


def test_layers_of_different_shape() -> None:
    plain = replace(LAYER, key_dims=8, rope_style=quire.RopeStyle.NONE, inverse_frequencies=())
    model = replace(MODEL, layers=(LAYER, plain))
    keys, values = arrays()
    layers = [keys[0], keys[1][..., :8]]
    packed = quire.pack(model, TOKENS, layers, values[:2], codec="raw-f16")
    with pytest.raises(ValueError, match="keys differ in shape"):
        quire.unpack(packed.data, model, 0)
    out = [np.zeros_like(layer) for layer in layers]
    quire.unpack(packed.data, model, 0, out=(out, None))
    for found, wanted in zip(out, layers, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("codec", ["raw-f16", "int8-channel", "int4-rans"])
def test_layers_with_different_head_counts(codec: str) -> None:
    n_heads = (N_HEADS, 1, N_HEADS)
    model = replace(MODEL, layers=tuple(replace(LAYER, kv_heads=n) for n in n_heads))
    keys, values = arrays()
    own_keys = [plane[:n] for plane, n in zip(keys, n_heads, strict=True)]
    own_values = [plane[:n] for plane, n in zip(values, n_heads, strict=True)]
    data = quire.pack(model, TOKENS, own_keys, own_values, codec=codec).data
    assert quire.describe(data).heads == (0, N_HEADS)
    out = tuple([np.full_like(plane, 9) for plane in planes] for planes in (own_keys, own_values))
    quire.unpack(data, model, 0, out=out)
    # As a model whose layers all have that many heads gives them.
    whole = quire.pack(MODEL, TOKENS, keys, values, codec=codec).data
    wanted_keys, wanted_values = quire.unpack(whole, MODEL, 0)
    for layer, n in enumerate(n_heads):
        np.testing.assert_array_equal(out[0][layer], wanted_keys[layer][:n])
        np.testing.assert_array_equal(out[1][layer], wanted_values[layer][:n])


def test_partial_coverage() -> None:
    """Heads and layers that do not begin at 0, as a sharded engine stores them by the C ABI."""
    from quire import _abi
    from quire.kv import pack_arguments
    from quire.planes import kv_memory, layer_planes, plane_shapes

    keys, values = arrays()
    spec, _ = pack_arguments(
        MODEL, TOKENS, keys, values, "raw-f16", None, 0, quire.PositionFrame.LOCAL, False, b"", None
    )
    spec.coverage = _abi.Coverage(1, N_LAYERS, 1, N_HEADS)
    shapes = plane_shapes(MODEL.layers[1:], (0, N_HEADS), N_TOKENS)
    memory = kv_memory(
        layer_planes("keys", keys[1:], shapes[0], None, 0, out=False),
        layer_planes("values", values[1:], shapes[1], None, 0, out=False),
    )
    n_bytes = ctypes.c_uint64()
    assert _abi.lib.quire_pack(spec, None, None, 0, n_bytes, None) == 0
    data = np.empty(n_bytes.value, np.uint8)
    assert _abi.lib.quire_pack(spec, memory, data.ctypes.data, data.size, None, None) == 0
    assert quire.describe(data).heads == (1, N_HEADS)
    out_keys, out_values = quire.unpack(data, MODEL, 0)
    np.testing.assert_array_equal(out_keys, keys[1:, 1:])
    np.testing.assert_array_equal(out_values, values[1:, 1:])


def test_store_and_load(server: str) -> None:
    keys, values = arrays()
    with quire.connect(server) as client:
        assert client.register_model("kv-test", MODEL) == MODEL.id
        put = client.put_arrays(MODEL, TOKENS, keys, values, codec="raw-f16")
        assert put.stored
        assert not client.put_arrays(MODEL, TOKENS, keys, values, codec="raw-f16").stored
        packed = quire.pack(MODEL, TOKENS, keys, values, codec="raw-f16", salt=client.salt)
        assert packed.representation == put.representation
        with client.acquire(put.representation) as lease:
            np.testing.assert_array_equal(lease.data, packed.data)
            np.testing.assert_array_equal(lease.info.tokens, TOKENS)
            out_keys, out_values = lease.unpack(1234, dtype=np.float32)
            np.testing.assert_allclose(out_keys, rotated(keys, np.full(N_TOKENS, 1234)), rtol=0, atol=2e-6)
            np.testing.assert_array_equal(out_values, values)
        with pytest.raises(quire.StaleLease):
            lease.unpack(0)
        bad = keys.copy()
        bad[0, 0, 0, 0] = np.nan
        with pytest.raises(quire.NonFinite):
            client.put_arrays(MODEL, TOKENS, bad, values)
        assert client.put_arrays(MODEL, TOKENS, keys, values).stored  # the window was given back
    with quire.connect(server) as other, other.acquire(put.representation) as lease:
        with pytest.raises(quire.ModelMismatch, match="pass model="):
            lease.unpack(0)
        np.testing.assert_array_equal(lease.unpack(0, model=MODEL)[0], keys)


def test_example_of_the_readme(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from support import ROOT

    text = (ROOT / "client" / "python" / "README.md").read_text()
    monkeypatch.setenv("QUIRE_SOCKET", server)
    names: dict[str, object] = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    assert names["n_loaded"] == 64
