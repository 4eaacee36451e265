"""Figures with points that no table has yet: from the log's tail and from landing, each point once, whatever moves meanwhile."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from analytics_dagster.errors import RetryableError
from analytics_dagster.ingest.consume import consume
from analytics_dagster.ingest.log.interface import PLAYS, POINTS, Batch, LogSource
from analytics_dagster.ingest.log.open import open_log, open_sources
from analytics_dagster.ingest.points import PLAY_ROWS, POINT_ROWS, Points, SeriesTable, canonical_labels
from analytics_dagster.installation import Installation
from analytics_dagster.lake.interruption import GivenUpError, Interruption
from analytics_dagster.lake.schemas import METRICS
from analytics_dagster.metrics.fresh import Fresh
from analytics_dagster.metrics.load import load_catalogue
from analytics_dagster.metrics.query import MetricQuery, answer_query, run_query
from analytics_dagster.metrics.recorded import recorded_names
from analytics_dagster.metrics.tail import TailCache
from analytics_dagster.orchestration.build import build_aggregates, build_raw

TODAY = dt.datetime(2026, 3, 10, tzinfo=dt.UTC)
YESTERDAY = TODAY - dt.timedelta(days=1)
CATALOGUE = load_catalogue()
LOG = logging.getLogger(__name__)

Point = tuple[dt.datetime, str, str, float, dict[str, object]]


def at(hour: int, minute: int = 0, second: int = 0, day: dt.datetime = TODAY) -> dt.datetime:
    return day.replace(hour=hour, minute=minute, second=second)


class MemorySource:
    """A log in memory. Positions rise by 10, as nobody may count on their steps."""

    def __init__(self, name: str = "log/memory-0") -> None:
        self._name = name
        self.batches: list[Batch] = []
        self.reads = 0

    @property
    def name(self) -> str:
        return self._name

    def put(self, *points: Point, tenant: str = "acme") -> None:
        columns: list[list[Any]] = [[], [], [], [], [], []]
        for ts, name, kind, value, labels in points:
            for column, part in zip(columns, (tenant, name, kind, canonical_labels(labels), ts, value), strict=True):
                column.append(part)
        arrays = [pa.array(column).cast(field.type) for column, field in zip(columns, POINT_ROWS, strict=True)]
        self.add(POINTS, pa.Table.from_arrays(arrays, schema=POINT_ROWS))

    def add(self, table: str, rows: pa.Table) -> None:
        self.batches.append(Batch(self.end() + 10, table, rows))

    def read(self, after: int, max_rows: int) -> Iterator[Batch]:
        self.reads += 1
        given = 0
        for batch in self.batches:
            if batch.position > after:
                yield batch
                given += batch.rows.num_rows
                if given >= max_rows:
                    return

    def end(self) -> int:
        return self.batches[-1].position if self.batches else 0

    def release(self, through: int) -> None:
        """Everything is kept: that rows are read no more is what is tested."""


class World:
    """An installation with one tenant, its log, and questions to it."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        installation.tenants.ensure("acme")
        self.source = MemorySource()
        self.fresh = Fresh(installation, lambda: [self.source])
        self.tenant = installation.lake.tenant("acme")

    def land(self) -> None:
        consume(self.installation, sources=[self.source])

    def publish(self, *days: dt.datetime) -> None:
        """Raw and figures of these days, as a run makes them."""
        family = CATALOGUE.family("points")
        for day in days:
            build_raw(self.installation, METRICS, ["acme"], day.date(), day.date(), "run", LOG)
            build_aggregates(self.installation, family, METRICS, ["acme"], day.date(), day.date(), "run", LOG)

    def ask(self, metric: str, **question: Any) -> list[tuple[Any, ...]]:
        table = run_query(self.tenant, CATALOGUE, MetricQuery(metric, **question), self.fresh)
        return [(f"{row['ts']:%m-%d %H:%M}", *list(row.values())[1:]) for row in table.to_pylist()]

    def stored(self, metric: str, **question: Any) -> list[tuple[Any, ...]]:
        table = run_query(self.tenant, CATALOGUE, MetricQuery(metric, **question))
        return [(f"{row['ts']:%m-%d %H:%M}", *list(row.values())[1:]) for row in table.to_pylist()]


@pytest.fixture
def world(installation: Installation) -> Iterator[World]:
    made = World(installation)
    yield made
    made.fresh.close()


def test_a_point_is_in_the_answer_as_soon_as_it_is_durable(world: World) -> None:
    world.source.put((at(10), "depth", "gauge", 4.0, {"host": "a"}))
    assert world.ask("depth") == [("03-10 00:00", 4.0)]
    world.source.put((at(10, 30), "depth", "gauge", 8.0, {"host": "b"}))
    assert world.ask("depth") == [("03-10 00:00", 6.0)]
    assert world.ask("depth", grain="minute", by=("host",)) == [("03-10 10:00", "a", 4.0), ("03-10 10:30", "b", 8.0)]
    assert world.ask("depth", where=('host="b"',)) == [("03-10 00:00", 8.0)]


