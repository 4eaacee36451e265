"""Rows for every measured table that two engines might read differently: nulls, odd numbers, equal times, edges of days.

The days are few and far apart, so that windows of a month, cohorts of twelve weeks and gaps are all among them. Beside random
rows there are plays that each rule for artificial plays is about, some above a cap, and a listener who comes every day.
"""

from __future__ import annotations

import datetime as dt
import math
import random
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from analytics_dagster.lake.schemas import METRICS, PLAYS, TIMESTAMP, Column, TableSchema

FIRST = dt.date(2026, 1, 30)
DAYS = [FIRST + dt.timedelta(days=n) for n in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 28, 29, 56, 84, 85, 100, 128)]
LAST = DAYS[-1]
ROWS = 700
# What some columns hold; any other is filled by its type, so that a new table needs nothing here.
WORDS: dict[str, tuple[Any, ...]] = {
    "type": ("gauge", "counter", "counter", "histogram", "timer"),
    "labels": ('{"host":"a"}', '{"host":"b"}', "{}"),
    "end_reason": ("trackdone", "fwdbtn", "backbtn", "endplay", "logout", "unheard of"),
    "source": ("artist", "album", "library", "search", ""),
    "country": ("US", "DE", ""),
    "tier": ("free", "premium"),
    "from_tier": ("free", "premium"),
    "to_tier": ("free", "premium"),
    "currency": ("EUR", "USD"),
    "status": (200, 204, 400, 404, 499, 500, 503),
    "format": ("spotify", "lastfm"),
    "cause": ("late", "policy"),
}
EVENTS = {
    "subscriptions": ("signup", "trial", "upgrade", "renewal", "downgrade", "cancel", "reactivate"),
    "interactions": ("save", "unsave", "playlist_add", "playlist_remove", "share", "discover", "invite", "join",
                     "follow", "follow", "follow", "unfollow"),
}  # fmt: skip
FRACTIONS = (0.1, -0.1, 0.0, -0.0, 2.5e-9, 1 / 3, 12345.678901234567, 9007199254740993.0, 99999999999999983616.0, 1e20, -3e25,
             math.nan, math.inf, -math.inf)  # fmt: skip


def odd_rows(schema: TableSchema, seed: int) -> pa.Table:
    """Rows of a measured table, the same for the same seed."""
    chance = random.Random(f"{schema.name} {seed}")
    rows = [_row(schema, chance, n) for n in range(ROWS)]
    if schema is METRICS:  # a name has one type
        rows = [{**row, "name": f"some_{row['type']}"} for row in rows]
    if schema is PLAYS:
        rows += [{**_row(schema, chance, ROWS + n), **play} for n, play in enumerate([*_artificial(), *_devoted()])]
    return pa.Table.from_pylist(rows, schema=schema.arrow)


def _row(schema: TableSchema, chance: random.Random, number: int) -> dict[str, Any]:
    row = {c.name: _value(c, chance, number) for c in schema.columns}
    events = EVENTS.get(schema.name)
    return {**row, schema.key: f"{number}", **({"event": chance.choice(events)} if events else {})}


def _value(column: Column, chance: random.Random, row: int) -> Any:
    if column.type == TIMESTAMP:
        day = dt.datetime.combine(chance.choice(DAYS), dt.time(), dt.UTC)
        odd = (dt.timedelta(), dt.timedelta(days=1, microseconds=-1), dt.timedelta(hours=chance.randrange(24), minutes=7))
        return day + (chance.choice(odd) if row % 3 == 0 else dt.timedelta(microseconds=chance.randrange(86_400_000_000)))
    if not column.required and chance.random() < 0.1:
        return None
    if column.name in WORDS:
        return chance.choice(WORDS[column.name])
    if column.type == pa.string():
        return chance.choice(["", "ü", f"{column.name}-{chance.randrange(12)}"])
    if column.type == pa.date32():
        return chance.choice(DAYS)
    if column.type == pa.int64():
        return chance.choice([chance.randrange(400_000), chance.randrange(100), 0, 9_007_199_254_740_993 if row % 50 == 0 else 7])
    if column.type == pa.float64():
        return chance.choice(FRACTIONS) if row % 4 == 0 else round(chance.uniform(-10, 1000), chance.randrange(12))
    return chance.random() < 0.5


def _artificial() -> Iterator[dict[str, Any]]:
    """For each rule the least that it is about, in the rules' order, on a day each."""
    yield from _plays("more than a day", DAYS[0], count=25, apart_s=0, ms_played=3_600_000)
    yield from _plays("overlapping", DAYS[1], count=14, apart_s=0, ms_played=3_600_000)
    yield from _plays("too many", DAYS[2], count=721, apart_s=100, ms_played=60_000)
    yield from _plays("repeated", DAYS[3], count=301, apart_s=200, ms_played=120_000, track_id="again")
    yield from _plays("just over", DAYS[4], count=200, apart_s=200, ms_played=31_000)
    for member in range(5):
        yield from _plays(f"farm {member}", DAYS[5], count=100, apart_s=300, ms_played=200_000, artist_id="farmed", country="US")


def _devoted() -> Iterator[dict[str, Any]]:
    """A listener who chooses one artist on ten days in a row."""
    for day in DAYS[:10]:
        yield from _plays("devoted", day, count=1, apart_s=0, artist_id="chosen", source="artist", ms_played=200_000)


def _plays(listener: str, day: dt.date, *, count: int, apart_s: int, **given: Any) -> Iterator[dict[str, Any]]:
    begin = dt.datetime.combine(day, dt.time(), dt.UTC)
    for n in range(count):
        ts = begin + dt.timedelta(seconds=n * apart_s)
        yield {"ts": ts, "listener_id": listener, "track_id": f"track {n}", "device": "speaker", "format": "spotify", **given}
