"""What the comparison needs around it: a private Python environment, Redis, a network of its own."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ISOLATED = "QUIRE_PEERS_ISOLATED"
READY_SECONDS = 30.0
STOP_SECONDS = 5.0
LOG_TAIL_LINES = 5

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_PR_SET_PDEATHSIG = 1


class Unavailable(Exception):
    """A store cannot be measured here; the message says why."""


def enter_python() -> None:
    """Goes on in the private environment, made first where it is missing."""
    requirements = HERE / "requirements.txt"
    cache = Path(os.environ.get("QUIRE_CACHE") or Path.home() / ".cache" / "quire")
    name = "peers-" + hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    root = cache / name
    if Path(sys.prefix) == root:
        return
    python = root / "bin" / "python"
    if not (root / "complete").exists():
        print("making the Python environment (once, a minute)", file=sys.stderr)
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(root)], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(requirements)], check=True)
        (root / "complete").touch()
    os.execv(python, [str(python), *sys.argv])


def redis_program() -> str:
    """redis-server, installed from Debian where it is missing. Its service is not started."""
    if not shutil.which("redis-server"):
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "redis-server"]
        if os.geteuid() != 0:
            install.insert(0, "sudo")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        result = subprocess.run(install, env=environment, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise Unavailable("redis-server is missing and apt-get says: " + result.stderr.strip()[-300:])
    found = shutil.which("redis-server")
    if not found:
        raise Unavailable("redis-server is missing")
    return found


def enter_network() -> bool:
    """Goes on in a network namespace that has nothing but loopback, where the kernel lets us.

    Mooncake listens on all interfaces, whatever it is told; here that is 127.0.0.1.
    """
    if os.environ.get(ISOLATED) == "1":
        _bring_loopback_up()
        return True
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], check=False).returncode != 0:
        return False
    environment = {**os.environ, ISOLATED: "1"}
    os.execvpe(unshare[0], [*unshare, sys.executable, *sys.argv], environment)


def _bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A server of ours: ends with close(), and with this process."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def wait_ready(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if ready():
                return
            if self._process.poll() is not None:
                raise Unavailable(f"ended at start: {self.log_tail()}")
            time.sleep(0.05)
        raise Unavailable(f"not ready after {READY_SECONDS:.0f} s: {self.log_tail()}")

    def log_tail(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-LOG_TAIL_LINES:]) or "(no log)"

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
