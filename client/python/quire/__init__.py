"""Quire: a store for KV caches of LLM inference, reused at any position of later prompts."""

from . import ids
from ._abi import lib as _lib
from .client import Client, connect
from .errors import (
    AlreadyExists,
    Busy,
    Cancelled,
    Corrupt,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    IoError,
    ModelMismatch,
    NonFinite,
    NoSpace,
    NotFound,
    PermissionDenied,
    QuireError,
    ResourceExhausted,
    StaleLease,
    Unavailable,
    Unsupported,
    VersionMismatch,
)
from .gpu import GpuLease, GpuPool, Section
from .ids import Context, ContextKind, Phase, PositionFrame
from .kv import Info, Packed, Put, describe, pack, unpack
from .lease import Ack, Lease, Window
from .models import AttentionKind, Layer, Model, RopeStyle, rope_frequencies
from .reuse import (
    DEFAULT_POLICY,
    Match,
    MatchKind,
    Segment,
    SegmentKind,
    Tier,
    plan,
    select_rows,
)

__version__: str = _lib.quire_version().decode()

__all__ = [
    "DEFAULT_POLICY",
    "Ack",
    "AlreadyExists",
    "AttentionKind",
    "Busy",
    "Cancelled",
    "Client",
    "Context",
    "ContextKind",
    "Corrupt",
    "DeadlineExceeded",
    "FailedPrecondition",
    "GpuLease",
    "GpuPool",
    "Info",
    "Internal",
    "InvalidArgument",
    "IoError",
    "Layer",
    "Lease",
    "Match",
    "MatchKind",
    "Model",
    "ModelMismatch",
    "NoSpace",
    "NonFinite",
    "NotFound",
    "Packed",
    "PermissionDenied",
    "Phase",
    "PositionFrame",
    "Put",
    "QuireError",
    "ResourceExhausted",
    "RopeStyle",
    "Section",
    "Segment",
    "SegmentKind",
    "StaleLease",
    "Tier",
    "Unavailable",
    "Unsupported",
    "VersionMismatch",
    "Window",
    "connect",
    "describe",
    "ids",
    "pack",
    "plan",
    "rope_frequencies",
    "select_rows",
    "unpack",
]
