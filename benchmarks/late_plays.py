"""One day of 365 materialized again after 1,000 late plays: what it costs beside one day alone, and that no other changes."""

from __future__ import annotations

import datetime as dt
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from benchmarks.report import Line

if TYPE_CHECKING:
    from analytics_dagster.installation import Installation

DAYS, A_DAY, LATE, ROUNDS = 365, 2_000, 1_000, 3
FIRST = dt.date(2025, 1, 1)
LAST = FIRST + dt.timedelta(days=DAYS - 1)
TENANT = "acme"


def late_plays() -> Iterator[Line]:
    """Raw, checks and figures of one day, with the ledger of what changed; against a home that has nothing but one such day."""
    with tempfile.TemporaryDirectory(prefix="bench-late-") as folder:
        year, alone = _home(Path(folder, "year")), _home(Path(folder, "alone"))
        _arrive(alone, FIRST, 1, A_DAY + LATE, "plays")
        _materialize(alone, FIRST, FIRST)  # what is made once per process
        fresh = _seconds(lambda n: _arrive(alone, _day(n), 1, A_DAY + LATE, f"fresh {n}"), alone)
        _arrive(year, FIRST, DAYS, A_DAY, "plays")
        began = time.process_time()
        _materialize(year, FIRST, LAST)
        whole = time.process_time() - began
        before = _versions(year)
        year.clock.advance(dt.timedelta(days=3))
        again = _seconds(lambda n: _arrive(year, _day(n), 1, LATE, f"late {n}"), year)
        changed = {day for day, version in _versions(year).items() if version != before[day]}
        expected = {(asset, _day(n)) for n in range(ROUNDS) for asset in ("raw/plays", "aggregates/listening")}
        if changed != expected:
            raise RuntimeError(f"publications changed: {sorted(changed)}, not {sorted(expected)}")
        noted = _noted(year)
    figure = (
        f"{again:.2f} s of processor time; one fresh day alone {fresh:.2f} s: {again / fresh:.2f} x; all 365 {whole:.1f} s; "
        f"no other day changed, {noted:,} figures in the ledger"
    )
    yield Line("1,000 late plays for one day of 365", figure, "the cost of one day and its ledger")


def _day(number: int) -> dt.date:
    return FIRST + dt.timedelta(days=100 + 40 * number)


def _seconds(arrive: Callable[[int], None], home: Installation) -> float:
    """Median processor time to materialize the day of each round after its rows have arrived: work, whoever else works too."""
    times = []
    for number in range(ROUNDS):
        arrive(number)
        began = time.process_time()
        _materialize(home, _day(number), _day(number))
        times.append(time.process_time() - began)
    return statistics.median(times)


def _home(folder: Path) -> Installation:
    from analytics_dagster.clock import ManualClock
    from analytics_dagster.installation import open_installation
    from analytics_dagster.settings import Settings

    clock = ManualClock(dt.datetime(2026, 3, 1, 6, tzinfo=dt.UTC))
    opened = open_installation(Settings.from_environment(folder), clock, create=True)
    opened.tenants.ensure(TENANT)
    return opened


def _materialize(home: Installation, first: dt.date, last: dt.date) -> None:
    from analytics_dagster.lake.schemas import PLAYS
    from analytics_dagster.metrics.load import load_catalogue
    from analytics_dagster.orchestration.build import build_aggregates, build_raw

    log, family = logging.getLogger("bench"), load_catalogue().family("listening")
    built = [
        build_raw(home, PLAYS, [TENANT], first, last, "bench", log),
        build_aggregates(home, family, PLAYS, [TENANT], first, last, "bench", log),
    ]
    if any(step.failed for step in built):
        raise RuntimeError(f"could not be computed: {[dict(step.failed) for step in built]}")


def _arrive(home: Installation, first: dt.date, days: int, a_day: int, name: str) -> None:
    from analytics_dagster.lake.schemas import PLAYS

    chance, count = np.random.default_rng(len(name)), days * a_day
    start = int(dt.datetime.combine(first, dt.time(), dt.UTC).timestamp() * 1_000_000)
    who = chance.integers(0, 500, count)
    text = {
        "play_id": [f"{name}-{n}" for n in range(count)],
        "listener_id": who.astype(str).tolist(),
        "country": np.array(["US", "DE", "FR", "BR", "JP"])[who % 5].tolist(),
        "tier": np.array(["premium", "free"])[who % 2].tolist(),
        "device": np.array(["ios", "android", "web"])[who % 3].tolist(),
        "source": np.array(["playlist", "search", "library"])[chance.integers(0, 3, count)].tolist(),
        "format": ["bench"] * count,
    }
    given = {name: pa.array(values) for name, values in text.items()} | {
        "ts": pa.array(start + chance.integers(0, days * 86_400_000_000, count)).cast(pa.timestamp("us", "UTC")),
        "ms_played": pa.array(chance.integers(0, 300_000, count)),
        "track_ms": pa.array(np.full(count, 200_000)),
    }
    columns = [given.get(c.name, pa.nulls(count, c.type)).cast(c.type) for c in PLAYS.columns]
    home.landing.append(TENANT, PLAYS, pa.table(columns, schema=PLAYS.arrow), name)


def _versions(home: Installation) -> dict[tuple[str, dt.date], int]:
    found = home.publications.of(tenant=TENANT, first=FIRST, last=LAST)
    return {(record.asset, record.day): record.version for record in found}


def _noted(home: Installation) -> int:
    from analytics_dagster.metrics.ledger import restatements

    return restatements(home.lake.tenant(TENANT)).num_rows
