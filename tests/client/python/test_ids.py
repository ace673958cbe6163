"""libquire's ids against the vectors and against hashlib."""

import json
import random
from pathlib import Path

import ids_reference as reference
import numpy as np
import pytest
import quire
from quire import ids

VECTORS = json.loads((Path(__file__).resolve().parents[2] / "data" / "ids_vectors.json").read_text())


def context_of(source: dict) -> quire.Context:
    return quire.Context(
        kind=quire.ContextKind[source["kind"].upper()],
        phase=quire.Phase(source["phase"]),
        reference=bytes.fromhex(source.get("reference", "00" * 32)),
        dummy_tokens=tuple(source.get("dummy_tokens", ())),
        dropped_tokens=source.get("dropped_tokens", 0),
        neighbours=tuple(map(bytes.fromhex, source.get("neighbours", ()))),
        scope=bytes.fromhex(source.get("scope", "00" * 32)),
    )


def test_vectors_are_what_the_reference_computes() -> None:
    assert reference.vectors() == VECTORS


def test_models() -> None:
    for case in VECTORS["models"]:
        assert ids.model_id(bytes.fromhex(case["descriptor"])).hex() == case["model_id"]


def test_objects_and_prefixes() -> None:
    for case in VECTORS["tokens"]:
        arguments = bytes.fromhex(case["model"]), case["tokens"], bytes.fromhex(case["salt"])
        assert ids.object_id(*arguments).hex() == case["object_id"]
        assert ids.prefix_digest(*arguments).hex() == case["prefix_digest"]


def test_every_context_kind() -> None:
    assert {case["context"]["kind"] for case in VECTORS["contexts"]} == set(reference.KINDS)
    for case in VECTORS["contexts"]:
        object_ = bytes.fromhex(case["object"])
        assert ids.variant_id(object_, context_of(case["context"])).hex() == case["variant_id"]


def test_scopes() -> None:
    for case in VECTORS["scopes"]:
        arguments = bytes.fromhex(case["salt"]), bytes.fromhex(case["label"])
        assert ids.scope_id(*arguments).hex() == case["scope_id"]
    assert ids.scope_id(b"", "a") == ids.scope_id(b"", b"a")
    with pytest.raises(quire.InvalidArgument, match="64"):
        ids.scope_id(b"", "x" * 65)
    isolated = quire.Context(scope=b"\x01" * 32)
    with pytest.raises(quire.InvalidArgument, match="scope"):
        ids.variant_id(bytes(32), isolated)


def test_representations() -> None:
    for case in VECTORS["representations"]:
        found = ids.representation_id(
            bytes.fromhex(case["variant"]),
            case["codec"],
            quire.PositionFrame(case["frame"]),
            tuple(case["coverage"][:2]),
            tuple(case["coverage"][2:]),
        )
        assert found.hex() == case["representation_id"]


def test_random_tokens_and_salts() -> None:
    seed = 99
    source = random.Random(seed)
    for _ in range(200):
        model = source.randbytes(32)
        salt = source.randbytes(source.choice([0, 16, 33, 64]))
        tokens = [source.getrandbits(32) for _ in range(source.randrange(50))]
        array = np.array(tokens, dtype=np.uint32)
        assert ids.object_id(model, array, salt) == reference.object_id(model, tokens, salt), seed
        assert ids.prefix_digest(model, tokens, salt) == reference.prefix_digest(model, tokens, salt)


def test_bad_input_is_refused() -> None:
    model = bytes(32)
    with pytest.raises(ValueError):
        ids.object_id(b"short", [1])
    with pytest.raises(ValueError):
        ids.object_id(model, [-1])
    with pytest.raises(ValueError):
        ids.object_id(model, [2**32])
    with pytest.raises(TypeError):
        ids.object_id(model, np.array([1.5]))
    with pytest.raises(quire.InvalidArgument, match="16 to 64"):
        ids.object_id(model, [1], b"short salt")
    with pytest.raises(quire.InvalidArgument) as caught:
        ids.model_id(b"nonsense")
    assert caught.value.name == "INVALID_ARGUMENT"
    with pytest.raises(quire.ResourceExhausted):
        ids.variant_id(
            model, quire.Context(kind=quire.ContextKind.DUMMY_SINK, dummy_tokens=tuple(range(2000)))
        )
