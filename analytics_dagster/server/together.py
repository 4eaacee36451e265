"""Small requests made durable together: read, charged and appended as one, while the commit before is on its way.

Ten thousand requests a second of one point each would otherwise be ten thousand readings, look-ups, appends and wake-ups of the
loop. A request waits for no more than it would anyway: the log commits one batch after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analytics_dagster.errors import AnalyticsError
from analytics_dagster.ingest.points import Parsed, Points, WriteScope
from analytics_dagster.server.exchange import Headers

if TYPE_CHECKING:
    from analytics_dagster.ingest.log.interface import IngestLog

# Larger requests go to the log by themselves: a commit of their own costs less than a tenth of what reading them does.
SMALL = 16_384
_MOST_ROWS = 65_536
_LONGEST_OBJECT = 4_096

Charge = Callable[[Points], Headers]
ReadLines = Callable[[bytes, WriteScope], Parsed]
Answered = asyncio.Future[Headers | None]


@dataclass(frozen=True)
class _Object:
    """A body that is one JSON object, as it came."""

    body: bytes
    scope: WriteScope
    key_id: str
    answered: Answered


@dataclass(frozen=True)
class _Parcel:
    """Points of one request, or of several objects: one point each."""

    points: Points
    key_id: str
    answered: list[Answered]


def is_one_object(body: bytes) -> bool:
    """Whether a body can stand on one line among others: what begins and ends like an object there cannot complete another."""
    return len(body) <= _LONGEST_OBJECT and body[:1] == b"{" and body[-1:] == b"}" and b"\n" not in body and b"\r" not in body


class Together:
    """Belongs to one event loop. Only requests of one key are charged together, so that no tenant learns where another stands."""

    def __init__(self, log: IngestLog, charge: Charge, read_lines: ReadLines) -> None:
        self._log = log
        self._charge = charge
        self._read_lines = read_lines
        self._loop = asyncio.get_running_loop()
        self._objects: list[_Object] = []
        self._parcels: list[_Parcel] = []
        self._rows = 0
        self._due = False
        self._under_way = 0

    def store(self, points: Points, key_id: str) -> Answered:
        """Durable when the future is done; it gives the RateLimit headers, or carries what stood against it."""
        answered: Answered = self._loop.create_future()
        self._parcels.append(_Parcel(points, key_id, [answered]))
        self._rows += len(points)
        self._schedule()
        return answered

    def read_and_store(self, body: bytes, scope: WriteScope, key_id: str) -> Answered:
        """As `store`, for a body that `is_one_object`. None: something is the matter with it or another; take it by itself."""
        answered: Answered = self._loop.create_future()
        self._objects.append(_Object(body, scope, key_id, answered))
        self._rows += 1
        self._schedule()
        return answered

    def _schedule(self) -> None:
        if not self._due and (not self._under_way or self._rows >= _MOST_ROWS):
            # What came in the same turn of the loop comes along.
            self._due = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._due = False
        objects, self._objects = self._objects, []
        parcels, self._parcels = self._parcels, []
        self._rows = 0
        senders: dict[tuple[str, int], list[_Object]] = {}
        for one in objects:
            senders.setdefault((one.key_id, id(one.scope)), []).append(one)
        parcels.extend(parcel for group in senders.values() if (parcel := self._read(group)) is not None)
        # Requests of before and after the series table was replaced cannot be one append.
        by_table: dict[int, list[tuple[_Parcel, Headers]]] = {}
        for parcel, headers in self._charged(parcels):
            by_table.setdefault(id(parcel.points.table), []).append((parcel, headers))
        for charged in by_table.values():
            self._append(charged)

    def _read(self, group: list[_Object]) -> _Parcel | None:
        """The objects' points, in their order; None when they are not exactly one good point each."""
        try:
            parsed = self._read_lines(b"\n".join([one.body for one in group]), group[0].scope)
        except Exception:  # whatever it is, each is read by itself then, and learns there what is the matter with it
            parsed = None
        if parsed is None or parsed.refused or len(parsed.points) != len(group):
            for one in group:
                _give(one.answered, None)
            return None
        return _Parcel(parsed.points, group[0].key_id, [one.answered for one in group])

    def _charged(self, parcels: list[_Parcel]) -> list[tuple[_Parcel, Headers]]:
        by_key: dict[tuple[int, str], list[_Parcel]] = {}
        for parcel in parcels:
            by_key.setdefault((id(parcel.points.table), parcel.key_id), []).append(parcel)
        return [pair for group in by_key.values() for pair in self._charged_of_one_key(group)]

    def _charged_of_one_key(self, group: list[_Parcel]) -> list[tuple[_Parcel, Headers]]:
        try:
            headers = self._charge(_joined(group))
        except Exception as error:  # whatever it is (the database is away, say), those who wait must learn of it
            judged = isinstance(error, AnalyticsError)
            if judged and len(group) > 1:
                # One of them stands against the others; each is judged alone.
                return [pair for parcel in group for pair in self._charged_of_one_key([parcel])]
            for parcel in group:
                for answered in parcel.answered:
                    if judged and len(parcel.answered) > 1:
                        _give(answered, None)
                    else:
                        _fail(answered, error)
            return []
        return [(parcel, headers) for parcel in group]

    def _append(self, charged: list[tuple[_Parcel, Headers]]) -> None:
        try:
            durable = self._log.append(_joined([parcel for parcel, _ in charged]))
        except Exception as error:  # as above
            for parcel, _ in charged:
                for answered in parcel.answered:
                    _fail(answered, error)
            return
        self._under_way += 1

        def done(future: Future[None]) -> None:
            self._loop.call_soon_threadsafe(self._done, charged, future)

        durable.add_done_callback(done)

    def _done(self, charged: list[tuple[_Parcel, Headers]], durable: Future[None]) -> None:
        self._under_way -= 1
        error = durable.exception()
        for parcel, headers in charged:
            for answered in parcel.answered:
                if error is not None:
                    _fail(answered, error)
                else:
                    _give(answered, headers)
        if (self._objects or self._parcels) and not self._due:
            self._send()


def _give(answered: Answered, headers: Headers | None) -> None:
    if not answered.done():
        answered.set_result(headers)


def _fail(answered: Answered, error: BaseException) -> None:
    if not answered.done():
        answered.set_exception(error)


def _joined(parcels: list[_Parcel]) -> Points:
    points = [parcel.points for parcel in parcels]
    if len(points) == 1:
        return points[0]
    return Points(
        points[0].table,
        np.concatenate([p.series for p in points]),
        np.concatenate([p.ts for p in points]),
        np.concatenate([p.values for p in points]),
    )
