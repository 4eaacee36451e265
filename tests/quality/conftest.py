"""Good rows of every event table, in a real lake, and a way to break exactly one thing about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from analytics_dagster.lake.lake import Lake, TenantLake
from analytics_dagster.lake.schemas import TableSchema, landing
from analytics_dagster.quality.results import CheckOutcome
from analytics_dagster.quality.validate import validate

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
ROWS = 2_400
Row = dict[str, Any]

_COMMON: dict[str, Callable[[int], Row]] = {
    "plays": lambda n: {
        "listener_id": f"u{n % 100}",
        "track_id": f"t{n % 700}",
        "track": f"Song {n % 700}",
        "artist_id": f"a{n % 70}",
        "artist": f"Band {n % 70}",
        "ms_played": 150_000,
        "track_ms": 200_000,
        "country": "BE",
        "tier": "premium" if n % 3 else "free",
        "end_reason": "trackdone",
    },
    "metrics": lambda n: {"name": "queue", "type": "gauge" if n % 2 else "timer", "value": 1.5, "labels": '{"zone": "a"}'},
    "subscriptions": lambda n: {
        "listener_id": f"u{n}",
        "event": "renewal",
        "from_tier": "premium",
        "to_tier": "premium",
        "amount_minor": 999,
        "currency": "EUR",
    },
    "ad_impressions": lambda n: {"filled": n % 2 == 0, "revenue_micros": 4_000 * (1 - n % 2), "currency": "EUR"},
    "api_requests": lambda n: {"endpoint": "/artists/{id}", "method": "GET", "status": 200, "latency_us": 12_000},
    "system_samples": lambda n: {
        "host": f"api-{n % 2}",
        "cpu_percent": 40.0,
        "memory_percent": 60.0,
        "disk_percent": 10.0,
        "network_bytes": 1_000,
    },
    "interactions": lambda n: {
        "listener_id": f"u{n % 100}",
        "event": ("save", "share", "follow", "playlist_add")[n % 4],
        "track_id": None if n % 4 == 2 else f"t{n % 700}",
        "artist_id": f"a{n % 70}",
        "country": "BE",
        "tier": "free",
    },
}


@dataclass
class Warehouse:
    """A lake on disk that rows are put into as raw, and optionally as arrivals."""

    lake: Lake
    tenants: list[TenantLake] = field(default_factory=list)

    @staticmethod
    def good(table: TableSchema, day: date, rows: int = ROWS) -> list[Row]:
        """Rows spread evenly over a day, with every value as it should be."""
        begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
        names = [column.name for column in table.columns]
        made = []
        for n in range(rows):
            row = dict.fromkeys(names) | _COMMON[table.name](n)
            row |= {table.key: f"{table.name}-{day}-{n}", "ts": begin + n * timedelta(days=1) / rows}
            made.append(row | ({"format": "simulation"} if "format" in names else {}))
        return made

    @staticmethod
    def arrow(table: TableSchema, rows: Sequence[Row]) -> pa.Table:
        return pa.Table.from_pylist(list(rows), schema=table.arrow)

    def tenant(self, name: str) -> TenantLake:
        known = [t for t in self.tenants if t.tenant == name]
        if not known:
            known = [self.lake.tenant(name)]
            self.tenants += known
        return known[0]

    def put(self, name: str, table: TableSchema, rows: Sequence[Row]) -> TenantLake:
        tenant = self.tenant(name)
        tenant.table(table).append(self.arrow(table, rows))
        return tenant

    def land(self, name: str, table: TableSchema, rows: Sequence[Row]) -> TenantLake:
        tenant = self.tenant(name)
        came = [row | {"arrival": "a", "arrived_at": NOW, "arrival_row": n} for n, row in enumerate(rows)]
        tenant.table(landing(table)).append(self.arrow(landing(table), came))
        return tenant

    def judge(
        self,
        table: TableSchema,
        first: date,
        last: date,
        history: Callable[[str, date], Sequence[int]] | None = lambda tenant, day: [ROWS] * 4,
        now: datetime = NOW,
        **more: Any,
    ) -> list[CheckOutcome]:
        return validate(table, self.tenants, first, last, history=history, now=now, **more)


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(Lake(str(tmp_path / "lake"), tmp_path / "locks"))
