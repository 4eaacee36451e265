"""Delta tables: one root per tenant, `<lake>/<tenant>/<layer>/<table>`, and the only code that knows a path.

Ask for `lake.tenant("acme").table(schemas.PLAYS)`; nothing reachable from a `TenantLake` leads to another tenant. Every
write is one Delta commit, so a reader sees all of it or none, and a process killed in between leaves only files that no
table names. A file lock per table keeps writers of one machine apart (two processes that overwrite one Delta partition
lose commits); across machines Dagster's pools do.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import unquote

import pyarrow as pa

from analytics_dagster.errors import BusyError, IntegrityError, SettingsError, UserError
from analytics_dagster.lake.compute import identifier, literal, session
from analytics_dagster.lake.schemas import PartitionBy, TableSchema
from analytics_dagster.tenant_ids import validate_tenant_id

if TYPE_CHECKING:
    from deltalake import DeltaTable, WriterProperties

ArrowRows: TypeAlias = "pa.Table | pa.RecordBatchReader"

# Longer than any single commit measured (an import of 15 years: 9 s), shorter than a person waits.
LOCK_SECONDS = 120.0
_PARTITION_COLUMN = {PartitionBy.DAY: pa.field("day", pa.date32()), PartitionBy.MONTH: pa.field("month", pa.string())}
_BATCH_ROWS = 65_536
# About 500,000 points: a day of a busy tenant is many such files, a month of a small one is one.
COMPACTED_BYTES = 16 * 2**20
# What a reader of a few series has to read at least: a quarter of the time that groups of a million rows take.
ROW_GROUP_ROWS = 131_072
# A dictionary that outgrows this is given up: of values that differ in most rows it takes more than the values themselves.
_DICTIONARY_BYTES = 128 * 2**10


# Delta reads % and brackets in a path as something else, DuckDB the others as patterns.
_NO_PATH = frozenset("%[]*?")


SMALLEST_CELL = 10


class Lake:
    """The lake of one installation. `root` is a folder or an object-store URL; locks stay on the local disk."""

    def __init__(
        self,
        root: str,
        lock_root: Path,
        storage_options: Mapping[str, str] | None = None,
        smallest_cell: int = SMALLEST_CELL,
    ) -> None:
        """Raises SettingsError for a folder whose path Delta or DuckDB would take for something else."""
        self._root = root.rstrip("/")
        if "://" not in root and (odd := sorted(set(root) & _NO_PATH)):
            raise SettingsError(f"the lake cannot be in {root}: its path has {' and '.join(map(repr, odd))}; use another folder")
        self._lock_root = lock_root
        self._storage_options = dict(storage_options or {})
        self._smallest_cell = smallest_cell

    def tenant(self, tenant: str) -> TenantLake:
        """Raises InvalidNameError for an id that is no tenant id, so that no path can be made from one."""
        name = validate_tenant_id(tenant)
        return TenantLake(
            name, f"{self._root}/{name}", self._lock_root / name, self._storage_options, smallest_cell=self._smallest_cell
        )


@dataclass(frozen=True)
class TenantLake:
    """All tables of one tenant."""

    tenant: str
    _root: str
    _lock_root: Path
    _storage_options: Mapping[str, str]
    _versions: Mapping[str, int] = field(default_factory=dict)
    smallest_cell: int = SMALLEST_CELL
    """Least distinct people that a figure may rest on which is split by what they are (ANALYTICS_SMALLEST_CELL). It is here
    because whoever reads figures has this object: no door can forget it.
    """

    def table(self, schema: TableSchema) -> Table:
        lock = self._lock_root / f"{schema.layer}-{schema.name}.lock"
        return Table(schema, f"{self._root}/{schema.path}", lock, self._storage_options, self._versions.get(schema.path))

    def as_of(self, schema: TableSchema, version: int) -> TenantLake:
        """The same with one table as it was at a Delta version, for reading. Its files must not have been vacuumed."""
        return replace(self, _versions={**self._versions, schema.path: version})

    @property
    def newest(self) -> bool:
        """Whether every table is read as it is now."""
        return not self._versions

    def stored_bytes(self) -> int:
        """Size of all files below this tenant's root, those included that no version of a table names any more."""
        return sum(_size_of(Path(folder, name)) for folder, _, names in os.walk(self._root) for name in names)

    def delete(self) -> None:
        """Delete all tables for good. A call that was cut short is made again. Raises UserError where this cannot be done."""
        if "://" in self._root:
            raise UserError(f"{self._root} is no folder of this machine; delete it with its store's own tools")
        for folder in (self._root, self._lock_root):
            with suppress(FileNotFoundError):
                shutil.rmtree(folder)


