"""The engine of a program on another machine: points go to a server in batches, and are durable when it has answered 202."""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from copy import copy
from dataclasses import dataclass, field
from functools import partial

from analytics_dagster.clock import Clock, SystemClock
from analytics_dagster.engine.buffer import Buffer
from analytics_dagster.engine.engine import Engine, Recordable, Submitted, hold
from analytics_dagster.engine.posting import NO_TENANT, Poster, TooLargeError
from analytics_dagster.engine.refusals import RefusedPointsError
from analytics_dagster.engine.row_checks import RowChecks
from analytics_dagster.errors import ForeignTenantError, InvalidNameError, NotFoundError, ServerError, SettingsError
from analytics_dagster.ingest.points import Points, RefusedValueError, RowRefusal, WriteScope
from analytics_dagster.tenant_ids import validate_tenant_id

_LOG = logging.getLogger(__name__)
# Of one request; a larger table goes in several.
REQUEST_POINTS = 100_000


class _ServersScope(WriteScope):
    """Any tenant: which of them the key writes for is the server's to say."""

    def resolve(self, named: str | None) -> str:
        if not named:
            return NO_TENANT
        try:
            return validate_tenant_id(named)
        except InvalidNameError as error:
            raise RefusedValueError("tenant_id", named, str(error)) from None


_SCOPE = _ServersScope(None, frozenset())


@dataclass(eq=False)
class _Call:
    """Points of one call that go in one request, and the future of all that call's requests."""

    points: Points
    first: int
    whole: _Whole


@dataclass(eq=False)
class _Whole:
    """A call that may go in several requests. It fails with the first of them that does."""

    total: int
    left: int
    done: Future[None] = field(default_factory=Future)
    taken: int = 0
    error: Exception | None = None