def test_names_labels_and_types_that_only_the_tail_has_are_known(world: World) -> None:
    world.source.put((at(10), "depth", "gauge", 4.0, {"host": "a"}), (at(11), "sent", "counter", 4.0, {"zone": "x"}))
    assert recorded_names(world.tenant, CATALOGUE) == {}
    assert recorded_names(world.tenant, CATALOGUE, world.fresh) == {"depth": "gauge", "sent": "counter"}
    answer = answer_query(world.tenant, CATALOGUE, MetricQuery("sent", by=("zone",)), world.fresh)
    assert "counter" in answer.metric.description
    assert answer.figures.column("zone").to_pylist() == ["x"]


def test_points_of_another_tenant_and_another_name_are_not_in_the_answer(world: World) -> None:
    world.source.put((at(10), "depth", "gauge", 100.0, {}), tenant="other")
    world.source.put((at(10), "depth", "gauge", 4.0, {}), (at(10), "width", "gauge", 50.0, {}))
    world.source.add(PLAYS, PLAY_ROWS.empty_table())
    assert world.ask("depth") == [("03-10 00:00", 4.0)]
    assert recorded_names(world.tenant, CATALOGUE, world.fresh) == {"depth": "gauge", "width": "gauge"}


def test_an_answer_is_the_same_on_every_part_of_the_way(world: World) -> None:
    """In the tail, in landing, half and half, and in the tables."""
    points = [(at(h, m), "load", "timer", float(h + m), {"host": "ab"[m % 2]}) for h in (1, 2, 3) for m in range(3)]
    when = [at(h, m, day=day) for day in (YESTERDAY, TODAY) for h in (1, 5) for m in (1, 2)]
    counts = [(ts, "sent", "counter", float(10 * ts.hour + ts.minute), {}) for ts in when]
    questions: list[tuple[str, dict[str, Any]]] = [
        ("load", {"aggregate": "p95", "by": ("host",)}),
        ("load", {"grain": "hour"}),
        ("sent", {"grain": "minute"}),
        ("sent", {"first": TODAY.date()}),
        ("sent", {"grain": "month"}),
    ]
    world.source.put(*points[:5], *counts[:3])
    world.source.put(*points[5:], *counts[3:])
    in_tail = [world.ask(name, **question) for name, question in questions]
    consume(world.installation, sources=[world.source], max_rows=8)
    assert world.source.end() > 10
    assert [world.ask(name, **question) for name, question in questions] == in_tail
    world.land()
    assert [world.ask(name, **question) for name, question in questions] == in_tail
    world.publish(YESTERDAY)
    assert [world.ask(name, **question) for name, question in questions] == in_tail
    world.publish(TODAY)
    assert [world.ask(name, **question) for name, question in questions] == in_tail
    assert [world.stored(name, **question) for name, question in questions] == in_tail


def test_a_point_that_was_sent_twice_counts_once_and_an_observation_twice(world: World) -> None:
    gauge, timer = (at(10), "depth", "gauge", 4.0, {}), (at(10), "load", "timer", 2.0, {})
    world.source.put(gauge, timer)
    world.land()
    world.source.put(gauge, timer)
    assert world.ask("depth", aggregate="count") == [("03-10 00:00", 1.0)]
    assert world.ask("load", aggregate="count") == [("03-10 00:00", 2.0)]


