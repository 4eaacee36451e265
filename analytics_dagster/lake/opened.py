"""A table that is kept open for many reads: only newer commits are read, where opening reads all since the last checkpoint."""

from __future__ import annotations

import datetime as dt
import threading
from typing import TYPE_CHECKING

from analytics_dagster.lake.lake import Table

if TYPE_CHECKING:
    from deltalake import DeltaTable


class OpenedTable:
    """A `Table` for reading, at its newest version each time it is asked. Safe to use from several threads."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._delta: DeltaTable | None = None
        self._lock = threading.Lock()

    def sql(self, days: tuple[dt.date, dt.date], condition: str | None = None) -> str:
        """As `Table.sql` for the days from the first to the last (UTC), of rows that meet `condition`, which Delta can take too:
        comparisons of a column with a literal. Files whose statistics say that none does are left out.
        """
        with self._lock:
            delta = self._newest()
            files = [] if delta is None else self._table.files_of(delta, *days, condition)
        return self._table.sql_of(files, *days, condition)

    def forget(self) -> None:
        """Open it anew next time: its folder was deleted, or files of the version that was open."""
        with self._lock:
            self._delta = None

    def _newest(self) -> DeltaTable | None:
        if self._delta is None:
            self._delta = self._table._open() if self._table.exists() else None
        else:
            self._delta.update_incremental()
        return self._delta
