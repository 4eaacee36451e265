from __future__ import annotations

from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from analytics_dagster.installation import Installation
from analytics_dagster.sources.formats import format_named
from analytics_dagster.sources.importer import ImportRequest, ImportResult, run_import
from analytics_dagster.sources.parsed import Parsed, RefusedRecord
from tests.sources.imports_for_tests import Import, Take, outcomes_of, row_of


@pytest.fixture
def take(tmp_path: Path) -> Take:
    """Write a file and read it: (rows of the format's first table, records refused)."""

    def read(
        format: str, content: str | bytes, name: str = "file", **options: Any
    ) -> tuple[list[dict[str, Any]], list[RefusedRecord]]:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        found = outcomes_of(format, path, **options)
        return (
            [row_of(format, o) for o in found if isinstance(o, Parsed)],
            [o for o in found if isinstance(o, RefusedRecord)],
        )

    return read


@pytest.fixture
def bring(installation: Installation) -> Import:
    """Run a whole import into the test's installation."""

    def run(
        format: str, *paths: Path, tenant: str | None = "me", column: str | None = None, zone: str | None = None
    ) -> ImportResult:
        request = ImportRequest(format_named(format), paths, tenant, column, ZoneInfo(zone) if zone else None)
        return run_import(request, installation)

    return run
