"""The stores, behind one interface: a batch of objects from the caller's memory into the store, and back."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from environment import HERE, Process, Unavailable, free_port, listens, redis_program
from numpy.typing import NDArray

if TYPE_CHECKING:
    import quire

Bytes = NDArray[np.uint8]
ALIGNMENT = 4096
IO_SECONDS = 60.0


@dataclass(frozen=True)
class Object:
    key: bytes  # Quire's representation id
    data: Bytes


class Store:
    """Only put() and get() are timed."""

    name = ""

    def prepare(self, objects: Sequence[Object], targets: Sequence[Bytes]) -> None:
        """What a caller does once for its memory."""

    def put(self, objects: Sequence[Object]) -> None:
        raise NotImplementedError

    def get(self, objects: Sequence[Object], targets: Sequence[Bytes]) -> None:
        raise NotImplementedError

    def finish(self, objects: Sequence[Object], targets: Sequence[Bytes]) -> None:
        """Fills the targets where get() left the bytes elsewhere, and forgets the objects."""

    def close(self) -> None:
        raise NotImplementedError


def memory(n_bytes: int) -> Bytes:
    """Page-aligned and touched."""
    raw = np.ones(n_bytes + ALIGNMENT, dtype=np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + n_bytes]


class QuireStore(Store):
    name = "quire"

    def __init__(self, build: Path, directory: Path, host_bytes: int, model: quire.Model) -> None:
        import quire

        program = build / "bin" / "quired"
        if not program.exists():
            raise Unavailable(f"{program.name} is missing: build the target quired, or name a build folder")
        socket_path = directory / "quired.sock"
        config = directory / "quire.toml"
        config.write_text(
            f'data_directory = "{directory}/data"\nsocket_path = "{socket_path}"\nlog_level = "warn"\n'
            f"[host]\nbytes = {host_bytes}\n[nvme]\nbytes = 0\n"
            '[control]\nlisten = ""\n[http]\nlisten = ""\n'
        )
        self._process = Process([str(program), "--config", str(config)], directory / "quired.log")
        try:
            self._process.wait_ready(socket_path.exists)
            self._client = quire.connect(str(socket_path), client_name="quire-peers", timeout_ms=60_000)
            self._client.register_model("quire-peers", model)
        except BaseException:
            self._process.close()
            raise

    def put(self, objects: Sequence[Object]) -> None:
        for item in objects:
            self._client.put(item.key, item.data)

    def get(self, objects: Sequence[Object], targets: Sequence[Bytes]) -> None:
        for item, target in zip(objects, targets, strict=True):
            with self._client.acquire(item.key) as lease:
                ctypes.memmove(target.ctypes.data, lease.data.ctypes.data, target.size)
                lease.check()

    def close(self) -> None:
        self._client.close()
        self._process.close()


class RedisStore(Store):
    """Blocking sockets with one request in flight each, as LMCache's connector has them."""

    def __init__(self, port: int, n_sockets: int) -> None:
        self.name = f"redis, {n_sockets} socket{'s' if n_sockets > 1 else ''}"
        self._sockets = []
        for _ in range(n_sockets):
            connection = socket.create_connection(("127.0.0.1", port), IO_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(connection)

    @staticmethod
    def start(directory: Path) -> tuple[Process, int]:
        port = free_port()
        options = {
            "port": str(port),
            "bind": "127.0.0.1",
            "save": "",
            "appendonly": "no",
            "dir": str(directory),
        }
        arguments = [
            redis_program(),
            *(word for key, value in options.items() for word in (f"--{key}", value)),
        ]
        process = Process(arguments, directory / "redis.log")
        try:
            process.wait_ready(lambda: listens(port))
        except BaseException:
            process.close()
            raise
        return process, port

    def _spread(self, n: int, work: Callable[[socket.socket, int], None]) -> None:
        errors: list[BaseException] = []

        def run(which: int) -> None:
            try:
                for index in range(which, n, len(self._sockets)):
                    work(self._sockets[which], index)
            except BaseException as error:
                errors.append(error)

        if len(self._sockets) == 1:
            run(0)
        else:
            threads = [threading.Thread(target=run, args=(i,)) for i in range(min(n, len(self._sockets)))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]

    @staticmethod
    def _request(connection: socket.socket, *words: bytes) -> None:
        parts = [b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)]
        connection.sendall(b"".join(parts))

    @staticmethod
    def _line(connection: socket.socket) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            byte = connection.recv(1)
            if not byte:
                raise ConnectionError("Redis closed the connection")
            line += byte
        return line[:-2]

    @staticmethod
    def _receive(connection: socket.socket, target: memoryview) -> None:
        at = 0
        while at < len(target):
            n = connection.recv_into(target[at:])
            if n == 0:
                raise ConnectionError("Redis closed the connection")
            at += n

    def put(self, objects: Sequence[Object]) -> None:
        def work(connection: socket.socket, index: int) -> None:
            key, data = objects[index].key.hex().encode(), objects[index].data
            head = b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (len(key), key, data.size)
            connection.sendall(head)
            connection.sendall(memoryview(data))
            connection.sendall(b"\r\n")
            answer = self._line(connection)
            if answer != b"+OK":
                raise RuntimeError(f"Redis refused SET: {answer!r}")

        self._spread(len(objects), work)

    def get(self, objects: Sequence[Object], targets: Sequence[Bytes]) -> None:
        def work(connection: socket.socket, index: int) -> None:
            self._request(connection, b"GET", objects[index].key.hex().encode())
            header = self._line(connection)
            if header != b"$%d" % targets[index].size:
                raise RuntimeError(f"Redis answered GET with {header!r}")
            self._receive(connection, memoryview(targets[index]))
            self._line(connection)

        self._spread(len(objects), work)

    def finish(self, objects: Sequence[Object], targets: Sequence[Bytes]) -> None:
        for item in objects:
            self._request(self._sockets[0], b"DEL", item.key.hex().encode())
            self._line(self._sockets[0])

    def close(self) -> None:
        for connection in self._sockets:
            connection.close()


