"""What tests of the wire formats share: an admission, and points as rows that can be compared."""

from __future__ import annotations

import datetime as dt
import json
from typing import NamedTuple

from analytics_dagster.ingest.points import Admission, Points, SeriesTable, WriteScope

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000
NOW_MS = NOW_US // 1_000
LATEST_US = NOW_US + 600 * 1_000_000


class Row(NamedTuple):
    tenant: str
    type: str
    name: str
    labels: dict[str, str]
    ts: int
    value: float


def admission(default: str | None = "acme", *allowed: str, table: SeriesTable | None = None) -> Admission:
    tenants = frozenset(allowed or ((default,) if default else ()))
    return Admission(SeriesTable() if table is None else table, WriteScope(default, tenants), LATEST_US)


def rows(points: Points) -> list[Row]:
    table = points.table
    return [
        Row(table.tenants[number], str(table.types[number]), table.names[number], json.loads(table.labels[number]), ts, value)
        for number, ts, value in zip(points.series.tolist(), points.ts.tolist(), points.values.tolist(), strict=True)
    ]
