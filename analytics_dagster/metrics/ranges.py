"""Which state rows answer a question: the buckets of its range, and what a counter needs of those before it.

Stored buckets and those of recent points, computed here and now, are never of the same day.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analytics_dagster.errors import UserError
from analytics_dagster.lake.compute import identifier
from analytics_dagster.lake.lake import duckdb_type
from analytics_dagster.metrics.compile import SOURCE, build_at
from analytics_dagster.metrics.declarations import Aggregation, Family, Grain, Measure, within
from analytics_dagster.metrics.recorded import Recent
from analytics_dagster.metrics.sets import MICROSECONDS
from analytics_dagster.metrics.states import LOOK_BACK

if TYPE_CHECKING:
    from analytics_dagster.lake.lake import TenantLake

# An open end of a range. Delta compares months as text of four-digit years.
_EARLIEST, _LATEST = dt.datetime(1900, 1, 1, tzinfo=dt.UTC), dt.datetime(9998, 12, 31, tzinfo=dt.UTC)
_ONE_DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Range:
    """From `begin` to `end`, which is not in it (UTC); None: open."""

    begin: dt.datetime | None = None
    end: dt.datetime | None = None

    @classmethod
    def of_days(cls, first: dt.date | None, last: dt.date | None) -> Range:
        """Whole days, both included, of those that a lake can have."""
        begin = None if first is None else _kept(_midnight(first))
        return cls(begin, None if last is None else _kept(_midnight(min(last, _LATEST.date())) + _ONE_DAY))

    @classmethod
    def of(cls, first: dt.date | None, last: dt.date | None, since: dt.datetime | None, until: dt.datetime | None) -> Range:
        """The days `first` to `last`, narrowed to `since` and `until`. Raises UserError for a time without a zone."""
        for name, value in (("since", since), ("until", until)):
            if value is not None and value.tzinfo is None:
                raise UserError(f"{name} {value.isoformat()} has no time zone; write it as {value.isoformat()}Z")
        days = cls.of_days(first, last)
        return cls(
            max((_kept(t) for t in (days.begin, since) if t is not None), default=None),
            min((_kept(t) for t in (days.end, until) if t is not None), default=None),
        )

    def condition(self) -> str:
        """An SQL condition on `ts`."""
        parts = [f"ts >= '{_text(self.begin)}'"] if self.begin else []
        parts += [f"ts < '{_text(self.end)}'"] if self.end else []
        return " AND ".join(parts) or "true"

    def bounds(self, relation: str) -> tuple[str, str]:
        """SQL for its begin and end; where it is open, for those of the days in `relation`."""
        first = f"TIMESTAMPTZ '{_text(self.begin)}'" if self.begin else f"(SELECT min(ts) FROM {relation})"
        last = f"TIMESTAMPTZ '{_text(self.end)}'" if self.end else f"(SELECT max(ts) + INTERVAL 1 DAY FROM {relation})"
        return first, last

    @property
    def days(self) -> tuple[dt.date, dt.date]:
        """First and last day that it touches."""
        begin, end = (self.begin or _EARLIEST).astimezone(dt.UTC), (self.end or _LATEST).astimezone(dt.UTC)
        return begin.date(), max(begin, end - dt.timedelta(microseconds=1)).date()


def _kept(time: dt.datetime) -> dt.datetime:
    """`time`, or the nearest one that a lake can have: one may go some days back and on from it."""
    return min(max(time, _EARLIEST), _LATEST)


def reaching(wanted: Range, before: int, after: int) -> Range:
    """`wanted` with so many days before and after it."""
    return Range(
        None if wanted.begin is None else wanted.begin - before * _ONE_DAY,
        None if wanted.end is None else min(wanted.end + after * _ONE_DAY, _LATEST),
    )


def state_rows(
    tenant: TenantLake, family: Family, grain: Grain, wanted: Range, measures: Iterable[Measure], recent: Recent | None = None
) -> str:
    """A SELECT of the family's state rows of a stored grain within a range: the bucket, the dimensions, the measures' state.

    For a measure that is an increase also rows before the range, of this and coarser grains, so that every counter's last
    sample within LOOK_BACK is among them.
    """
    wanted_measures = tuple(measures)
    increases = any(m.aggregation is Aggregation.INCREASE for m in wanted_measures)
    pieces = [(grain, wanted)]
    if increases and wanted.begin:
        pieces += _before(family, grain, wanted.begin)
    made = [sql for at, span in pieces for sql in _piece(tenant, family, at, span, wanted_measures, recent or Recent())]
    return " UNION ALL ".join(made)


def _before(family: Family, grain: Grain, begin: dt.datetime) -> Iterator[tuple[Grain, Range]]:
    """What lies before `begin`: the rest of its hour by minute, the rest of its day by hour, days before."""
    end = begin
    for finer, coarser in zip(family.grains, family.grains[1:], strict=False):
        if family.grains.index(finer) >= family.grains.index(grain):
            start = _start(coarser, end)
            if start < end:
                yield finer, Range(start, end)
            end = start
    yield Grain.DAY, Range(_start(Grain.DAY, end) - LOOK_BACK, end)


def _start(grain: Grain, time: dt.datetime) -> dt.datetime:
    utc = time.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0)
    return utc.replace(hour=0) if grain is Grain.DAY else utc


def _piece(
    tenant: TenantLake, family: Family, grain: Grain, wanted: Range, measures: tuple[Measure, ...], recent: Recent
) -> Iterator[str]:
    names = ["ts", *(d.name for d in family.dimensions), *(c.name for m in measures for c in m.columns)]
    columns = ", ".join(identifier(name) for name in names)
    apart = [m for m in measures if grain not in family.set_grains and m.aggregation is Aggregation.COUNT_DISTINCT]
    if apart:
        # The finest grain has no sets of its own: they come in rows of their own, from the grain above it.
        for measure in apart:
            yield _finest_set(tenant, family, wanted, measure, names)
        lists = {m.name for m in apart}
        columns = ", ".join(f"NULL::BIGINT[] AS {identifier(n)}" if n in lists else identifier(n) for n in names)
    first, last = wanted.days
    mine = sorted(day for day in recent.days if first <= day <= last)
    if len(mine) < (last - first).days + 1:
        table = tenant.table(family.table(grain))
        rows = table.sql() if wanted.begin is wanted.end is None else table.sql(first, last)
        theirs = ", ".join(f"DATE '{day}'" for day in mine)
        others = f" AND CAST(ts AS DATE) NOT IN ({theirs})" if mine else ""
        yield f"SELECT {columns} FROM {rows} WHERE {wanted.condition()}{others}"
    if mine:
        # A bucket that begins within the range may end behind it.
        behind = f" AND ts < TIMESTAMPTZ '{_text(wanted.end)}' + INTERVAL 1 {grain}" if wanted.end else ""
        points = f"SELECT * FROM {recent.relation} WHERE {Range(wanted.begin).condition()}{behind}"
        built = f"WITH {SOURCE} AS ({points}) {build_at(family, grain, measures)}"
        yield f"SELECT {columns} FROM ({built}) WHERE {wanted.condition()}"


def _finest_set(tenant: TenantLake, family: Family, wanted: Range, measure: Measure, names: list[str]) -> str:
    """A SELECT of one row for each id and each bucket of the finest grain that it occurs in, other measures' state null."""
    finest, grain = family.grains[0], family.grains[1]
    table, (first, last) = tenant.table(family.table(grain)), wanted.days
    rows = table.sql() if wanted.begin is wanted.end is None else table.sql(first, last)
    dimensions = ", ".join(["ts", *(identifier(d.name) for d in family.dimensions)])
    lists = f"unnest({identifier(measure.name)}) AS _id, unnest({identifier(within(measure.name))}) AS _bits"
    buckets = f"generate_series(0, {MICROSECONDS[grain] // MICROSECONDS[finest] - 1})"
    nulls = {c.name: f"NULL::{duckdb_type(c.type)}" for c in family.table(finest).columns}
    made = {"ts": f"ts + _n * INTERVAL 1 {finest}", measure.name: "[_id]"}
    made |= {d.name: identifier(d.name) for d in family.dimensions}
    columns = ", ".join(f"{made.get(n) or nulls.get(n, 'NULL::BIGINT[]')} AS {identifier(n)}" for n in names)
    each = f"SELECT {dimensions}, {lists} FROM {rows}"
    there = f"SELECT {columns} FROM ({each}), (SELECT unnest({buckets}) AS _n) WHERE (_bits >> _n) & 1 = 1"
    return f"SELECT * FROM ({there}) WHERE {wanted.condition()}"


def _midnight(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), dt.UTC)


def _text(time: dt.datetime) -> str:
    return time.astimezone(dt.UTC).isoformat()
