"""Our own columns, for every table: `plays`, `users`, `tracks`, ... in CSV, JSON (lines or array) or Parquet.

A column is read by its name in `lake/schemas.py`, in any order; what a file lacks stays empty, unless it is required. A
row without an identity of its own gets one from everything it says, so equal rows are one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from analytics_dagster.errors import UnreadableFileError
from analytics_dagster.lake.schemas import BY_NAME, CATALOGUE_TABLES, INTERACTION_EVENTS, PLAYS, Column, TableSchema
from analytics_dagster.sources.files import SourceFile, SourceStream, is_parquet, uncompressed_name
from analytics_dagster.sources.identity import artist_id, event_id, track_id
from analytics_dagster.sources.json_objects import decode_any, json_outcomes
from analytics_dagster.sources.parsed import Outcome, Parsed, Reading, RefusedRecordError, Row, outcomes
from analytics_dagster.sources.records import DelimitedFile
from analytics_dagster.sources.tables import Header, fitted
from analytics_dagster.sources.times import TimeReader
from analytics_dagster.sources.values import Conversion, conversion

_PARQUET_ROWS = 8_192

RowMaker = Callable[[list[Any]], Row]
"""From a record's values, for the columns that its file has in the table's order, to a row."""

_ALIASES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "users": {"user_id": ("#id", "id", "userid"), "registered": ("signup", "registered_at")},
    "tracks": {"track_id": ("id",), "title": ("track", "name", "track_name"), "artist": ("artist_name",)},
    "artists": {"artist_id": ("id",), "name": ("artist", "artist_name")},
    "playlists": {"playlist_id": ("id",)},
    "interactions": {"event": ("action", "interaction"), "listener_id": ("user_id", "userid")},
}
"""Other people's headers for our columns, after our own. `#id` is how the Last.fm 1K profiles begin."""

_ALLOWED: Mapping[tuple[str, str], frozenset[str]] = {
    ("subscriptions", "event"): frozenset({"signup", "trial", "upgrade", "renewal", "downgrade", "cancel", "reactivate"}),
    ("interactions", "event"): frozenset(INTERACTION_EVENTS),
    ("metrics", "type"): frozenset({"gauge", "counter", "histogram", "timer"}),
}


class OwnColumns:
    """The format of one table of ours; its name is the table's."""

    def __init__(self, table: TableSchema) -> None:
        self.name = table.name
        self.description = f"{table.description.rstrip('.')}, in our own columns (CSV, JSON or Parquet)."
        self.tables: tuple[TableSchema, ...] = (table,)
        self._table = table

    def belongs(self, name: str, sample: bytes) -> bool:
        return uncompressed_name(name).endswith((".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet"))

    def read(self, file: SourceFile, reading: Reading) -> Iterator[Outcome]:
        times = TimeReader(reading.zone)
        with file.open() as stream:
            sample = stream.sample()
            if is_parquet(sample):
                yield from self._parquet(file, reading, times)
            elif sample.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
                yield from self._json(stream, reading, times)
            else:
                yield from self._delimited(stream, reading, times)
        if times.naive:
            reading.note_naive_times(file.name)

    def _delimited(self, stream: SourceStream, reading: Reading, times: TimeReader) -> Iterator[Outcome]:
        source = DelimitedFile(stream)
        header = Header(source.first, stream.name)
        found = {column.name: header.find(column.name, *self._aliases(column)) for column in self._table.columns}
        self._check_header(stream.name, header, found)
        tenant = header.tenant_reader(reading.tenant_column)
        known = {name for name in found.values() if name} | {reading.tenant_column}
        for name in header.names:
            if name not in known and name != header.find(reading.tenant_column or ""):
                reading.note(f"{stream.name}: column {name!r} is none of {self.name}'s and is left out")
        make = _row_maker(self._table, found, times, reading)
        positions = [header.position(name) for column, name in found.items() if name is not None and column != "format"]

        def convert(cells: list[str]) -> Parsed:
            row = make([cells[position] for position in positions])
            return Parsed(reading.tenant_of(tenant(cells)), ((self.name, row),))

        records = fitted(source.records(header=True, width=len(header)), len(header))
        yield from outcomes(records, convert, reading, tenant)

    def _json(self, stream: SourceStream, reading: Reading, times: TimeReader) -> Iterator[Outcome]:
        names = {column.name: (column.name, *self._aliases(column)) for column in self._table.columns}
        if not any(f'"{alias}"'.encode() in stream.sample() for aliases in names.values() for alias in aliases):
            raise UnreadableFileError(f"{stream.name}: no field of {self.name} found; expected {self._expected()}")
        make = _row_maker(self._table, {name: name for name in names}, times, reading)
        row_of = _from_mapping(make, [aliases for name, aliases in names.items() if name != "format"])
        yield from json_outcomes(stream, lambda raw: ((self.name, row_of(decode_any(raw))),), reading)

    def _parquet(self, file: SourceFile, reading: Reading, times: TimeReader) -> Iterator[Outcome]:
        if file.member is not None:
            raise UnreadableFileError(f"{file.name}: a Parquet file inside a zip archive cannot be read; unzip it first")
        try:
            with pq.ParquetFile(file.path) as source:
                header = Header(source.schema_arrow.names, file.name)
                found = {column.name: header.find(column.name, *self._aliases(column)) for column in self._table.columns}
                self._check_header(file.name, header, found)
                header.tenant_reader(reading.tenant_column)
                tenant = header.find(reading.tenant_column) if reading.tenant_column else None
                make = _row_maker(self._table, found, times, reading)
                row_of = _from_mapping(make, [(name,) for column, name in found.items() if name and column != "format"])
                wanted = sorted({name for name in (*found.values(), tenant) if name})

                def tenant_of(record: Mapping[str, Any]) -> object:
                    return record[tenant] if tenant else None

                def convert(record: Mapping[str, Any]) -> Parsed:
                    return Parsed(reading.tenant_of(tenant_of(record)), ((self.name, row_of(record)),))

                yield from outcomes(_parquet_records(source, wanted), convert, reading, tenant_of)
        except (pa.ArrowException, OSError) as error:
            raise UnreadableFileError(f"{file.name}: not a readable Parquet file ({error})") from error

    def _check_header(self, file: str, header: Header, found: Mapping[str, str | None]) -> None:
        missing = [column.name for column in self._needed() if found[column.name] is None]
        if self._table is PLAYS and found["track"] is None and found["track_id"] is None:
            missing.append("track or track_id")
        if missing:
            raise UnreadableFileError(
                f"{file}: lacks {', '.join(missing)} for {self.name}; expected {self._expected()}; found {header.shown()}"
            )

    def _needed(self) -> list[Column]:
        derived = {"format"} if self._table in CATALOGUE_TABLES else {"format", self._table.key}
        return [column for column in self._table.columns if column.required and column.name not in derived]

    def _expected(self) -> str:
        return "columns " + ", ".join(column.name for column in self._table.columns if column.name != "format")

    def _aliases(self, column: Column) -> tuple[str, ...]:
        return _ALIASES.get(self.name, {}).get(column.name, ())


