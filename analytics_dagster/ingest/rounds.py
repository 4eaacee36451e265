"""One round of the log cut up by tenant: batches of all sources in, each tenant's rows for one landing table out.

Whole columns at a time, whatever a batch holds: dictionaries are joined once, rows are sorted once and by number. Points are
sorted by series and time, because Parquet then prunes by name and is a third of the size.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from analytics_dagster.ingest.identity import SERIES_ID_SQL, place_of, point_id_sql
from analytics_dagster.ingest.log.interface import PLAYS as LOG_PLAYS
from analytics_dagster.ingest.log.interface import POINTS, Batch
from analytics_dagster.lake.compute import connect
from analytics_dagster.lake.schemas import METRICS, PLAYS, TIMESTAMP, TableSchema

if TYPE_CHECKING:
    import duckdb

_US_A_DAY = 86_400_000_000
# Text made at once while a table is written. A label set may have 64 values of 1,024 characters, a million rows may share it.
_CHUNK_BYTES = 32 * 2**20
_CHUNK_ROWS = 65_536

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TenantRows:
    """One tenant's rows of one table in a round, in the order in which they are to be stored.

    `rows` has the table's columns and `arrival`, `arrival_row`; text may still be dictionaries. Row i came from source
    `source[i]` (a number), in the batch at `position[i]`.
    """

    tenant: str
    table: TableSchema
    rows: pa.Table
    source: Ints
    position: Ints

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def behind(self, stored: Sequence[int]) -> TenantRows:
        """Those of batches behind `stored`, a position for each source."""
        new = self.position > np.asarray(stored, np.int64)[self.source]
        if new.all():
            return self
        return TenantRows(self.tenant, self.table, self.rows.filter(pa.array(new)), self.source[new], self.position[new])

    def through(self, sources: Sequence[str]) -> dict[str, int]:
        """The newest position of each source that these rows came from."""
        return {sources[n]: int(self.position[self.source == n].max()) for n in np.unique(self.source)}

    def days(self) -> dict[dt.date, int]:
        """Rows by day of event time (UTC)."""
        numbers, counts = np.unique(_numbers(self.rows, "ts") // _US_A_DAY, return_counts=True)
        first = dt.date(1970, 1, 1)
        return {first + dt.timedelta(days=int(day)): int(rows) for day, rows in zip(numbers, counts, strict=True)}

    def newest(self) -> dt.datetime:
        """Time of the newest row (UTC)."""
        return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=int(_numbers(self.rows, "ts").max()))

    def arrow(self, arrived_at: dt.datetime) -> pa.RecordBatchReader:
        """The rows with `arrived_at`, in batches whose text fits in memory."""
        stamped = self.rows.append_column("arrived_at", pa.repeat(pa.scalar(arrived_at, TIMESTAMP), len(self)))
        return stamped.to_reader(max_chunksize=max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // _widest(self.rows))))


@dataclass(frozen=True)
class SourceBatches:
    """What a round read from one source, oldest first, and the name of the arrival that it becomes."""

    source: str
    arrival: str
    batches: Sequence[Batch]


def tenant_rows(read: Sequence[SourceBatches]) -> list[TenantRows]:
    """The round's rows by table and tenant, tenants in order. A source's number is its place in `read`."""
    found = []
    for table, name, split in ((METRICS, POINTS, _points), (PLAYS, LOG_PLAYS, _plays)):
        batches = [
            (number, batch)
            for number, source in enumerate(read)
            for batch in source.batches
            if batch.table == name and batch.rows.num_rows
        ]
        if batches:
            found += _by_tenant(table, split(_together(batches, read)))
    return found


def _points(rows: pa.Table) -> pa.Table:
    """Sorted by tenant, series and time, with ids."""
    series = np.zeros(rows.num_rows, np.int64)
    for name in ("tenant", "name", "labels", "type"):
        ranks, texts = _ranked(rows.column(name))
        series = series * len(texts) + ranks
    order = np.lexsort((_numbers(rows, "ts"), series))
    series, rows = series[order], rows.take(pa.array(order))
    # Not before: plays have a column of this name.
    rows = rows.append_column("source", rows.column("place"))
    # One thread, because it gives rows back in their order; `_computed` has one for each slice.
    with connect(threads=1) as connection:
        rows = rows.append_column("series_id", _series_ids(rows, series, connection))
        return rows.append_column("point_id", _computed(rows, point_id_sql("series_id"), connection))


def _series_ids(rows: pa.Table, series: Ints, connection: duckdb.DuckDBPyConnection) -> pa.DictionaryArray:
    """SERIES_ID_SQL of each row, computed once for each run of equal `series`."""
    begins = np.concatenate(([True], series[1:] != series[:-1]))
    first = rows.select(["type", "name", "labels"]).take(pa.array(np.flatnonzero(begins)))
    ids = _computed(first, SERIES_ID_SQL, connection).combine_chunks()
    return pa.DictionaryArray.from_arrays(pa.array(np.cumsum(begins) - 1, pa.int32()), ids)


def _computed(rows: pa.Table, sql: str, connection: duckdb.DuckDBPyConnection) -> pa.ChunkedArray:
    """`sql` for each row, a slice of them for each processor."""

    def compute(part: pa.Table) -> list[pa.Array]:
        with connection.cursor() as cursor:
            cursor.register("part", part)
            return list(cursor.sql(f"SELECT {sql} FROM part").to_arrow_table().column(0).chunks)

    size = max(_CHUNK_ROWS, -(-rows.num_rows // (os.cpu_count() or 1)))
    parts = [rows[start : start + size] for start in range(0, rows.num_rows, size)]
    with ThreadPoolExecutor(len(parts)) as threads:
        return pa.chunked_array([chunk for chunks in threads.map(compute, parts) for chunk in chunks], pa.string())


def _plays(rows: pa.Table) -> pa.Table:
    """Sorted by tenant and time."""
    ranks, _ = _ranked(rows.column("tenant"))
    return rows.take(pa.array(np.lexsort((_numbers(rows, "ts"), ranks))))


def _by_tenant(table: TableSchema, rows: pa.Table) -> list[TenantRows]:
    """`rows`, in which each tenant's stand together, cut into tenants."""
    ranks, tenants = _ranked(rows.column("tenant"))
    begins = np.flatnonzero(np.concatenate(([True], ranks[1:] != ranks[:-1])))
    source, position = _numbers(rows, "source_number"), _numbers(rows, "batch_position")
    stored = rows.select([*(c.name for c in table.columns), "arrival", "arrival_row"])
    return [
        TenantRows(tenants[ranks[begin]].as_py(), table, stored[begin:end], source[begin:end], position[begin:end])
        for begin, end in pairwise([*begins.tolist(), len(ranks)])
    ]


