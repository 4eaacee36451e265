"""Figures over a rolling window of days: SQL over day states that reach back before the first day that is asked for.

A window of 28 days ends with the day it is told for, that day included (Spotify for Artists: monthly listeners are the distinct
listeners of the last 28 days). Figures here are made from the days' state, so a late play changes every window that holds its
day; distinct ids of most windows are counted ahead (`windows.py`), and read here only where they are not. The first days of a
tenant have windows that are not full yet, and say what is in them.
"""

from __future__ import annotations

import datetime as dt

from analytics_dagster.errors import DeclarationError
from analytics_dagster.lake.compute import identifier as q
from analytics_dagster.metrics import forms, states
from analytics_dagster.metrics.declarations import Aggregation, Measure, Origin
from analytics_dagster.metrics.formulas import SeenOn

# Days that one column of bits holds; the longest window, and the most days told, that bits are used for.
_BITS = 63
_MOST_BITS = 366
_MOST_DAYS = 800

ROLLING = frozenset(
    {
        Aggregation.COUNT,
        Aggregation.SUM,
        Aggregation.SUM_BOOLEAN,
        Aggregation.AVERAGE,
        Aggregation.MIN,
        Aggregation.MAX,
        Aggregation.LAST,
        Aggregation.COUNT_DISTINCT,
    }
)
"""What can be told over a window: whatever merges without looking at the bucket before."""


def seen_on(params: forms.CumulativeParams, aggregation: Aggregation, where: Origin) -> SeenOn | None:
    """On how many days ids must have been seen, as declared. Raises DeclarationError for what cannot be."""
    wanted = params.seen_on
    if wanted is None:
        return None
    if aggregation is not Aggregation.COUNT_DISTINCT:
        raise DeclarationError(
            f"{where}: measure {params.measure!r} is {aggregation}; seen_on is for count_distinct, whose ids come on days"
        )
    if wanted.at_most is not None and wanted.at_most < wanted.at_least:
        raise DeclarationError(
            f"{where}: seen_on has at_most {wanted.at_most} below at_least {wanted.at_least}; nobody can be both"
        )
    return SeenOn(wanted.at_least, wanted.at_most)


def span(relation: str, last: str) -> str:
    """A SELECT of every day from the first with rows in `relation` to `last` (SQL), the days without rows too."""
    return f"SELECT unnest(generate_series(min(ts), {last}, INTERVAL 1 DAY)) AS ts FROM {relation}"


def rolling_figures(
    measure: Measure,
    window: int,
    keys: list[str],
    relation: str,
    days: str,
    told: tuple[dt.date, dt.date] | None = None,
    seen: SeenOn | None = None,
) -> str:
    """A SELECT of ts (each of `days`, and of them at least those that are `told`: the first and the last), `keys` and `figure`:
    the measure over the `window` days that end with ts.

    With `seen` only ids count that were there on so many of them. `relation` has day states: ts, `keys`, the measure's state
    columns. A window without rows has no figure.
    """
    if measure.aggregation is Aggregation.COUNT_DISTINCT:
        if seen is None and told is not None and window <= _MOST_BITS and (told[1] - told[0]).days < _MOST_DAYS:
            return _distinct_by_bits(measure, window, keys, relation, days, told)
        spells = _spells(window, keys) if seen is None else _spells_of_days(window, keys, seen)
        return _counted(measure, spells, keys, relation, days)
    columns = ", ".join(f"{sql} AS {q(column.name)}" for sql, column in zip(states.merge(measure), measure.columns, strict=True))
    by_day = ", ".join(["ts", *keys])
    by_window = ", ".join(["ending.ts", *keys])
    # Merged by day first: a day's rows are then one for each combination of keys, and are read `window` times.
    daily = f"SELECT {by_day}, {columns} FROM {relation} GROUP BY {by_day}"
    inside = f"daily.ts <= ending.ts AND daily.ts > ending.ts - INTERVAL {window} DAY"
    merged = f"SELECT {by_window}, {columns} FROM {days} AS ending JOIN ({daily}) AS daily ON {inside} GROUP BY {by_window}"
    return f"SELECT {by_day}, {states.read(measure)} AS figure FROM ({merged})"


