"""`make bench-metrics`: the figures of the catalogue against the same written by hand as SQL over the raw plays, in one run."""

from __future__ import annotations

import datetime as dt
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from benchmarks.late_plays import late_plays
from benchmarks.report import Line

if TYPE_CHECKING:
    from analytics_dagster.lake.lake import TenantLake

ROUNDS = 3
STREAM_MS = 30_000
# What is written by hand keeps whole sets of listeners in memory; ours has the limit that it has everywhere.
HAND_MEMORY = "12GB"
FIRST = dt.date(2026, 1, 1)
COUNTRIES = np.array(["US", "DE", "FR", "BR", "JP", "GB", "MX", "ES", "IT", "SE"])
TIERS = np.array(["premium", "free"])
SOURCES = np.array(["playlist", "search", "library", "artist", "radio"])
DEVICES = np.array(["ios", "android", "web"])
ENDS = np.array(["trackdone", "fwdbtn", "backbtn", "endplay"])

# What the listening family's metrics say, in total and by country.
BY_HAND = """
SELECT country, count(*) AS plays,
  count(*) FILTER (ms_played IS NULL OR ms_played >= 30000) AS streams,
  sum(ms_played) / 1000.0 AS listen_time,
  count(*) FILTER (ms_played < 30000 AND end_reason IN ('fwdbtn', 'backbtn', 'endplay')) / count(ms_played) AS skip_rate,
  count(*) FILTER (track_ms > 0 AND ms_played * 100 >= track_ms * 99) / count(*) FILTER (ms_played IS NOT NULL AND track_ms > 0)
    AS completion_rate,
  count(*) FILTER (ms_played >= 30000) / count(ms_played) AS engagement_rate,
  count(DISTINCT listener_id) AS daily_active_listeners,
  count(*) FILTER (listener_id IS NOT NULL AND (ms_played IS NULL OR ms_played >= 30000)) / count(DISTINCT listener_id)
    AS streams_per_listener,
  count(*) FILTER (playlist_id IS NOT NULL AND (ms_played IS NULL OR ms_played >= 30000)) AS playlist_streams
FROM {plays} GROUP BY GROUPING SETS ((), (country)) ORDER BY grouping(country) DESC, country
"""
NAMES = (
    "plays", "streams", "listen_time", "skip_rate", "completion_rate", "engagement_rate", "daily_active_listeners",
    "streams_per_listener", "playlist_streams",
)  # fmt: skip
WINDOW_BY_HAND = """
SELECT day, (SELECT count(DISTINCT listener_id) FROM {plays} AS p
             WHERE p.ts >= day - INTERVAL 27 DAY AND p.ts < day + INTERVAL 1 DAY) AS listeners
FROM (SELECT unnest(generate_series(TIMESTAMPTZ '{first} 00:00+00', TIMESTAMPTZ '{last} 00:00+00', INTERVAL 1 DAY)) AS day)
ORDER BY day
"""


def one_day() -> Iterator[Line]:
    """One day of 10,000,000 plays by up to 1,000,000 listeners: tables and every figure, each side in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-metrics-") as folder:
        _write(_tenant(Path(folder)), days=1, per_day=10_000_000, listeners=1_000_000)
        figures: dict[str, list[list[float]]] = {}
        measured: dict[str, list[tuple[float, float]]] = {"ours": [], "hand": []}
        for _ in range(ROUNDS):
            for side, kept in measured.items():
                seconds, gigabytes, figures[side] = _child(side, folder)
                kept.append((seconds, gigabytes))
    _require_equal(figures["ours"], figures["hand"])
    ours, hand = (statistics.median(seconds for seconds, _ in kept) for kept in measured.values())
    most = max(gigabytes for _, gigabytes in measured["ours"])
    figure = f"{ours:.1f} s, {most:.2f} GiB; by hand {hand:.1f} s; {ours / hand:.2f} x"
    yield Line("one day of 10,000,000 plays, every figure", figure, "at most 1.5 x by hand, under 4 GiB")


def windows() -> Iterator[Line]:
    """Distinct listeners of 28 days, for 90 days, over 120 days of 130,000 plays (100,000,000 in two years)."""
    from analytics_dagster.lake.compute import connect
    from analytics_dagster.lake.schemas import PLAYS
    from analytics_dagster.metrics.load import load_catalogue
    from analytics_dagster.metrics.query import MetricQuery, run_query

    last = FIRST + dt.timedelta(days=119)
    first = last - dt.timedelta(days=89)
    with tempfile.TemporaryDirectory(prefix="bench-metrics-") as folder:
        tenant, catalogue = _tenant(Path(folder)), load_catalogue()
        _write(tenant, days=120, per_day=130_000, listeners=1_000_000)
        _aggregate(tenant, last)
        query = WINDOW_BY_HAND.format(plays=tenant.table(PLAYS).sql(FIRST, last), first=first, last=last)
        with connect(memory_limit=HAND_MEMORY) as connection:
            hand, expected = _timed(lambda: [float(row[1]) for row in connection.execute(query).fetchall()], 1)
        asked = MetricQuery("monthly_active_listeners", first, last)
        ours, given = _timed(lambda: run_query(tenant, catalogue, asked).column("value").to_pylist(), ROUNDS)
    _require_equal([given], [expected])
    figure = f"{ours * 1_000:.0f} ms; by hand {hand * 1_000:,.0f} ms; {ours / hand:.3f} x"
    yield Line("monthly listeners of 90 days", figure, "-")


PARTS: dict[str, Callable[[], Iterator[Line]]] = {"day": one_day, "windows": windows, "late": late_plays}


def _timed(work: Callable[[], list[float]], rounds: int) -> tuple[float, list[float]]:
    """Median seconds, and what `work` gave."""
    times, given = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        given = work()
        times.append(time.perf_counter() - began)
    return statistics.median(times), given


def _child(side: str, folder: str) -> tuple[float, float, list[list[float]]]:
    """Seconds of the work itself, peak resident gigabytes, and the figures, of one side in a process of its own."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.metrics", f"--{side}", folder], stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return said["seconds"], usage.ru_maxrss / 1024**2, said["figures"]


