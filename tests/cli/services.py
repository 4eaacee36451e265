"""Long-running processes of an installation, started and stopped by a test, and a Slack that notes when it was told what."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

ANALYTICS = str(Path(sys.executable).with_name("analytics"))


@dataclass
class Slack:
    """What a real HTTP server got from slack-sdk: when, and the text."""

    url: str
    told: list[tuple[float, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, request: Request) -> Response:
        with self._lock:
            self.told.append((time.time(), json.dumps(request.get_json())))
        return Response("ok")

    def about(self, *words: str) -> list[float]:
        """When messages came that name all of `words`."""
        with self._lock:
            return [at for at, text in self.told if all(word in text for word in words)]


def slack_on(server: HTTPServer) -> Slack:
    slack = Slack(server.url_for("/services/T0/B0/x"))
    server.expect_request("/services/T0/B0/x", method="POST").respond_with_handler(slack.take)
    return slack


def environment(**more: str) -> dict[str, str]:
    """This process' environment as a user's: modules are compiled once, nothing of pytest leads elsewhere."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **more}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(line: list[str], env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process, and whatever it starts; all of it is gone afterwards, however the test ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(line, env=dict(env), stdout=output, stderr=output, cwd=log.parent)
    started: dict[int, psutil.Process] = {}
    try:
        yield process
    finally:
        if process.poll() is None:
            started = {child.pid: child for child in psutil.Process(process.pid).children(recursive=True)}
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for child in started.values():
            if child.is_running():
                child.kill()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def wait_for(what: str, ready: Callable[[], object], seconds: float, log: Path) -> float:
    """Wait until `ready`, and say how long it took. Fails with the end of the log."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if ready():
            return time.monotonic() - began
        time.sleep(0.1)
    pytest.fail(f"{what}: not within {seconds:.0f} s\n{log.read_text()[-3_000:]}")
