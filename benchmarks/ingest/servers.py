"""The two servers, each started on a fresh folder: ours through its command line, VictoriaMetrics from Debian's package."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

READY_SECONDS = 60
SETTLE_SECONDS = 30
# The consumer looks every two seconds.
QUIET_SECONDS = 3
ANALYTICS = [sys.executable, "-m", "analytics_dagster.cli.main"]


@dataclass(frozen=True)
class Server:
    port: int
    process: subprocess.Popen[bytes]
    folder: Path
    key: str = ""

    @property
    def memory(self) -> int:
        """Resident bytes of the server and its children."""
        root = psutil.Process(self.process.pid)
        return sum(_resident(p) for p in [root, *root.children(recursive=True)])

    def settle(self) -> None:
        """Wait until what earlier requests left to do in the background is done, so that it does not burden another's round."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            before = self._processor_seconds()
            time.sleep(QUIET_SECONDS)
            if self._processor_seconds() - before < 0.02 * QUIET_SECONDS:
                return

    def _processor_seconds(self) -> float:
        root = psutil.Process(self.process.pid)
        return sum(sum(p.cpu_times()[:2]) for p in [root, *root.children(recursive=True)])

    def get(self, path: str) -> bytes:
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return bytes(answer.read())


def victoria_installed() -> bool:
    return shutil.which("victoria-metrics") is not None


@contextmanager
def ours(tenants: Sequence[str] = ("tenant_123",), environment: dict[str, str] | None = None) -> Iterator[Server]:
    """`analytics serve` in a new home, with a key of role ingest for one tenant, or a collector's for several."""
    with tempfile.TemporaryDirectory(prefix="bench-ingest-") as folder:
        home = Path(folder) / "home"
        for tenant in tenants:
            analytics(home, "tenant", "add", tenant)
        role = "tenant-admin" if len(tenants) == 1 else "ingest"
        key = json.loads(analytics(home, "key", "create", "--json", "--role", role, *_options(tenants)))["key"]
        with serving(home, key, environment) as server:
            yield server


@contextmanager
def serving(home: Path, key: str, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """`analytics serve` in an existing home."""
    port = _free_port()
    command = [*ANALYTICS, "--home", str(home), "serve", "--port", str(port)]
    with (home / "serve.log").open("ab") as log:
        process = subprocess.Popen(command, env={**os.environ, **(environment or {})}, stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}/healthz", process)
        yield Server(port, process, home, key)
    finally:
        _stop(process)


@contextmanager
def victoria() -> Iterator[Server]:
    """VictoriaMetrics with its defaults (no fsync before the answer)."""
    with tempfile.TemporaryDirectory(prefix="bench-victoria-") as folder:
        port = _free_port()
        command = [
            "victoria-metrics",
            f"-storageDataPath={folder}/data",
            f"-httpListenAddr=127.0.0.1:{port}",
            "-retentionPeriod=10y",
        ]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait(f"http://127.0.0.1:{port}/health", process)
            yield Server(port, process, Path(folder))
        finally:
            _stop(process)


def analytics(home: Path, *arguments: str) -> str:
    """One call of the command line; raises CalledProcessError."""
    done = subprocess.run([*ANALYTICS, "--home", str(home), *arguments], check=True, capture_output=True, text=True)
    return done.stdout


def _options(tenants: Sequence[str]) -> list[str]:
    return [part for tenant in tenants for part in ("--tenant", tenant)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode} before {url} answered")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"{url} did not answer within {READY_SECONDS} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
