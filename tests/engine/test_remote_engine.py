"""The engine of a program elsewhere, against a server that was written for the test and answers what it is told to."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from analytics_dagster import AnalyticsMetric, RefusedPointsError, RemoteEngine
from analytics_dagster.engine import remote
from analytics_dagster.engine.environment import EnvironmentEngine
from analytics_dagster.errors import (
    AuthenticationError,
    BufferFullError,
    ForeignTenantError,
    LogFullError,
    PermissionDeniedError,
    QuotaExceededError,
    ServerError,
    SettingsError,
)

NOW = dt.datetime.now(dt.UTC)
ROUTE = "/analytics/metrics"
Answer = Callable[[list[dict[str, Any]]], Response | None]


def _metric(value: float = 1.0, **changes: Any) -> AnalyticsMetric:
    return AnalyticsMetric(**{"name": "cpu", "value": value, "timestamp": NOW, "labels": {"region": "eu"}, **changes})


def _problem(status: int, kind: str = "", headers: dict[str, str] | None = None, **members: Any) -> Response:
    document = {"type": f"urn:analytics-dagster:problem:{kind}", "status": status, "detail": f"detail of {status}", **members}
    return Response(json.dumps(document), status, headers, content_type="application/problem+json")


class Receiver:
    """Takes what the engine posts. `answers` are given before anything is taken, first to first; then `judge` is asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, list[dict[str, Any]]]] = []
        self.stored: dict[str, list[dict[str, Any]]] = {}
        self.answers: list[Response] = []
        self.judge: Answer = lambda rows: None
        self.headers: dict[str, str] = {}
        self.lose_answers = 0
        self.open = threading.Event()
        self.open.set()
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Response:
        assert request.headers["Content-Type"] == "application/vnd.apache.arrow.stream"
        body = request.get_data()
        if request.headers.get("Content-Encoding") == "zstd":
            body = pa.CompressedInputStream(pa.BufferReader(body), "zstd").read()
        rows = pa.ipc.open_stream(body).read_all().to_pylist()
        key = request.headers["Idempotency-Key"]
        assert self.open.wait(60)
        with self._lock:
            self.headers = dict(request.headers)
            self.requests.append((key, rows))
            if self.answers:
                return self.answers.pop(0)
            refusal = self.judge(rows)
            if refusal is not None:
                return refusal
            self.stored[key] = rows
            if self.lose_answers:
                self.lose_answers -= 1
                return _problem(502)
            return Response(json.dumps({"accepted": len(rows)}), 202)

    @property
    def values(self) -> list[float]:
        return sorted(row["value"] for rows in self.stored.values() for row in rows)


@pytest.fixture
def receiver(httpserver: HTTPServer) -> Iterator[Receiver]:
    made = Receiver()
    httpserver.expect_request(ROUTE, method="POST").respond_with_handler(made)
    yield made
    made.open.set()
    httpserver.check_handler_errors()


@pytest.fixture
def engine(httpserver: HTTPServer, receiver: Receiver) -> Iterator[RemoteEngine]:
    with RemoteEngine(httpserver.url_for(""), "adk_secret", retry_for=30) as opened:
        yield opened


# --- what is sent


def test_a_point_is_taken_when_the_await_returns(engine: RemoteEngine, receiver: Receiver) -> None:
    async def record() -> list[float]:
        await engine.record_metric(_metric(0.5, tenant_id="tenant_123"))
        return receiver.values

    assert asyncio.run(record()) == [0.5]
    [[row]] = receiver.stored.values()
    assert row == {
        "tenant_id": "tenant_123",
        "name": "cpu",
        "metric_type": "gauge",
        "labels": '{"region":"eu"}',
        "timestamp": NOW,
        "value": 0.5,
    }
    assert receiver.headers["Authorization"] == "Bearer adk_secret"


def test_a_point_without_a_tenant_is_left_to_the_key(engine: RemoteEngine, receiver: Receiver) -> None:
    engine.record_metric_sync(_metric())
    [[row]] = receiver.stored.values()
    assert "tenant_id" not in row
    engine.record_metrics_sync([_metric(), _metric(tenant_id="acme")])
    assert [row["tenant_id"] for row in list(receiver.stored.values())[-1]] == [None, "acme"]


