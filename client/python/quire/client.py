"""A session with a quired on this machine."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _abi
from .errors import FailedPrecondition, QuireError, check, error_of
from .gpu import GpuPool
from .ids import (
    Context,
    PositionFrame,
    Tokens,
    as_tokens,
    from_c_id,
    scope_id,
    to_c_id,
    tokens_pointer,
)
from .kv import Put, pack_arguments
from .lease import Ack, Handle, Lease, Window
from .models import Model, as_model
from .planes import Planes
from .reuse import Match, match_from_c

ReadableBuffer = bytes | bytearray | memoryview | NDArray[np.generic]


def _contiguous(data: ReadableBuffer) -> NDArray[np.uint8]:
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return np.frombuffer(data, dtype=np.uint8)


class Client:
    """A session; made by :func:`connect`. May be shared between threads."""

    def __init__(self, handle: int) -> None:
        self._handle = Handle(handle, _abi.lib.quire_close)
        self._scope = bytes(32)
        self._closed = False
        self._models: dict[bytes, Model] = {}

    @property
    def _c(self) -> int | None:
        if self._closed:
            raise FailedPrecondition("the client is closed")
        return self._handle.value

    def close(self) -> None:
        """Ends the session once its leases and windows are gone, too."""
        if not self._closed:
            self._closed = True
            self._handle.free()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _info(self) -> _abi.ClientInfo:
        info = _abi.ClientInfo(struct_bytes=ctypes.sizeof(_abi.ClientInfo))
        check(_abi.lib.quire_client_get_info(self._c, ctypes.byref(info)))
        return info

    @property
    def server_epoch(self) -> int:
        """Changes at every server start."""
        return int(self._info().server_epoch)

    @property
    def object_bytes_max(self) -> int:
        """The largest object the server takes."""
        return int(self._info().object_bytes_max)

    @property
    def salt(self) -> bytes:
        """This session's tenant salt, for the id functions."""
        info = self._info()
        return bytes(info.salt[: info.salt_bytes])

    def ping(self) -> None:
        """Raises unless the server answers."""
        check(_abi.lib.quire_ping(self._c))

    def register_model(self, name: str, model: Model | bytes) -> bytes:
        """Tells the server what a model looks like; returns the model id."""
        descriptor = model.encode() if isinstance(model, Model) else bytes(model)
        result = _abi.Id()
        check(
            _abi.lib.quire_register_model(
                self._c, name.encode(), descriptor, len(descriptor), ctypes.byref(result)
            )
        )
        self._models[from_c_id(result)] = as_model(model)
        return from_c_id(result)

    def resolve(
        self,
        model: bytes,
        tokens: Tokens,
        *,
        prefix: bool = True,
        chunks: bool = True,
        statistics: bool = False,
        recompute_us_per_token: float = 0.0,
    ) -> list[Match]:
        """What the store has for this prompt; never pins.

        statistics: also the statistics (codec 128) of the ranges found: see quire.statistics.
        """
        flags = (1 if prefix else 0) | (2 if chunks else 0)
        if flags == 0:
            return []
        flags |= 4 if statistics else 0
        array = as_tokens(tokens)
        matches = ctypes.POINTER(_abi.Match)()
        count = ctypes.c_size_t()
        check(
            _abi.lib.quire_resolve(
                self._c,
                to_c_id(model),
                tokens_pointer(array),
                array.size,
                flags,
                recompute_us_per_token,
                ctypes.byref(matches),
                ctypes.byref(count),
            )
        )
        try:
            return [match_from_c(match) for match in matches[: count.value]]
        finally:
            _abi.lib.quire_free(matches)

    def enter_scope(self, label: str) -> bytes:
        """The trust domain of what this session stores and finds from now on; returns its id.

        Synthetic, delta and decode variants stay in theirs: their contexts carry the id
        (``Context(scope=...)``). An empty label is the tenant's own scope, whose id is zero.
        """
        text, scope = label.encode(), _abi.Id()
        check(_abi.lib.quire_enter_scope(self._c, text, len(text), ctypes.byref(scope)))
        self._scope = from_c_id(scope)
        return self._scope

    @property
    def scope(self) -> bytes:
        """The id of this session's trust domain, see :meth:`enter_scope`."""
        return self._scope

    def feedback(
        self, representation: bytes, *, strike: bool = False, deviation: float | None = None
    ) -> bool:
        """What came of using a variant; False where it is not stored any more.

        strike: the reuse had to be thrown away; after three it is not found any more. deviation:
        relative, not negative.
        """
        use = _abi.Use(
            struct_bytes=ctypes.sizeof(_abi.Use),
            flags=(1 if strike else 0) | (0 if deviation is None else 2),
            representation=to_c_id(representation),
            deviation=0.0 if deviation is None else deviation,
        )
        applied = ctypes.c_uint32()
        check(_abi.lib.quire_feedback(self._c, ctypes.byref(use), 1, ctypes.byref(applied)))
        return applied.value == 1

    def acquire(self, representation: bytes) -> Lease:
        """Pins one object. Raises NotFound on a miss."""
        handle = ctypes.c_void_p()
        check(
            _abi.lib.quire_acquire(
                self._c, to_c_id(representation), ctypes.byref(handle), None, None
            )
        )
        assert handle.value is not None
        return Lease(handle.value, self._models)

    def acquire_many(self, representations: Sequence[bytes]) -> list[Lease | QuireError]:
        """Pins many objects by one request; each is a Lease or its own error."""
        n = len(representations)
        ids = (_abi.Id * n)(*map(to_c_id, representations))
        handles = (ctypes.c_void_p * n)()
        statuses = (ctypes.c_uint32 * n)()
        check(_abi.lib.quire_acquire_many(self._c, ids, n, handles, statuses))
        return [
            Lease(handle, self._models) if handle else error_of(status, "no lease for this id")
            for handle, status in zip(handles, statuses, strict=True)
        ]

    def gpu_pool(self, driver: str = "cuda") -> GpuPool:
        """Imports the server's GPU pool into this process.

        Raises Unavailable without a CUDA driver, device or pool, Unsupported where the server has
        no GPU tier. driver="fake": host memory that poses as a GPU, for tests.
        """
        return GpuPool(self._c, driver)

    def reserve(self, representation: bytes, n_bytes: int) -> Window:
        """A window to write an object into. Raises AlreadyExists where it is stored."""
        handle, address = ctypes.c_void_p(), ctypes.c_void_p()
        check(
            _abi.lib.quire_reserve(
                self._c,
                to_c_id(representation),
                n_bytes,
                ctypes.byref(handle),
                ctypes.byref(address),
            )
        )
        assert handle.value is not None and address.value is not None
        return Window(handle.value, address.value, n_bytes)

    def put(self, representation: bytes, data: ReadableBuffer, ack: Ack = Ack.MEMORY) -> None:
        """Stores an object; fine where it is stored already."""
        array = _contiguous(data)
        check(
            _abi.lib.quire_put(self._c, to_c_id(representation), array.ctypes.data, array.size, ack)
        )

    def put_arrays(
        self,
        model: Model | bytes,
        tokens: Tokens,
        keys: Planes,
        values: Planes,
        *,
        codec: str | int = "int8-channel",
        context: Context | None = None,
        base_position: int = 0,
        frame: PositionFrame = PositionFrame.LOCAL,
        key_before_rope: bool = False,
        dtype: DTypeLike | None = None,
        ack: Ack = Ack.MEMORY,
        pin_ms: int = 0,
        salient: ArrayLike | None = None,
    ) -> Put:
        """Encodes KV straight into the server's memory and commits it: see quire.pack().

        Waits while the server is busy, with bounded retries. The model must be registered.
        """
        spec, memory = pack_arguments(
            model,
            tokens,
            keys,
            values,
            codec,
            context,
            base_position,
            frame,
            key_before_rope,
            b"",
            dtype,
            salient,
        )
        representation, stored = _abi.Id(), ctypes.c_uint32()
        check(
            _abi.lib.quire_pack_put(
                self._c,
                ctypes.byref(spec),
                ctypes.byref(memory),
                ack,
                pin_ms,
                ctypes.byref(representation),
                ctypes.byref(stored),
            )
        )
        return Put(from_c_id(representation), bool(stored.value))


def connect(
    socket_path: str | None = None,
    *,
    tenant: str | None = None,
    scope: str | None = None,
    client_name: str = "quire-python",
    timeout_ms: int = 10_000,
    staging_bytes: int = 0,
) -> Client:
    """Connects to quired; without a path to $QUIRE_SOCKET or the user's own server.

    scope: the session begins in it, see Client.enter_scope().
    """
    options = _abi.ConnectOptions(
        struct_bytes=ctypes.sizeof(_abi.ConnectOptions),
        timeout_ms=timeout_ms,
        socket_path=None if socket_path is None else socket_path.encode(),
        client_name=client_name.encode(),
        tenant=None if tenant is None else tenant.encode(),
        staging_bytes=staging_bytes,
        scope=None if scope is None else scope.encode(),
    )
    handle = ctypes.c_void_p()
    check(_abi.lib.quire_connect(ctypes.byref(options), ctypes.byref(handle)))
    assert handle.value is not None
    client = Client(handle.value)
    if scope:
        client._scope = scope_id(client.salt, scope)
    return client
