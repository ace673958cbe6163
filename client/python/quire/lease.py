"""Pinned objects and windows to write them, in memory shared with the server."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from enum import IntEnum
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Self, cast, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _abi
from .errors import FailedPrecondition, ModelMismatch, StaleLease, check
from .kv import Info, Out, describe, unpack
from .models import Model
from .planes import Planes


class Ack(IntEnum):
    """When a put counts as done."""

    MEMORY = 0
    DURABLE = 1


class Handle:
    """Owns one handle of the C ABI; freed when the last Python object that needs it is gone."""

    def __init__(self, value: int | None, free: Callable[[int | None], object]) -> None:
        if value is not None and not isinstance(value, int):
            raise TypeError(
                f"a handle of the C ABI is a number, not {value!r}: sessions are made by "
                "quire.connect(), leases and windows by a session"
            )
        self.value = value
        self._finalizer = weakref.finalize(self, free, value)

    def free(self) -> None:
        self._finalizer()


def view_of(handle: Handle, address: int, n_bytes: int, *, writable: bool) -> NDArray[np.uint8]:
    """Memory of a handle as an array that keeps the handle alive."""
    memory = (ctypes.c_uint8 * n_bytes).from_address(address)
    memory._quire_handle = handle  # type: ignore[attr-defined]
    view = memoryview(memory).cast("B")
    return np.frombuffer(view if writable else view.toreadonly(), dtype=np.uint8)


class PinCalls(NamedTuple):
    """The C ABI's functions for one kind of lease."""

    free: Callable[[int | None], object]
    check: Callable[[int | None], int]
    renew: Callable[[int | None, int], int]
    release: Callable[[int | None], object]


class Pin:
    """What every lease can do: be checked, renewed and released, by itself or at a block's end."""

    _calls: ClassVar[PinCalls]

    def __init__(self, handle: int) -> None:
        self._handle = Handle(handle, self._calls.free)
        self._released = False

    def _assert_live(self) -> None:
        if self._released:
            raise StaleLease("the lease was released")

    def check(self) -> None:
        """Raises StaleLease or Unavailable where the memory may hold another object by now."""
        check(self._calls.check(self._handle.value))

    def renew(self, lease_ms: int) -> None:
        """Asks for more time."""
        check(self._calls.renew(self._handle.value, lease_ms))

    def release(self) -> None:
        """Gives the pin back; harmless when repeated."""
        if not self._released:
            self._released = True
            self._calls.release(self._handle.value)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class Lease(Pin):
    """A pinned, read-only object in the server's memory, without a copy.

    Use it in a ``with`` block. Views of ``data`` stay readable after release, but their content is
    promised only until then: call ``check()`` after a long read.
    """

    _calls = PinCalls(
        _abi.lib.quire_lease_free,
        _abi.lib.quire_lease_check,
        _abi.lib.quire_lease_renew,
        _abi.lib.quire_lease_release,
    )

    def __init__(self, handle: int, models: dict[bytes, Model] | None = None) -> None:
        super().__init__(handle)
        self._models = {} if models is None else models
        self._data = view_of(
            self._handle,
            _abi.lib.quire_lease_data(handle),
            _abi.lib.quire_lease_bytes(handle),
            writable=False,
        )

    @property
    def data(self) -> NDArray[np.uint8]:
        """The representation's bytes."""
        self._assert_live()
        return self._data

    @property
    def info(self) -> Info:
        """What the representation is: ids, tokens, layers, heads, codec, position."""
        return describe(self.data)

    @overload
    def unpack(
        self,
        position: int,
        *,
        model: Model | bytes | None = ...,
        dtype: DTypeLike | None = ...,
        source_begin: int = ...,
        n_tokens: int | None = ...,
        row_mask: ArrayLike | None = ...,
        out: None = ...,
    ) -> tuple[NDArray[Any], NDArray[Any]]: ...
    @overload
    def unpack(
        self,
        position: int,
        *,
        model: Model | bytes | None = ...,
        dtype: DTypeLike | None = ...,
        source_begin: int = ...,
        n_tokens: int | None = ...,
        row_mask: ArrayLike | None = ...,
        out: Out,
        rows: int | ArrayLike = ...,
    ) -> Out: ...
    def unpack(
        self,
        position: int,
        *,
        model: Model | bytes | None = None,
        dtype: DTypeLike | None = None,
        source_begin: int = 0,
        n_tokens: int | None = None,
        row_mask: ArrayLike | None = None,
        out: tuple[Planes | None, Planes | None] | None = None,
        rows: int | ArrayLike = 0,
    ) -> tuple[Planes | None, Planes | None]:
        """(keys, values) as [layer][head][token][dim], moved to a position: see quire.unpack().

        model: None for one that was registered with this client. Raises StaleLease where the lease
        ended meanwhile: what was unpacked must be thrown away.
        """
        known = self._models.get(self.info.model) if model is None else model
        if known is None:
            raise ModelMismatch("the model was not registered with this client: pass model=")
        result: Any = unpack(
            self.data,
            known,
            position,
            dtype=dtype,
            source_begin=source_begin,
            n_tokens=n_tokens,
            row_mask=row_mask,
            out=cast(Any, out),
            rows=rows,
        )
        self.check()
        return cast("tuple[Planes | None, Planes | None]", result)

    def __len__(self) -> int:
        return int(self._data.size)


class Window:
    """A writable window for one object. In a ``with`` block: aborted unless committed inside."""

    def __init__(self, handle: int, address: int, n_bytes: int) -> None:
        self._handle = Handle(handle, _abi.lib.quire_window_free)
        self._data: NDArray[np.uint8] | None = view_of(
            self._handle, address, n_bytes, writable=True
        )

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
