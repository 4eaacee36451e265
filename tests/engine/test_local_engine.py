"""The engine of a program beside its home: durable, bounded, and safe from threads, loops and forks."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import pytest

from analytics_dagster import AnalyticsMetric, LocalEngine, MetricType
from analytics_dagster.clock import ManualClock
from analytics_dagster.engine.engine import _close_all
from analytics_dagster.errors import BufferFullError, LogFullError, NotFoundError, QuotaExceededError, UserError
from analytics_dagster.ingest.log.interface import Batch
from analytics_dagster.installation import open_installation
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.tenants import TenantStatus

Logged = Callable[[], list[dict[str, Any]]]
NOW = dt.datetime(2026, 3, 10, 5, 0, tzinfo=dt.UTC)


class HeldDisk(Protocol):
    syncs: int

    def hold(self) -> None: ...
    def let_go(self) -> None: ...


def _metric(value: float = 1.0, **changes: Any) -> AnalyticsMetric:
    return AnalyticsMetric(**{"name": "cpu", "value": value, "timestamp": NOW, "labels": {"region": "eu"}, **changes})


def _values(rows: list[dict[str, Any]]) -> list[float]:
    return sorted(row["value"] for row in rows)


def _small(home: Path, clock: ManualClock, size: int) -> LocalEngine:
    return LocalEngine(settings=Settings.from_environment(home, {"metrics_buffer_size": size}), clock=clock)


# --- recording


def test_a_point_is_in_the_log_when_the_await_returns(engine: LocalEngine, logged: Logged) -> None:
    async def record() -> list[dict[str, Any]]:
        await engine.record_metric(_metric(0.5, tenant_id="tenant_123", metric_type=MetricType.TIMER))
        return logged()

    [row] = asyncio.run(record())
    assert row == {
        "tenant": "tenant_123",
        "name": "cpu",
        "type": "timer",
        "labels": '{"region":"eu"}',
        "ts": NOW,
        "value": 0.5,
    }


def test_a_point_that_names_no_tenant_is_of_default_and_of_now(home: Path, logged: Logged) -> None:
    before = dt.datetime.now(dt.UTC)
    with LocalEngine(home) as engine:
        engine.record_metric_sync(AnalyticsMetric("cpu", 1))
    [row] = logged()
    assert (row["tenant"], row["type"], row["labels"]) == ("default", "gauge", "{}")
    assert before <= row["ts"] <= dt.datetime.now(dt.UTC)


def test_many_are_counted_whatever_holds_them(engine: LocalEngine, logged: Logged) -> None:
    assert engine.record_metrics_sync([_metric(1)]) == 1
    assert engine.record_metrics_sync((_metric(2), _metric(3))) == 2
    assert engine.record_metrics_sync(_metric(value) for value in (4, 5, 6)) == 3
    assert asyncio.run(engine.record_metrics({_metric(7).value: _metric(7)}.values())) == 1
    assert engine.record_metrics_sync([]) == 0
    assert _values(logged()) == [1, 2, 3, 4, 5, 6, 7]


def test_concurrent_calls_share_commits(engine: LocalEngine, disk: HeldDisk, batches: Callable[[], list[Batch]]) -> None:
    async def record() -> None:
        await engine.record_metric(_metric())
        before = disk.syncs
        await asyncio.gather(*(engine.record_metric(_metric(value)) for value in range(1_000)))
        assert disk.syncs - before < 100

    asyncio.run(record())
    assert sum(batch.rows.num_rows for batch in batches()) == 1_001


def test_an_await_waits_for_the_disk(engine: LocalEngine, disk: HeldDisk) -> None:
    async def record() -> None:
        await engine.record_metric(_metric())
        disk.hold()
        recording = asyncio.create_task(engine.record_metric(_metric()))
        done, _ = await asyncio.wait([recording], timeout=0.2)
        assert not done
        disk.let_go()
        await asyncio.wait_for(recording, 60)

    asyncio.run(record())


def test_the_blocking_twin_works_inside_a_running_loop_even_when_the_buffer_is_full(
    home: Path, clock: ManualClock, disk: HeldDisk, logged: Logged
) -> None:
    async def record(engine: LocalEngine) -> None:
        await engine.record_metric(_metric(0))
        disk.hold()
        waiting = [asyncio.create_task(engine.record_metric(_metric(value))) for value in range(1, 5)]
        await asyncio.sleep(0)
        threading.Timer(0.1, disk.let_go).start()
        engine.record_metric_sync(_metric(5))  # behind three that wait for this very loop
        await asyncio.gather(*waiting)

    with _small(home, clock, 1) as engine:
        asyncio.run(record(engine))
    assert _values(logged()) == [0, 1, 2, 3, 4, 5]


def test_threads_and_several_loops_record_through_one_engine(engine: LocalEngine, logged: Logged) -> None:
    async def gather(first: int) -> None:
        await asyncio.gather(*(engine.record_metric(_metric(value)) for value in range(first, first + 50)))

    with ThreadPoolExecutor(8) as threads:
        works: list[Future[Any]] = [threads.submit(asyncio.run, gather(n * 50)) for n in range(4)]
        works += [threads.submit(engine.record_metric_sync, _metric(200 + value)) for value in range(50)]
        for work in works:
            work.result(60)
    assert _values(logged()) == [float(value) for value in range(250)]


def test_a_cancelled_wait_leaves_a_point_that_the_log_has(engine: LocalEngine, disk: HeldDisk, logged: Logged) -> None:
    async def record() -> None:
        await engine.record_metric(_metric(1))
        disk.hold()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.record_metric(_metric(2)), 0.05)
        disk.let_go()
        await engine.record_metric(_metric(3))

    asyncio.run(record())
    assert _values(logged()) == [1, 2, 3]


# --- the buffer


def test_a_full_buffer_makes_calls_wait_and_tells_those_that_will_not(
    home: Path, clock: ManualClock, disk: HeldDisk, logged: Logged
) -> None:
    with _small(home, clock, 10) as engine:
        engine.record_metric_sync(_metric(0))
        disk.hold()
        taken = [engine.record_metrics_nowait([_metric(value), _metric(value + 0.5)]) for value in range(1, 6)]
        with pytest.raises(BufferFullError, match="10 wait to be durable and METRICS_BUFFER_SIZE is 10"):
            engine.record_metric_nowait(_metric(99))
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(engine.record_metric_sync, _metric(50))
            assert not any(future.done() for future in [*taken, waiting])
            disk.let_go()
            waiting.result(60)
        for future in taken:
            future.result(60)
        engine.record_metric_nowait(_metric(60)).result(60)
    assert _values(logged()) == [0, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 50, 60]


def test_a_call_larger_than_the_buffer_goes_alone(home: Path, clock: ManualClock, logged: Logged) -> None:
    with _small(home, clock, 10) as engine:
        assert engine.record_metrics_sync([_metric(value) for value in range(1_000)]) == 1_000
    assert len(logged()) == 1_000


def test_two_hundred_callers_get_through_a_buffer_of_three(home: Path, clock: ManualClock, logged: Logged) -> None:
    async def record(engine: LocalEngine) -> None:
        await asyncio.gather(*(engine.record_metric(_metric(value)) for value in range(200)))

    with _small(home, clock, 3) as engine:
        asyncio.run(record(engine))
    assert len(logged()) == 200


def test_a_log_over_its_limit_refuses_and_the_engine_goes_on(home: Path, clock: ManualClock) -> None:
    limits = {"analytics_log_max_bytes": 2**20, "analytics_log_segment_bytes": 2**16}
    with LocalEngine(settings=Settings.from_environment(home, limits), clock=clock) as engine:
        many = [_metric(value) for value in range(20_000)]
        taken = 0
        with contextlib.suppress(LogFullError):
            while taken < 20:
                engine.record_metrics_sync(many)
                taken += 1
        assert 0 < taken < 20
        with pytest.raises(LogFullError):
            asyncio.run(engine.record_metrics(many))


# --- tenants


def test_an_unknown_tenant_is_refused_with_near_names_and_never_made(engine: LocalEngine, home: Path, logged: Logged) -> None:
    with pytest.raises(NotFoundError, match=r"no tenant 'tenant_132'; did you mean tenant_123\?"):
        engine.record_metrics_sync([_metric(), _metric(tenant_id="tenant_132")])
    installation = open_installation(Settings.from_environment(home), create=False)
    assert {record.tenant for record in installation.tenants.records()} == {"default", "tenant_123"}
    installation.database.dispose()
    assert logged() == []


@pytest.mark.parametrize("status", [TenantStatus.SUSPENDED, TenantStatus.REMOVED])
def test_a_tenant_that_is_not_active_is_refused(home: Path, clock: ManualClock, status: TenantStatus) -> None:
    installation = open_installation(Settings.from_environment(home), clock, create=True)
    installation.tenants.ensure("acme")
    installation.tenants.set_status("acme", status)
    installation.database.dispose()
    with LocalEngine(home, clock=clock) as engine, pytest.raises(UserError, match=f"tenant acme is {status} and takes no data"):
        engine.record_metric_sync(_metric(tenant_id="acme"))


def test_a_tenant_that_was_just_added_is_taken(engine: LocalEngine, home: Path, clock: ManualClock, logged: Logged) -> None:
    engine.record_metric_sync(_metric())
    installation = open_installation(Settings.from_environment(home), clock, create=False)
    installation.tenants.ensure("acme")
    installation.database.dispose()
    engine.record_metric_sync(_metric(tenant_id="acme"))
    assert [row["tenant"] for row in logged()] == ["default", "acme"]


def test_a_runaway_label_is_stopped_by_the_quota_of_series(home: Path, clock: ManualClock) -> None:
    settings = Settings.from_environment(home, {"analytics_quota_active_series": 10})
    with LocalEngine(settings=settings, clock=clock) as engine:
        with pytest.raises(QuotaExceededError, match="session"):
            engine.record_metrics_sync([_metric(labels={"session": str(n)}) for n in range(11)])
        engine.record_metric_sync(_metric())


# --- life


def test_a_closed_engine_opens_again(engine: LocalEngine, logged: Logged) -> None:
    engine.record_metric_sync(_metric(1))
    engine.close()
    engine.close()
    engine.record_metric_sync(_metric(2))
    assert _values(logged()) == [1, 2]


def test_an_engine_that_nobody_holds_any_more_still_has_its_points_written(
    home: Path, clock: ManualClock, logged: Logged
) -> None:
    done = LocalEngine(home, clock=clock).record_metric_nowait(_metric(1))
    gc.collect()
    done.result(60)
    assert _values(logged()) == [1]
    _close_all()


def test_two_engines_on_one_home_have_a_log_each(home: Path, clock: ManualClock, logged: Logged) -> None:
    with LocalEngine(home, clock=clock) as one, LocalEngine(home, clock=clock) as other:
        one.record_metric_sync(_metric(1))
        other.record_metric_sync(_metric(2))
        assert sorted(folder.name for folder in (home / "log").iterdir()) == ["local-0", "local-1"]
    assert _values(logged()) == [1, 2]


def test_engines_work_as_async_contexts(home: Path, clock: ManualClock, logged: Logged) -> None:
    async def record() -> None:
        async with LocalEngine(home, clock=clock) as engine:
            await engine.record_metric(_metric())

    asyncio.run(record())
    assert len(logged()) == 1


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_takes_a_log_of_its_own_and_leaves_the_parents_alone(
    engine: LocalEngine, home: Path, logged: Logged
) -> None:
    engine.record_metric_sync(_metric(1))
    children = []
    for value in (2, 3):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                asyncio.run(engine.record_metric(_metric(value)))
                engine.record_metric_sync(_metric(value + 10))
                engine.close()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    engine.record_metric_sync(_metric(4))
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    engine.record_metric_sync(_metric(5))
    assert _values(logged()) == [1, 2, 3, 4, 5, 12, 13]
    folders = {folder.name for folder in (home / "log").iterdir()}
    assert {"local-0", "local-1"} <= folders
