"""Our tables and Dagster's in one PostgreSQL database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance
from pydantic import SecretStr

from analytics_dagster.installation import open_installation
from analytics_dagster.orchestration.instance import open_instance
from analytics_dagster.settings import Settings


@pytest.fixture
def environment() -> Iterator[None]:
    """What opening an instance sets is unset again."""
    kept = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(kept)


@pytest.mark.parametrize("ours_first", [True, False])
def test_dagsters_storage_and_ours_share_a_database(ours_first: bool, home: Path, postgres_url: str, environment: None) -> None:
    settings = Settings.from_environment(home, {"analytics_database_url": SecretStr(postgres_url)})

    def ours() -> None:
        installation = open_installation(settings, create=True)
        installation.tenants.ensure("acme")
        assert installation.tenants.active() == ["acme"]
        installation.database.dispose()

    def dagsters() -> None:
        home.mkdir(exist_ok=True)
        with open_instance(settings) as instance:
            assert isinstance(instance, DagsterInstance)
            assert instance.get_runs() == []

    for opened in (ours, dagsters, ours) if ours_first else (dagsters, ours, dagsters):
        opened()
