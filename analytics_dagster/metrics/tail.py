"""The end of the log that is not consumed yet, in memory: each batch is read once, and forgotten when it has landed.

`TailCache` is for a process that asks often (the server). It holds at most MOST_ROWS rows; what is behind them is read again for
each question, so that a consumer that stands still costs time and not memory.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from analytics_dagster.errors import AnalyticsError
from analytics_dagster.ingest.log.interface import POINTS, Batch, LogSource
from analytics_dagster.ingest.points import POINT_ROWS

log = logging.getLogger(__name__)

MOST_ROWS = 4_000_000
"""32 bytes each: 128 MB, and 20 seconds of 200,000 points a second."""
# Between two looks for writers that are new; a folder's own end is looked at each time.
_LOOK_FOR_SOURCES_SECONDS = 0.25

TAIL_ROWS = (
    POINT_ROWS.append(pa.field("source", pa.string()))
    .append(pa.field("position", pa.int64()))
    .append(pa.field("row", pa.int64()))
)
"""POINT_ROWS, and where in the log a row is."""


@dataclass
class _Held:
    """One source's batches of points, oldest first, read up to `through`."""

    source: LogSource
    through: int = 0
    batches: deque[Batch] = field(default_factory=deque)


class TailCache:
    """Rows behind the consumed positions of all sources. Safe to use from several threads."""

    def __init__(self, sources: Callable[[], Sequence[LogSource]], most_rows: int = MOST_ROWS) -> None:
        self._list_sources = sources
        self._most_rows = most_rows
        self._sources: dict[str, _Held] = {}
        self._looked = -1.0
        self._codes = _Codes()
        self._lock = threading.Lock()

    @property
    def rows(self) -> int:
        """How many are held now."""
        return sum(batch.rows.num_rows for held in self._sources.values() for batch in held.batches)

    def find(self, tenant: str, name: str | None, consumed: Mapping[str, int]) -> pa.Table:
        """A tenant's points of a name (None: of all) that are durable now and behind `consumed`, in TAIL_ROWS' columns.

        A source that cannot be read is passed over with a warning: its writer's damage must not keep the others' points away.
        """
        with self._lock:
            left = self._read_on(consumed)
            batches = [(held.source.name, batch) for held in self._sources.values() for batch in held.batches]
        found = [self._matching(source, batch, tenant, name) for source, batch in batches]
        for source, after in left:
            found += [self._matching(source.name, batch, tenant, name) for batch in _points_behind(source, after, None)]
        return pa.concat_tables([table for table in found if table is not None] or [TAIL_ROWS.empty_table()])

    def _read_on(self, consumed: Mapping[str, int]) -> list[tuple[LogSource, int]]:
        """Forget what is consumed and read what is new. Returns sources of which more is left than may be held."""
        if time.monotonic() - self._looked >= _LOOK_FOR_SOURCES_SECONDS:
            for source in self._list_sources():
                self._sources.setdefault(source.name, _Held(source))
            self._looked = time.monotonic()
        for held in self._sources.values():
            done = consumed.get(held.source.name, 0)
            while held.batches and held.batches[0].position <= done:
                held.batches.popleft()
            held.through = max(held.through, done)
        room, left = self._most_rows - self.rows, []
        for held in self._sources.values():
            if room > 0:
                for batch in _points_behind(held.source, held.through, room):
                    held.through = batch.position
                    if batch.table == POINTS and batch.rows.num_rows:
                        held.batches.append(batch)
                        room -= batch.rows.num_rows
            if room <= 0:
                left.append((held.source, held.through))
        return left

    def _matching(self, source: str, batch: Batch, tenant: str, name: str | None) -> pa.Table | None:
        if batch.table != POINTS:
            return None
        chosen = self._codes.equal(batch.rows, "tenant", tenant)
        if chosen is not None and name is not None:
            named = self._codes.equal(batch.rows, "name", name)
            chosen = None if named is None else chosen & named
        if chosen is None or not chosen.any():
            return None
        numbers = np.flatnonzero(chosen)
        rows = batch.rows.take(pa.array(numbers))
        place = (pa.repeat(source, len(numbers)), pa.repeat(pa.scalar(batch.position, pa.int64()), len(numbers)))
        return pa.Table.from_arrays([*rows.columns, *place, pa.array(numbers, pa.int64())], schema=TAIL_ROWS)


class _Codes:
    """Where a text is in a dictionary. Batches share dictionaries, so each is searched once for each text."""

    _MOST = 10_000

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, str], tuple[pa.Array, int]] = {}

    def equal(self, rows: pa.Table, column: str, text: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]] | None:
        """Which rows have `text` in a dictionary column; None when none has."""
        parts = []
        for chunk in rows.column(column).chunks:
            code = self._code(chunk.dictionary, text)
            parts.append(np.zeros(len(chunk), bool) if code < 0 else chunk.indices.to_numpy() == code)
        joined = np.concatenate(parts) if parts else np.zeros(0, bool)
        return joined if joined.any() else None

    def _code(self, dictionary: pa.Array, text: str) -> int:
        offsets = dictionary.buffers()[1]
        key = (0 if offsets is None else offsets.address + dictionary.offset, len(dictionary), text)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= self._MOST:
                self._known.clear()
            # The dictionary is kept with its answer, so that its address is not given to another one.
            found = self._known[key] = (dictionary, pc.index(dictionary, text).as_py())
        return found[1]


def _points_behind(source: LogSource, after: int, most_rows: int | None) -> Iterator[Batch]:
    try:
        yield from source.read(after, 2**62 if most_rows is None else most_rows)
    except AnalyticsError as error:
        log.warning("fresh figures lack what %s holds behind position %d: %s", source.name, after, error)
