"""A session with a quired on this machine."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from enum import IntEnum
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from . import _abi
from .errors import FailedPrecondition, QuireError, StaleLease, check, error_of
from .ids import Tokens, as_tokens, from_c_id, to_c_id, tokens_pointer
from .reuse import Match, match_from_c

ReadableBuffer = bytes | bytearray | memoryview | NDArray[np.generic]


class Ack(IntEnum):
    """When a put counts as done."""

    MEMORY = 0
    DURABLE = 1


class _Handle:
    """Owns one handle of the C ABI; freed when the last Python object that needs it is gone."""

    def __init__(self, value: int | None, free: Callable[[int | None], object]) -> None:
        self.value = value
        self._finalizer = weakref.finalize(self, free, value)

    def free(self) -> None:
        self._finalizer()


def _view(handle: _Handle, address: int, n_bytes: int, *, writable: bool) -> NDArray[np.uint8]:
    """Memory of a handle as an array that keeps the handle alive."""
    memory = (ctypes.c_uint8 * n_bytes).from_address(address)
    memory._quire_handle = handle  # type: ignore[attr-defined]
    view = memoryview(memory).cast("B")
    return np.frombuffer(view if writable else view.toreadonly(), dtype=np.uint8)


def _contiguous(data: ReadableBuffer) -> NDArray[np.uint8]:
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return np.frombuffer(data, dtype=np.uint8)


class Lease:
    """A pinned, read-only object in the server's memory, without a copy.

    Use it in a ``with`` block. Views of ``data`` stay readable after release, but their content is
    promised only until then: call ``check()`` after a long read.
    """

    def __init__(self, handle: int) -> None:
        self._handle = _Handle(handle, _abi.lib.quire_lease_free)
        self._released = False
        self._data = _view(
            self._handle,
            _abi.lib.quire_lease_data(handle),
            _abi.lib.quire_lease_bytes(handle),
            writable=False,
        )

    @property
    def data(self) -> NDArray[np.uint8]:
        """The representation's bytes."""
        if self._released:
            raise StaleLease("the lease was released")
        return self._data

    def check(self) -> None:
        """Raises StaleLease or Unavailable where the bytes may have changed."""
        check(_abi.lib.quire_lease_check(self._handle.value))

    def renew(self, lease_ms: int) -> None:
        """Asks for more time."""
        check(_abi.lib.quire_lease_renew(self._handle.value, lease_ms))

    def release(self) -> None:
        """Gives the pin back; harmless when repeated."""
        if not self._released:
            self._released = True
            _abi.lib.quire_lease_release(self._handle.value)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def __len__(self) -> int:
        return int(self._data.size)


class Window:
    """A writable window for one object. In a ``with`` block: aborted unless committed inside."""

    def __init__(self, handle: int, address: int, n_bytes: int) -> None:
        self._handle = _Handle(handle, _abi.lib.quire_window_free)
        self._data: NDArray[np.uint8] | None = _view(self._handle, address, n_bytes, writable=True)

    @property
    def data(self) -> NDArray[np.uint8]:
        """The window's bytes; must not be written after commit or abort."""
        if self._data is None:
            raise FailedPrecondition("the window was committed or aborted already")
        return self._data

    def commit(self, ack: Ack = Ack.MEMORY, pin_ms: int = 0) -> None:
        """Checksums the window and waits for the acknowledgement."""
        self._data = None
        check(_abi.lib.quire_window_commit(self._handle.value, ack, pin_ms))

    def abort(self) -> None:
        """Gives the reservation back; harmless when repeated."""
        self._data = None
        _abi.lib.quire_window_abort(self._handle.value)

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()


class Client:
    """A session; made by :func:`connect`. May be shared between threads."""

    def __init__(self, handle: int) -> None:
        self._handle = _Handle(handle, _abi.lib.quire_close)
        self._closed = False

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

    def register_model(self, name: str, descriptor: bytes) -> bytes:
        """Tells the server what a model looks like; returns the model id."""
        model = _abi.Id()
        check(
            _abi.lib.quire_register_model(
                self._c, name.encode(), descriptor, len(descriptor), ctypes.byref(model)
            )
        )
        return from_c_id(model)

    def resolve(
        self,
        model: bytes,
        tokens: Tokens,
        *,
        prefix: bool = True,
        chunks: bool = True,
        recompute_us_per_token: float = 0.0,
    ) -> list[Match]:
        """What the store has for this prompt; never pins."""
        flags = (1 if prefix else 0) | (2 if chunks else 0)
        if flags == 0:
            return []
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

    def acquire(self, representation: bytes) -> Lease:
        """Pins one object. Raises NotFound on a miss."""
        handle = ctypes.c_void_p()
        check(
            _abi.lib.quire_acquire(
                self._c, to_c_id(representation), ctypes.byref(handle), None, None
            )
        )
        assert handle.value is not None
        return Lease(handle.value)

    def acquire_many(self, representations: Sequence[bytes]) -> list[Lease | QuireError]:
        """Pins many objects by one request; each is a Lease or its own error."""
        n = len(representations)
        ids = (_abi.Id * n)(*map(to_c_id, representations))
        handles = (ctypes.c_void_p * n)()
        statuses = (ctypes.c_uint32 * n)()
        check(_abi.lib.quire_acquire_many(self._c, ids, n, handles, statuses))
        return [
            Lease(handle) if handle else error_of(status, "no lease for this id")
            for handle, status in zip(handles, statuses, strict=True)
        ]

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


def connect(
    socket_path: str | None = None,
    *,
    tenant: str | None = None,
    client_name: str = "quire-python",
    timeout_ms: int = 10_000,
    staging_bytes: int = 0,
) -> Client:
    """Connects to quired; without a path to $QUIRE_SOCKET or the user's own server."""
    options = _abi.ConnectOptions(
        struct_bytes=ctypes.sizeof(_abi.ConnectOptions),
        timeout_ms=timeout_ms,
        socket_path=None if socket_path is None else socket_path.encode(),
        client_name=client_name.encode(),
        tenant=None if tenant is None else tenant.encode(),
        staging_bytes=staging_bytes,
    )
    handle = ctypes.c_void_p()
    check(_abi.lib.quire_connect(ctypes.byref(options), ctypes.byref(handle)))
    assert handle.value is not None
    return Client(handle.value)