@dataclass(frozen=True)
class Table:
    """One Delta table. Callers give and get the schema's columns; the partition column is this class's own."""

    schema: TableSchema
    uri: str
    _lock_path: Path
    _storage_options: Mapping[str, str]
    _at: int | None = None
    """A Delta version to read; None: the newest."""

    def exists(self) -> bool:
        from deltalake import DeltaTable

        return DeltaTable.is_deltatable(self.uri, storage_options=dict(self._storage_options))

    def version(self) -> int | None:
        """Delta version, or None before the first commit."""
        return self._open().version() if self.exists() else None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold this table's writer lock. Reentrant within a thread of one `Table`. Raises BusyError after LOCK_SECONDS."""
        import filelock

        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(self._lock_path, timeout=LOCK_SECONDS, is_singleton=True):
                yield
        except filelock.Timeout:
            raise BusyError(f"{self.uri}: another process has been writing for {LOCK_SECONDS:.0f} s; try again later") from None

    def append(self, data: ArrowRows, *, transactions: Mapping[str, int] | None = None) -> int:
        """Add rows in one commit and return the table's version.

        `transactions` says how far the table now contains a log outside (source -> position); it is stored with the rows in the
        same commit, so that either both are there or neither (see `transactions`).
        """
        return self._write(data, mode="append", predicate=None, transactions=transactions)

    def transaction(self, app_id: str) -> int:
        """The position that was stored for `app_id` by the newest append that named it, 0 for none."""
        return self.transactions([app_id])[app_id]

    def transactions(self, app_ids: Iterable[str]) -> dict[str, int]:
        """The same for several, from one version of the table."""
        opened = self._open() if self.exists() else None
        return {app_id: opened.transaction_version(app_id) or 0 if opened else 0 for app_id in app_ids}

    def overwrite(self, data: ArrowRows) -> None:
        """Replace the whole table in one commit."""
        self._write(data, mode="overwrite", predicate=None)

    def overwrite_days(self, data: ArrowRows, first: dt.date, last: dt.date) -> None:
        """Replace the rows of the days `first` to `last` (inclusive, UTC) in one commit.

        Raises IntegrityError, and writes nothing, when `data` holds a row of another day.
        """
        from deltalake.exceptions import DeltaError

        guard = _DayGuard(_batches(data), first, last, self.uri)
        predicate = self._days_predicate(first, last) if self.exists() else None
        try:
            self._write(guard.reader(), mode="overwrite", predicate=predicate)
        except DeltaError:
            if guard.refusal is not None:  # Delta shows an error within the stream only as text
                raise guard.refusal from None
            raise

    def files(self, first: dt.date | None = None, last: dt.date | None = None) -> list[str]:
        """Addresses of the Parquet files that may hold rows of these days, from one version of the table."""
        return self.files_of(self._open(), first, last) if self.exists() else []

    def files_of(
        self, opened: DeltaTable, first: dt.date | None = None, last: dt.date | None = None, condition: str | None = None
    ) -> list[str]:
        """The same of the version that is open, without those in which no row can meet `condition` (by Delta's statistics)."""
        if first is not None and last is not None and self.schema.time is not None:
            days = self._days_predicate(first, last)
            condition = f"{days} AND {condition}" if condition else days
        uris = opened.file_uris(file_pruning_predicate=condition)
        # Delta percent-encodes paths of this machine too (a space is %20); DuckDB takes them as they are.
        return uris if "://" in self.uri else [unquote(uri) for uri in uris]

    def sql(self, first: dt.date | None = None, last: dt.date | None = None) -> str:
        """A parenthesised SELECT for DuckDB's FROM with exactly the schema's columns; empty but typed without a table.

        A column that was added to the schema after a row was written is null in that row.
        """
        return self.sql_of(self.files(first, last), first, last)

    def sql_of(self, files: Sequence[str], first: dt.date | None, last: dt.date | None, condition: str | None = None) -> str:
        """The same over `files`, of rows that meet `condition`."""
        nulls = ", ".join(f"NULL::{duckdb_type(c.type)} AS {identifier(c.name)}" for c in self.schema.columns)
        if not files:
            return f"(SELECT {nulls} WHERE false)"
        columns = ", ".join(identifier(c.name) for c in self.schema.columns)
        names = ", ".join(literal(f) for f in files)
        conditions = [self._time_range(first, last)] if first and last and self.schema.time else []
        conditions += [condition] if condition else []
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        stored = f"read_parquet([{names}], hive_partitioning = false, union_by_name = true)"
        # By name with an empty relation of all columns: none of these files may have a column that is new.
        return f"(SELECT {columns} FROM (SELECT {nulls} WHERE false UNION ALL BY NAME SELECT * FROM {stored}){where})"

    def read(self, first: dt.date | None = None, last: dt.date | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """These rows as Arrow, in no order. For what fits in memory."""
        chosen = ", ".join(identifier(c) for c in columns) if columns else "*"
        with session() as connection:
            return connection.sql(f"SELECT {chosen} FROM {self.sql(first, last)}").to_arrow_table()

    def compact(self) -> int:
        """Merge small files of a month or day into files of about COMPACTED_BYTES, in one commit that changes no row.

        Files that are large enough stay, so that compacting every hour writes a row a few times and not once an hour. What
        `transaction` says stays too. Returns how many files were merged.
        """
        with self.lock():
            if not self.exists():
                return 0
            opened = self._open()
            done = opened.optimize.compact(
                target_size=COMPACTED_BYTES, max_concurrent_tasks=1, writer_properties=self._writer_properties()
            )
            return int(done["numFilesRemoved"])

    def maintain(self, keep: dt.timedelta) -> None:
        """Merge small files, write a checkpoint, delete files that no version younger than `keep` names, and the log of versions
        older than that.
        """
        if not self.exists():
            return
        with self.lock():
            self.compact()
            opened = self._open()
            hours = int(keep.total_seconds() // 3600)
            opened.vacuum(retention_hours=hours, enforce_retention_duration=False, dry_run=False)
            # Delta keeps each version's log for 30 days, which with a commit every ten seconds is 260,000 files.
            kept = {"delta.logRetentionDuration": f"interval {hours} hours"}
            if not kept.items() <= opened.metadata().configuration.items():
                opened.alter.set_table_properties(kept)
            opened.create_checkpoint()
            opened.cleanup_metadata()

    def _open(self) -> DeltaTable:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        try:
            return DeltaTable(self.uri, version=self._at, storage_options=dict(self._storage_options))
        except DeltaError as error:
            said = str(error).partition("\n")[0]
            raise IntegrityError(f"{self.uri} cannot be opened: {said}; put back a copy of its folder _delta_log") from error

    def _write(
        self,
        data: ArrowRows,
        *,
        mode: Literal["append", "overwrite"],
        predicate: str | None,
        transactions: Mapping[str, int] | None = None,
    ) -> int:
        from deltalake import CommitProperties, Transaction, write_deltalake

        partition = _PARTITION_COLUMN.get(self.schema.partition_by)
        if self._at is not None:
            raise IntegrityError(f"{self.uri} is open at version {self._at}, which can only be read")
        with self.lock():
            rows = _with_partition(data, self.schema, partition)
            # Opened once and handed on: an address would be opened again for the write.
            target = self._described_anew(self._open()) if self.exists() else self.uri
            options: dict[str, Any] = {
                "schema_mode": "merge",  # a measure may be added to a family, or taken from it
                "partition_by": [partition.name] if partition else None,
                "description": self.schema.description,
                "storage_options": dict(self._storage_options),
                "writer_properties": self._writer_properties(),
            }
            if transactions:
                applied = [Transaction(app_id, position) for app_id, position in sorted(transactions.items())]
                options["commit_properties"] = CommitProperties(app_transactions=applied)
            if mode == "append":
                write_deltalake(target, rows, mode="append", **options)
            else:
                write_deltalake(target, rows, mode="overwrite", predicate=predicate, **options)
            return 0 if isinstance(target, str) else target.version()

    def _described_anew(self, opened: DeltaTable) -> DeltaTable:
        """The table with its columns described as the schema does now. Delta takes no rows whose columns are described otherwise,
        and a description is only words: it must be free to change.
        """
        said = {column.name: column.description for column in self.schema.columns}
        for stored in opened.schema().fields:
            if stored.name in said and stored.metadata.get("comment") != said[stored.name]:
                opened.alter.set_column_metadata(stored.name, {"comment": said[stored.name]})
        return opened

    def _writer_properties(self) -> WriterProperties:
        from deltalake import ColumnProperties, WriterProperties

        unlike, columns = {self.schema.key, "ts", "arrival_row"}, {c.name for c in self.schema.columns}
        return WriterProperties(
            compression="ZSTD",
            compression_level=1,
            max_row_group_size=ROW_GROUP_ROWS,
            dictionary_page_size_limit=_DICTIONARY_BYTES,
            # A dictionary of values that hardly repeat costs a fifth of the write and saves nothing.
            column_properties={name: ColumnProperties(dictionary_enabled=False) for name in sorted(unlike & columns)},
        )

    def _days_predicate(self, first: dt.date, last: dt.date) -> str:
        """Names the partitions too: with `ts` alone Delta would read every file to find the rows that stay."""
        match self.schema.partition_by:
            case PartitionBy.DAY:
                return f"day >= '{first}' AND day <= '{last}'"
            case PartitionBy.MONTH:
                return f"month >= '{first:%Y-%m}' AND month <= '{last:%Y-%m}' AND {self._time_range(first, last)}"
            case PartitionBy.NONE:
                return self._time_range(first, last)

    def _time_range(self, first: dt.date | None, last: dt.date | None) -> str:
        if first is None or last is None:
            raise IntegrityError(f"{self.schema.path}: a range of days needs both ends")
        return f"ts >= '{first}T00:00:00Z' AND ts < '{last + dt.timedelta(days=1)}T00:00:00Z'"


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # removed by a maintenance that runs meanwhile
        return 0


def _batches(data: ArrowRows) -> pa.RecordBatchReader:
    return data if isinstance(data, pa.RecordBatchReader) else data.to_reader(max_chunksize=_BATCH_ROWS)


class _DayGuard:
    """Passes rows on and stops the commit at the first of a day that is not being written."""

    def __init__(self, rows: pa.RecordBatchReader, first: dt.date, last: dt.date, uri: str) -> None:
        self._rows, self._first, self._last, self._uri = rows, first, last, uri
        self.refusal: IntegrityError | None = None

    def reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self._rows.schema, self._checked())

    def _checked(self) -> Iterator[pa.RecordBatch]:
        import pyarrow.compute as pc

        for batch in self._rows:
            if batch.num_rows:
                days = pc.min_max(batch.column("ts").cast(pa.date32()))
                low, high = days["min"].as_py(), days["max"].as_py()
                if low < self._first or high > self._last:
                    self.refusal = IntegrityError(
                        f"{self._uri}: rows of {low} to {high} in a write of {self._first} to {self._last}"
                    )
                    raise self.refusal
            yield batch


def _with_partition(data: ArrowRows, schema: TableSchema, partition: pa.Field | None) -> pa.RecordBatchReader:
    """`data` cast to the table's schema, with its partition column behind."""
    reader = _batches(data)
    target = schema.arrow
    full = target if partition is None else target.append(partition)

    def rows() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            columns = [batch.column(f.name).cast(f.type) for f in target]
            if partition is not None:
                ts = columns[target.get_field_index("ts")]
                columns.append(ts.cast(pa.date32()) if partition.name == "day" else _months(ts))
            yield pa.RecordBatch.from_arrays(columns, schema=full)

    return pa.RecordBatchReader.from_batches(full, rows())


def _months(ts: pa.Array) -> pa.Array:
    """`2026-01` for each timestamp, formatted once a day: formatting each row took a third of an append's time."""
    import pyarrow.compute as pc

    days = ts.cast(pa.date32()).dictionary_encode()
    return pc.strftime(days.dictionary, format="%Y-%m").take(days.indices)


def duckdb_type(kind: pa.DataType) -> str:
    """DuckDB's name of an Arrow type that our schemas use."""
    if pa.types.is_list(kind):
        return f"{duckdb_type(kind.value_type)}[]"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMPTZ"
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if pa.types.is_struct(kind):
        inner = ", ".join(f"{identifier(f.name)} {duckdb_type(f.type)}" for f in kind)
        return f"STRUCT({inner})"
    return _DUCKDB_TYPES[kind]


_DUCKDB_TYPES = {
    pa.string(): "VARCHAR",
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.uint64(): "UBIGINT",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.date32(): "DATE",
    pa.binary(): "BLOB",
}
