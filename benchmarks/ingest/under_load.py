"""The server over time: its memory through 50,000,000 points, and how soon an acknowledged point answers a query."""

from __future__ import annotations

import json
import threading
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from benchmarks.ingest import rows, servers
from benchmarks.ingest.client import request, send_all
from benchmarks.report import Line

MEMORY_POINTS = 50_000_000
LOAD_RATE = 200_000
LOAD_SECONDS = 60
TENANT = "tenant_123"


def memory() -> Iterator[Line]:
    """Highest resident memory of the server and its children, added up, in each fifth of the points, looked at all the time."""
    batch, rounds = 1_000_000, MEMORY_POINTS // 1_000_000
    peaks = [0] * 5
    with servers.ours() as server, ThreadPoolExecutor(1) as watching:
        over = threading.Event()
        fifth = 0

        def watch() -> None:
            while not over.wait(0.05):
                peaks[fifth] = max(peaks[fifth], server.memory)

        watched = watching.submit(watch)
        try:
            for number in range(rounds):
                fifth = number * 5 // rounds
                sent = rows.Rows(TENANT, int(time.time() * 1_000) - 300_000 + number, batch)
                requests = [_arrow_request(part, server.key) for part in sent.batches(50_000)]
                _with_retries(server, requests)
        finally:
            over.set()
        watched.result()
    figure = f"highest in each fifth {', '.join(f'{peak / 2**20:,.0f}' for peak in peaks)} MiB"
    yield Line(f"memory through {MEMORY_POINTS:,} points", figure, "flat, under 1 GiB")


def acknowledged_to_queryable() -> Iterator[Line]:
    """Time from the 202 of a probe to the first answer that holds it, while others send 200,000 points a second."""
    waits: list[float] = []
    with servers.ours() as server:
        stop = threading.Event()
        load = threading.Thread(target=_steady_load, args=(server, stop))
        load.start()
        try:
            deadline, number = time.monotonic() + LOAD_SECONDS, 0
            while time.monotonic() < deadline:
                waits.append(_probe(server, number))
                number += 1
                time.sleep(0.1)
        finally:
            stop.set()
            load.join()
    ordered = sorted(waits)
    p50, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    figure = f"p50 {p50 * 1_000:.0f} ms, p99 {p99 * 1_000:.0f} ms over {len(waits)} probes"
    yield Line(f"acknowledged to queryable at {LOAD_RATE:,}/s", figure, "p99 under 1 s")


def _probe(server: servers.Server, number: int) -> float:
    """Send one point of a probe's own series, then ask until it is there. Seconds from its acknowledgement."""
    body = json.dumps(
        {"name": "probe", "value": number + 1.0, "labels": {"n": str(number % 50)}, "timestamp": time.time()}
    ).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {server.key}"}
    send_all(server.port, [request("/analytics/metrics", body, headers)], 1).require(202)
    acknowledged = time.perf_counter()
    asked = {"metric": "probe", "aggregate": "max", "grain": "day", "where": f'n="{number % 50}"', "format": "json"}
    while True:
        answer = json.loads(server.get(f"/analytics/query?{urllib.parse.urlencode(asked)}"))
        found = answer["rows"] if isinstance(answer, dict) else answer
        if found and max(row["value"] for row in found) >= number + 1.0:
            return time.perf_counter() - acknowledged


def _steady_load(server: servers.Server, stop: threading.Event) -> None:
    size = 10_000
    while not stop.is_set():
        began = time.monotonic()
        sent = rows.Rows(TENANT, int(time.time() * 1_000), LOAD_RATE)
        for part in sent.batches(size):
            if stop.is_set():
                return
            send_all(server.port, [_arrow_request(part, server.key)], 1).require(202)
            ahead = began + (part.offset + part.count) / LOAD_RATE - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)


def _with_retries(server: servers.Server, requests: list[bytes]) -> None:
    """A log that is full says so; what it refused is sent again."""
    for content in requests:
        while send_all(server.port, [content], 1).require(202, 503).statuses.get(503):
            time.sleep(0.5)


def _arrow_request(part: rows.Rows, key: str) -> bytes:
    headers = {"Content-Type": "application/vnd.apache.arrow.stream", "Authorization": f"Bearer {key}"}
    return request("/analytics/metrics", rows.arrow_body(part), headers)