def _together(batches: Sequence[tuple[int, Batch]], read: Sequence[SourceBatches]) -> pa.Table:
    """All rows in the order in which they came, with where each came from."""
    counts = [batch.rows.num_rows for _, batch in batches]
    rows = pa.concat_tables([batch.rows for _, batch in batches]).unify_dictionaries().combine_chunks()
    numbers = np.arange(rows.num_rows)
    source = pa.array(np.repeat([number for number, _ in batches], counts), pa.int32())
    places = [place_of(read[number].source, batch.position, batch.origin) for number, batch in batches]
    names = {name: number for number, name in enumerate(dict.fromkeys(name for name, _ in places))}
    place = pa.array(np.repeat([names[name] for name, _ in places], counts), pa.int32())
    added = {
        "source_number": source,
        "batch_position": pa.array(np.repeat([batch.position for _, batch in batches], counts)),
        "place": pa.DictionaryArray.from_arrays(place, pa.array(list(names))),
        "position": pa.array(np.repeat([position for _, position in places], counts)),
        "row": pa.array(numbers - np.repeat(np.cumsum([0, *counts[:-1]]), counts)),
        "arrival": pa.DictionaryArray.from_arrays(source, pa.array([s.arrival for s in read])),
        "arrival_row": pa.array(numbers),
    }
    for name, values in added.items():
        rows = rows.append_column(name, values)
    return rows


def _ranked(column: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """The rank of each row's text, and the distinct texts in order."""
    encoded = column.combine_chunks()
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    texts = encoded.dictionary.dictionary_encode()  # a dictionary may hold a text twice, and some that no row has
    ascending = pc.array_sort_indices(texts.dictionary)
    ranks = np.empty(len(ascending), np.int64)
    ranks[ascending.to_numpy()] = np.arange(len(ascending))
    return ranks[texts.indices.to_numpy()[encoded.indices.to_numpy()]], texts.dictionary.take(ascending)


def _numbers(rows: pa.Table, column: str) -> Ints:
    numbers: Ints = rows.column(column).cast(pa.int64()).to_numpy()
    return numbers


def _widest(rows: pa.Table) -> int:
    """An upper bound of a row's text in bytes, at least 1."""
    widths = [1]
    for column in rows.columns:
        for chunk in column.chunks:
            texts = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
            if pa.types.is_string(texts.type):
                widths.append(pc.max(pc.binary_length(texts)).as_py() or 0)
    return sum(widths)