class MooncakeServers:
    """A master, and a process that owns the memory."""

    def __init__(self, directory: Path, segment_bytes: int) -> None:
        self.master_port, self.client_port = free_port(), free_port()
        self._stack = ExitStack()
        self._processes: list[Process] = []
        programs = Path(sys.prefix) / "bin"
        try:
            master = self._start(
                directory / "mooncake_master.log",
                programs / "mooncake_master",
                rpc_address="127.0.0.1",
                rpc_port=self.master_port,
                metrics_host="127.0.0.1",
                metrics_port=free_port(),
            )
            master.wait_ready(lambda: listens(self.master_port))
            owner = self._start(
                directory / "mooncake_client.log",
                programs / "mooncake_client",
                host="127.0.0.1",
                global_segment_size=f"{segment_bytes >> 20}MB",
                local_buffer_size="512MB",
                master_server_address=f"127.0.0.1:{self.master_port}",
                metadata_server="P2PHANDSHAKE",
                protocol="tcp",
                port=self.client_port,
            )
            owner.wait_ready(lambda: listens(self.client_port))
        except BaseException:
            self._stack.close()
            raise

    def log_tail(self) -> str:
        return " | ".join(process.log_tail() for process in self._processes)

    def _start(self, log: Path, program: Path, **options: object) -> Process:
        if not program.exists():
            raise Unavailable(f"{program.name} is not in the package")
        process = Process([str(program), *(f"--{key}={value}" for key, value in options.items())], log)
        self._stack.callback(process.close)
        self._processes.append(process)
        return process

    def close(self) -> None:
        self._stack.close()


def _checked(code: int, what: str) -> None:
    if code != 0:
        raise RuntimeError(f"Mooncake: {what} gave {code}")


