"""`make bench-metrics`: the figures of the catalogue against the same written by hand as SQL over the raw plays, in one run."""

from __future__ import annotations

import datetime as dt
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.asking import ninety_days
from benchmarks.insights import insights
from benchmarks.late_plays import late_plays
from benchmarks.overview import overview
from benchmarks.plays import FIRST, aggregate, tenant_of, write
from benchmarks.report import Line
from benchmarks.spark import both_engines
from benchmarks.tenants import many_tenants

if TYPE_CHECKING:
    pass

ROUNDS = 3
# What is written by hand keeps whole sets of listeners in memory; ours has the limit that it has everywhere.
HAND_MEMORY = "12GB"
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
# What ours leaves behind for later questions too, in files: state by hour and by day of all dimensions, sets of listeners with
# the hours in which they came, and distinct listeners by each one dimension. Then the same figures from it.
STATE = """
  count(play_id) AS plays, count(*) FILTER (ms_played IS NULL OR ms_played >= 30000) AS streams,
  count(*) FILTER (listener_id IS NOT NULL AND (ms_played IS NULL OR ms_played >= 30000)) AS listener_streams,
  count(*) FILTER (playlist_id IS NOT NULL AND (ms_played IS NULL OR ms_played >= 30000)) AS playlist_streams,
  count(ms_played) AS timed_plays, count(*) FILTER (ms_played >= 30000) AS timed_streams, sum(ms_played)::BIGINT AS listened_ms,
  count(*) FILTER (ms_played < 30000 AND end_reason IN ('fwdbtn', 'backbtn', 'endplay')) AS skips,
  count(*) FILTER (ms_played IS NOT NULL AND track_ms > 0) AS sized_plays,
  count(*) FILTER (track_ms > 0 AND ms_played * 100 >= track_ms * 99) AS complete_plays
"""
SUMS = ", ".join(
    f"sum({name})::BIGINT AS {name}"
    for name in ("plays", "streams", "listener_streams", "playlist_streams", "timed_plays", "timed_streams", "listened_ms",
                 "skips", "sized_plays", "complete_plays")
)  # fmt: skip
DIMENSIONS = "country, tier, source, device, format"
STORED_BY_HAND = {
    "hours": "SELECT date_trunc('hour', ts) AS ts, {dimensions}, {state} FROM {plays} GROUP BY ALL ORDER BY ALL",
    "days": "SELECT date_trunc('day', ts) AS ts, {dimensions}, {sums} FROM '{folder}/hours.parquet' GROUP BY ALL ORDER BY ALL",
    "sets": """
SELECT {dimensions}, list(id ORDER BY id) AS ids, list(hours ORDER BY id) AS hours
FROM (SELECT {dimensions}, md5_number_lower(listener_id) >> 1 AS id, hours
      FROM (SELECT {dimensions}, listener_id, bit_or(1 << hour(ts)) AS hours
            FROM {plays} WHERE listener_id IS NOT NULL GROUP BY ALL))
GROUP BY ALL""",
    "counts": """
SELECT {dimensions}, grouping({dimensions}) AS part, count(DISTINCT listener_id) AS listeners
FROM {plays} GROUP BY GROUPING SETS ((), (country), (tier), (source), (device), (format))""",
}
FROM_STORED = """
SELECT days.country, plays, streams, listened_ms / 1000.0, skips / timed_plays, complete_plays / sized_plays,
  timed_streams / timed_plays, listeners, listener_streams / listeners, playlist_streams
FROM (SELECT country, grouping(country) AS whole, {sums} FROM '{folder}/days.parquet'
      GROUP BY GROUPING SETS ((), (country))) AS days
JOIN (SELECT country, (part = 31)::INT AS whole, listeners FROM '{folder}/counts.parquet' WHERE part IN (15, 31)) AS counts
  ON days.country IS NOT DISTINCT FROM counts.country AND days.whole = counts.whole
ORDER BY days.whole DESC, days.country
"""
WINDOW_BY_HAND = """
SELECT day, (SELECT count(DISTINCT listener_id) FROM {plays} AS p
             WHERE p.ts >= day - INTERVAL 27 DAY AND p.ts < day + INTERVAL 1 DAY) AS listeners
FROM (SELECT unnest(generate_series(TIMESTAMPTZ '{first} 00:00+00', TIMESTAMPTZ '{last} 00:00+00', INTERVAL 1 DAY)) AS day)
ORDER BY day
"""


