"""A table larger than one commit of the log takes: appended a portion after the other, so that memory stays that of a few."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from analytics_dagster.ingest.points import Points

if TYPE_CHECKING:
    from analytics_dagster.ingest.log.interface import IngestLog

# The embedded log's largest commit of several calls; a frame is held in memory whole by whoever reads it.
PORTION_POINTS = 500_000
# While one is synced the next is encoded.
_UNDER_WAY = 2


def append(log: IngestLog, points: Points) -> Future[None]:
    """Append all of `points`; the future is done when all are durable. Raises LogFullError when none was taken.

    Should a later portion fail, the future's error says in a note how many points are durable.
    """
    if len(points) <= PORTION_POINTS:
        return log.append(points)
    return _Portions(log, points).begin()


class _Portions:
    def __init__(self, log: IngestLog, points: Points) -> None:
        self._log, self._points = log, points
        self._next = self._durable = self._under_way = 0
        self._error: BaseException | None = None
        self._done: Future[None] = Future()
        self._lock = threading.Lock()

    def begin(self) -> Future[None]:
        self._done.set_running_or_notify_cancel()
        first = self._append_next()
        first.add_done_callback(self._after)
        for _ in range(_UNDER_WAY - 1):
            self._go_on()
        return self._done

    def _append_next(self) -> Future[None]:
        with self._lock:
            rows = slice(self._next, self._next + PORTION_POINTS)
            self._next += PORTION_POINTS
            self._under_way += 1
        return self._log.append(
            Points(self._points.table, self._points.series[rows], self._points.ts[rows], self._points.values[rows])
        )

    def _go_on(self) -> None:
        with self._lock:
            if self._error is not None or self._next >= len(self._points):
                return
        try:
            appended = self._append_next()
        except Exception as error:  # it belongs to the caller, who has the future by now
            appended = Future()
            appended.set_exception(error)
        appended.add_done_callback(self._after)

    def _after(self, appended: Future[None]) -> None:
        error = appended.exception()
        with self._lock:
            self._under_way -= 1
            self._error = self._error or error
            if error is None:
                self._durable += PORTION_POINTS
            ended = not self._under_way and (self._error is not None or self._next >= len(self._points))
        if not ended:
            self._go_on()
        elif self._error is None:
            self._done.set_result(None)
        else:
            self._error.add_note(f"{self._durable:,} of the {len(self._points):,} points of this call are recorded")
            self._done.set_exception(self._error)
