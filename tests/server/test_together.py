"""Small requests that are stored together, where that fails: everybody who waits is told."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import numpy as np
import pytest

from analytics_dagster.ingest.points import Parsed, Plays, Points, SeriesTable, WriteScope
from analytics_dagster.server.exchange import Headers
from analytics_dagster.server.together import Together

SCOPE = WriteScope("default", frozenset({"default"}))


class DurableAtOnce:
    """A log that has everything as soon as it is appended."""

    def append(self, rows: Points | Plays) -> Future[None]:
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def close(self) -> None:
        """Nothing is open."""


class Broken(DurableAtOnce):
    def append(self, rows: Points | Plays) -> Future[None]:
        raise RuntimeError("the log is broken")


def one_point() -> Points:
    table = SeriesTable()
    number = table.number("default", "gauge", "a", "{}")
    return Points(table, np.array([number], np.int32), np.array([1], np.int64), np.array([1.0]))


def free(points: Points) -> Headers:
    return ()


def away(points: Points) -> Headers:
    raise RuntimeError("the database is away")


def unreadable(body: bytes, scope: WriteScope) -> Parsed:
    raise RuntimeError("a defect of the reader")


def test_a_charge_that_fails_fails_every_request_that_waits_for_it() -> None:
    async def two() -> list[Headers | BaseException | None]:
        together = Together(DurableAtOnce(), away, unreadable)
        stored = [together.store(one_point(), "key-1"), together.store(one_point(), "key-2")]
        return await asyncio.wait_for(asyncio.gather(*stored, return_exceptions=True), 30)

    assert [str(error) for error in asyncio.run(two())] == ["the database is away"] * 2


def test_a_log_that_fails_fails_the_request() -> None:
    async def one() -> None:
        await asyncio.wait_for(Together(Broken(), free, unreadable).store(one_point(), "key-1"), 30)

    with pytest.raises(RuntimeError, match="the log is broken"):
        asyncio.run(one())


def test_an_object_that_breaks_the_reader_is_handed_back_and_others_are_stored() -> None:
    async def both() -> tuple[Headers | None, Headers | None]:
        together = Together(DurableAtOnce(), free, unreadable)
        odd, good = together.read_and_store(b"{}", SCOPE, "key-1"), together.store(one_point(), "key-2")
        return await asyncio.wait_for(odd, 30), await asyncio.wait_for(good, 30)

    assert asyncio.run(both()) == (None, ())
