"""What must not lose or double anything: SIGKILL of the server under load, a full disk, two servers on one home."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.ingest import servers
from benchmarks.report import Line

KILLS = 50
TENANT = "tenant_123"
SENDERS = 4


def kills() -> Iterator[Line]:
    """Kill the server KILLS times under load, then consume: each acknowledged point once, no other twice."""
    with tempfile.TemporaryDirectory(prefix="bench-kill-") as folder:
        home = Path(folder) / "home"
        servers.analytics(home, "tenant", "add", TENANT)
        key = json.loads(servers.analytics(home, "key", "create", "--json", "--role", "ingest", "--tenant", TENANT))["key"]
        chance = random.Random(7)
        acknowledged: set[int] = set()
        sent = 0
        for _ in range(KILLS):
            with servers.serving(home, key) as server:
                senders = [_Sender(server.port, key, start=sent + n, step=SENDERS) for n in range(SENDERS)]
                for sender in senders:
                    sender.start()
                time.sleep(chance.uniform(0.05, 0.6))
                _kill_group(server.process)
                for sender in senders:
                    sender.join()
                    acknowledged |= sender.acknowledged
                sent = max(sender.next for sender in senders) + SENDERS
        found = _stored(home)
    lost = len(acknowledged - found.keys())
    doubled = sum(count > 1 for count in found.values())
    figure = f"{len(acknowledged):,} acknowledged, {len(found):,} stored; lost {lost}, doubled {doubled}"
    yield Line(f"SIGKILL at {KILLS} random moments", figure, "lost 0, doubled 0")


def refusals() -> Iterator[Line]:
    """A second server on the same home, and a log that may not grow."""
    with servers.ours() as server:
        command = [*servers.ANALYTICS, "--home", str(server.folder), "serve", "--port", "0"]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
        yield Line("two servers on one home", f"status {second.returncode}: {second.stderr.strip()[-120:]}", "a clear refusal")
    small = {"ANALYTICS_LOG_MAX_BYTES": str(2**20), "ANALYTICS_LOG_SEGMENT_BYTES": str(2**16)}
    with servers.ours(environment=small) as server:
        sender = _Sender(server.port, server.key, 0, 1, batch=20_000)
        sender.start()
        sender.join(20)
        sender.stop = True
        sender.join()
        alive = json.loads(server.get("/healthz") or b"{}")
    figure = f"{len(sender.acknowledged):,} points taken, refused with {sorted(sender.refused)}; alive: {bool(alive)}"
    yield Line("a log at its limit", figure, "503 with Retry-After, nothing lost")


class _Sender(threading.Thread):
    """Sends batches of numbered points, each a value once, until the server is gone."""

    def __init__(self, port: int, key: str, start: int, step: int, batch: int = 100) -> None:
        super().__init__(daemon=True)
        self.port, self.key, self.next, self.step, self.batch = port, key, start, step, batch
        self.acknowledged: set[int] = set()
        self.refused: set[int] = set()
        self.stop = False

    def run(self) -> None:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
                while not self.stop:
                    self._send(connection)
        except OSError:
            return  # killed: what was under way is not acknowledged

    def _send(self, connection: socket.socket) -> None:
        numbers = [self.next + self.step * n for n in range(self.batch)]
        self.next = numbers[-1] + self.step
        points = [{"name": "numbered", "metric_type": "timer", "value": n, "timestamp": time.time()} for n in numbers]
        body = json.dumps(points).encode()
        head = [
            "POST /analytics/metrics HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/json",
            f"Authorization: Bearer {self.key}",
            f"Content-Length: {len(body)}",
        ]
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
        answer = b""
        while b"\r\n\r\n" not in answer:
            got = connection.recv(65_536)
            if not got:
                raise ConnectionError("gone")
            answer += got
        status = int(answer[9:12])
        if status == 202:
            self.acknowledged |= set(numbers)
        else:
            self.refused.add(status)
            self.stop = True


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """The server and its workers at once, as a power cut would."""
    import psutil

    parent = psutil.Process(process.pid)
    for one in [parent, *parent.children(recursive=True)]:
        try:
            os.kill(one.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def _stored(home: Path) -> dict[int, int]:
    """How often each number is in raw/metrics once the log is consumed and raw made."""
    servers.analytics(home, "materialize", "--tenant", TENANT, "--select", "raw/metrics")
    from analytics_dagster.installation import open_installation
    from analytics_dagster.lake.schemas import METRICS
    from analytics_dagster.settings import Settings

    installation = open_installation(Settings.from_environment(home), create=False)
    values = installation.lake.tenant(TENANT).table(METRICS).read(columns=["value"]).column("value").to_pylist()
    installation.database.dispose()
    found: dict[int, int] = {}
    for value in values:
        found[int(value)] = found.get(int(value), 0) + 1
    return found