def test_concurrent_calls_share_requests_from_threads_and_loops(engine: RemoteEngine, receiver: Receiver) -> None:
    async def record(first: int) -> None:
        await asyncio.gather(*(engine.record_metric(_metric(value)) for value in range(first, first + 500)))

    threads = [threading.Thread(target=lambda n=n: asyncio.run(record(n * 500))) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert receiver.values == [float(value) for value in range(1_500)]
    assert len(receiver.requests) < 300


def test_a_table_goes_in_compressed_requests_of_bounded_size(
    engine: RemoteEngine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "REQUEST_POINTS", 1_000)
    frame = pl.DataFrame({"name": ["cpu"] * 4_500, "value": range(4_500), "region": ["eu", "us", None] * 1_500})
    assert asyncio.run(engine.record_metrics(frame)) == 4_500
    assert receiver.values == [float(value) for value in range(4_500)]
    assert sorted(len(rows) for rows in receiver.stored.values()) == [500, 1_000, 1_000, 1_000, 1_000]
    assert receiver.headers["Content-Encoding"] == "zstd"


def test_what_may_not_be_recorded_is_refused_before_anything_is_sent(engine: RemoteEngine, receiver: Receiver) -> None:
    with pytest.raises(RefusedPointsError, match="point 1: value"):
        engine.record_metrics_sync([_metric(), _metric(float("nan"))])
    with pytest.raises(RefusedPointsError, match="is not a tenant id"):
        engine.record_metric_sync(_metric(tenant_id="Not A Tenant"))
    assert receiver.requests == []


# --- trying again


@pytest.mark.parametrize("status", [408, 409, 425, 500, 502, 503, 504])
def test_it_is_tried_again_with_the_same_key_and_body(engine: RemoteEngine, receiver: Receiver, status: int) -> None:
    receiver.answers = [_problem(status), _problem(status)]
    engine.record_metric_sync(_metric(7))
    assert receiver.values == [7]
    assert len(receiver.requests) == 3
    assert len({key for key, _ in receiver.requests}) == 1


def test_a_try_whose_answer_was_lost_counts_once(engine: RemoteEngine, receiver: Receiver) -> None:
    receiver.lose_answers = 2
    engine.record_metrics_sync([_metric(1), _metric(2)])
    assert receiver.values == [1, 2]
    assert len(receiver.requests) == 3


@pytest.mark.parametrize("status", [429, 503])
def test_it_waits_as_long_as_the_server_asks(engine: RemoteEngine, receiver: Receiver, status: int) -> None:
    receiver.answers = [_problem(status, headers={"Retry-After": "1"})]
    began = time.monotonic()
    engine.record_metric_sync(_metric())
    assert time.monotonic() - began >= 1


def test_a_server_that_is_not_there_yet_is_waited_for() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    receiver = Receiver()
    server = HTTPServer("127.0.0.1", port)
    server.expect_request(ROUTE, method="POST").respond_with_handler(receiver)
    with RemoteEngine(f"http://127.0.0.1:{port}", retry_for=60) as engine:
        call = engine.record_metric_nowait(_metric(3))
        with pytest.raises(TimeoutError):
            call.result(0.3)
        server.start()
        call.result(60)
    server.stop()
    assert receiver.values == [3]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (_problem(500), ServerError),
        (_problem(503, "log-full"), LogFullError),
        (_problem(429, "quota", {"Retry-After": "0"}), QuotaExceededError),
    ],
)
def test_patience_ends_with_the_servers_reason(
    httpserver: HTTPServer, receiver: Receiver, answer: Response, error: type[Exception]
) -> None:
    receiver.judge = lambda rows: answer
    with (
        RemoteEngine(httpserver.url_for(""), retry_for=0.3) as engine,
        pytest.raises(error, match=f"answered {answer.status_code}: detail of"),
    ):
        engine.record_metric_sync(_metric())
    assert receiver.stored == {}


def test_nobody_there_is_an_error_that_says_so() -> None:
    with (
        RemoteEngine("http://127.0.0.1:1", retry_for=0.2) as engine,
        pytest.raises(ServerError, match=r"127\.0\.0\.1:1 does not"),
    ):
        engine.record_metric_sync(_metric())


# --- what is refused for good


@pytest.mark.parametrize(
    ("status", "error"), [(401, AuthenticationError), (403, PermissionDeniedError), (400, Exception), (308, Exception)]
)
def test_a_refusal_is_not_tried_again(engine: RemoteEngine, receiver: Receiver, status: int, error: type[Exception]) -> None:
    receiver.judge = lambda rows: _problem(status)
    with pytest.raises(error, match=f"answered {status}: detail of {status}"):
        engine.record_metrics_sync([_metric(), _metric()])
    assert len(receiver.requests) == 1


def _bad_rows(rows: list[dict[str, Any]]) -> Response | None:
    errors = [
        {"index": index, "field": "value", "value": str(row["value"]), "reason": "is odd"}
        for index, row in enumerate(rows)
        if row["value"] % 2
    ]
    return _problem(422, "bad-rows", refused=len(errors), errors=errors[:2]) if errors else None