class MooncakeStore(Store):
    """One kind of client: tcp, shm, or shm where the caller's memory is the pool that both share."""

    KINDS = ("tcp", "shm", "shm, caller's memory in its pool")

    def __init__(self, kind: str, servers: MooncakeServers, batch_bytes_max: int) -> None:
        os.environ.setdefault("GLOG_minloglevel", "2")
        from mooncake.store import MooncakeDistributedStore

        self.name = f"mooncake, {kind}"
        self._shared, self._in_pool = kind != "tcp", kind == self.KINDS[2]
        self._registered: dict[int, Bytes] = {}
        self._store = MooncakeDistributedStore()
        if self._shared:
            address = f"127.0.0.1:{servers.client_port}"
            _checked(self._store.setup_dummy(1 << 30, 256 << 20, address), "setup_dummy")
            pool = self._store.alloc_from_mem_pool(batch_bytes_max)
            if not pool:
                raise Unavailable("alloc_from_mem_pool gave no memory")
            self._pool = np.frombuffer((ctypes.c_uint8 * batch_bytes_max).from_address(pool), dtype=np.uint8)
            self._pool[:] = 1
            self._register(self._pool)
        else:
            master = f"127.0.0.1:{servers.master_port}"
            code = self._store.setup("127.0.0.1", "P2PHANDSHAKE", 0, 512 << 20, "tcp", "", master)
            _checked(code, "setup")

    def _register(self, data: Bytes) -> None:
        if data.ctypes.data not in self._registered:
            _checked(self._store.register_buffer(data.ctypes.data, data.size), "register_buffer")
            self._registered[data.ctypes.data] = data

    def prepare(self, objects: Sequence[Object], targets: Sequence[Bytes]) -> None:
        if not self._shared:
            for data in [*(item.data for item in objects), *targets]:
                self._register(data)
        if self._in_pool:
            for index, item in enumerate(objects):
                self._window(index, item.data)[:] = item.data

    def _window(self, index: int, data: Bytes) -> Bytes:
        """Where Mooncake takes or leaves an object of a batch."""
        if not self._shared:
            return data
        start = index * data.size if self._in_pool else 0
        return self._pool[start : start + data.size]

    def put(self, objects: Sequence[Object]) -> None:
        for index, item in enumerate(objects):
            window = self._window(index, item.data)
            if self._shared and not self._in_pool:
                ctypes.memmove(window.ctypes.data, item.data.ctypes.data, item.data.size)
            _checked(self._store.put_from(item.key.hex(), window.ctypes.data, item.data.size), "put_from")

    def get(self, objects: Sequence[Object], targets: Sequence[Bytes]) -> None:
        for index, (item, target) in enumerate(zip(objects, targets, strict=True)):
            window = self._window(index, target)
            n = self._store.get_into(item.key.hex(), window.ctypes.data, target.size)
            if n != target.size:
                raise RuntimeError(f"Mooncake: get_into gave {n} instead of {target.size} bytes")
            if self._shared and not self._in_pool:
                ctypes.memmove(target.ctypes.data, window.ctypes.data, target.size)

    def finish(self, objects: Sequence[Object], targets: Sequence[Bytes]) -> None:
        if self._in_pool:
            for index, target in enumerate(targets):
                target[:] = self._window(index, target)
        for item in objects:
            # By force: what was read is leased, and so is not removed otherwise.
            _checked(self._store.remove(item.key.hex(), True), "remove")

    def close(self) -> None:
        self._store.close()


def add_quire_to_path(build: Path) -> None:
    library = build / "lib" / "libquire.so"
    if not library.exists():
        raise Unavailable("lib/libquire.so is missing: build Quire, or name a build folder")
    os.environ.setdefault("QUIRE_LIBRARY", str(library))
    sys.path.insert(0, str(HERE.parent.parent / "client" / "python"))
