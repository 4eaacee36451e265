"""Fixtures of the alerting tests: a figure source in memory, publications in a real database, webhook receivers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import pytest

from analytics_dagster.alerts.event_time import SeriesBuckets
from analytics_dagster.alerts.judge import Judged, judge_publications
from analytics_dagster.alerts.rules import Labels, Rule, RuleSet
from analytics_dagster.clock import ManualClock
from analytics_dagster.errors import AnalyticsError
from analytics_dagster.lake.content import DayContent
from analytics_dagster.lake.database import Database
from analytics_dagster.lake.publications import Publication, Publications, Status

FIRST = dt.date(2026, 1, 1)
ASSET = "aggregates/api"


def day(number: int) -> dt.date:
    """Day 0 is 1 January 2026."""
    return FIRST + dt.timedelta(days=number)


@dataclass
class FiguresInMemory:
    """A source of figures that a test writes by hand: one metric, by tenant, labels and day."""

    values: dict[str, dict[Labels, dict[dt.date, float]]] = field(default_factory=dict)
    error: AnalyticsError | None = None
    early: bool = False
    reads: int = 0

    def asset_of(self, tenant: str, rule: Rule) -> str | None:
        return ASSET

    def read(self, tenant: str, rule: Rule, first: dt.date, last: dt.date) -> list[SeriesBuckets]:
        if self.error is not None:
            raise self.error
        self.reads += 1
        return [
            SeriesBuckets(labels, {d: v for d, v in values.items() if first <= d <= last})
            for labels, values in self.values.get(tenant, {}).items()
        ]

    def settled_early(self, tenant: str, rule: Rule) -> bool:
        return self.early


@dataclass
class Alerting:
    """One installation's alerting without Dagster: publish figures, judge, look at what came of it."""

    database: Database
    clock: ManualClock
    figures: FiguresInMemory = field(default_factory=FiguresInMemory)
    rules: RuleSet = field(default_factory=lambda: RuleSet(()))
    runs: int = 0

    def publish(
        self,
        values: Mapping[int, float | None],
        *,
        tenant: str = "acme",
        labels: Labels = (),
        gated: Iterable[int] = (),
        run_id: str | None = None,
        asset: str = ASSET,
    ) -> None:
        """Materialize the days with these values; None is a day without rows."""
        self.runs += 1
        series = self.figures.values.setdefault(tenant, {}).setdefault(labels, {})
        closed = set(gated)
        rows = []
        for number, value in values.items():
            if value is None:
                series.pop(day(number), None)
            elif number not in closed:
                series[day(number)] = value
            content = DayContent(day(number), 0 if value is None else 1, f"{value}")
            status = Status.GATED if number in closed else Status.PUBLISHED
            rows.append(Publication(tenant, asset, content, status))
        Publications(self.database, self.clock).record(rows, run_id or f"run-{self.runs}")

    def judge(self, *rules: Rule) -> Judged:
        if rules:
            self.rules = RuleSet(tuple(rules))
        return judge_publications(
            self.database, self.rules, self.figures, self.clock, channels=("webhook",), public_url="http://dagster.test"
        )

    def rows(self, table: str) -> list[dict[str, object]]:
        import sqlalchemy as sa

        from analytics_dagster.lake import state_tables

        with self.database.read() as connection:
            found = connection.execute(sa.select(getattr(state_tables, table)))
            return [dict(row._mapping) for row in found]

    def told(self) -> list[tuple[str, str]]:
        """Status and rule of everything in the outbox, in order."""
        rows = sorted(self.rows("outbox"), key=lambda row: int(str(row["id"])))
        return [(str(row["status"]), str(row["rule"])) for row in rows]

    def states(self) -> dict[str, str]:
        return {str(row["rule"]): str(row["state"]) for row in self.rows("alert_instances")}


@pytest.fixture
def alerting(database: Database, clock: ManualClock) -> Alerting:
    return Alerting(database, clock)


@pytest.fixture
def sqlite_alerting(tmp_path, clock: ManualClock) -> Iterable[Alerting]:
    made = Database(f"sqlite:///{tmp_path / 'state.db'}")
    made.migrate()
    yield Alerting(made, clock)
    made.dispose()


MakeAlerting = Callable[[], Alerting]
