"""Small raw tables written as rows, aggregated into a real Delta lake, and asked."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from analytics_dagster.lake.lake import Lake, TenantLake
from analytics_dagster.lake.schemas import MEASURED, TIMESTAMP, TableSchema
from analytics_dagster.metrics.aggregate import aggregate_days
from analytics_dagster.metrics.declarations import Catalogue, Family
from analytics_dagster.metrics.load import load_catalogue
from analytics_dagster.metrics.query import MetricQuery, run_query
from analytics_dagster.metrics.recorded import FAMILY as RECORDED

STREAM_MS = 30_000
Row = dict[str, Any]


def raw_table(name: str, rows: Sequence[Row]) -> pa.Table:
    """Rows of a raw table, ts as `2026-01-31 10:00` (UTC). Columns that are left out are null, the identity is a number."""
    schema = MEASURED[name]
    times = [dt.datetime.fromisoformat(row["ts"]).replace(tzinfo=dt.UTC) for row in rows]
    full = [{schema.key: f"row-{n}", "format": "test", **row, "ts": times[n]} for n, row in enumerate(rows)]
    return pa.table({c.name: pa.array([row.get(c.name) for row in full], c.type) for c in schema.columns}, schema=schema.arrow)


@dataclass(frozen=True)
class Due:
    """Days of a family that were written and are not aggregated yet."""

    family: Family
    first: dt.date
    last: dt.date
    options: dict[str, Any]


class Figures:
    """A tenant's lake with what a test wrote, and questions to it.

    A family is aggregated when something of it is asked for, and all are when the tenant is: most tests ask one of a dozen.
    """

    def __init__(self, tenant: TenantLake, catalogue: Catalogue) -> None:
        self._tenant = tenant
        self.catalogue = catalogue
        self._due: dict[str, list[Due]] = {}

    @property
    def tenant(self) -> TenantLake:
        self._aggregate(list(self._due))
        return self._tenant

    def write(self, source: str, rows: Sequence[Row], only: str | None = None, **options: Any) -> None:
        """Replace the raw days that `rows` touch; every family over them, or the one that is named, is due."""
        data = raw_table(source, rows)
        days = sorted({dt.date.fromisoformat(row["ts"][:10]) for row in rows})
        families = [f for f in self.catalogue.families if f.source == source and only in (None, f.name)]
        if options:  # what they change is what was there before
            self._aggregate(list(self._due))
        self._tenant.table(MEASURED[source]).overwrite_days(data, days[0], days[-1])
        for family in families:
            self._due.setdefault(family.name, []).append(Due(family, days[0], days[-1], options))

    def ask(self, metric: str, **question: Any) -> list[tuple[Any, ...]]:
        """Rows of the answer; ts as text."""
        found = self.catalogue.find(metric)
        # A recorded name is asked of the points, and goes before a declared one.
        self._aggregate([RECORDED, *((found.family, *found.others) if found else ())])
        table = run_query(self._tenant, self.catalogue, MetricQuery(metric, **question))
        assert table.schema.field("ts").type == TIMESTAMP
        assert table.schema.field("value").type == pa.float64()
        return [(f"{row['ts']:%Y-%m-%d %H:%M}", *list(row.values())[1:]) for row in table.to_pylist()]

    def value(self, metric: str, **question: Any) -> float | None:
        """The one figure of an answer without splits, or None where there is none."""
        rows = self.ask(metric, **question)
        assert len(rows) <= 1
        return rows[0][-1] if rows else None

    def rows(self, family: str, grain: str) -> list[Row]:
        self._aggregate([family])
        return self._tenant.table(self.catalogue.family(family).table(grain)).read().to_pylist()

    def _aggregate(self, families: Sequence[str]) -> None:
        for name in families:
            for due in self._due.pop(name, []):
                aggregate_days(self._tenant, due.family, due.first, due.last, stream_ms=STREAM_MS, **due.options)


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return load_catalogue()


@pytest.fixture
def figures(tmp_path: Path, catalogue: Catalogue) -> Figures:
    return Figures(Lake(str(tmp_path / "lake"), tmp_path / "locks").tenant("acme"), catalogue)


@pytest.fixture
def declare(tmp_path: Path) -> Callable[[str], Path]:
    """Write a declaration file into a folder of its own and give that folder."""
    folder = tmp_path / "declared"
    folder.mkdir()

    def write(text: str, name: str = "own.yaml") -> Path:
        (folder / name).write_text(text, encoding="utf-8")
        return folder

    return write


@pytest.fixture(name="raw_table")
def raw_table_fixture() -> Callable[[str, Sequence[Row]], tuple[pa.Table, TableSchema]]:
    """Make a raw table from rows, and give its schema too."""
    return lambda name, rows: (raw_table(name, rows), MEASURED[name])