def one_day() -> Iterator[Line]:
    """One day of 10,000,000 plays by up to 1,000,000 listeners: tables and every figure, each side in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-metrics-") as folder:
        write(tenant_of(Path(folder)), days=1, per_day=10_000_000, listeners=1_000_000)
        figures: dict[str, list[list[float]]] = {}
        measured: dict[str, list[tuple[float, float]]] = {"ours": [], "hand": [], "stored": []}
        for _ in range(ROUNDS):
            for side, kept in measured.items():
                seconds, gigabytes, figures[side] = _child(side, folder)
                kept.append((seconds, gigabytes))
    _require_equal(figures["ours"], figures["hand"])
    _require_equal(figures["ours"], figures["stored"])
    ours, hand, stored = (statistics.median(seconds for seconds, _ in kept) for kept in measured.values())
    most, theirs = (max(gigabytes for _, gigabytes in measured[side]) for side in ("ours", "stored"))
    figure = (
        f"{ours:.1f} s of processor time, {most:.2f} GiB; by hand with all that is stored {stored:.1f} s, {theirs:.2f} GiB: "
        f"{ours / stored:.2f} x; by hand the figures alone {hand:.1f} s: {ours / hand:.2f} x"
    )
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
        tenant, catalogue = tenant_of(Path(folder)), load_catalogue()
        write(tenant, days=120, per_day=130_000, listeners=1_000_000)
        aggregate(tenant, last)
        query = WINDOW_BY_HAND.format(plays=tenant.table(PLAYS).sql(FIRST, last), first=first, last=last)
        with connect(memory_limit=HAND_MEMORY) as connection:
            hand, expected = _timed(lambda: [float(row[1]) for row in connection.execute(query).fetchall()], 1)
        asked = MetricQuery("monthly_active_listeners", first, last)
        ours, given = _timed(lambda: run_query(tenant, catalogue, asked).column("value").to_pylist(), ROUNDS)
    _require_equal([given], [expected])
    figure = f"{ours * 1_000:.0f} ms; by hand {hand * 1_000:,.0f} ms; {ours / hand:.3f} x"
    yield Line("monthly listeners of 90 days", figure, "-")


PARTS: dict[str, Callable[[], Iterator[Line]]] = {
    "day": one_day,
    "windows": windows,
    "late": late_plays,
    "tenants": many_tenants,
    "asking": ninety_days,
    "overview": overview,
    "spark": both_engines,
    "insights": insights,
}


def _timed(work: Callable[[], list[float]], rounds: int) -> tuple[float, list[float]]:
    """Median seconds, and what `work` gave."""
    times, given = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        given = work()
        times.append(time.perf_counter() - began)
    return statistics.median(times), given


def _child(side: str, folder: str) -> tuple[float, float, list[list[float]]]:
    """Processor seconds of the work itself, peak resident gigabytes and the figures, of one side in a process of its own."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.metrics", f"--{side}", folder], stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = json.loads(process.stdout.read())
    if process.wait():
        raise RuntimeError(f"the process of the side {side!r} ended with {process.returncode}")
    return said["seconds"], said["gigabytes"], said["figures"]


def _peak() -> float:
    """The most gibibytes that this process had. Not `ru_maxrss`, which begins with what the process had that started it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024**2


def _ours(folder: Path) -> list[list[float]]:
    from analytics_dagster.metrics.load import load_catalogue
    from analytics_dagster.metrics.query import MetricQuery, run_query

    tenant, catalogue = tenant_of(folder), load_catalogue()
    aggregate(tenant, FIRST)
    columns = []
    for name in NAMES:
        split = (run_query(tenant, catalogue, MetricQuery(name, FIRST, FIRST, by=by)) for by in ((), ("country",)))
        columns.append([value for answer in split for value in answer.column("value").to_pylist()])
    return [list(row) for row in zip(*columns, strict=True)]


def _hand(folder: Path) -> list[list[float]]:
    from analytics_dagster.lake.compute import connect
    from analytics_dagster.lake.schemas import PLAYS

    with connect(memory_limit=HAND_MEMORY) as connection:
        rows = connection.execute(BY_HAND.format(plays=tenant_of(folder).table(PLAYS).sql(FIRST, FIRST))).fetchall()
    return [[float(value) for value in row[1:]] for row in rows]


def _stored(folder: Path) -> list[list[float]]:
    from analytics_dagster.lake.compute import connect
    from analytics_dagster.lake.schemas import PLAYS

    with tempfile.TemporaryDirectory(prefix="bench-stored-") as made, connect(memory_limit=HAND_MEMORY) as connection:
        plays = tenant_of(folder).table(PLAYS).sql(FIRST, FIRST)
        words = {"plays": plays, "dimensions": DIMENSIONS, "state": STATE, "sums": SUMS, "folder": made}
        for name, query in STORED_BY_HAND.items():
            connection.execute(f"COPY ({query.format(**words)}) TO '{made}/{name}.parquet' (FORMAT parquet, COMPRESSION zstd)")
        rows = connection.execute(FROM_STORED.format(**words)).fetchall()
    return [[float(value) for value in row[1:]] for row in rows]


def _require_equal(ours: list[list[float]], hand: list[list[float]]) -> None:
    """Raises RuntimeError when the two sides do not say the same."""
    if not np.allclose(np.array(ours), np.array(hand), rtol=1e-9, atol=0):
        raise RuntimeError(f"the figures differ: {ours[:2]} and, by hand, {hand[:2]}")


def main(arguments: list[str]) -> int:
    """Run the parts that are named, or all. `--ours`, `--hand` and `--stored` are the processes that `day` starts."""
    if arguments[:1] in (["--ours"], ["--hand"], ["--stored"]):
        work = {"--ours": _ours, "--hand": _hand, "--stored": _stored}[arguments[0]]
        began = time.process_time()
        figures = work(Path(arguments[1]))
        print(json.dumps({"seconds": time.process_time() - began, "gigabytes": _peak(), "figures": figures}))
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
