"""Places for queries: what makes them free again, and that no tenant can have them all."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from server.running import Running, wait_for

from analytics_dagster.installation import Installation
from analytics_dagster.lake.compute import connect
from analytics_dagster.lake.interruption import GivenUpError, Interruption
from analytics_dagster.metrics import query as metric_query
from analytics_dagster.metrics.load import load_catalogue
from analytics_dagster.metrics.query import Answer, MetricQuery
from analytics_dagster.server import query as desk_module
from analytics_dagster.server.problems import Problem
from analytics_dagster.server.query import QueryDesk
from analytics_dagster.tenancy.roles import Role

# Hours of work for DuckDB, in little memory.
ENDLESS = "SELECT sum(hash(a.i * b.i)) FROM range(10_000_000) a(i), range(10_000_000) b(i)"
NONE = pa.table({"ts": pa.array([], pa.timestamp("us", "UTC")), "value": pa.array([], pa.float64())})
METRIC = load_catalogue().metric("plays")


class Desk:
    """A desk whose queries are DuckDB's: `endless` ones run until they are interrupted, `held` ones until they are let go."""

    def __init__(self, installation: Installation, patch: pytest.MonkeyPatch) -> None:
        self.desk = QueryDesk(installation)
        self.let_go = threading.Event()
        self.started: list[str] = []
        self.most_at_once = 0
        self._running = 0
        self._lock = threading.Lock()
        patch.setattr(metric_query, "answer_query", self._answer)

    async def ask(self, tenant: str, metric: str, gone: asyncio.Event | None = None) -> bytes:
        async def left() -> None:
            await (gone or asyncio.Event()).wait()

        return await self.desk.run(tenant, MetricQuery(metric), "json", left())

    def _answer(self, lake: Any, _: Any, asked: MetricQuery, __: Any, interruption: Interruption) -> Answer:
        with self._lock:
            self.started.append(f"{lake.tenant} {asked.metric}")
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        try:
            with connect(threads=1) as connection, interruption.covering(connection):
                if asked.metric == "endless":
                    connection.execute(ENDLESS).fetchall()
            if asked.metric == "held":
                assert self.let_go.wait(60)
        finally:
            with self._lock:
                self._running -= 1
        return Answer(METRIC, NONE)


@pytest.fixture
def desk(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    made = Desk(installation, monkeypatch)
    yield made
    made.let_go.set()
    made.desk.close()


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not what():
            await asyncio.sleep(0.01)


def test_a_query_whose_time_is_up_is_interrupted_and_its_place_is_free(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        monkeypatch.setattr(desk_module, "QUERY_SECONDS", 0.5)
        ended = await asyncio.gather(*(desk.ask("acme", "endless") for _ in range(3)), return_exceptions=True)
        assert [e.status for e in ended if isinstance(e, Problem)] == [503] * 3
        monkeypatch.setattr(desk_module, "QUERY_SECONDS", 60.0)
        assert await asyncio.gather(*(desk.ask("acme", "quick") for _ in range(8))) == [b"[]"] * 8

    asyncio.run(story())


def test_a_query_whose_client_is_gone_is_interrupted(desk: Desk) -> None:
    async def story() -> None:
        gone = asyncio.Event()
        asking = [asyncio.ensure_future(desk.ask("acme", "endless", gone)) for _ in range(3)]
        await until(lambda: len(desk.started) == 2)
        gone.set()
        ended = await asyncio.gather(*asking, return_exceptions=True)
        assert [str(e) for e in ended] == ["the client went away before its answer was there"] * 3
        assert await desk.ask("acme", "quick") == b"[]"
        assert desk.started.count("acme endless") == 2

    asyncio.run(story())


def test_a_cancelled_request_leaves_the_line(desk: Desk) -> None:
    async def story() -> None:
        asking = [asyncio.ensure_future(desk.ask("acme", "endless")) for _ in range(4)]
        await until(lambda: len(desk.started) == 2)
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        assert await asyncio.gather(*(desk.ask("acme", "quick") for _ in range(4))) == [b"[]"] * 4

    asyncio.run(story())


def test_one_tenant_has_half_of_the_places_and_the_others_take_turns(desk: Desk) -> None:
    async def story() -> None:
        greedy = [asyncio.ensure_future(desk.ask("acme", "held")) for _ in range(10)]
        await until(lambda: len(desk.started) == 2)
        assert await desk.ask("borealis", "quick") == b"[]"
        others = [asyncio.ensure_future(desk.ask("default", "held")) for _ in range(4)]
        await until(lambda: len(desk.started) == 5)
        late = asyncio.ensure_future(desk.ask("borealis", "quick"))
        await asyncio.sleep(0)
        assert not late.done()
        desk.let_go.set()
        await asyncio.gather(*greedy, *others, late)
        # Of those that waited, borealis' one stood behind one of each of the others at most.
        assert desk.started.index("borealis quick", 5) < 8
        assert desk.most_at_once <= 4

    asyncio.run(story())


def test_a_tenant_whose_line_is_too_long_is_told_so_and_others_are_not(desk: Desk) -> None:
    async def story() -> None:
        waiting = [asyncio.ensure_future(desk.ask("acme", "held")) for _ in range(66)]
        await until(lambda: len(desk.started) == 2)
        with pytest.raises(Problem, match="64 queries of this tenant are waiting") as refused:
            await desk.ask("acme", "quick")
        assert refused.value.status == 503
        assert await desk.ask("borealis", "quick") == b"[]"
        desk.let_go.set()
        await asyncio.gather(*waiting)

    asyncio.run(story())


def test_what_was_interrupted_starts_nothing_new() -> None:
    interruption = Interruption()
    interruption.interrupt()
    with connect() as connection, pytest.raises(GivenUpError), interruption.covering(connection):
        pass


def test_a_client_that_hangs_up_is_noticed(server: Running) -> None:
    address = (server.url.rpartition(":")[0].rpartition("/")[2], int(server.url.rpartition(":")[2]))
    key = server.key(Role.TENANT_ADMIN, "acme")
    request = f"GET /analytics/query?metric=plays HTTP/1.1\r\nHost: {address[0]}\r\nAuthorization: Bearer {key}\r\n\r\n".encode()

    def hang_up() -> bool:
        with socket.create_connection(address, timeout=30) as connection:
            connection.sendall(request)
            time.sleep(0.01)
        said = [line for line in server.said.splitlines() if "/analytics/query" in line]
        return any("400" in line for line in said)

    wait_for("the log line", hang_up)
