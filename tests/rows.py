"""Rows for tests of several rooms, made without files."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa

from analytics_dagster.lake.schemas import PLAYS, SYSTEM_SAMPLES


def plays(*rows: tuple[str, dt.datetime] | tuple[str, dt.datetime, str]) -> pa.Table:
    """Rows of raw/plays from (play_id, ts[, track])."""
    made = [{"play_id": r[0], "ts": r[1], "track": r[2] if len(r) > 2 else "song", "format": "test"} for r in rows]
    return pa.Table.from_pylist(made, schema=PLAYS.arrow)


def samples(first: dt.date, days: int, a_day: int = 24, cpu: float = 10.0) -> pa.Table:
    """`a_day` rows of system_samples on each of `days` days."""
    start = dt.datetime(first.year, first.month, first.day, tzinfo=dt.UTC)
    rows = [
        {
            "sample_id": f"{start + dt.timedelta(days=day)}-{n}",
            "ts": start + dt.timedelta(days=day, minutes=n * (1440 // a_day)),
            "host": "web-1",
            "cpu_percent": cpu,
            "network_bytes": n,
            "format": "test",
        }
        for day in range(days)
        for n in range(a_day)
    ]
    return pa.Table.from_pylist(rows, schema=SYSTEM_SAMPLES.arrow)