def _ours(folder: Path) -> list[list[float]]:
    from analytics_dagster.metrics.load import load_catalogue
    from analytics_dagster.metrics.query import MetricQuery, run_query

    tenant, catalogue = _tenant(folder), load_catalogue()
    _aggregate(tenant, FIRST)
    columns = []
    for name in NAMES:
        split = (run_query(tenant, catalogue, MetricQuery(name, FIRST, FIRST, by=by)) for by in ((), ("country",)))
        columns.append([value for answer in split for value in answer.column("value").to_pylist()])
    return [list(row) for row in zip(*columns, strict=True)]


def _hand(folder: Path) -> list[list[float]]:
    from analytics_dagster.lake.compute import connect
    from analytics_dagster.lake.schemas import PLAYS

    with connect(memory_limit=HAND_MEMORY) as connection:
        rows = connection.execute(BY_HAND.format(plays=_tenant(folder).table(PLAYS).sql(FIRST, FIRST))).fetchall()
    return [[float(value) for value in row[1:]] for row in rows]


def _require_equal(ours: list[list[float]], hand: list[list[float]]) -> None:
    """Raises RuntimeError when the two sides do not say the same."""
    if not np.allclose(np.array(ours), np.array(hand), rtol=1e-9, atol=0):
        raise RuntimeError(f"the figures differ: {ours[:2]} and, by hand, {hand[:2]}")


def _tenant(folder: Path) -> TenantLake:
    from analytics_dagster.lake.lake import Lake

    return Lake(str(folder / "lake"), folder / "locks").tenant("acme")


def _aggregate(tenant: TenantLake, last: dt.date) -> None:
    from analytics_dagster.metrics.aggregate import aggregate_days
    from analytics_dagster.metrics.load import load_catalogue

    aggregate_days(tenant, load_catalogue().family("listening"), FIRST, last, stream_ms=STREAM_MS)


def _write(tenant: TenantLake, days: int, per_day: int, listeners: int) -> None:
    """Raw plays, some listeners and tracks far more often than others."""
    from analytics_dagster.lake.schemas import PLAYS

    chance, count = np.random.default_rng(7), days * per_day
    start = int(dt.datetime.combine(FIRST, dt.time(), dt.UTC).timestamp() * 1_000_000)
    who = (listeners * chance.random(count) ** 2).astype(np.int64)
    track_ms = chance.integers(120_000, 300_000, count)
    played = np.minimum(track_ms, chance.integers(0, 400_000, count))
    source = chance.integers(0, len(SOURCES), count)
    given: dict[str, Any] = {
        "play_id": pa.array(np.arange(count)).cast(pa.string()),
        "ts": pa.array(np.sort(start + chance.integers(0, days * 86_400_000_000, count))).cast(pa.timestamp("us", "UTC")),
        "listener_id": pa.array(who).cast(pa.string()),
        "track_id": pa.array((2_000_000 * chance.random(count) ** 3).astype(np.int64)).cast(pa.string()),
        "ms_played": pa.array(played),
        "track_ms": pa.array(track_ms),
        "end_reason": _text(ENDS, np.where(played >= track_ms, 0, 1 + who % 3)),
        "source": _text(SOURCES, source),
        "playlist_id": pa.array(np.where(source == 0, who % 1_000, -1)).cast(pa.string()),
        "country": _text(COUNTRIES, who % len(COUNTRIES)),
        "tier": _text(TIERS, who % len(TIERS)),
        "device": _text(DEVICES, who % len(DEVICES)),
        "format": _text(np.array(["bench"]), np.zeros(count, np.int64)),
    }
    columns = [given.get(c.name, pa.nulls(count, c.type)).cast(c.type) for c in PLAYS.columns]
    tenant.table(PLAYS).overwrite_days(pa.table(columns, schema=PLAYS.arrow), FIRST, FIRST + dt.timedelta(days=days - 1))


def _text(distinct: np.ndarray, codes: np.ndarray) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(distinct.tolist(), pa.string()))


def main(arguments: list[str]) -> int:
    """Run the parts that are named, or all. `--ours` and `--hand` are the processes that `day` starts."""
    if arguments[:1] in (["--ours"], ["--hand"]):
        work = _ours if arguments[0] == "--ours" else _hand
        began = time.perf_counter()
        figures = work(Path(arguments[1]))
        print(json.dumps({"seconds": time.perf_counter() - began, "figures": figures}))
        return 0
    unknown = sorted(set(arguments) - set(PARTS))
    if unknown:
        print(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    for name in arguments or PARTS:
        for line in PARTS[name]():
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
