"""How long `GET /analytics/query` takes: 90 days by one dimension, over 100,000,000 plays in two years.

BENCH_LAKE names a folder in which the lake is kept for the next run, here and in `overview.py`; else it is made anew.
"""

from __future__ import annotations

import datetime as dt
import http.client
import json
import math
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import numpy as np

from benchmarks.ingest import servers
from benchmarks.plays import FIRST, STREAM_MS, write
from benchmarks.report import Line

if TYPE_CHECKING:
    from analytics_dagster.metrics.declarations import Family, Metric

TENANT = "tenant_123"
DAYS = 730
PER_DAY = 137_000
LISTENERS = 1_000_000
# Days that are made at once: as many rows as fit in a few gigabytes.
AT_ONCE = 73
ASKED_DAYS = 90
COHORTS = "cohorts"
ROUNDS = 3
# What looks at cohorts reads half a year of sets, and takes so long that each is asked for once, by the first dimension.
SLOW_ROUNDS = 1


def ninety_days() -> Iterator[Line]:
    """Every metric over plays by every dimension, ROUNDS times, of days at random; one question after the other."""
    family = load_listening()
    with large_lake() as (home, key), servers.serving(home, key, {"ANALYTICS_SERVER_WORKERS": "1"}) as server:
        taken = _ask(server, family)
    kinds = {m.name: _kind(family, m) for m in family.metrics}
    told = {
        kind: [t for name, times in taken.items() if kinds[name] == kind for t in times] for kind in sorted({*kinds.values()})
    }
    every = [t for kind, times in told.items() if kind != COHORTS for t in times]
    for what, times in (("all but cohorts", every), *told.items()):
        answered = sorted(t for t in times if t < math.inf)
        p50, p95 = np.percentile(times, [50, 95], method="higher") * 1_000
        figure = f"{len(answered)} of {len(times)} questions answered, p50 {p50:,.0f} ms, p95 {p95:,.0f} ms"
        yield Line(f"90 days of {DAYS * PER_DAY:,} plays: {what}", figure, "p95 under 100 ms")


@contextmanager
def large_lake() -> Iterator[tuple[Path, str]]:
    """A home whose tenant has DAYS days of PER_DAY plays, aggregated, and a key for it."""
    with tempfile.TemporaryDirectory(prefix="bench-asking-") as made:
        folder = Path(os.environ.get("BENCH_LAKE") or made)
        home, key = folder / "home", folder / "key"
        if not key.exists():
            servers.analytics(home, "tenant", "add", TENANT)
            created = servers.analytics(home, "key", "create", "--json", "--role", "tenant-admin", "--tenant", TENANT)
            _fill(home, load_listening())
            key.write_text(json.loads(created)["key"], encoding="ascii")
        yield home, key.read_text(encoding="ascii")


def load_listening() -> Family:
    from analytics_dagster.metrics.load import load_catalogue

    return load_catalogue().family("listening")


def _fill(home: Path, family: Family) -> None:
    from analytics_dagster.installation import open_installation
    from analytics_dagster.metrics.aggregate import aggregate_days
    from analytics_dagster.settings import Settings

    installation = open_installation(Settings.from_environment(home), create=True)
    lake = installation.lake.tenant(TENANT)
    for start in range(0, DAYS, AT_ONCE):
        first, days = FIRST + dt.timedelta(days=start), min(AT_ONCE, DAYS - start)
        write(lake, days=days, per_day=PER_DAY, listeners=LISTENERS, first=first)
        aggregate_days(lake, family, first, first + dt.timedelta(days=days - 1), stream_ms=STREAM_MS)
    installation.database.dispose()


def _ask(server: servers.Server, family: Family) -> dict[str, list[float]]:
    """Seconds of each question, by metric."""
    from analytics_dagster.metrics.formulas import summaries

    chance = random.Random(7)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    slow = [(m.name, family.dimensions[0].name) for m in family.metrics if looks_at_cohorts(m)]
    each = [(m, d.name) for m in family.metrics for d in family.dimensions]
    told_over = {m.name: {summary.dimension for summary in summaries(m.formula)} for m in family.metrics}
    fast = [(m.name, by) for m, by in each if not looks_at_cohorts(m) and by not in told_over[m.name]]
    questions = fast * ROUNDS + slow * SLOW_ROUNDS
    chance.shuffle(questions)
    taken: dict[str, list[float]] = {}
    # The first opens the engine and the catalogue.
    for n, (metric, dimension) in enumerate([("plays", "country"), *questions]):
        last = FIRST + dt.timedelta(days=chance.randrange(ASKED_DAYS + 27, DAYS))
        asked = {"metric": metric, "by": dimension, "from": str(last - dt.timedelta(days=ASKED_DAYS - 1)), "to": str(last)}
        began = time.perf_counter()
        connection.request("GET", f"/analytics/query?{urlencode(asked)}", headers={"Authorization": f"Bearer {server.key}"})
        answer = connection.getresponse()
        body = answer.read()
        seconds = time.perf_counter() - began
        # What is given up, after 30 s or for want of memory, never has an answer.
        if answer.status not in (200, 500, 503):
            raise RuntimeError(f"{metric} by {dimension}: {answer.status} {body[:200]!r}")
        if n:
            taken.setdefault(metric, []).append(seconds if answer.status == 200 else math.inf)
    return taken


def looks_at_cohorts(metric: Metric) -> bool:
    """Whether it tells who was new, and who came back."""
    from analytics_dagster.metrics.ahead import ahead_of

    return bool(ahead_of(metric.formula))


def _kind(family: Family, metric: Metric) -> str:
    from analytics_dagster.metrics.declarations import Aggregation
    from analytics_dagster.metrics.formulas import leaves

    if looks_at_cohorts(metric):
        return COHORTS
    windows = [leaf for leaf in leaves(metric.formula) if leaf.window]
    distinct = any(family.measure(leaf.measure).aggregation is Aggregation.COUNT_DISTINCT for leaf in windows)
    return "rolling listeners" if distinct else "the others"