class RemoteEngine(Engine):
    """Records through the server at `url` with an API key; None needs a server that asks for none.

    A call without a `tenant_id` is of the tenant that the key writes for. Points of concurrent calls go in one request, at the
    latest after `flush_after` seconds. Connection errors, 429 and 5xx are tried again for `retry_for` seconds; each request bears
    an Idempotency-Key, so that a try whose answer was lost counts once. A table of more than 100,000 points goes in several
    requests; should one fail, the error says how many points were taken.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        buffer_size: int = 10_000,
        flush_after: float = 0.003,
        retry_for: float = 60.0,
        timeout: float = 30.0,
        connections: int = 2,
        verify: bool = True,
        future_skew: float = 600.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__()
        if not url.startswith(("http://", "https://")):
            raise SettingsError(f"server {url!r} is not an address; write http://host:port or https://host:port (ANALYTICS_URL)")
        self.url = url.rstrip("/")
        self._buffer_size, self._flush_after = buffer_size, flush_after
        self._poster = partial(
            Poster, self.url, key, retry_for=retry_for, timeout=timeout, connections=connections, verify=verify
        )
        self._connections = connections
        self._clock, self._skew = clock or SystemClock(), dt.timedelta(seconds=future_skew)
        self._sending: _Sending | None = None

    def _shut(self) -> None:
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.close()

    def _ready(self) -> bool:
        return self._sending is not None

    def _forget(self) -> object:
        sending, self._sending = self._sending, None
        return sending

    def _submit(self, data: Recordable, *, wait: bool) -> Submitted:
        sending = self._sending
        if sending is None:
            with self._lock:
                if self._sending is None:
                    checks = RowChecks(self._clock, self._skew)
                    buffer = Buffer(self._buffer_size)
                    full = min(self._buffer_size, REQUEST_POINTS)
                    self._sending = _Sending(self._poster(), checks, buffer, full, self._flush_after, self._connections)
                    hold(self)
                sending = self._sending
        points = sending.checks.points(data, _SCOPE)
        if not len(points):
            return Submitted.nothing()
        done = sending.buffer.submit(len(points), partial(sending.put, points), wait=wait)
        return Submitted(len(points), done)


class _Sending:
    """The threads that post, and what waits for them."""

    def __init__(self, poster: Poster, checks: RowChecks, buffer: Buffer, full: int, flush_after: float, threads: int) -> None:
        self.checks, self.buffer = checks, buffer
        self._poster, self._flush_after = poster, flush_after
        self._full = full
        self._queue: deque[_Call] = deque()
        self._waiting = 0
        self._closing = self._ending = False
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._run, name=f"analytics-post-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def put(self, points: Points) -> Future[None]:
        firsts = range(0, len(points), REQUEST_POINTS)
        whole = _Whole(len(points), len(firsts))
        whole.done.set_running_or_notify_cancel()
        with self._changed:
            if self._closing:  # nobody would post them, and their caller would wait for ever
                raise ServerError(f"the engine of {self._poster.url} was closed by another thread; nothing was recorded")
            idle = not self._queue
            self._queue.extend(_Call(_part(points, first), first, whole) for first in firsts)
            self._waiting += len(points)
            # Not for every call: a thread that is woken for each of a thousand small ones slows down whoever makes them.
            if idle or self._waiting >= self._full:
                self._changed.notify_all()
        return whole.done

    def close(self) -> None:
        """Post what waits, then let go."""
        self._ending = True
        self.buffer.drain()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._poster.close()

    def _run(self) -> None:
        while calls := self._take():
            self._deliver(calls)

    def _take(self) -> list[_Call]:
        """Calls for one request, whole; none when all is over."""
        with self._changed:
            while not self._closing:
                self._changed.wait_for(lambda: self._queue or self._closing)
                due = time.monotonic() + self._flush_after
                while self._queue and self._waiting < self._full and (left := due - time.monotonic()) > 0 and not self._closing:
                    self._changed.wait(left)
                if self._queue:
                    break  # else another thread was faster
            taken: list[_Call] = []
            rows = 0
            while self._queue and (not taken or rows + len(self._queue[0].points) <= REQUEST_POINTS):
                taken.append(self._queue.popleft())
                rows += len(taken[-1].points)
            self._waiting -= rows
            if self._queue:
                self._changed.notify()
            return taken

    def _deliver(self, waiting: Sequence[_Call]) -> None:
        """Post calls together; when some of them are refused, the others again without them."""
        calls = [call for call in waiting if call.whole.error is None]
        # What is left of a call that failed is not carried on.
        self._fail([call for call in waiting if call.whole.error is not None], None)
        if not calls:
            return
        try:
            self._poster.post([call.points for call in calls])
        except RefusedPointsError as error:
            self._refuse(calls, error)
        except (TooLargeError, ForeignTenantError, NotFoundError) as error:
            self._again_in_halves(calls, error)
        except Exception as error:  # callers wait for each future, and this thread must live on for the next ones
            self._fail(calls, error)
        else:
            for call in calls:
                self._settle(call, None, taken=len(call.points))

    def _again_in_halves(self, calls: Sequence[_Call], error: Exception) -> None:
        """Some rows of some call are the reason, and the server did not say which."""
        if len(calls) > 1:
            self._deliver(calls[: len(calls) // 2])
            self._deliver(calls[len(calls) // 2 :])
            return
        (call,) = calls
        middle = len(call.points) // 2
        if not isinstance(error, TooLargeError) or not middle:
            self._settle(call, error)
            return
        with self._changed:
            call.whole.left += 1
        self._deliver([_Call(_rows(call.points, slice(middle)), call.first, call.whole)])
        self._deliver([_Call(_rows(call.points, slice(middle, None)), call.first + middle, call.whole)])

    def _refuse(self, calls: Sequence[_Call], error: RefusedPointsError) -> None:
        """Tell each call of its own rows, as it numbers them."""
        if len(calls) > 1 and error.count > len(error.refused):
            self._again_in_halves(calls, error)  # more are refused than were named
            return
        good, start = [], 0
        for call in calls:
            end = start + len(call.points)
            own = [_moved(row, call.first - start) for row in error.refused if start <= row.index < end]
            if own:
                count = error.count if len(calls) == 1 else len(own)
                self._settle(call, RefusedPointsError(own, call.whole.total, count=count))
            else:
                good.append(call)
            start = end
        if len(good) < len(calls):
            self._deliver(good)
        else:
            self._fail(calls, error)  # it named rows that were not sent

    def _fail(self, calls: Sequence[_Call], error: Exception | None) -> None:
        for call in calls:
            self._settle(call, error)

    def _settle(self, call: _Call, error: Exception | None, *, taken: int = 0) -> None:
        """Note what became of a request's share of a call, and of the call when that was the last."""
        whole = call.whole
        with self._changed:
            whole.left -= 1
            whole.taken += taken
            whole.error = whole.error or error
            if whole.left:
                return
        if whole.error is None:
            whole.done.set_result(None)
        else:
            if self._ending:  # the program is about to end, and may not look at its futures any more
                _LOG.error("%d points were not recorded: %s", whole.total - whole.taken, whole.error)
            whole.done.set_exception(_told(whole.error, whole))


def _told(error: Exception, whole: _Whole) -> Exception:
    """The error as one call gets it: an object of its own, which says how much of the call was taken all the same."""
    if isinstance(error, RefusedPointsError):
        return RefusedPointsError(error.refused, whole.total, count=error.count, recorded=whole.taken)
    told = copy(error)
    if whole.taken:
        told.add_note(f"{whole.taken:,} of the {whole.total:,} points of this call are recorded")
    return told


def _part(points: Points, first: int) -> Points:
    return points if len(points) <= REQUEST_POINTS else _rows(points, slice(first, first + REQUEST_POINTS))


def _rows(points: Points, rows: slice) -> Points:
    return Points(points.table, points.series[rows], points.ts[rows], points.values[rows])


def _moved(row: RowRefusal, by: int) -> RowRefusal:
    return RowRefusal(row.index + by, row.field, row.value, row.reason)
