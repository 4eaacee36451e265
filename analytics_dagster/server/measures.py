"""What the server counts about itself, for Prometheus.

A worker counts in plain numbers, which costs a request next to nothing, and writes them to a file of its own each second;
whichever worker is asked for `/metrics` reads the files of all. One that is started anew counts from 0, which Prometheus knows
as a reset.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# Name, help, and the value for each `of`.
Reading = tuple[str, str, dict[str, float]]


class RouteCounts(msgspec.Struct):
    """One route of one worker. `slower[i]` requests took at most SECONDS[i] and longer than the bound before it."""

    method: str
    route: str
    statuses: dict[int, int] = msgspec.field(default_factory=dict)
    slower: list[int] = msgspec.field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    seconds: float = 0.0
    accepted: int = 0
    refused: int = 0

    def answered(self, status: int, seconds: float) -> None:
        """Count an answer."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.slower[bisect_left(SECONDS, seconds)] += 1
        self.seconds += seconds


_DECODER = msgspec.json.Decoder(list[RouteCounts])


class Counts:
    """All routes of this worker, and the file that the others read them from."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder = folder
        self._worker = worker
        self._routes: dict[tuple[str, str], RouteCounts] = {}

    def of(self, method: str, route: str) -> RouteCounts:
        found = self._routes.get((method, route))
        if found is None:
            found = self._routes[method, route] = RouteCounts(method, route)
        return found

    def encoded(self) -> bytes:
        """As they stand. Called where they are counted; `write` may then wait for the disk elsewhere."""
        return msgspec.json.encode(list(self._routes.values()))

    def write(self, encoded: bytes) -> None:
        """Put the file in place, whole."""
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._folder / f"{self._worker}.new"
        unfinished.write_bytes(encoded)
        os.replace(unfinished, self._folder / f"{self._worker}.json")

    def everybody(self) -> dict[str, list[RouteCounts]]:
        """Every worker's counts as they were last written."""
        return {path.stem: _DECODER.decode(path.read_bytes()) for path in sorted(self._folder.glob("*.json"))}


def exposition(workers: dict[str, list[RouteCounts]], readings: Callable[[], Iterable[Reading]]) -> bytes:
    """All workers' counters, and what `readings` finds now, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Collected(workers, readings))
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, workers: dict[str, list[RouteCounts]], readings: Callable[[], Iterable[Reading]]) -> None:
        self._workers = workers
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "analytics_http_requests", "Requests answered.", labels=["worker", "method", "route", "status"]
        )
        durations = HistogramMetricFamily(
            "analytics_http_request_seconds", "Time to the answer.", labels=["worker", "method", "route"]
        )
        accepted = CounterMetricFamily("analytics_rows_accepted", "Points and plays on disk.", labels=["worker", "route"])
        refused = CounterMetricFamily("analytics_rows_refused", "Rows that could not be taken.", labels=["worker", "route"])
        for worker, routes in self._workers.items():
            for counts in routes:
                for status, number in counts.statuses.items():
                    requests.add_metric([worker, counts.method, counts.route, str(status)], number)
                durations.add_metric([worker, counts.method, counts.route], _buckets(counts.slower), counts.seconds)
                if counts.accepted or counts.refused:
                    accepted.add_metric([worker, counts.route], counts.accepted)
                    refused.add_metric([worker, counts.route], counts.refused)
        yield from (requests, durations, accepted, refused)
        for name, said, values in self._readings():
            family = GaugeMetricFamily(name, said, labels=["of"])
            for of, value in values.items():
                family.add_metric([of], value)
            yield family


def _buckets(slower: list[int]) -> list[tuple[str, float]]:
    bounds = [*(str(bound) for bound in SECONDS), "+Inf"]
    total, made = 0, []
    for bound, number in zip(bounds, slower, strict=True):
        total += number
        made.append((bound, float(total)))
    return made
