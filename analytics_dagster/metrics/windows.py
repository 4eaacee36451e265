"""Distinct ids of rolling windows, counted ahead: of each day and window the ids in all, and of each value of each one dimension.

Reading a month's sets for each question takes seconds; the counts are a few rows a day. An id is inside a window of n days from a
day on which it was seen until n days later, or until it is seen again: so each id and day is looked at once, however many windows
and days are told. Ids and a dimension's values are numbered, and what is known of a pair of them has a place in an array.

A day's counts follow from the sets of the days before it too, so a day that is computed again changes those of the days after it:
`aggregate.py` counts them in the same call, and with them every day that has none yet. Exact, as the sets are.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa

from analytics_dagster.lake.compute import identifier
from analytics_dagster.metrics.declarations import Aggregation, Family, Measure
from analytics_dagster.metrics.formulas import MeasureFigure, leaves

if TYPE_CHECKING:
    import duckdb
    from numpy.typing import NDArray

    from analytics_dagster.lake.lake import Table

    Numbers: TypeAlias = NDArray[np.int64]

LONGEST = 31
"""Days of the longest window that is counted ahead: a day that is computed again has so many days counted again."""
MOST_VALUES = 300
"""A dimension with more values in a window is not counted ahead, there: more than there are countries, fewer than artists."""

# Pairs of an id and a day that are held at once, 100 bytes each.
_AT_ONCE = 8_000_000
# Places for every pair of a value and an id; where there would be more, only pairs that occur have one.
_MOST_PLACES = 1 << 24
# Counts of all values, days and windows that are held at once, 16 bytes each: of a dimension with more, sets are read.
_MOST_COUNTS = 1 << 24
_NEVER = -(10**6)
_ONE_DAY = dt.timedelta(days=1)


def windows_of(family: Family) -> dict[str, tuple[int, ...]]:
    """The windows that are counted ahead, in days, by the measure that they are of."""
    distinct = {m.name for m in family.measures if m.aggregation is Aggregation.COUNT_DISTINCT}
    found: dict[str, set[int]] = {}
    for leaf in (leaf for metric in family.metrics for leaf in leaves(metric.formula)):
        if leaf.measure in distinct and leaf.window is not None and is_counted(leaf):
            found.setdefault(leaf.measure, set()).add(leaf.window)
    return {name: tuple(sorted(days)) for name, days in sorted(found.items())}


def is_counted(leaf: MeasureFigure) -> bool:
    """Whether a figure of distinct ids over a window is counted ahead."""
    return leaf.window is not None and leaf.window <= LONGEST and leaf.seen is None


@dataclass(frozen=True)
class Counting:
    """What is made anew of a family's table of counts, whose days from `first` to `last` are written: the windows that end with
    one of `days`. Of the others those stay that end with a day from `oldest` to `newest`; nothing tells those before and behind.
    """

    first: dt.date
    last: dt.date
    days: tuple[dt.date, ...]
    oldest: dt.date | None
    newest: dt.date | None

    def stays(self) -> str:
        """An SQL condition on rows of windows."""
        listed = ", ".join(f"DATE '{day}'" for day in self.days)
        made = f" AND ts::DATE NOT IN ({listed})" if listed else ""
        return "false" if self.oldest is None else f"ts::DATE BETWEEN DATE '{self.oldest}' AND DATE '{self.newest}'{made}"


def to_count(
    connection: duckdb.DuckDBPyConnection, family: Family, days: Table, counts: Table, first: dt.date, last: dt.date
) -> Counting:
    """What is to be counted when the days from `first` to `last` of the family's table `days` are new: the windows that hold one
    of them, and those that other days lack or have of another declaration.
    """
    windows = windows_of(family)
    of_a_day, longest = sum(map(len, windows.values())), max((of[-1] for of in windows.values()), default=1)
    known = connection.execute(
        f"SELECT ts::DATE, count(*) = {of_a_day} FROM {counts.sql()} WHERE dimension IS NULL AND days > 1 GROUP BY ts"
    ).fetchall()
    if not windows and not known:
        return Counting(first, last, (), None, None)
    [(oldest, newest)] = connection.execute(f"SELECT min(ts)::DATE, max(ts)::DATE FROM {days.sql()}").fetchall()
    complete, until = {day for day, whole in known if whole}, last + (longest - 1) * _ONE_DAY
    told = [] if oldest is None or not windows else [oldest + n * _ONE_DAY for n in range((newest - oldest).days + 1)]
    wanted = tuple(day for day in told if first <= day <= until or day not in complete)
    gone = [day for day, _ in known if day not in told]
    return Counting(min([first, *wanted, *gone]), max([last, *wanted, *gone]), wanted, oldest, newest)


def window_counts(
    connection: duckdb.DuckDBPyConnection, family: Family, days: Table, wanted: Sequence[dt.date], at_once: int = _AT_ONCE
) -> Iterator[pa.RecordBatch]:
    """Rows of the table of counts for the windows that end with each of `wanted` (in order). At most about twice `at_once` pairs
    of an id and a day are held: of days with more, some of the ids after the others.
    """
    for name, windows in windows_of(family).items():
        for first, last, held in _portions(connection, days, name, windows[-1], wanted, at_once):
            counted: dict[tuple[str | None, int], tuple[pa.Array, Numbers]] = {}
            parts = -(-held // (2 * at_once)) or 1
            for part in range(parts):
                reach = (first - (windows[-1] - 1) * _ONE_DAY, last)
                seen = _Seen.read(connection, family, days, family.measure(name), reach, (part, parts))
                for dimension in (None, *(d.name for d in family.dimensions)):
                    for window, values, counts in seen.counted(dimension, windows, (last - first).days + 1):
                        known = counted.get((dimension, window))
                        counted[dimension, window] = (values, counts if known is None else known[1] + counts)
            among = {day for day in wanted if first <= day <= last}
            for (dimension, window), (values, counts) in counted.items():
                yield from _rows(family, name, dimension, values, window, first, counts, among)


def _portions(
    connection: duckdb.DuckDBPyConnection, days: Table, measure: str, window: int, wanted: Sequence[dt.date], at_once: int
) -> Iterator[tuple[dt.date, dt.date, int]]:
    """`wanted` as ranges, the first and the last day, each with how many ids its days and those of its windows have: at most
    `at_once`, unless one day with its windows has more.
    """
    if not wanted:
        return
    rows = days.sql(wanted[0] - window * _ONE_DAY, wanted[-1])
    query = f"SELECT ts::DATE, coalesce(sum(len({identifier(measure)})), 0)::BIGINT FROM {rows} GROUP BY 1"
    sizes: dict[dt.date, int] = dict(connection.execute(query).fetchall())

    def of_days(last: dt.date, count: int) -> int:
        return sum(sizes.get(last - n * _ONE_DAY, 0) for n in range(count))

    first, held = wanted[0], of_days(wanted[0], window)
    for before, day in itertools.pairwise(wanted):
        more = of_days(day, min(window, (day - before).days))
        if day - before > window * _ONE_DAY or held + more > at_once:
            yield first, before, held
            first, held = day, of_days(day, window)
        else:
            held += more
    yield first, wanted[-1], held


@dataclass(frozen=True)
class _Seen:
    """Which ids were seen on each of some consecutive days, by cells (rows of the day's table)."""

    cells: pa.Table
    of_cell: NDArray[np.int32]
    """How many ids each cell has."""
    ids: NDArray[np.int32]
    """Of each cell one after the other, in order of days; numbered."""
    starts: NDArray[np.int64]
    """Where in `ids` each day begins, and behind them where the last ends."""
    different: int

    @classmethod
    def read(
        cls,
        connection: duckdb.DuckDBPyConnection,
        family: Family,
        days: Table,
        measure: Measure,
        reach: tuple[dt.date, dt.date],
        part: tuple[int, int],
    ) -> _Seen:
        """Of the days from the first to the last in `reach`, the n-th of so many parts of all ids."""
        first, last = reach
        names = [identifier(d.name) for d in family.dimensions]
        ids = identifier(measure.name)
        some = ids if part[1] == 1 else f"list_filter({ids}, lambda id: id % {part[1]} = {part[0]})"
        chosen = ", ".join([f"ts::DATE - DATE '{first}' AS day", *names, f"{some} AS ids"])
        # In one order, so that values have the same numbers in all parts.
        order = ", ".join(["day", *(f"{name} NULLS FIRST" for name in names)])
        query = f"SELECT {chosen} FROM {days.sql(first, last)} WHERE {ids} IS NOT NULL ORDER BY {order}"
        cells = connection.sql(query).to_arrow_table().combine_chunks()
        lists = cells.column("ids").combine_chunks()
        encoded = lists.flatten().dictionary_encode() if cells.num_rows else pa.array([], pa.int64()).dictionary_encode()
        of_cell = lists.value_lengths().to_numpy(zero_copy_only=False) if cells.num_rows else np.empty(0, np.int32)
        by_day = np.bincount(cells.column("day").to_numpy(), of_cell, (last - first).days + 1).astype(np.int64)
        ids = encoded.indices.to_numpy(zero_copy_only=False)
        starts = np.concatenate([[0], np.cumsum(by_day)])
        return cls(cells.drop_columns("ids"), of_cell, ids, starts, max(1, len(encoded.dictionary)))

    def counted(
        self, dimension: str | None, windows: Sequence[int], told: int
    ) -> Iterator[tuple[int, pa.Array, NDArray[np.int64]]]:
        """Of each window the dimension's values and how many ids of each (columns) are in it on the last `told` days (rows);
        nothing of a dimension with too many values, whichever part of the ids this is.
        """
        if dimension is None:
            values, codes = pa.array([None], pa.string()), np.zeros(self.cells.num_rows, np.int64)
        else:
            encoded = self.cells.column(dimension).combine_chunks().dictionary_encode(null_encoding="encode")
            if isinstance(encoded, pa.ChunkedArray):
                encoded = encoded.combine_chunks()
            values, codes = encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        days = len(self.starts) - 1
        # One quiet day is enough to have all values counted, of other days too.
        room = len(values) * (days - told + sum(told + window for window in windows))
        if room > _MOST_COUNTS or self._crowded(codes, windows[0], told):
            return
        places = Places.of(np.repeat(codes, self.of_cell), self.ids, len(values), self.different)
        for window, counts in zip(windows, inside(places, self.starts, len(values), windows, told), strict=True):
            yield window, values, counts

    def _crowded(self, codes: Numbers, window: int, told: int) -> bool:
        """Whether each window of the last `told` days has a day with more than MOST_VALUES values: then none is counted."""
        days, values = len(self.starts) - 1, codes.max(initial=0) + 1
        pairs = np.unique(self.cells.column("day").to_numpy().astype(np.int64) * values + codes)
        crowded = np.bincount(pairs // values, minlength=days) > MOST_VALUES
        return all(crowded[max(0, day - window + 1) : day + 1].any() for day in range(days - told, days))


@dataclass(frozen=True)
class Places:
    """A place for each pair of a value and an id."""

    at: Numbers
    """The place of each id that was seen, in the order of `_Seen.ids`."""
    count: int
    values: Numbers | None
    """The value of each place; None: it is the place divided by `ids`."""
    ids: int

    @classmethod
    def of(
        cls, values: Numbers, ids: NDArray[np.int32], different_values: int, different_ids: int, most: int = _MOST_PLACES
    ) -> Places:
        """Of numbers below `different_...`; for more than `most` pairs a place only for those that occur."""
        places = values * different_ids + ids
        if different_values * different_ids <= most:
            return cls(places, different_values * different_ids, None, different_ids)
        encoded = pa.array(places).dictionary_encode()
        occurring = encoded.dictionary.to_numpy()
        return cls(encoded.indices.to_numpy().astype(np.int64), len(occurring), occurring // different_ids, different_ids)

    def value(self, places: Numbers) -> Numbers:
        return places // self.ids if self.values is None else self.values[places]


def inside(places: Places, starts: Numbers, values: int, windows: Sequence[int], told: int) -> list[Numbers]:
    """Of each window how many ids of each value (columns) it has on each of the last `told` days (rows)."""
    days = len(starts) - 1
    begin = days - told
    last = np.full(places.count, _NEVER, np.int32)
    # Of a place that is there more than once the last assignment stays.
    last[places.at[: starts[begin]]] = np.repeat(np.arange(begin, dtype=np.int32), np.diff(starts[: begin + 1]))
    there = np.flatnonzero(last >= 0)
    seen_last = np.bincount(last[there] * np.int64(values) + places.value(there), minlength=begin * values).reshape(begin, values)
    marks = np.empty(places.count, np.int32)
    # How many more are inside on a day than on the one before.
    changes = [np.zeros((told + window, values), np.int64) for window in windows]
    for window, change in zip(windows, changes, strict=True):
        for day in range(max(0, begin - window + 1), begin):
            change[0] += seen_last[day]
            change[day + window - begin] -= seen_last[day]
    for day in range(begin, days):
        now = _once(places.at[starts[day] : starts[day + 1]], marks)
        before, of_value = last[now].astype(np.int64), places.value(now)
        last[now] = day
        for window, change in zip(windows, changes, strict=True):
            comes = np.maximum(day, before + window) - begin
            np.add.at(change.reshape(-1), comes * values + of_value, 1)
            change[day + window - begin] -= np.bincount(of_value, minlength=values)
    return [np.cumsum(change[:told], axis=0) for change in changes]


def _once(places: Numbers, marks: NDArray[np.int32]) -> Numbers:
    """Each place once. `marks` is room for all of them; what is in it does not matter. Sorting takes three times as long."""
    numbers = np.arange(len(places), dtype=np.int32)
    marks[places] = numbers
    once: Numbers = places[marks[places] == numbers]
    return once


def _rows(
    family: Family,
    measure: str,
    dimension: str | None,
    values: pa.Array,
    window: int,
    first: dt.date,
    counts: Numbers,
    among: Collection[dt.date],
) -> Iterator[pa.RecordBatch]:
    """Counts by day from `first` on and by value as rows, of the days in `among` and windows without too many values. In all
    there is a row for each day.
    """
    assert family.counts is not None
    wanted = np.array([first + n * _ONE_DAY in among for n in range(len(counts))])
    wanted &= (counts > 0).sum(axis=1) <= MOST_VALUES
    days, at = np.nonzero((counts > (0 if dimension else -1)) & wanted[:, None])
    if not len(days):
        return
    columns = {
        "ts": pa.array(np.datetime64(first, "us") + days.astype("timedelta64[D]")),
        "measure": pa.repeat(measure, len(days)),
        "dimension": pa.repeat(pa.scalar(dimension, pa.string()), len(days)),
        "value": values.take(pa.array(at)),
        "days": pa.repeat(window, len(days)),
        "count": pa.array(counts[days, at]),
    }
    schema = family.counts.arrow
    yield pa.RecordBatch.from_arrays([columns[f.name].cast(f.type) for f in schema], schema=schema)
