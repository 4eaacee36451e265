"""One tenant's plays from landing to the ledger, step by step as the graph does, for tests and for the process that one kills."""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from analytics_dagster.clock import ManualClock
from analytics_dagster.ingest.raw import build_raw_days, first_arrival
from analytics_dagster.installation import open_installation
from analytics_dagster.lake.content import DayContent, day_contents, days_between
from analytics_dagster.lake.schemas import PLAYS, RESTATEMENTS
from analytics_dagster.metrics.declarations import Family
from analytics_dagster.metrics.restatements import Figure, figures_of_days
from analytics_dagster.orchestration.build import Built, build_aggregates
from analytics_dagster.orchestration.tables import catalogue
from analytics_dagster.orchestration.tenant_steps import publications_of
from analytics_dagster.settings import Settings

TENANT = "acme"
FIRST, LAST = dt.date(2026, 2, 1), dt.date(2026, 2, 3)
NOW = dt.datetime(2026, 3, 10, 6, tzinfo=dt.UTC)
LATER = dt.timedelta(days=3)
"""Longer than the idle timeout: what came before is closed then."""

# Small, so that hundreds of materializations take seconds.
SMALL = """
semantic_models:
  - name: small
    description: Plays by country.
    model: raw/plays
    owner: me
    dimensions:
      - {name: country, description: Country.}
    measures:
      - {name: small_plays, agg: count, expr: play_id, description: Plays.}
      - {name: small_streams, agg: sum_boolean, expr: ms_played >= $stream_ms, description: Streams.}
      - {name: small_listeners, agg: count_distinct, expr: listener_id, description: Listeners.}
metrics:
  - {name: small_plays, description: x, type: simple, type_params: {measure: small_plays}, unit: plays, direction: neutral}
  - {name: small_listeners, description: x, type: simple, type_params: {measure: small_listeners}, unit: x, direction: neutral}
  - name: small_share
    description: x
    type: ratio
    type_params: {numerator: small_streams, denominator: small_plays}
    unit: x
    direction: neutral
"""


def play(name: str, day: dt.date = FIRST, country: str | None = "DE", listener: str = "ann", ms: int = 60_000) -> dict[str, Any]:
    """A row of raw/plays."""
    ts = dt.datetime.combine(day, dt.time(12), dt.UTC)
    return {"play_id": name, "ts": ts, "listener_id": listener, "country": country, "ms_played": ms, "format": "test"}


class World:
    """A home with a tenant, whose days FIRST to LAST are computed when asked."""

    def __init__(self, home: Path, *, small: bool = True, declared: Path | None = None, **settings: Any) -> None:
        """`declared` is the folder of declarations: read once each, which takes longer than a materialization."""
        self.home, self.clock = home, ManualClock(NOW)
        declared = declared or home.parent / "declared"
        declared.mkdir(exist_ok=True)
        if not (declared / "small.yaml").exists():
            (declared / "small.yaml").write_text(SMALL)
        overrides = {"analytics_metrics": declared, **settings} if small else settings
        self.installation = open_installation(Settings.from_environment(home, overrides), self.clock, create=True)
        self.installation.tenants.ensure(TENANT)
        self.lake = self.installation.lake.tenant(TENANT)
        self.family: Family = catalogue(declared if small else None).family("small" if small else "listening")

    def arrive(self, *rows: Mapping[str, Any], name: str = "import") -> None:
        self.installation.landing.append(TENANT, PLAYS, pa.Table.from_pylist(list(rows), schema=PLAYS.arrow), name)

    def materialize(self, first: dt.date = FIRST, last: dt.date = LAST) -> Built:
        """Raw (unchecked, which takes most of its time) and figures of these days."""
        database = self.installation.database
        noted = build_raw_days(self.lake, PLAYS, first, last, database)
        since = first_arrival(database, TENANT, PLAYS.name)
        made = publications_of(self.lake, PLAYS, PLAYS.path, first, last, since=since, input_id=noted)
        self.installation.publications.record(made, "run")
        log = logging.getLogger("test")
        built = build_aggregates(self.installation, self.family, PLAYS, [TENANT], first, last, "run", log)
        assert built.failed == {}
        return built

    def ledger(self) -> list[dict[str, Any]]:
        """Rows in the order in which they were noted."""
        rows = self.lake.table(RESTATEMENTS).read().to_pylist()
        return sorted(rows, key=lambda row: (row["ts"], row["day"], row["metric"], row["dimensions"]))

    def figures(self) -> dict[Figure, float]:
        return figures_of_days(self.lake, self.family, days_between(FIRST, LAST))

    def contents(self) -> dict[tuple[str, dt.date], DayContent]:
        """What raw and the family's tables hold."""
        tables = [PLAYS, *(self.family.table(grain) for grain in self.family.grains)]
        return {
            (table.path, day): found
            for table in tables
            for day, found in day_contents(self.lake.table(table), FIRST, LAST).items()
        }

    def close(self) -> None:
        self.installation.database.dispose()


def replayed(figures: Mapping[Figure, float], ledger: Iterable[Mapping[str, Any]]) -> dict[Figure, float]:
    """`figures` after every row of the ledger; each row's old figure must be the one that is there."""
    current = dict(figures)
    for row in ledger:
        figure = Figure(row["day"], row["metric"], row["split_by"] or "", row["dimensions"])
        assert current.get(figure) == row["old"], (figure, current.get(figure), row)
        current.pop(figure, None)
        if row["new"] is not None:
            current[figure] = row["new"]
    return current


def brief(ledger: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """Metric, dimensions, old, new and cause of each row."""
    return [(row["metric"], json.loads(row["dimensions"]), row["old"], row["new"], row["cause"]) for row in ledger]
