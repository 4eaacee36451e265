"""Rows of one import waiting on disk, by tenant and table, until all files have been read.

Memory holds a bounded number of rows whatever the files' size and however many tenants they are split into; nothing
reaches the lake before everything was readable.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from analytics_dagster.sources.parsed import Row

# Well under the usual limit of 1,024 open files of a process.
_OPEN_FILES = 128
_ROWS_IN_MEMORY = 32_768
_BYTES_IN_MEMORY = 64 << 20
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")

Key = tuple[str, str]
"""(tenant, table)"""


@dataclass
class _Heap:
    """What waits for one tenant and table: rows in memory, and the parts already on disk."""

    schema: pa.Schema
    rows: list[Row] = field(default_factory=list)
    parts: list[Path] = field(default_factory=list)
    total: int = 0


class Spool:
    """Append rows, then read them back in order, one tenant and table at a time. Files live in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._heaps: dict[Key, _Heap] = {}
        self._open: OrderedDict[Key, pa.ipc.RecordBatchStreamWriter] = OrderedDict()
        self._waiting = 0
        self._bytes = 0
        self._files = 0

    def add(self, tenant: str, table: str, schema: pa.Schema, row: Row, size: int = 0) -> None:
        """Keep one row. `size` is its bytes where a row may be large."""
        heap = self._heaps.get((tenant, table))
        if heap is None:
            heap = self._heaps[tenant, table] = _Heap(schema)
        heap.rows.append(row)
        self._waiting += 1
        self._bytes += size
        if self._waiting >= _ROWS_IN_MEMORY or self._bytes >= _BYTES_IN_MEMORY:
            self._flush()

    def tenants(self) -> list[str]:
        return sorted({tenant for tenant, _ in self._heaps})

    def count(self, tenant: str, table: str) -> int:
        heap = self._heaps.get((tenant, table))
        return heap.total + len(heap.rows) if heap else 0

    def reader(self, tenant: str, table: str) -> pa.RecordBatchReader:
        """The rows of one heap, in the order that they were added. Nothing can be added afterwards."""
        self._flush()
        self.close()
        heap = self._heaps[tenant, table]
        return pa.RecordBatchReader.from_batches(heap.schema, _batches(heap.parts))

    def readers(self, tenant: str, table: str, rows: int) -> Iterator[pa.RecordBatchReader]:
        """The same in portions of about `rows`, each to be read before the next is asked for."""
        heap_reader = self.reader(tenant, table)
        batches = iter(heap_reader)
        while (first := next(batches, None)) is not None:
            yield pa.RecordBatchReader.from_batches(heap_reader.schema, _portion(first, batches, rows))

    def close(self) -> None:
        for writer in self._open.values():
            writer.close()
        self._open.clear()

    def _flush(self) -> None:
        for key, heap in self._heaps.items():
            if heap.rows:
                columns = zip(*heap.rows, strict=True)
                arrays = [pa.array(values, column.type) for values, column in zip(columns, heap.schema, strict=True)]
                self._writer(key, heap).write_batch(pa.RecordBatch.from_arrays(arrays, schema=heap.schema))
                heap.total += len(heap.rows)
                heap.rows = []
        self._waiting = self._bytes = 0

    def _writer(self, key: Key, heap: _Heap) -> pa.ipc.RecordBatchStreamWriter:
        writer = self._open.get(key)
        if writer is not None:
            self._open.move_to_end(key)
            return writer
        if len(self._open) >= _OPEN_FILES:
            _, oldest = self._open.popitem(last=False)
            oldest.close()
        path = self._folder / f"{self._files}.arrows"
        self._files += 1
        heap.parts.append(path)
        self._open[key] = pa.ipc.new_stream(str(path), heap.schema, options=_OPTIONS)
        return self._open[key]


def _portion(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    yield first
    given = first.num_rows
    while given < rows and (batch := next(rest, None)) is not None:
        given += batch.num_rows
        yield batch


def _batches(parts: list[Path]) -> Iterator[pa.RecordBatch]:
    for path in parts:
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
            yield from reader
