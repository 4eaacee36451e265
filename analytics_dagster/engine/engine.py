"""What both engines give their callers: each call as a coroutine, as a blocking twin and as one that never waits.

Which rows are allowed and where they go is the subclass' part; that nothing is dropped, and that a call is done only when its
points are durable, is decided here.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

from analytics_dagster.engine.buffer import settled
from analytics_dagster.engine.metric import AnalyticsMetric

# Up to so many objects are looked through in the event loop itself: less than a hop to another thread costs.
_SMALL = 256


class ArrowStream(Protocol):
    """A table of any library that exports Arrow: pandas, polars, pyarrow, DuckDB, ..."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


class ArrowArray(Protocol):
    """One record batch of any library that exports Arrow."""

    def __arrow_c_array__(self, requested_schema: object | None = None) -> Any: ...


Recordable: TypeAlias = Iterable[AnalyticsMetric] | ArrowStream | ArrowArray


_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()
# Held until they are closed, also when nobody else does: points may wait in them when the program ends.
_OPENED: set[Engine] = set()
# What a forked child inherits is its parent's: not used, and never closed: a database connection would say good-bye on the
# parent's socket.
_INHERITED: list[object] = []


class Engine(ABC):
    """Records points. One engine serves any number of threads and event loops; it opens what it needs at its first call.

    Every call is done when its points are durable, and raises

    - RefusedPointsError, naming index, field, value and reason, for points that are not allowed: nothing of the call is recorded;
    - NotFoundError for a tenant that is not registered, UserError for one that is suspended or removed;
    - LogFullError, QuotaExceededError or ServerError (all RetryableError) when it cannot be done now.

    At most METRICS_BUFFER_SIZE points wait to be durable; beyond it calls wait their turn, and the `_nowait` calls raise
    BufferFullError.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _ENGINES.add(self)

    async def record_metric(self, metric: AnalyticsMetric) -> None:
        """Record one point."""
        await self.record_metrics([metric])

    async def record_metrics(self, data: Recordable) -> int:
        """Record many: AnalyticsMetric objects, or a DataFrame or Arrow table; returns how many.

        A table has columns `name`, `value` and, if it likes, `timestamp`, `tenant_id`, `metric_type` and `labels` (a map, a
        struct, dicts or JSON text); every other column is a label.
        """
        if self._ready() and isinstance(data, list | tuple) and len(data) <= _SMALL:
            call = self._submit(data, wait=True)
        else:
            call = await asyncio.to_thread(self._submit, data, wait=True)
        await settled(call.done)
        return call.points

    def record_metric_sync(self, metric: AnalyticsMetric) -> None:
        """`record_metric` for code that is not async: blocks until the point is durable."""
        self.record_metrics_sync([metric])

    def record_metrics_sync(self, data: Recordable) -> int:
        """`record_metrics` for code that is not async."""
        call = self._submit(data, wait=True)
        try:
            call.done.result()
        except KeyboardInterrupt:
            call.done.cancel()
            raise
        return call.points

    def record_metric_nowait(self, metric: AnalyticsMetric) -> Future[None]:
        """Record one point without waiting; the future is done when it is durable. Raises BufferFullError."""
        return self.record_metrics_nowait([metric])

    def record_metrics_nowait(self, data: Recordable) -> Future[None]:
        """Record many without waiting; the future is done when they are durable. Raises BufferFullError: none was taken."""
        return self._submit(data, wait=False).done

    def close(self) -> None:
        """Make durable what waits, and let go of everything. The engine opens again when it is used again."""
        with self._lock:
            self._shut()
            _OPENED.discard(self)

    async def aclose(self) -> None:
        """`close` without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @abstractmethod
    def _ready(self) -> bool:
        """Whether a call would neither open nor look up anything."""

    @abstractmethod
    def _shut(self) -> None:
        """Close what is opened, if anything is. Called under the lock."""

    @abstractmethod
    def _forget(self) -> object:
        """In a forked child: let go of everything opened, without closing it, and return it."""

    @abstractmethod
    def _submit(self, data: Recordable, *, wait: bool) -> Submitted:
        """Check `data` and hand it on, or put it in line. Safe in any thread."""


@dataclass(frozen=True)
class Submitted:
    """A call under way: how many points it has, and when they are durable."""

    points: int
    done: Future[None]

    @classmethod
    def nothing(cls) -> Submitted:
        """An empty call, which is done."""
        done: Future[None] = Future()
        done.set_result(None)
        return cls(0, done)


def hold(engine: Engine) -> None:
    """Keep an engine that has opened something until it is closed."""
    _OPENED.add(engine)


def _forget_in_child() -> None:
    for engine in list(_ENGINES):
        engine._lock = threading.Lock()  # its holder, if it had one, does not exist here
        _INHERITED.append(engine._forget())
    _OPENED.clear()


def _close_all() -> None:
    for engine in list(_OPENED):
        engine.close()


os.register_at_fork(after_in_child=_forget_in_child)
atexit.register(_close_all)
