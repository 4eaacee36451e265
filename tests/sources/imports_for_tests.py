"""What the tests of importing share: reading a file without storing it, and looking at what was stored."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from analytics_dagster.installation import Installation
from analytics_dagster.lake.schemas import BY_NAME, landing
from analytics_dagster.sources.files import SourceFile
from analytics_dagster.sources.formats import FORMATS, format_named
from analytics_dagster.sources.importer import ImportResult
from analytics_dagster.sources.parsed import Outcome, Parsed, Reading, RefusedRecord, Window

NOW = datetime(2026, 3, 10, 6, 0, tzinfo=UTC)

Take = Callable[..., tuple[list[dict[str, Any]], list[RefusedRecord]]]
Import = Callable[..., ImportResult]


def reading(tenant: str | None = "me", column: str | None = None, zone: str | None = None) -> Reading:
    return Reading(Window.of(date(2005, 1, 1), NOW), tenant, column, ZoneInfo(zone) if zone else None)


def outcomes_of(format: str, path: Path, **options: Any) -> list[Outcome]:
    return list(format_named(format).read(SourceFile(path.name, path), reading(**options)))


def row_of(format: str, outcome: Parsed, table: str | None = None) -> dict[str, Any]:
    """A parsed record's row of `table` (the format's first one unless named), by column, with its tenant."""
    name = table or FORMATS[format].tables[0].name
    columns = [column.name for column in BY_NAME[name].columns]
    values = dict(outcome.rows)[name]
    return {"tenant": outcome.tenant, **dict(zip(columns, values, strict=True))}


def landed(installation: Installation, tenant: str, table: str) -> pa.Table:
    return installation.lake.tenant(tenant).table(landing(BY_NAME[table])).read()


def at(text: str) -> int:
    """Microseconds since 1970 of an ISO time with a zone."""
    return round(datetime.fromisoformat(text).timestamp()) * 1_000_000
