"""Ending a question from another thread: whatever it runs in DuckDB is interrupted, and it starts nothing new."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from analytics_dagster.errors import RetryableError

if TYPE_CHECKING:
    import duckdb


class GivenUpError(RetryableError):
    """Nobody waits for the answer any more."""


class Interruption:
    """Belongs to one question. Its thread says what it runs on and looks now and then; any other thread may interrupt it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._wanted = False

    def interrupt(self) -> None:
        """End what runs now. DuckDB forgets it between two statements, so ask again until the question has ended."""
        with self._lock:
            self._wanted = True
            if self._connection is not None:
                self._connection.interrupt()

    def check(self) -> None:
        """Raises GivenUpError once it was interrupted."""
        if self._wanted:
            raise GivenUpError("the question was given up before its answer was there")

    @contextmanager
    def covering(self, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Within the context, to interrupt is to interrupt `connection`; leave it before the connection is closed."""
        self.check()
        with self._lock:
            self._connection = connection
        try:
            yield
        finally:
            with self._lock:
                self._connection = None