def _distinct_by_bits(
    measure: Measure, window: int, keys: list[str], relation: str, days: str, told: tuple[dt.date, dt.date]
) -> str:
    """Each id is looked at once for all days: bits say on which of them it was seen, and a window is some of the bits.

    Takes a fifth of the time of `_distinct`, which sorts every id and day, but has an expression for each day that is told.
    """
    first, count = told[0] - dt.timedelta(days=window - 1), (told[1] - told[0]).days + 1
    columns = range((window - 2 + count) // _BITS + 1)
    day = f"CAST((epoch_us(ts) - epoch_us(TIMESTAMPTZ '{first} 00:00+00')) // 86400000000 AS BIGINT)"
    apart = "".join(f", {key}" for key in keys)
    inside = f"ts >= '{first} 00:00+00' AND ts < TIMESTAMPTZ '{told[1]} 00:00+00' + INTERVAL 1 DAY"
    seen = f"SELECT {day} AS day{apart}, unnest({q(measure.columns[0].name)}) AS id FROM {relation} WHERE {inside}"
    bits = ", ".join(
        f"bit_or(CASE WHEN day // {_BITS} = {n} THEN CAST(1 AS BIGINT) << day % {_BITS} ELSE 0 END) AS b{n}" for n in columns
    )
    masks = f"SELECT {bits}{apart} FROM ({seen}) GROUP BY id{apart}"
    windows = ", ".join(f"count(*) FILTER ({_any_bit(n, window)})" for n in range(count))
    counted = f"SELECT [{windows}] AS figures{apart} FROM ({masks}) GROUP BY {', '.join(keys) or 'ALL'}"
    at = f"TIMESTAMPTZ '{told[0]} 00:00+00' + to_days(CAST(unnest(range({count})) AS INTEGER))"
    spread = f"SELECT {at} AS ts{apart}, unnest(figures) AS figure FROM ({counted})"
    return (
        f"SELECT ts{apart}, CAST(figure AS DOUBLE) AS figure FROM ({spread}) "
        f"WHERE figure > 0 AND ts <= (SELECT max(ts) FROM {days})"
    )


def _any_bit(begin: int, window: int) -> str:
    """SQL for whether any of the `window` bits from `begin` is set."""
    masks: dict[int, int] = {}
    for bit in range(begin, begin + window):
        masks[bit // _BITS] = masks.get(bit // _BITS, 0) | 1 << bit % _BITS
    return " OR ".join(f"b{n} & {mask} <> 0" for n, mask in masks.items())


def _spells(window: int, keys: list[str]) -> str:
    """A SELECT from `seen` of when ids are inside: from a day an id was seen until `window` days later, or until it is seen
    again. So every id and day is touched once, however long the window is.
    """
    by = ", ".join(["ts", *keys])
    apart = "".join(f", {key}" for key in keys)
    again = f"lead(ts) OVER (PARTITION BY id{apart} ORDER BY ts)"
    return f"SELECT {by}, least(ts + INTERVAL {window} DAY, coalesce({again}, ts + INTERVAL {window} DAY)) AS until FROM seen"


def _spells_of_days(window: int, keys: list[str], seen: SeenOn) -> str:
    """A SELECT from `seen` of when ids are inside that were seen on so many days of the window: a day counts from itself until it
    leaves the window, so an id's number of days changes at most twice for each.
    """
    apart = "".join(f", {key}" for key in keys)
    steps = (
        f"SELECT ts{apart}, id, 1 AS n FROM seen UNION ALL SELECT ts + INTERVAL {window} DAY AS ts{apart}, id, -1 AS n FROM seen"
    )
    changes = f"SELECT ts{apart}, id, sum(n) AS n FROM ({steps}) GROUP BY ts{apart}, id"
    over = f"OVER (PARTITION BY id{apart} ORDER BY ts)"
    counts = f"SELECT ts{apart}, sum(n) {over} AS days, lead(ts) {over} AS until FROM ({changes})"
    most = "" if seen.most is None else f" AND days <= {seen.most}"
    # The last change of every id is to no day at all, so whoever is inside has an `until`.
    return f"SELECT ts{apart}, until FROM ({counts}) WHERE days >= {seen.least}{most}"


def _counted(measure: Measure, spells: str, keys: list[str], relation: str, days: str) -> str:
    """How many ids are inside on each day; `spells` selects from `seen` (ts, `keys`, id) when each is."""
    by = ", ".join(["ts", *keys])
    apart = "".join(f", {key}" for key in keys)
    seen = f"SELECT DISTINCT {by}, unnest({q(measure.columns[0].name)}) AS id FROM {relation}"
    moves = (
        f"SELECT {by}, count(*) AS n FROM spells GROUP BY {by} "
        f"UNION ALL SELECT until AS ts{apart}, -count(*) AS n FROM spells GROUP BY until{apart} "
        f"UNION ALL SELECT d.ts{apart}, 0 AS n FROM {days} AS d CROSS JOIN (SELECT DISTINCT 1{apart} FROM {relation})"
    )
    order = f"PARTITION BY {', '.join(keys)} ORDER BY ts" if keys else "ORDER BY ts"
    # Summed by day first: on one day some come in and others go out.
    counted = f"SELECT {by}, sum(sum(n)) OVER ({order}) AS figure FROM ({moves}) GROUP BY {by}"
    return (
        f"WITH seen AS ({seen}), spells AS ({spells}) "
        f"SELECT {by}, CAST(figure AS DOUBLE) AS figure FROM ({counted}) "
        f"WHERE figure > 0 AND ts <= (SELECT max(ts) FROM {days})"
    )
