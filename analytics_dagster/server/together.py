"""Small requests made durable together: one charge for each key and one append, while the commit before is on its way.

Ten thousand requests a second of one point each would otherwise be ten thousand look-ups, appends and wake-ups of the loop. A
request waits for no more than it would anyway: the log commits one batch after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analytics_dagster.errors import AnalyticsError
from analytics_dagster.ingest.points import Points
from analytics_dagster.server.exchange import Headers

if TYPE_CHECKING:
    from analytics_dagster.ingest.log.interface import IngestLog

# Larger requests go to the log by themselves: copying them costs more than it saves.
SMALL = 256
_MOST_ROWS = 20_000

Charge = Callable[[Points], Headers]


@dataclass(frozen=True)
class _Waiting:
    points: Points
    key_id: str
    answered: asyncio.Future[Headers]


class Together:
    """Belongs to one event loop."""

    def __init__(self, log: IngestLog, charge: Charge) -> None:
        self._log = log
        self._charge = charge
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Waiting] = []
        self._rows = 0
        self._due = False
        self._under_way = 0

    def store(self, points: Points, key_id: str) -> asyncio.Future[Headers]:
        """Durable when the future is done; it gives the RateLimit headers, or carries what stood against it.

        Only requests of one key are charged together, so that no tenant learns where another stands.
        """
        answered: asyncio.Future[Headers] = self._loop.create_future()
        self._waiting.append(_Waiting(points, key_id, answered))
        self._rows += len(points)
        if not self._due and (not self._under_way or self._rows >= _MOST_ROWS):
            # What came in the same turn of the loop comes along.
            self._due = True
            self._loop.call_soon(self._send)
        return answered

    def _send(self) -> None:
        self._due = False
        waiting, self._waiting, self._rows = self._waiting, [], 0
        by_group: dict[tuple[int, str], list[_Waiting]] = {}
        for one in waiting:
            by_group.setdefault((id(one.points.table), one.key_id), []).append(one)
        charged = [(one, headers) for group in by_group.values() for one, headers in self._charged(group)]
        # Requests of before and after the series table was replaced cannot be one append.
        by_table: dict[int, list[tuple[_Waiting, Headers]]] = {}
        for one, headers in charged:
            by_table.setdefault(id(one.points.table), []).append((one, headers))
        for together in by_table.values():
            self._append(together)

    def _charged(self, group: list[_Waiting]) -> list[tuple[_Waiting, Headers]]:
        try:
            headers = self._charge(_joined(group))
        except AnalyticsError as error:
            if len(group) == 1:
                _fail(group[0], error)
                return []
            # One of them stands against the others; each is judged alone.
            return [pair for one in group for pair in self._charged([one])]
        return [(one, headers) for one in group]

    def _append(self, together: list[tuple[_Waiting, Headers]]) -> None:
        try:
            durable = self._log.append(_joined([one for one, _ in together]))
        except AnalyticsError as error:
            for one, _ in together:
                _fail(one, error)
            return
        self._under_way += 1

        def done(future: Future[None]) -> None:
            self._loop.call_soon_threadsafe(self._done, together, future)

        durable.add_done_callback(done)

    def _done(self, together: list[tuple[_Waiting, Headers]], durable: Future[None]) -> None:
        self._under_way -= 1
        error = durable.exception()
        for one, headers in together:
            if error is not None:
                _fail(one, error)
            elif not one.answered.done():
                one.answered.set_result(headers)
        if self._waiting and not self._due:
            self._send()


def _fail(one: _Waiting, error: BaseException) -> None:
    if not one.answered.done():
        one.answered.set_exception(error)


def _joined(waiting: list[_Waiting]) -> Points:
    if len(waiting) == 1:
        return waiting[0].points
    points = [one.points for one in waiting]
    return Points(
        points[0].table,
        np.concatenate([p.series for p in points]),
        np.concatenate([p.ts for p in points]),
        np.concatenate([p.values for p in points]),
    )
