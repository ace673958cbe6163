"""What the tests of all Python packages share: paths, a running server, models, what is missing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(os.environ.get("QUIRE_BIN_DIR", ROOT / "build" / "dev" / "bin"))
# To open a store and to drain it; longer than a slow disk takes.
PATIENCE_SECONDS = 60

# Small, and without network ports, so that several can run at once.
SERVER_CONFIG = """
data_directory = "{data}"
socket_path = "{socket}"
[host]
bytes = 67108864
[nvme]
bytes = 67108864
segment_bytes = 4194304
[control]
listen = "{control}"
[http]
listen = ""
"""

# A GPU of host memory.
GPU_CONFIG = """
[gpu]
enabled = true
driver = "fake"
pool_bytes = 8388608
"""


def run_server(
    tmp_path_factory: pytest.TempPathFactory, text: str = SERVER_CONFIG, control: str = ""
) -> Iterator[str]:
    """For fixtures: a quired on an empty store, ended afterwards; yields its socket's path.

    control: the address of the control plane, none by default.
    """
    program = BIN / "quired"
    if not program.is_file():
        pytest.skip(f"no server at {program}")
    folder = tmp_path_factory.mktemp("quired")
    socket = folder / "quired.sock"
    config = folder / "quired.toml"
    config.write_text(text.format(data=folder / "data", socket=socket, control=control))
    log = folder / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(program), "--config", str(config)], stdout=out, stderr=subprocess.STDOUT
        )
    # It listens before its store is open, and answers afterwards: a test's own deadline would count both.
    import quire

    deadline = time.monotonic() + PATIENCE_SECONDS
    ready = False
    while not ready:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"quired did not start:\n{log.read_text()}")
        try:
            quire.connect(str(socket), timeout_ms=PATIENCE_SECONDS * 1000).close()
            ready = True
        except quire.QuireError:
            time.sleep(0.02)
    yield str(socket)
    process.terminate()
    process.wait(timeout=PATIENCE_SECONDS)


def model_file(name: str) -> Path:
    """A real model in Quire's cache; skips the test without it."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quire"
    path = Path(os.environ.get("QUIRE_CACHE", default)) / "models" / name
    if not path.is_file():
        pytest.skip(
            f"model {name} is missing: tools/setup.sh --test (--nightly for the larger one) fetches it"
        )
    return path


def missing(names: Sequence[str]) -> list[str]:
    """Those packages that this interpreter has not."""
    return [name for name in names if importlib.util.find_spec(name) is None]
