"""Finds libquire.so and quired in QUIRE_BIN_DIR (the bin folder of a build tree)."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(os.environ.get("QUIRE_BIN_DIR", ROOT / "build" / "dev" / "bin"))

# An installed wheel is tested as it is; else the package of the source tree over the built library.
if "QUIRE_TEST_INSTALLED" not in os.environ:
    os.environ.setdefault("QUIRE_LIBRARY", str(BIN.parent / "lib" / "libquire.so"))
    sys.path.insert(0, str(ROOT / "client" / "python"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

START_SECONDS_MAX = 20


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
listen = ""
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


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running quired on an empty store; its socket path."""
    yield from run_server(tmp_path_factory, SERVER_CONFIG)


@pytest.fixture(scope="session")
def gpu_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same with a GPU tier over the fake driver."""
    yield from run_server(tmp_path_factory, SERVER_CONFIG + GPU_CONFIG)


def run_server(tmp_path_factory: pytest.TempPathFactory, text: str) -> Iterator[str]:
    program = BIN / "quired"
    if not program.is_file():
        pytest.skip(f"no server at {program}")
    folder = tmp_path_factory.mktemp("quired")
    socket = folder / "quired.sock"
    config = folder / "quired.toml"
    config.write_text(text.format(data=folder / "data", socket=socket))
    log = (folder / "log").open("w")
    process = subprocess.Popen([str(program), "--config", str(config)], stdout=log, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + START_SECONDS_MAX
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"quired did not start:\n{(folder / 'log').read_text()}")
        time.sleep(0.02)
    yield str(socket)
    process.terminate()
    process.wait(timeout=START_SECONDS_MAX)
