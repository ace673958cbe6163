"""Quire beside Redis and Mooncake: put and get of the same bytes on this machine, in one run.

usage: python3 bench/peers/peers.py [--build build/release] [--json] (see --help)
"""

from __future__ import annotations

import sys

import environment

if __name__ == "__main__":
    environment.enter_python()

import itertools
import json
import random
import signal
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from stores import (
    Bytes,
    MooncakeServers,
    MooncakeStore,
    Object,
    QuireStore,
    RedisStore,
    Store,
    add_quire_to_path,
    memory,
)

if TYPE_CHECKING:
    import quire

# The shape of a model of half a billion parameters: 12,288 bytes of KV in f16 a token.
LAYERS, KV_HEADS, HEAD_DIMS = 24, 2, 64
BYTES_PER_TOKEN = 4 * LAYERS * KV_HEADS * HEAD_DIMS
VOCABULARY = 100_000
STORE_BYTES = 1 << 30
BATCH_BYTES = 64 << 20
BATCH_OBJECTS_MIN = 4
BATCH_OBJECTS_MAX = 16
MIB = 1 << 20

Rates = dict[tuple[int, str, str], list[float]]  # (object bytes, "put" or "get", store) -> GB/s
err = Console(stderr=True)


class Workload:
    """Batches of objects that no store has seen, in the same memory each time."""

    def __init__(self, wanted_bytes: int, seed: int) -> None:
        import quire

        self._quire = quire
        rope = quire.rope_frequencies(HEAD_DIMS)
        layer = quire.Layer(KV_HEADS, HEAD_DIMS, HEAD_DIMS, quire.RopeStyle.NEOX, rope)
        self.model = quire.Model(bytes([1] * 32), bytes([2] * 32), (layer,) * LAYERS)
        self._random = np.random.default_rng([seed, wanted_bytes])
        n_tokens = wanted_bytes // BYTES_PER_TOKEN
        shape = (LAYERS, KV_HEADS, n_tokens, HEAD_DIMS)
        self._keys = self._random.standard_normal(shape, dtype=np.float32).astype(np.float16)
        self._values = self._random.standard_normal(shape, dtype=np.float32).astype(np.float16)
        self._n_tokens = n_tokens
        self.object_bytes = self._pack().data.size
        count = max(BATCH_OBJECTS_MIN, min(BATCH_OBJECTS_MAX, BATCH_BYTES // wanted_bytes))
        self._sources = [memory(self.object_bytes) for _ in range(count)]
        self.targets = [memory(self.object_bytes) for _ in range(count)]

    def _pack(self) -> quire.Packed:
        tokens = self._random.integers(0, VOCABULARY, self._n_tokens, dtype=np.uint32)
        self._keys[:, :, 0, :] = self._random.standard_normal(HEAD_DIMS)
        return self._quire.pack(self.model, tokens, self._keys, self._values, codec="raw-f16")

    def next_batch(self) -> list[Object]:
        batch = []
        for source in self._sources:
            packed = self._pack()
            source[:] = np.frombuffer(packed.data, dtype=np.uint8)
            batch.append(Object(packed.representation, source))
        return batch


def start_stores(
    stack: ExitStack, build: Path, directory: Path, isolated: bool
) -> tuple[list[Store], list[str]]:
    """Quire, and the peers that run here; with why the others do not."""
    stores: list[Store] = []
    absent: list[str] = []

    def add(store: Store) -> None:
        stack.callback(store.close)
        stores.append(store)

    add(QuireStore(build, directory, STORE_BYTES, Workload(MIB, 0).model))
    try:
        process, port = RedisStore.start(directory)
        stack.callback(process.close)
        for n_sockets in (8, 1):
            add(RedisStore(port, n_sockets))
    except environment.Unavailable as error:
        absent.append(f"redis: {error}")
    if not isolated:
        absent.append(
            "mooncake: it listens on all interfaces, and this user may not make a network of its own"
        )
        return stores, absent
    try:
        servers = MooncakeServers(directory, STORE_BYTES)
        stack.callback(servers.close)
    except environment.Unavailable as error:
        absent.append(f"mooncake: {error}")
        return stores, absent
    for kind in MooncakeStore.KINDS:
        try:
            add(MooncakeStore(kind, servers, max(BATCH_BYTES, 32 * MIB * BATCH_OBJECTS_MIN + BATCH_BYTES)))
        except (environment.Unavailable, RuntimeError, ImportError) as error:
            absent.append(f"mooncake, {kind}: {error}; its log: {servers.log_tail()}")
    return stores, absent


def run_batch(store: Store, batch: list[Object], targets: list[Bytes]) -> tuple[float, float]:
    """GB/s of putting a batch and of getting it; every byte is compared."""
    for target in targets:
        target[:] = 0
    store.prepare(batch, targets)
    n_bytes = sum(item.data.size for item in batch)
    began = time.perf_counter()
    store.put(batch)
    put_seconds = time.perf_counter() - began
    began = time.perf_counter()
    store.get(batch, targets)
    get_seconds = time.perf_counter() - began
    store.finish(batch, targets)
    for item, target in zip(batch, targets, strict=True):
        if not np.array_equal(item.data, target):
            raise RuntimeError(f"{store.name} gave other bytes than it got")
    return n_bytes / put_seconds / 1e9, n_bytes / get_seconds / 1e9


def measure(stores: list[Store], sizes: list[int], rounds: int, seed: int) -> Rates:
    rates: Rates = defaultdict(list)
    order = random.Random(seed)
    for size in sizes:
        workload = Workload(size, seed)
        for turn in range(rounds + 1):
            err.print(f"{size // MIB} MiB, round {turn} of {rounds}" + (" (warms up)" if turn == 0 else ""))
            for store in order.sample(stores, len(stores)):
                put, get = run_batch(store, workload.next_batch(), workload.targets)
                if turn > 0:
                    rates[size, "put", store.name].append(put)
                    rates[size, "get", store.name].append(get)
    return rates


def results_of(rates: Rates, stores: list[Store], sizes: list[int]) -> list[dict[str, Any]]:
    """One entry for each size, direction and peer, in the form of quire-bench --json."""
    results = []
    for operation, size, peer in itertools.product(("put", "get"), sizes, stores[1:]):
        ours, theirs = rates[size, operation, stores[0].name], rates[size, operation, peer.name]
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        ratio = statistics.median(ratios)
        results.append(
            {
                "bench": f"peers.{operation}",
                "params": {"peer": peer.name, "object_bytes": size, "rounds": len(ours)},
                "value": statistics.median(ours),
                "unit": "GB/s",
                "floor": statistics.median(theirs),
                "ratio": ratio,
                "floor_name": peer.name,
                "ratio_range": [min(ratios), max(ratios)],
                "goal": {"kind": "ratio_min", "bound": 1.0, "met": ratio > 1.0},
            }
        )
    return results


def print_table(results: list[dict[str, Any]]) -> None:
    table = Table("operation", "MiB", "peer", title="GB/s, medians of interleaved rounds")
    for heading in ("Quire", "peer", "Quire / peer", "range"):
        table.add_column(heading, justify="right")
    for entry in results:
        low, high = entry["ratio_range"]
        table.add_row(
            entry["bench"].removeprefix("peers."),
            str(entry["params"]["object_bytes"] // MIB),
            entry["params"]["peer"],
            f"{entry['value']:.2f}",
            f"{entry['floor']:.2f}",
            f"{entry['ratio']:.2f}",
            f"{low:.2f} to {high:.2f}",
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def main(
    build: Annotated[Path, typer.Option(help="Folder with bin/quired and lib/libquire.so.")] = Path(
        "build/release"
    ),
    sizes: Annotated[str, typer.Option(help="Object sizes in MiB.")] = "2,8,32",
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="After one that warms up.")] = 9,
    seed: Annotated[int, typer.Option(help="Of the objects and of the order.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on stdout instead of a table.")] = False,
) -> None:
    """Puts objects of 2, 8 and 32 MiB into Quire, Redis and Mooncake and gets them back into own memory.

    Same machine, same run, same bytes, rounds interleaved; everything is compared. All stores keep to memory.
    Servers run on 127.0.0.1 and end with this program.
    """
    sizes_bytes = [int(size) * MIB for size in sizes.split(",")]
    if not all(MIB <= size <= 32 * MIB for size in sizes_bytes):
        raise typer.BadParameter("1 to 32 MiB", param_hint="--sizes")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        environment.redis_program()
    except environment.Unavailable as error:
        err.print(f"[yellow]{error}")
    isolated = environment.enter_network()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quire-peers-")))
        try:
            add_quire_to_path(build.resolve())
            stores, absent = start_stores(stack, build.resolve(), directory, isolated)
        except environment.Unavailable as error:
            err.print(f"[red]error:[/] {error}")
            raise typer.Exit(1) from None
        for reason in absent:
            err.print(f"[yellow]not measured:[/] {reason}")
        results = results_of(measure(stores, sizes_bytes, rounds, seed), stores, sizes_bytes)
    if as_json:
        for entry in results:
            print(json.dumps(entry))
    else:
        print_table(results)


if __name__ == "__main__":
    typer.run(main)
