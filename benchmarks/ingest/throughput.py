"""Points a second over HTTP, against VictoriaMetrics on the same rows, round by round in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from benchmarks.ingest import rows, servers
from benchmarks.ingest.client import Sent, request, send_all
from benchmarks.report import Line

POINTS = 1_000_000
CONNECTIONS = 8
ROUNDS = 3
TENANT = "tenant_123"
Body = Callable[[rows.Rows], bytes]


def json_batches() -> Iterator[Line]:
    """JSON in batches of 1,000 and of 10,000, ours and the peer's."""
    for size in (1_000, 10_000):
        ours, theirs = _rates("/analytics/metrics", rows.json_body, "application/json", size, rows.json_lines_of_victoria)
        yield _compared(f"JSON, batches of {size:,}", ours, theirs, "at least 1.0 x VictoriaMetrics, never under 500,000/s")


def remote_write() -> Iterator[Line]:
    """Remote write, the same compressed bodies for both."""
    ours, theirs = _rates("/api/v1/write", rows.remote_write_body, "application/x-protobuf", 2_000, rows.remote_write_body)
    yield _compared("remote write, batches of 2,000", ours, theirs, "at least 0.3 x VictoriaMetrics")


def arrow() -> Iterator[Line]:
    """Arrow IPC bodies."""
    ours, _ = _rates("/analytics/metrics", rows.arrow_body, "application/vnd.apache.arrow.stream", 50_000, None)
    yield Line("Arrow IPC, batches of 50,000", f"{ours:,.0f} points/s", "at least 3,000,000/s")


def single_points() -> Iterator[Line]:
    """One point a request, 64 connections: median of ROUNDS rounds. One more warms up, in which every series is new."""
    count = 50_000
    with servers.ours() as server:
        bodies = [rows.json_body(part)[1:-1] for part in rows.Rows(TENANT, _now_ms() - 60_000, count).batches(1)]
        requests = [_request("/analytics/metrics", body, "application/json", server.key) for body in bodies]
        rounds = []
        for _ in range(ROUNDS + 1):
            rounds.append(send_all(server.port, requests, 64).require(202))
            server.settle()
    sent = sorted(rounds[1:], key=lambda round_: round_.seconds)[ROUNDS // 2]
    rate = f"{count / sent.seconds:,.0f} requests/s, p50 {_ms(sent, 0.5)}, p99 {_ms(sent, 0.99)}"
    yield Line("single points, 64 connections", rate, "at least 10,000/s, p99 under 50 ms")


def _rates(path: str, body: Body, content_type: str, size: int, peer: Body | None) -> tuple[float, float | None]:
    """Median points a second of ROUNDS rounds: ours, and the peer's where it is installed. One more round warms up."""
    parts = list(rows.Rows(TENANT, _now_ms() - 200_000, POINTS).batches(size))
    ours: list[float] = []
    theirs: list[float] = []
    with ExitStack() as stack:
        mine = stack.enter_context(servers.ours())
        requests = [_request(path, body(part), content_type, mine.key) for part in parts]
        if peer is not None and servers.victoria_installed():
            other = stack.enter_context(servers.victoria())
            route = "/api/v1/import" if path == "/analytics/metrics" else path
            same = [_request(route, peer(part), content_type, "") for part in parts]
        for _ in range(ROUNDS + 1):
            ours.append(POINTS / send_all(mine.port, requests, CONNECTIONS).require(202, 204).seconds)
            if peer is not None and servers.victoria_installed():
                mine.settle()
                theirs.append(POINTS / send_all(other.port, same, CONNECTIONS).require(204).seconds)
                other.settle()
    return statistics.median(ours[1:]), statistics.median(theirs[1:]) if theirs else None


def _request(path: str, body: bytes, content_type: str, key: str) -> bytes:
    headers = {"Content-Type": content_type, "Authorization": f"Bearer {key}"}
    if path == "/api/v1/write":
        headers |= {"Content-Encoding": "snappy", "X-Prometheus-Remote-Write-Version": "0.1.0"}
    return request(path, body, headers)


def _compared(what: str, ours: float, theirs: float | None, target: str) -> Line:
    ratio = f"; VictoriaMetrics {theirs:,.0f}; ratio {ours / theirs:.2f}" if theirs else "; VictoriaMetrics is not installed"
    return Line(what, f"{ours:,.0f} points/s{ratio}", target)


def _now_ms() -> int:
    return int(time.time() * 1_000)


def _ms(sent: Sent, share: float) -> str:
    return f"{sent.percentile(share) * 1_000:.1f} ms"
