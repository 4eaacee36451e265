"""What a durable log is to the rest of the house, whichever one is behind it: the embedded one or Kafka.

A writer takes points and plays and says when they are durable. A source gives whole batches back in order, each under a
position, so that whoever consumes them can store rows and position together and never take one twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from analytics_dagster.ingest.points import Plays, Points

POINTS = "metrics"
PLAYS = "plays"


class IngestLog(Protocol):
    """The writing end, one per process. Safe to call from any thread."""

    def append(self, rows: Points | Plays) -> Future[None]:
        """Take rows for the next commit; the future is done when they are durable, and carries the error when they are not.

        Raises LogFullError before anything is accepted: the disk is full, the log over its limit, or too much is waiting.
        """
        ...

    def close(self) -> None:
        """Commit what waits and let go of the log."""
        ...


@dataclass(frozen=True)
class Batch:
    """One durable batch. `position` rises within a source; `rows` have POINT_ROWS' columns, or PLAY_ROWS' for plays.

    `origin` is that of the `Points` which are these rows, alone and in their order, where they had one.
    """

    position: int
    table: str  # POINTS or PLAYS
    rows: pa.Table
    origin: str | None = None


class LogSource(Protocol):
    """The reading end: one writer's folder, or one partition of a topic."""

    @property
    def name(self) -> str:
        """Identity for ever (`log/local-0`, `kafka/points/3`): the key under which the consumed position is stored."""
        ...

    def read(self, after: int, max_rows: int) -> Iterator[Batch]:
        """Whole batches behind position `after` (0: all), oldest first, until about `max_rows` rows are given."""
        ...

    def end(self) -> int:
        """Position of the newest durable batch, 0 for none."""
        ...

    def release(self, through: int) -> None:
        """Everything up to `through` is stored elsewhere: drop what is past retention."""
        ...
