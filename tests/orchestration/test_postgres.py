"""With ANALYTICS_DATABASE_URL both our state and Dagster's storage live in PostgreSQL, and nothing stays on SQLite."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from rows import samples

from analytics_dagster.clock import SystemClock
from analytics_dagster.installation import Installation, open_installation
from analytics_dagster.lake.schemas import SYSTEM_SAMPLES
from analytics_dagster.orchestration.instance import open_instance
from analytics_dagster.settings import Settings

FIRST, LAST = dt.date(2026, 3, 1), dt.date(2026, 3, 3)


@pytest.fixture
def on_postgres(home: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings whose URL is written as people write it: without a driver. Everything opened here is taken back."""
    for name in ("DAGSTER_HOME", "ANALYTICS_HOME", "ANALYTICS_DAGSTER_POSTGRES_URL", "DAGSTER_EVENT_BATCH_SIZE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("ANALYTICS_DATABASE_URL", postgres_url.replace("postgresql+psycopg2://", "postgresql://"))
    return Settings.from_environment(home)


def landed(settings: Settings) -> Installation:
    installation = open_installation(settings, SystemClock(), create=True)
    installation.tenants.ensure("acme")
    installation.landing.append("acme", SYSTEM_SAMPLES, samples(FIRST, 3), "first")
    return installation


def test_a_range_materialized_by_the_command_line_is_in_postgresql_alone(on_postgres: Settings, postgres_url: str) -> None:
    installation = landed(on_postgres)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [str(Path(sys.executable).with_name("analytics")), "materialize", "--home", str(on_postgres.analytics_home)]
    select = ["--select", "raw/system_samples", "--select", "aggregates/system"]
    done = subprocess.run([*command, *select], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr

    published = installation.publications.of(tenant="acme")
    days = {FIRST + dt.timedelta(days=n) for n in range(3)}
    assert {(p.asset, p.day) for p in published} == {(a, d) for a in ("raw/system_samples", "aggregates/system") for d in days}
    with open_instance(on_postgres) as instance:
        [run] = instance.get_runs()
        assert run.status is dg.DagsterRunStatus.SUCCESS
        assert {p.run_id for p in published} == {run.run_id}
        for path in ("raw/system_samples", "aggregates/system"):
            assert instance.get_materialized_partitions(dg.AssetKey(path.split("/"))) == {d.isoformat() for d in days}
    engine = sa.create_engine(postgres_url)
    tables = set(sa.inspect(engine).get_table_names())
    engine.dispose()
    assert {"publications", "alembic_version", "runs", "event_logs", "asset_keys", "jobs"} <= tables
    assert list(on_postgres.analytics_home.rglob("*.db")) == []
    installation.database.dispose()


def test_the_databases_address_is_in_no_file(on_postgres: Settings) -> None:
    landed(on_postgres).database.dispose()
    with open_instance(on_postgres):
        pass
    address = on_postgres.database_url.rpartition("/")[2].encode()
    for path in on_postgres.analytics_home.rglob("*"):
        assert not path.is_file() or address not in path.read_bytes(), path
