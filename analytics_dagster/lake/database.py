"""The operational database: SQLite (WAL) in the home, or PostgreSQL.

The one idea: decide first, then write in a short transaction. `write` takes BEGIN IMMEDIATE on SQLite (a deferred BEGIN
that turns into a write failed in 76 % of contended tries), tries again with jitter when the database is busy, and so may
call its function more than once: no I/O inside, under 50 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from analytics_dagster.errors import BusyError, IntegrityError

if TYPE_CHECKING:
    import sqlalchemy as sa

T = TypeVar("T")

HEAD_REVISION = "0009"
"""Newest migration; a test holds it to the folder `migrations/versions`."""

VERSION_TABLE = "analytics_migration"
"""Where Alembic notes it. Not `alembic_version`: on PostgreSQL that one is Dagster's, in the same database."""

_TRIES = 60
_LONGEST_PAUSE = 0.25
# Where packets get lost, waiting for PostgreSQL must end; with the kernel's patience a thread would be away for 15 minutes.
_POSTGRES_PATIENCE = {"connect_timeout": "10", "tcp_user_timeout": "30000", "keepalives_idle": "30"}


class Database:
    """One database, migrated by the first process that opens it."""

    def __init__(self, url: str) -> None:
        import sqlalchemy as sa

        self.url = url
        self._sqlite = url.startswith("sqlite")
        if self._sqlite:
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            self._engine = sa.create_engine(url, connect_args={"timeout": 5.0})
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
        else:
            own = sa.make_url(url).query
            patience = {name: value for name, value in _POSTGRES_PATIENCE.items() if name not in own}
            self._engine = sa.create_engine(url, pool_pre_ping=True, connect_args=patience)

    @property
    def dialect(self) -> str:
        return self._engine.dialect.name

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that sees one state for as long as it is held."""
        with self._engine.connect() as connection:
            yield connection

    def write(self, change: Callable[[sa.Connection], T]) -> T:
        """Run `change` in one transaction and return its result. Raises BusyError when the database stays locked."""
        import sqlalchemy as sa
        import tenacity

        retry = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(_TRIES),
            wait=tenacity.wait_random(0.005, _LONGEST_PAUSE),
            retry=tenacity.retry_if_exception(_is_busy),
            reraise=True,
        )
        try:
            result: T = retry(self._once, change)
            return result
        except sa.exc.OperationalError as error:
            if _is_busy(error):
                raise BusyError(f"the database stayed locked by another process: {error.orig}") from error
            raise

    def migrate(self) -> None:
        """Bring the tables to this version of the code. Safe to call from several processes at once."""
        current = self._revision()
        if current == HEAD_REVISION:
            return
        if current is not None and current > HEAD_REVISION:
            raise IntegrityError(
                f"the database is at migration {current}, newer than this code ({HEAD_REVISION}); update the code"
            )
        from analytics_dagster.lake import migrations

        migrations.upgrade(self.url, self._engine)

    def dispose(self) -> None:
        self._engine.dispose()

    def _revision(self) -> str | None:
        import sqlalchemy as sa

        with self._engine.connect() as connection:
            if not sa.inspect(connection).has_table(VERSION_TABLE):
                return None
            return connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()

    def _once(self, change: Callable[[sa.Connection], T]) -> T:
        with self._engine.connect().execution_options(writes=True) as connection, connection.begin():
            return change(connection)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # this module, not the driver, says when a transaction begins
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _is_busy(error: BaseException) -> bool:
    import sqlalchemy as sa

    if not isinstance(error, sa.exc.OperationalError | sa.exc.DBAPIError):
        return False
    text = str(error.orig)
    return any(
        sign in text for sign in ("database is locked", "database table is locked", "deadlock detected", "could not serialize")
    )