def _from_mapping(make: RowMaker, names: list[tuple[str, ...]]) -> Callable[[Mapping[str, Any]], Row]:
    """A row from a record by name; `names` are, for each of the maker's columns, what the record may call it."""
    if all(len(aliases) == 1 for aliases in names):
        single = [name for (name,) in names]
        return lambda record: make([record.get(name) for name in single])

    def row_of(record: Mapping[str, Any]) -> Row:
        return make([next((record[alias] for alias in aliases if alias in record), None) for aliases in names])

    return row_of


def _parquet_records(
    source: pq.ParquetFile, names: list[str]
) -> Iterator[tuple[int, bytes, Mapping[str, Any] | None, str | None]]:
    """Rows numbered from 1. A Parquet row has no bytes of its own: quarantine keeps it as JSON."""
    number = 0
    for batch in source.iter_batches(batch_size=_PARQUET_ROWS, columns=names):
        columns = [_microseconds(batch.column(name)).to_pylist() for name in names]
        for values in zip(*columns, strict=True):
            number += 1
            row = dict(zip(names, values, strict=True))
            yield number, msgspec.json.encode(row, enc_hook=str), row, None


def _microseconds(column: pa.Array) -> pa.Array:
    """Nanoseconds would come out as pandas' own type; nothing here needs them."""
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        return column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return column


def _row_maker(table: TableSchema, found: Mapping[str, str | None], times: TimeReader, reading: Reading) -> RowMaker:
    """Builds a row from a record's values: those of the columns that the file has, in the table's order."""
    names = [column.name for column in table.columns]
    spelled = {column.name: found[column.name] or column.name for column in table.columns}
    plan: list[tuple[int, Conversion]] = [
        (position, conversion(column, spelled[column.name], times, reading))
        for position, column in enumerate(table.columns)
        if found[column.name] is not None
    ]
    blank: list[object] = [table.name if name == "format" else None for name in names]
    plan = [(position, convert) for position, convert in plan if names[position] != "format"]
    key = names.index(table.key)
    required = [(names.index(c.name), spelled[c.name]) for c in table.columns if c.required and c.name != "format"]
    allowed = [(names.index(name), name, values) for (of, name), values in _ALLOWED.items() if of == table.name]
    derive_key = table not in CATALOGUE_TABLES
    complete = _complete_play if table is PLAYS else None

    def make(values: list[Any]) -> Row:
        row = blank.copy()
        for (position, convert), value in zip(plan, values, strict=True):
            if value is not None:
                row[position] = convert(value)
        if complete is not None:
            complete(row)
        if derive_key and row[key] is None:
            row[key] = event_id(table.name, *(value for position, value in enumerate(row) if position != key))
        for position, name in required:
            if row[position] is None:
                raise RefusedRecordError(name, "is empty, and is required")
        for position, name, known in allowed:
            if row[position] not in known:
                raise RefusedRecordError(name, f"{row[position]!r} is none of {', '.join(sorted(known))}")
        return tuple(row)

    return make


_TRACK_ID, _TRACK, _ARTIST_ID, _ARTIST = (
    [column.name for column in PLAYS.columns].index(name) for name in ("track_id", "track", "artist_id", "artist")
)


def _complete_play(row: list[Any]) -> None:
    """Ids for a track and artist that came with names only."""
    if row[_TRACK_ID] is None and row[_TRACK] is not None:
        row[_TRACK_ID] = track_id(row[_ARTIST], row[_TRACK])
    if row[_ARTIST_ID] is None:
        row[_ARTIST_ID] = artist_id(row[_ARTIST])


def own_formats() -> tuple[OwnColumns, ...]:
    """One format for each table of ours."""
    return tuple(OwnColumns(table) for table in BY_NAME.values())
