"""Finds libquire.so and quired in QUIRE_BIN_DIR (the bin folder of a build tree)."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from support import BIN, GPU_CONFIG, ROOT, SERVER_CONFIG, model_file, run_server

# An installed wheel is tested as it is; else the package of the source tree over the built library.
if "QUIRE_TEST_INSTALLED" not in os.environ:
    os.environ.setdefault("QUIRE_LIBRARY", str(BIN.parent / "lib" / "libquire.so"))
    sys.path.insert(0, str(ROOT / "client" / "python"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "model: needs a real model's file; minutes")
    config.addinivalue_line("markers", "nightly: a larger one; half an hour")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running quired on an empty store; its socket path."""
    yield from run_server(tmp_path_factory)


@pytest.fixture(scope="session")
def gpu_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same with a GPU tier over the fake driver."""
    yield from run_server(tmp_path_factory, SERVER_CONFIG + GPU_CONFIG)


@pytest.fixture(scope="session")
def model_path() -> Callable[[str], Path]:
    """model_path("a.gguf"): the file of a real model; skips without it."""
    return model_file
