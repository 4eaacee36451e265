"""The buffer: never over its size, in the order of the callers, and whole again when all is done."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.engine.buffer import Buffer, settled
from analytics_dagster.errors import BufferFullError, LogFullError


class HandLog:
    """A log whose commits are made by the test."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, int, Future[None]]] = []
        self.taken: list[int] = []

    def append(self, number: int, points: int) -> Future[None]:
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()
        self.waiting.append((number, points, future))
        self.taken.append(number)
        return future

    @property
    def points(self) -> int:
        return sum(points for _, points, _ in self.waiting)

    def commit(self, place: int, error: Exception | None = None) -> None:
        _, _, future = self.waiting.pop(place % len(self.waiting))
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


@given(
    st.integers(1, 20),
    st.lists(st.one_of(st.tuples(st.just("call"), st.integers(1, 30)), st.tuples(st.just("commit"), st.integers(0, 9)))),
    st.sets(st.integers(0, 50)),
)
def test_no_more_than_its_size_waits_and_every_call_has_its_turn(
    size: int, steps: list[tuple[str, int]], failing: set[int]
) -> None:
    buffer, log = Buffer(size), HandLog()
    calls: list[Future[None]] = []
    for what, number in steps:
        if what == "call":
            mine = len(calls)
            calls.append(buffer.submit(number, lambda mine=mine, points=number: log.append(mine, points), wait=True))
        elif log.waiting:
            log.commit(number, LogFullError("full") if log.waiting[number % len(log.waiting)][0] in failing else None)
        assert log.points <= size or len(log.waiting) == 1
    while log.waiting:
        log.commit(0, LogFullError("full") if log.waiting[0][0] in failing else None)
    assert log.taken == list(range(len(calls)))
    for number, call in enumerate(calls):
        assert (call.exception(0) is None) is (number not in failing)
    buffer.drain()
    assert buffer.submit(size, lambda: log.append(-1, size), wait=False).running()


def test_a_call_that_cannot_be_handed_on_gives_its_room_back() -> None:
    buffer = Buffer(2)

    def fail() -> Future[None]:
        raise LogFullError("full")

    for _ in range(5):
        with pytest.raises(LogFullError):
            buffer.submit(2, fail, wait=False).result(0)


def test_ten_thousand_that_fail_one_after_the_other_do_not_nest() -> None:
    buffer, log = Buffer(1), HandLog()

    def fail() -> Future[None]:
        raise LogFullError("full")

    buffer.submit(1, lambda: log.append(0, 1), wait=True)
    calls = [buffer.submit(1, fail, wait=True) for _ in range(10_000)]
    log.commit(0)
    assert all(isinstance(call.exception(0), LogFullError) for call in calls)


def test_a_call_in_line_can_be_withdrawn_and_one_under_way_cannot() -> None:
    buffer, log = Buffer(1), HandLog()
    under_way = buffer.submit(1, lambda: log.append(0, 1), wait=True)
    in_line = buffer.submit(1, lambda: log.append(1, 1), wait=True)
    last = buffer.submit(1, lambda: log.append(2, 1), wait=True)
    assert not under_way.cancel()
    assert in_line.cancel()
    log.commit(0)
    assert under_way.result(0) is None
    assert log.taken == [0, 2]
    log.commit(0)
    assert last.result(0) is None
    with pytest.raises(BufferFullError, match="2 points were not taken: 1 wait"):
        buffer.submit(1, lambda: log.append(3, 1), wait=True) and buffer.submit(2, lambda: log.append(4, 2), wait=False)


def test_a_cancelled_task_takes_its_call_out_of_the_line() -> None:
    buffer, log = Buffer(1), HandLog()

    async def wait() -> None:
        buffer.submit(1, lambda: log.append(0, 1), wait=True)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(settled(buffer.submit(1, lambda: log.append(1, 1), wait=True)), 0.01)

    asyncio.run(wait())
    log.commit(0)
    assert log.taken == [0]
    buffer.drain()


def test_a_loop_that_was_closed_meanwhile_harms_nobody() -> None:
    buffer, log = Buffer(1), HandLog()
    call = buffer.submit(1, lambda: log.append(0, 1), wait=True)
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(settled(call))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    log.commit(0)
    assert call.done()
    assert not waiting.done()
    waiting.get_coro().close()  # type: ignore[union-attr]  # what a task that was never finished leaves behind


def test_a_call_that_fails_at_once_leaves_nobody_behind_it_in_line() -> None:
    buffer, log = Buffer(10), HandLog()
    behind: list[Future[None]] = []

    def fails() -> Future[None]:
        # Another thread records while the log is still being asked.
        behind.append(buffer.submit(10, lambda: log.append(2, 10), wait=True))
        raise LogFullError("full")

    with pytest.raises(LogFullError):
        buffer.submit(10, fails, wait=True).result(0)
    log.commit(0)
    assert behind[0].result(0) is None
    buffer.drain()
