"""The bound on what an engine holds: room for so many points between their recording and their being durable.

What does not fit waits in line and is handed on by whoever makes room, never by the thread or event loop that waits for it:
so a blocking call inside a loop cannot stand in its own way. A call of more points than there is room for goes alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from analytics_dagster.errors import BufferFullError

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class _Call:
    room: int
    send: Callable[[], Future[None]]
    done: Future[None] = field(default_factory=Future)


class Buffer:
    """Room for `size` points. Safe in any thread."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._line: deque[_Call] = deque()
        self._lock = threading.Lock()
        self._empty = threading.Condition(self._lock)
        self._advancing = False

    def submit(self, points: int, send: Callable[[], Future[None]], *, wait: bool) -> Future[None]:
        """Call `send` as soon as there is room; the future is done when what it gave is done, and the room free again.

        Cancelling the future withdraws a call that is still in line, and nothing else. `wait=False` raises BufferFullError
        instead of standing in line.
        """
        call = _Call(min(points, self._size), send)
        with self._lock:
            if self._line or self._used + call.room > self._size:
                if not wait:
                    raise BufferFullError(
                        f"{points:,} points were not taken: {self._used:,} wait to be durable and METRICS_BUFFER_SIZE is "
                        f"{self._size:,}; wait for what was recorded before, then record again, or use a call that waits"
                    )
                self._line.append(call)
                return call.done
            self._used += call.room
        if not self._start(call):
            # Others may have come to stand in line for its room meanwhile.
            self._advance()
        return call.done

    def drain(self) -> None:
        """Wait until everything that was submitted is done."""
        with self._empty:
            self._empty.wait_for(lambda: not self._line and not self._used)

    def _start(self, call: _Call) -> bool:
        """Send a call that has room. False when it gave its room back at once."""
        if not call.done.set_running_or_notify_cancel():
            self._give_back(call)
            return False
        try:
            sent = call.send()
        except Exception as error:  # whatever it is, it is the caller's to see
            self._give_back(call)
            call.done.set_exception(error)
            return False
        sent.add_done_callback(partial(self._finish, call))
        return True

    def _finish(self, call: _Call, sent: Future[None]) -> None:
        # Room first: whoever sees the call done may record again at once.
        self._give_back(call)
        error = sent.exception()
        if error is None:
            call.done.set_result(None)
        else:
            call.done.set_exception(error)
        self._advance()

    def _give_back(self, call: _Call) -> None:
        with self._lock:
            self._used -= call.room
            if not self._used:
                self._empty.notify_all()

    def _advance(self) -> None:
        """Start those in line that fit. One thread at a time, in a loop: a thousand that fail at once must not nest."""
        with self._lock:
            if self._advancing:
                return
            self._advancing = True
        while True:
            with self._lock:
                if not self._line or self._used + self._line[0].room > self._size:
                    self._advancing = False
                    return
                call = self._line.popleft()
                self._used += call.room
            self._start(call)


async def settled(future: Future[T]) -> T:
    """The result of `future`. A cancelled task withdraws what is still in line; what a log was given cannot be taken back."""
    if not future.done():
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        def done(_: Future[T]) -> None:
            # A loop that was closed meanwhile: nobody waits there any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(wake)

        future.add_done_callback(done)
        try:
            await waiter
        except asyncio.CancelledError:
            future.cancel()
            raise
    return future.result()
