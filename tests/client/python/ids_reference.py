"""The rules of docs/formats/ids.md by hashlib alone: the independent side of the test vectors.

Run as a program it prints tests/data/ids_vectors.json.
"""

import hashlib
import hmac
import json
import struct
import sys


def keyed(salt: bytes, data: bytes) -> bytes:
    """HMAC-SHA-256 where there is a salt, else SHA-256."""
    return hmac.new(salt, data, hashlib.sha256).digest() if salt else hashlib.sha256(data).digest()


def pack_tokens(tokens: list[int]) -> bytes:
    return struct.pack(f"<{len(tokens)}I", *tokens)


def descriptor(model: dict) -> bytes:
    out = bytes.fromhex(model["weights"] + model["tokenizer"] + model["lora"])
    out += struct.pack("<I", len(model["layers"]))
    for layer in model["layers"]:
        frequencies = layer["inverse_frequencies"]
        out += struct.pack(
            "<BBBB5IfI",
            layer["attention"],
            layer["rope_style"],
            1 if layer["length_dependent"] else 0,
            0,
            layer["window_tokens"],
            layer["kv_heads"],
            layer["key_dims"],
            layer["value_dims"],
            layer["rotary_dims"],
            layer["attention_factor"],
            len(frequencies),
        )
        out += struct.pack(f"<{len(frequencies)}f", *frequencies)
    return out


def model_id(model: dict) -> bytes:
    return hashlib.sha256(b"quire.model.v1\0" + descriptor(model)).digest()


def object_id(model: bytes, tokens: list[int], salt: bytes) -> bytes:
    return keyed(salt, b"quire.object.v1\0" + model + pack_tokens(tokens))


def prefix_digest(model: bytes, tokens: list[int], salt: bytes) -> bytes:
    return keyed(salt, b"quire.prefix.v1\0" + model + pack_tokens(tokens))


def scope_id(salt: bytes, label: bytes) -> bytes:
    return keyed(salt, b"quire.scope.v1\0" + label) if label else bytes(32)


KINDS = ["isolated", "fixed_prefix", "dummy_sink", "contextual", "synthetic", "delta_of"]


def encode_context(context: dict) -> bytes:
    kind = KINDS.index(context["kind"])
    out = b""
    if "scope" in context:
        out = struct.pack("<BB", 6, context["phase"]) + bytes.fromhex(context["scope"])
    out += struct.pack("<BB", kind, context["phase"])
    if context["kind"] in ("fixed_prefix", "contextual", "delta_of"):
        out += bytes.fromhex(context["reference"])
    elif context["kind"] == "dummy_sink":
        tokens = context["dummy_tokens"]
        out += struct.pack("<I", len(tokens)) + pack_tokens(tokens)
        out += struct.pack("<I", context["dropped_tokens"])
    elif context["kind"] == "synthetic":
        out += struct.pack("<I", len(context["neighbours"]))
        out += b"".join(bytes.fromhex(neighbour) for neighbour in context["neighbours"])
    return out


def variant_id(object_: bytes, context: dict) -> bytes:
    return hashlib.sha256(b"quire.variant.v1\0" + object_ + encode_context(context)).digest()


def representation_id(variant: bytes, codec: int, frame: int, coverage: list[int]) -> bytes:
    tail = struct.pack("<HB4I", codec, frame, *coverage)
    return hashlib.sha256(b"quire.repr.v1\0" + variant + tail).digest()


def _layer(**changes: object) -> dict:
    layer = {
        "attention": 0,
        "rope_style": 1,
        "length_dependent": False,
        "window_tokens": 0,
        "kv_heads": 2,
        "key_dims": 4,
        "value_dims": 4,
        "rotary_dims": 4,
        "attention_factor": 1.0,
        "inverse_frequencies": [1.0, 0.125],
    }
    return {**layer, **changes}


