"""A lake in a temporary folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from analytics_dagster.lake.lake import Lake


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"), tmp_path / "locks")
