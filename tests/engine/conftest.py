"""Engines on a home of the test's own, and what is in its log."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from analytics_dagster import AnalyticsMetric, LocalEngine
from analytics_dagster.clock import ManualClock
from analytics_dagster.ingest.log import stream
from analytics_dagster.ingest.log.interface import Batch
from analytics_dagster.ingest.log.open import open_sources
from analytics_dagster.settings import Settings

Logged = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def engine(home: Path, clock: ManualClock) -> Iterator[LocalEngine]:
    with LocalEngine(home, clock=clock) as opened:
        yield opened


@pytest.fixture
def batches(home: Path) -> Callable[[], list[Batch]]:
    """What the log's readers see, a batch for each commit."""

    def read() -> list[Batch]:
        return [batch for source in open_sources(Settings.from_environment(home)) for batch in source.read(0, 10**9)]

    return read


@pytest.fixture
def logged(batches: Callable[[], list[Batch]]) -> Logged:
    return lambda: [row for batch in batches() for row in batch.rows.to_pylist()]


@pytest.fixture(scope="session")
def one_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine") / ".analytics"


@pytest.fixture(scope="session")
def one_engine(one_home: Path) -> Iterator[LocalEngine]:
    """For tests that only look at rows: opening a home takes longer than they do."""
    with LocalEngine(one_home, clock=ManualClock(dt.datetime(2026, 3, 10, 6, 0, tzinfo=dt.UTC))) as opened:
        opened.record_metric_sync(AnalyticsMetric("first", 1, dt.datetime(2026, 3, 10, tzinfo=dt.UTC)))
        yield opened


@pytest.fixture
def logged_now(one_home: Path, one_engine: LocalEngine) -> Callable[[], list[Batch]]:
    """Batches of `one_engine` since the test began."""
    [source] = open_sources(Settings.from_environment(one_home))
    began = source.end()
    return lambda: list(source.read(began, 10**9))


class HeldDisk:
    """A disk whose syncs wait until they are let through, and are counted."""

    def __init__(self, sync: Callable[[int], None]) -> None:
        self._sync = sync
        self._open = threading.Event()
        self._open.set()
        self.syncs = 0

    def hold(self) -> None:
        self._open.clear()

    def let_go(self) -> None:
        self._open.set()

    def sync(self, descriptor: int) -> None:
        assert self._open.wait(60)
        self._sync(descriptor)
        self.syncs += 1


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldDisk]:
    held = HeldDisk(stream._sync_data)
    monkeypatch.setattr(stream, "_sync_data", held.sync)
    yield held
    held.let_go()
