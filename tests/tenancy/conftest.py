"""What these tests share: a clock for what is remembered, two tenants, a PostgreSQL database that is emptied for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from tenancy.requests_for_tests import Stopwatch

from analytics_dagster.clock import ManualClock
from analytics_dagster.lake.database import Database
from analytics_dagster.lake.state_tables import metadata
from analytics_dagster.tenancy.tenants import Tenants


@pytest.fixture(scope="session")
def postgres_of_tenancy(postgres_server: str) -> Iterator[Database]:
    """Migrated once: making a database takes longer than most tests here."""
    url = sa.make_url(postgres_server.replace("postgresql://", "postgresql+psycopg2://"))
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sa.text("CREATE DATABASE tenancy"))
    made = Database(url.set(database="tenancy").render_as_string(hide_password=False))
    made.migrate()
    yield made
    made.dispose()
    with admin.connect() as connection:
        connection.execute(sa.text("DROP DATABASE tenancy WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """The operational database, migrated and empty, on both engines."""
    if request.param == "postgresql":
        shared: Database = request.getfixturevalue("postgres_of_tenancy")
        shared.write(_empty)
        yield shared
        return
    made = Database(f"sqlite:///{tmp_path / 'state.db'}")
    made.migrate()
    yield made
    made.dispose()


def _empty(connection: sa.Connection) -> None:
    for table in metadata.sorted_tables:
        if table.name != "sequences":  # its row is part of the migration
            connection.execute(table.delete())


@pytest.fixture
def stopwatch() -> Stopwatch:
    return Stopwatch()


@pytest.fixture
def tenants(database: Database, clock: ManualClock) -> Tenants:
    """A register with two tenants, acme and globex."""
    register = Tenants(database, clock)
    register.ensure("acme")
    register.ensure("globex")
    return register