def _inputs() -> dict:
    model = "01" * 32
    salt = bytes(range(16)).hex()
    long_salt = bytes(range(64)).hex()
    variant = "ab" * 32
    plain = {
        "weights": "11" * 32,
        "tokenizer": "22" * 32,
        "lora": "00" * 32,
        "layers": [_layer()],
    }
    window = _layer(attention=1, window_tokens=512, inverse_frequencies=[0.5, 0.0009765625])
    interleaved = _layer(rope_style=2, key_dims=8, value_dims=6, attention_factor=1.25)
    dynamic = _layer(length_dependent=True)
    no_rope = _layer(rope_style=0, rotary_dims=0, inverse_frequencies=[])
    no_kv = _layer(
        attention=3,
        rope_style=0,
        rotary_dims=0,
        inverse_frequencies=[],
        kv_heads=0,
        key_dims=0,
        value_dims=0,
    )
    mixed = {**plain, "lora": "33" * 32}
    mixed["layers"] = [_layer(), window, interleaved, dynamic, no_rope, no_kv]
    many = [(i * 2654435761) % 151936 for i in range(300)]
    tokens = [[], [1, 2, 3], [0, 4294967295], many]
    contexts = [
        {"kind": "isolated", "phase": 0},
        {"kind": "isolated", "phase": 1},
        {"kind": "fixed_prefix", "phase": 0, "reference": "cd" * 32},
        {"kind": "dummy_sink", "phase": 0, "dummy_tokens": [5, 5, 5, 5], "dropped_tokens": 4},
        {"kind": "dummy_sink", "phase": 0, "dummy_tokens": [], "dropped_tokens": 0},
        {"kind": "contextual", "phase": 0, "reference": "cd" * 32},
        {"kind": "contextual", "phase": 1, "reference": "ef" * 32},
        {"kind": "synthetic", "phase": 0, "neighbours": ["12" * 32, "34" * 32]},
        {"kind": "synthetic", "phase": 0, "neighbours": []},
        {"kind": "delta_of", "phase": 0, "reference": variant},
        {"kind": "synthetic", "phase": 0, "neighbours": ["12" * 32], "scope": "5c" * 32},
        {"kind": "delta_of", "phase": 0, "reference": variant, "scope": "5c" * 32},
        {"kind": "isolated", "phase": 1, "scope": "5d" * 32},
        {"kind": "contextual", "phase": 1, "reference": "ef" * 32, "scope": "5d" * 32},
    ]
    return {
        "models": [plain, mixed],
        "tokens": [
            {"model": model, "salt": key, "tokens": run} for key in ("", salt, long_salt) for run in tokens
        ],
        "contexts": [{"object": "77" * 32, "context": context} for context in contexts],
        "scopes": [
            {"salt": key, "label": label.encode().hex()}
            for key in ("", salt, long_salt)
            for label in ("", "a", "agents/bob", "\u00fc" * 32)
        ],
        "representations": [
            {"variant": variant, "codec": codec, "frame": frame, "coverage": coverage}
            for codec, frame, coverage in (
                (1, 1, [0, 2, 0, 4]),
                (1, 0, [0, 2, 0, 4]),
                (16, 1, [0, 24, 0, 2]),
                (16, 1, [3, 4, 1, 2]),
                (65535, 0, [0, 1024, 0, 1024]),
            )
        ],
    }


def vectors() -> dict:
    """The inputs with every answer filled in."""
    result = _inputs()
    for index, model in enumerate(result["models"]):
        result["models"][index] = {
            "model": model,
            "descriptor": descriptor(model).hex(),
            "model_id": model_id(model).hex(),
        }
    for case in result["tokens"]:
        arguments = bytes.fromhex(case["model"]), case["tokens"], bytes.fromhex(case["salt"])
        case["object_id"] = object_id(*arguments).hex()
        case["prefix_digest"] = prefix_digest(*arguments).hex()
    for case in result["contexts"]:
        case["encoded"] = encode_context(case["context"]).hex()
        case["variant_id"] = variant_id(bytes.fromhex(case["object"]), case["context"]).hex()
    for case in result["scopes"]:
        arguments = bytes.fromhex(case["salt"]), bytes.fromhex(case["label"])
        case["scope_id"] = scope_id(*arguments).hex()
    for case in result["representations"]:
        case["representation_id"] = representation_id(
            bytes.fromhex(case["variant"]), case["codec"], case["frame"], case["coverage"]
        ).hex()
    return result


if __name__ == "__main__":
    json.dump(vectors(), sys.stdout, indent=1)
    print()