def test_each_call_learns_of_its_own_rows_and_the_others_are_recorded(engine: RemoteEngine, receiver: Receiver) -> None:
    receiver.judge = _bad_rows

    async def record() -> list[Any]:
        calls = [[_metric(2 * n)] * 3 if n % 5 else [_metric(2 * n), _metric(2 * n + 1), _metric(0)] for n in range(20)]
        return await asyncio.gather(*(engine.record_metrics(call) for call in calls), return_exceptions=True)

    results = asyncio.run(record())
    for number, result in enumerate(results):
        if number % 5:
            assert result == 3
        else:
            assert isinstance(result, RefusedPointsError)
            assert [(row.index, row.value, row.reason) for row in result.refused] == [(1, str(2 * number + 1.0), "is odd")]
    assert receiver.values == sorted(float(2 * n) for n in range(20) if n % 5 for _ in range(3))


def test_a_foreign_tenant_fails_its_own_call_and_no_other(engine: RemoteEngine, receiver: Receiver) -> None:
    def judge(rows: list[dict[str, Any]]) -> Response | None:
        return _problem(403, "foreign-tenant") if any(row.get("tenant_id") == "other" for row in rows) else None

    receiver.judge = judge

    async def record() -> list[Any]:
        calls = [engine.record_metric(_metric(n, tenant_id="other" if n == 13 else "mine")) for n in range(40)]
        return await asyncio.gather(*calls, return_exceptions=True)

    results = asyncio.run(record())
    assert [number for number, result in enumerate(results) if result is not None] == [13]
    assert isinstance(results[13], ForeignTenantError)
    assert receiver.values == [float(n) for n in range(40) if n != 13]


def test_a_body_that_is_too_large_goes_in_smaller_ones(engine: RemoteEngine, receiver: Receiver) -> None:
    receiver.judge = lambda rows: _problem(413) if len(rows) > 100 else None
    assert engine.record_metrics_sync([_metric(value) for value in range(1_000)]) == 1_000
    assert receiver.values == [float(value) for value in range(1_000)]


def test_a_table_that_fails_in_part_says_how_much_is_recorded(
    engine: RemoteEngine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "REQUEST_POINTS", 10)
    receiver.judge = lambda rows: _problem(400) if rows[0]["value"] == 20 else None
    with pytest.raises(Exception, match="answered 400") as error:
        engine.record_metrics_sync([_metric(value) for value in range(30)])
    [note] = error.value.__notes__
    assert note == f"{len(receiver.values)} of the 30 points of this call are recorded"


# --- the buffer


def test_a_full_buffer_is_told_and_nothing_is_dropped(httpserver: HTTPServer, receiver: Receiver) -> None:
    receiver.open.clear()
    with RemoteEngine(httpserver.url_for(""), buffer_size=5) as engine:
        taken: list[Future[None]] = [engine.record_metric_nowait(_metric(value)) for value in range(5)]
        with pytest.raises(BufferFullError, match="METRICS_BUFFER_SIZE is 5"):
            engine.record_metric_nowait(_metric(99))

        async def wait() -> None:
            waiting = asyncio.create_task(engine.record_metric(_metric(5)))
            done, _ = await asyncio.wait([waiting], timeout=0.1)
            assert not done
            receiver.open.set()
            await waiting

        asyncio.run(wait())
        for future in taken:
            future.result(60)
    assert receiver.values == [0, 1, 2, 3, 4, 5]


def test_closing_sends_what_waits(httpserver: HTTPServer, receiver: Receiver) -> None:
    engine = RemoteEngine(httpserver.url_for(""))
    for value in range(100):
        engine.record_metric_nowait(_metric(value))
    engine.close()
    assert receiver.values == [float(value) for value in range(100)]
    engine.record_metric_sync(_metric(100))
    engine.close()
    assert len(receiver.values) == 101


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_connections_and_threads_of_its_own(engine: RemoteEngine, receiver: Receiver) -> None:
    engine.record_metric_sync(_metric(1))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            engine.record_metric_sync(_metric(2))
            status = 0
        finally:
            os._exit(status)
    engine.record_metric_sync(_metric(3))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert receiver.values == [1, 2, 3]


# --- settings


def test_the_environment_chooses_the_server(httpserver: HTTPServer, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANALYTICS_URL", httpserver.url_for("/"))
    monkeypatch.setenv("ANALYTICS_KEY", "adk_other")
    with EnvironmentEngine() as engine:
        engine.record_metric_sync(_metric(4))
    assert receiver.values == [4]
    assert receiver.headers["Authorization"] == "Bearer adk_other"


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="'localhost:8000' is not an address"):
        RemoteEngine("localhost:8000")
