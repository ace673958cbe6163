"""libquire.so by ctypes: structs and prototypes of client/capi/*.h, nothing more."""

from __future__ import annotations

import ctypes
import os
from ctypes import (
    POINTER,
    c_char_p,
    c_float,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import TypeVar

ABI_VERSION = 1


class Id(ctypes.Structure):
    _fields_ = [("bytes", c_uint8 * 32)]


class Context(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("kind", c_uint32),
        ("phase", c_uint32),
        ("dropped_tokens", c_uint32),
        ("reference", Id),
        ("dummy_tokens", POINTER(c_uint32)),
        ("n_dummy_tokens", c_size_t),
        ("neighbours", POINTER(Id)),
        ("n_neighbours", c_size_t),
        ("scope", Id),
    ]


class Coverage(ctypes.Structure):
    _fields_ = [
        ("layer_begin", c_uint32),
        ("layer_end", c_uint32),
        ("head_begin", c_uint32),
        ("head_end", c_uint32),
    ]


class ConnectOptions(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("timeout_ms", c_uint32),
        ("socket_path", c_char_p),
        ("client_name", c_char_p),
        ("tenant", c_char_p),
        ("staging_bytes", c_uint64),
        ("scope", c_char_p),
    ]


class ClientInfo(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("salt_bytes", c_uint32),
        ("server_epoch", c_uint64),
        ("object_bytes_max", c_uint64),
        ("salt", c_uint8 * 64),
    ]


class Match(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("kind", c_uint32),
        ("token_begin", c_uint32),
        ("n_tokens", c_uint32),
        ("representation", Id),
        ("variant", Id),
        ("context_reference", Id),
        ("context_kind", c_uint32),
        ("phase", c_uint32),
        ("codec", c_uint32),
        ("frame", c_uint32),
        ("base_position", c_uint64),
        ("bytes", c_uint64),
        ("tier", c_uint32),
        ("load_us", c_uint32),
        ("recompute_us", c_uint32),
        ("strikes", c_uint32),
        ("deviation", c_float),
        ("hits", c_uint32),
    ]


class Use(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("flags", c_uint32),
        ("representation", Id),
        ("deviation", c_float),
        ("reserved0", c_uint32),
    ]


class StatisticsSpec(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("reserved0", c_uint32),
        ("model", c_char_p),
        ("model_bytes", c_size_t),
        ("tokens", POINTER(c_uint32)),
        ("n_tokens", c_size_t),
        ("context", POINTER(Context)),
        ("salt", c_char_p),
        ("salt_bytes", c_size_t),
    ]


class Segment(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("kind", c_uint32),
        ("token_begin", c_uint32),
        ("n_tokens", c_uint32),
        ("source_begin", c_uint32),
        ("match_index", c_int32),
        ("exact", c_uint32),
    ]


class QuestionPass(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("layers_run", c_uint32),
        ("n_layers", c_uint32),
        ("reserved0", c_uint32),
        ("column_mass", POINTER(c_float)),
    ]


class PlanOptions(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("fresh_tail_tokens", c_uint32),
        ("policy", c_char_p),
        ("fixed_prefixes", POINTER(Id)),
        ("n_fixed_prefixes", c_size_t),
        ("keep_slow", c_uint32),
        ("reserved0", c_uint32),
        ("tokens", POINTER(c_uint32)),
        ("model", POINTER(Id)),
        ("salt", c_char_p),
        ("salt_bytes", c_size_t),
        ("scope", POINTER(Id)),
    ]


class KvPlane(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("element", c_uint32),
        ("data", c_void_p),
        ("n_rows", c_int64),
        ("token_stride", c_int64),
        ("head_stride", c_int64),
        ("dim_stride", c_int64),
    ]


class KvMemory(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("angles", c_uint32),
        ("planes", POINTER(KvPlane)),
        ("n_planes", c_size_t),
        ("rows", POINTER(c_int64)),
        ("n_rows", c_size_t),
        ("first_row", c_int64),
        ("engine_ropes", c_void_p),
        ("n_engine_ropes", c_size_t),
    ]


class PackSpec(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("codec", c_uint32),
        ("codec_name", c_char_p),
        ("model", c_char_p),
        ("model_bytes", c_size_t),
        ("tokens", POINTER(c_uint32)),
        ("n_tokens", c_size_t),
        ("context", POINTER(Context)),
        ("base_position", c_uint64),
        ("frame", c_uint32),
        ("key_before_rope", c_uint32),
        ("coverage", Coverage),
        ("salt", c_char_p),
        ("salt_bytes", c_size_t),
        ("salient", POINTER(c_uint8)),
        ("n_salient", c_size_t),
    ]


class RepresentationInfo(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("codec", c_uint32),
        ("frame", c_uint32),
        ("n_tokens", c_uint32),
        ("base_position", c_uint64),
        ("coverage", Coverage),
        ("model", Id),
        ("object", Id),
        ("variant", Id),
        ("representation", Id),
        ("tokens_offset", c_uint64),
        ("context_kind", c_uint32),
        ("phase", c_uint32),
    ]


class UnpackOptions(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("source_begin", c_uint32),
        ("n_tokens", c_uint32),
        ("skip_verify", c_uint32),
        ("model", c_char_p),
        ("model_bytes", c_size_t),
        ("position", c_int64),
        ("row_mask", POINTER(c_uint8)),
        ("n_row_mask", c_size_t),
    ]


class GpuOptions(ctypes.Structure):
    _fields_ = [("struct_bytes", c_uint32), ("reserved0", c_uint32), ("driver", c_char_p)]


class GpuPoolInfo(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("read_only", c_uint32),
        ("capacity_bytes", c_uint64),
        ("mapped_bytes", c_uint64),
    ]


class GpuLeaseInfo(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("on_device", c_uint32),
        ("device_pointer", c_uint64),
        ("data", c_void_p),
        ("bytes", c_uint64),
        ("generation", c_uint64),
    ]


class GpuSection(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("layer", c_uint32),
        ("plane", c_uint32),
        ("reserved0", c_uint32),
        ("offset", c_uint64),
        ("bytes", c_uint64),
    ]


_TOKENS = POINTER(c_uint32)
_IN_ID = POINTER(Id)
_STATUS = c_uint32

# name: (result, arguments)
_PROTOTYPES: dict[str, tuple[object, list[object]]] = {
    "quire_abi_version": (c_uint32, []),
    "quire_version": (c_char_p, []),
    "quire_status_name": (c_char_p, [_STATUS]),
    "quire_last_error": (c_char_p, []),
    "quire_last_retry_after_ms": (c_uint32, []),
    "quire_free": (None, [c_void_p]),
    "quire_model_id": (_STATUS, [c_char_p, c_size_t, _IN_ID]),
    "quire_object_id": (_STATUS, [_IN_ID, _TOKENS, c_size_t, c_char_p, c_size_t, _IN_ID]),
    "quire_prefix_digest": (_STATUS, [_IN_ID, _TOKENS, c_size_t, c_char_p, c_size_t, _IN_ID]),
    "quire_variant_id": (_STATUS, [_IN_ID, POINTER(Context), _IN_ID]),
    "quire_representation_id": (
        _STATUS,
        [_IN_ID, ctypes.c_uint16, c_uint8, POINTER(Coverage), _IN_ID],
    ),
    "quire_scope_id": (_STATUS, [c_char_p, c_size_t, c_char_p, c_size_t, _IN_ID]),
    "quire_connect": (_STATUS, [POINTER(ConnectOptions), POINTER(c_void_p)]),
    "quire_close": (None, [c_void_p]),
    "quire_ping": (_STATUS, [c_void_p]),
    "quire_client_get_info": (_STATUS, [c_void_p, POINTER(ClientInfo)]),
    "quire_register_model": (_STATUS, [c_void_p, c_char_p, c_char_p, c_size_t, _IN_ID]),
    "quire_resolve": (
        _STATUS,
        [
            c_void_p,
            _IN_ID,
            _TOKENS,
            c_size_t,
            c_uint32,
            c_float,
            POINTER(POINTER(Match)),
            POINTER(c_size_t),
        ],
    ),
    "quire_acquire": (
        _STATUS,
        [c_void_p, _IN_ID, POINTER(c_void_p), POINTER(c_void_p), POINTER(c_uint64)],
    ),
    "quire_acquire_many": (
        _STATUS,
        [c_void_p, _IN_ID, c_size_t, POINTER(c_void_p), POINTER(_STATUS)],
    ),
    "quire_lease_data": (c_void_p, [c_void_p]),
    "quire_lease_bytes": (c_uint64, [c_void_p]),
    "quire_lease_check": (_STATUS, [c_void_p]),
    "quire_lease_renew": (_STATUS, [c_void_p, c_uint32]),
    "quire_lease_release": (None, [c_void_p]),
    "quire_lease_free": (None, [c_void_p]),
    "quire_reserve": (
        _STATUS,
        [c_void_p, _IN_ID, c_uint64, POINTER(c_void_p), POINTER(c_void_p)],
    ),
    "quire_window_commit": (_STATUS, [c_void_p, c_uint32, c_uint32]),
    "quire_window_abort": (None, [c_void_p]),
    "quire_window_free": (None, [c_void_p]),
    "quire_put": (_STATUS, [c_void_p, _IN_ID, c_void_p, c_uint64, c_uint32]),
    "quire_enter_scope": (_STATUS, [c_void_p, c_char_p, c_size_t, _IN_ID]),
    "quire_feedback": (_STATUS, [c_void_p, POINTER(Use), c_size_t, POINTER(c_uint32)]),
    "quire_statistics_check": (_STATUS, [c_char_p, c_uint64]),
    "quire_statistics_pack": (
        _STATUS,
        [
            POINTER(StatisticsSpec),
            c_char_p,
            c_uint64,
            c_void_p,
            c_uint64,
            POINTER(c_uint64),
            _IN_ID,
        ],
    ),
    "quire_statistics_unpack": (
        _STATUS,
        [c_void_p, c_uint64, POINTER(c_uint64), POINTER(c_uint64)],
    ),
    "quire_plan": (
        _STATUS,
        [
            c_uint32,
            POINTER(Match),
            c_size_t,
            POINTER(PlanOptions),
            POINTER(POINTER(Segment)),
            POINTER(c_size_t),
        ],
    ),
    "quire_select_rows": (
        _STATUS,
        [
            c_char_p,
            c_uint32,
            POINTER(Segment),
            c_size_t,
            POINTER(c_float),
            POINTER(_TOKENS),
            POINTER(c_size_t),
        ],
    ),
    "quire_select_rows_after": (
        _STATUS,
        [
            c_char_p,
            c_uint32,
            POINTER(Segment),
            c_size_t,
            POINTER(QuestionPass),
            POINTER(_TOKENS),
            POINTER(c_size_t),
        ],
    ),
    "quire_question_layers": (
        _STATUS,
        [
            c_char_p,
            c_uint32,
            POINTER(Segment),
            c_size_t,
            c_uint32,
            _TOKENS,
            c_size_t,
            _TOKENS,
        ],
    ),
    "quire_pack": (
        _STATUS,
        [
            POINTER(PackSpec),
            POINTER(KvMemory),
            c_void_p,
            c_uint64,
            POINTER(c_uint64),
            _IN_ID,
        ],
    ),
    "quire_pack_put": (
        _STATUS,
        [
            c_void_p,
            POINTER(PackSpec),
            POINTER(KvMemory),
            c_uint32,
            c_uint32,
            _IN_ID,
            POINTER(c_uint32),
        ],
    ),
    "quire_describe": (_STATUS, [c_void_p, c_uint64, POINTER(RepresentationInfo)]),
    "quire_unpack": (
        _STATUS,
        [c_void_p, c_uint64, POINTER(UnpackOptions), POINTER(KvMemory)],
    ),
    "quire_gpu_pool_open": (_STATUS, [c_void_p, POINTER(GpuOptions), POINTER(c_void_p)]),
    "quire_gpu_pool_free": (None, [c_void_p]),
    "quire_gpu_pool_get_info": (_STATUS, [c_void_p, POINTER(GpuPoolInfo)]),
    "quire_gpu_acquire": (_STATUS, [c_void_p, _IN_ID, POINTER(c_void_p)]),
    "quire_gpu_acquire_many": (
        _STATUS,
        [c_void_p, _IN_ID, c_size_t, POINTER(c_void_p), POINTER(_STATUS)],
    ),
    "quire_gpu_lease_get_info": (_STATUS, [c_void_p, POINTER(GpuLeaseInfo)]),
    "quire_gpu_lease_describe": (
        _STATUS,
        [
            c_void_p,
            POINTER(RepresentationInfo),
            POINTER(POINTER(GpuSection)),
            POINTER(c_size_t),
            POINTER(_TOKENS),
        ],
    ),
    "quire_gpu_lease_check": (_STATUS, [c_void_p]),
    "quire_gpu_lease_renew": (_STATUS, [c_void_p, c_uint32]),
    "quire_gpu_lease_release": (None, [c_void_p]),
    "quire_gpu_lease_free": (None, [c_void_p]),
}


# Functions that libraries of this ABI_VERSION have not had from the first on.
_ADDED = frozenset({"quire_select_rows_after", "quire_question_layers"})


def _load() -> ctypes.CDLL:
    # QUIRE_LIBRARY serves tests from a build tree; a wheel carries the library beside this file.
    path = os.environ.get("QUIRE_LIBRARY") or str(Path(__file__).with_name("libquire.so"))
    library = ctypes.CDLL(path)
    for name, (result, arguments) in _PROTOTYPES.items():
        # A library of the same version may be older than a function, and serves without it.
        if name in _ADDED and not hasattr(library, name):
            continue
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    found = library.quire_abi_version()
    if found != ABI_VERSION:
        raise ImportError(f"{path} has ABI version {found}, this package needs {ABI_VERSION}")
    return library


_Struct = TypeVar("_Struct", bound=ctypes.Structure)


def elements(first: ctypes._Pointer[_Struct], count: int) -> list[_Struct]:
    """Copies of the structs of an array that the library made; their size is what it says."""
    if not count:
        return []
    kind: type[_Struct] = first._type_
    address = ctypes.addressof(first.contents)
    stride = ctypes.c_uint32.from_address(address).value
    found = []
    for i in range(count):
        element = kind()
        ctypes.memmove(
            ctypes.byref(element), address + i * stride, min(stride, ctypes.sizeof(kind))
        )
        found.append(element)
    return found


lib = _load()
