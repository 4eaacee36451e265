"""What readers of repetitive protocols remember of each writer's series, so that the bytes of known labels are not read again.

Bounded whatever is sent. What is remembered of one writer is never used for another: whose rows are whose is part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from analytics_dagster.ingest.points import Admission, SeriesTable, WriteScope

# About 200,000 series of 256 bytes of labels; when it is full, it begins again.
_MAX_BYTES = 64 << 20
_BYTES_PER_ENTRY = 120
MAX_WRITERS = 10_000

M = TypeVar("M")


class PerWriter(Generic[M]):
    """A memory for each WriteScope. `forget` empties one of what depends on the series table.

    For one thread at a time, for a whole body: what is found is used, and added to, until the body is read.
    """

    def __init__(self, new: Callable[[WriteScope], M], forget: Callable[[M], None]) -> None:
        self._new = new
        self._forget = forget
        self._memories: dict[WriteScope, M] = {}
        self._table: SeriesTable | None = None
        self._bytes = 0

    def of(self, admission: Admission) -> M:
        if admission.table is not self._table or self._bytes > _MAX_BYTES:
            self._table, self._bytes = admission.table, 0
            for memory in self._memories.values():
                self._forget(memory)
        known = self._memories.get(admission.scope)
        if known is not None:
            return known
        if len(self._memories) >= MAX_WRITERS:
            self._memories.clear()
        new = self._memories[admission.scope] = self._new(admission.scope)
        return new

    def charge(self, entries: int, size: int) -> None:
        """Count `entries` new ones, with keys of `size` bytes together."""
        self._bytes += size + entries * _BYTES_PER_ENTRY