def test_rows_that_landed_but_are_not_remembered_as_consumed_count_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a question sees between the commit in Delta and the note in the database."""
    world.source.put((at(10), "load", "timer", 2.0, {}))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(world.installation.landing, "note_consumed", killed)
        with pytest.raises(KeyboardInterrupt):
            world.land()
    assert world.tenant.table(METRICS).exists() is False
    assert world.ask("load", aggregate="count") == [("03-10 00:00", 1.0)]


def test_a_late_point_changes_a_published_day_at_once(world: World) -> None:
    world.source.put((at(10, day=YESTERDAY), "depth", "gauge", 4.0, {}))
    world.land()
    world.publish(YESTERDAY)
    world.source.put((at(11, day=YESTERDAY), "depth", "gauge", 6.0, {}))
    assert world.ask("depth") == [("03-09 00:00", 5.0)]
    world.land()
    assert world.ask("depth") == [("03-09 00:00", 5.0)]
    assert world.stored("depth") == [("03-09 00:00", 4.0)]
    world.publish(YESTERDAY)
    assert world.stored("depth") == [("03-09 00:00", 5.0)]


def test_a_day_whose_gate_is_closed_keeps_its_figures(world: World) -> None:
    world.source.put((at(10, day=YESTERDAY), "depth", "gauge", 4.0, {}))
    world.land()
    world.publish(YESTERDAY)
    rows = [(at(11, day=YESTERDAY), "depth", "nonsense", 6.0, {}) for _ in range(9)]
    world.source.put(*((ts, name, kind, value + n, labels) for n, (ts, name, kind, value, labels) in enumerate(rows)))
    world.land()
    world.publish(YESTERDAY)
    assert world.ask("depth") == [("03-09 00:00", 4.0)]


def test_what_has_landed_is_forgotten_and_nothing_is_read_twice(world: World) -> None:
    world.source.put(*((at(10, 0, n), "depth", "gauge", 1.0, {}) for n in range(50)))
    tail = TailCache(lambda: [world.source])
    assert tail.find("acme", "depth", {}).num_rows == 50
    world.source.put((at(11), "depth", "gauge", 1.0, {}))
    assert tail.find("acme", "depth", {}).column("position").to_pylist() == [10] * 50 + [20]
    assert tail.rows == 51
    assert tail.find("acme", "depth", {world.source.name: 10}).num_rows == 1
    assert tail.rows == 1


@pytest.mark.parametrize("most_rows", [1, 25, 60])
def test_a_tail_longer_than_memory_allows_is_still_answered_whole(world: World, most_rows: int) -> None:
    for minute in range(10):
        world.source.put(*((at(10, minute, second), "depth", "gauge", 1.0, {}) for second in range(10)))
    tail = TailCache(lambda: [world.source], most_rows)
    assert tail.find("acme", "depth", {}).num_rows == 100
    assert tail.rows <= most_rows + 10
    assert tail.find("acme", "depth", {world.source.name: 60}).num_rows == 40


def test_a_tail_that_is_too_long_to_collect_is_refused_and_what_is_not_asked_for_does_not_count(world: World) -> None:
    for minute in range(10):
        world.source.put(*((at(10, minute, second), "depth", "gauge", 1.0, {"at": str(minute)}) for second in range(10)))
        world.source.put((at(10, minute), "width", "gauge", 1.0, {}), (at(10, minute), "depth", "gauge", 1.0, {}), tenant="other")
    tail = TailCache(lambda: [world.source], most_rows=30, most_collected=40)
    assert tail.find("other", None, {}).num_rows == 20
    assert tail.find("acme", "depth", {world.source.name: 60}).num_rows == 70
    world.source.put(*((at(11, minute), "depth", "gauge", 1.0, {}) for minute in range(10)))
    with pytest.raises(RetryableError, match=r"tenant 'acme' wait in the log.*its consumer is behind"):
        tail.find("acme", None, {})
    assert tail.find("acme", None, {world.source.name: 100}).num_rows == 60


def test_what_is_collected_keeps_only_the_texts_it_uses(world: World) -> None:
    for minute in range(6):
        world.source.put(*((at(10, minute), f"name {n}", "gauge", float(n), {"n": str(n)}) for n in range(50)))
    found = TailCache(lambda: [world.source], most_rows=1).find("acme", "name 7", {})
    assert found.column("value").to_pylist() == [7.0] * 6
    assert found.column("row").to_pylist() == [7] * 6
    assert found.column("position").to_pylist() == [10, 20, 30, 40, 50, 60]
    assert [len(chunk.dictionary) for chunk in found.column("labels").chunks] == [1] * 6


def test_a_question_that_nobody_waits_for_stops_reading_the_log(world: World) -> None:
    for minute in range(10):
        world.source.put((at(10, minute), "depth", "gauge", 1.0, {}))
    interruption = Interruption()
    interruption.interrupt()
    with pytest.raises(GivenUpError):
        TailCache(lambda: [world.source], most_rows=1).find("acme", "depth", {}, interruption.check)


def test_the_embedded_log_is_read_while_it_is_written(world: World) -> None:
    installation = world.installation
    fresh = Fresh(installation)
    table = SeriesTable()
    number = table.number("acme", "gauge", "depth", "{}")
    log = open_log(installation.settings, installation.clock, "server-0")
    try:
        for n in range(1, 6):
            ts = int(at(10, n).timestamp()) * 1_000_000
            points = Points(table, np.array([number], np.int32), np.array([ts]), np.array([float(n)]))
            log.append(points).result(30)
            figures = run_query(world.tenant, CATALOGUE, MetricQuery("depth", aggregate="count"), fresh)
            assert figures.column("value").to_pylist() == [float(n)]
            if n == 3:
                consume(installation)
    finally:
        log.close()
        fresh.close()
    assert _names(open_sources(installation.settings)) == ["log/server-0"]


def _names(sources: Sequence[LogSource]) -> list[str]:
    return [source.name for source in sources]
