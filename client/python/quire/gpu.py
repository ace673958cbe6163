"""The server's GPU pool in this process (client/capi/quire_gpu.h).

Objects that the server keeps on the GPU are leased there: kernels read them by device address,
without a copy through the host. Launching kernels is the caller's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _abi
from .errors import QuireError, check, error_of
from .ids import to_c_id
from .kv import Info, info_from_c
from .lease import Handle, Pin, PinCalls, view_of


class Section(NamedTuple):
    """One layer's K (plane 0) or V (plane 1), as its codec wrote it."""

    layer: int
    plane: int
    offset: int
    n_bytes: int


class GpuLease(Pin):
    """A pinned object, on the GPU or (not hot enough yet, no room there) in host memory.

    Use it in a ``with`` block. Wait for the kernels that read ``device_pointer`` before the
    release, and call ``check()`` when they are done: what was read under a stale lease must be
    thrown away.
    """

    _calls = PinCalls(
        _abi.lib.quire_gpu_lease_free,
        _abi.lib.quire_gpu_lease_check,
        _abi.lib.quire_gpu_lease_renew,
        _abi.lib.quire_gpu_lease_release,
    )

    def __init__(self, handle: int) -> None:
        super().__init__(handle)
        facts = _abi.GpuLeaseInfo(struct_bytes=ctypes.sizeof(_abi.GpuLeaseInfo))
        check(_abi.lib.quire_gpu_lease_get_info(handle, ctypes.byref(facts)))
        self._facts = facts

    def _live(self) -> _abi.GpuLeaseInfo:
        self._assert_live()
        return self._facts

    @property
    def on_device(self) -> bool:
        """Whether ``device_pointer`` is set; else ``data`` is."""
        return bool(self._live().on_device)

    @property
    def device_pointer(self) -> int | None:
        """Address of the representation in device memory, read-only, or None."""
        return int(self._live().device_pointer) or None

    @property
    def data(self) -> NDArray[np.uint8] | None:
        """The representation's bytes where it lies in host memory, or None."""
        facts = self._live()
        if not facts.data:
            return None
        return view_of(self._handle, facts.data, facts.bytes, writable=False)

    @property
    def generation(self) -> int:
        """Of the slot it lies in."""
        return int(self._facts.generation)

    def __len__(self) -> int:
        return int(self._facts.bytes)

    def describe(self) -> tuple[Info, list[Section]]:
        """What the object is, and where in it each layer's K and V lie.

        Copies the manifest to the host and checks it.
        """
        self._live()
        info = _abi.RepresentationInfo(struct_bytes=ctypes.sizeof(_abi.RepresentationInfo))
        sections = ctypes.POINTER(_abi.GpuSection)()
        count = ctypes.c_size_t()
        tokens = ctypes.POINTER(ctypes.c_uint32)()
        check(
            _abi.lib.quire_gpu_lease_describe(
                self._handle.value,
                ctypes.byref(info),
                ctypes.byref(sections),
                ctypes.byref(count),
                ctypes.byref(tokens),
            )
        )
        try:
            ids = np.ctypeslib.as_array(tokens, (info.n_tokens,)).astype(np.uint32)
            table = [
                Section(int(entry.layer), int(entry.plane), int(entry.offset), int(entry.bytes))
                for entry in sections[: count.value]
            ]
        finally:
            _abi.lib.quire_free(sections)
            _abi.lib.quire_free(tokens)
        return info_from_c(info, ids), table


class GpuPool:
    """The pool, imported; made by ``Client.gpu_pool()``. Leases keep it alive."""

    def __init__(self, client: int | None, driver: str) -> None:
        options = _abi.GpuOptions(
            struct_bytes=ctypes.sizeof(_abi.GpuOptions), driver=driver.encode()
        )
        handle = ctypes.c_void_p()
        check(_abi.lib.quire_gpu_pool_open(client, ctypes.byref(options), ctypes.byref(handle)))
        self._handle = Handle(handle.value, _abi.lib.quire_gpu_pool_free)

    def _info(self) -> _abi.GpuPoolInfo:
        info = _abi.GpuPoolInfo(struct_bytes=ctypes.sizeof(_abi.GpuPoolInfo))
        check(_abi.lib.quire_gpu_pool_get_info(self._handle.value, ctypes.byref(info)))
        return info

    @property
    def capacity_bytes(self) -> int:
        """The most the pool may grow to."""
        return int(self._info().capacity_bytes)

    @property
    def mapped_bytes(self) -> int:
        """Imported now; grows with the pool as objects are acquired."""
        return int(self._info().mapped_bytes)

    @property
    def read_only(self) -> bool:
        """False where the device cannot map read-only."""
        return bool(self._info().read_only)

    def acquire(self, representation: bytes) -> GpuLease:
        """Pins one object where it is. Raises NotFound on a miss."""
        handle = ctypes.c_void_p()
        check(
            _abi.lib.quire_gpu_acquire(
                self._handle.value, to_c_id(representation), ctypes.byref(handle)
            )
        )
        assert handle.value is not None
        return GpuLease(handle.value)

    def acquire_many(self, representations: Sequence[bytes]) -> list[GpuLease | QuireError]:
        """Pins many objects by one request; each is a lease or its own error."""
        n = len(representations)
        ids = (_abi.Id * n)(*map(to_c_id, representations))
        handles = (ctypes.c_void_p * n)()
        statuses = (ctypes.c_uint32 * n)()
        check(_abi.lib.quire_gpu_acquire_many(self._handle.value, ids, n, handles, statuses))
        return [
            GpuLease(handle) if handle else error_of(status, "no lease for this id")
            for handle, status in zip(handles, statuses, strict=True)
        ]
