"""The operational database, on SQLite and PostgreSQL: short transactions, contention, migrations that follow the tables."""

from __future__ import annotations

import datetime as dt
import socket
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from analytics_dagster.errors import IntegrityError
from analytics_dagster.lake.database import HEAD_REVISION, VERSION_TABLE, Database
from analytics_dagster.lake.migrations import config
from analytics_dagster.lake.state_tables import cursors, metadata, sequences, tenants

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


def test_the_migrations_make_exactly_the_declared_tables(database: Database) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def test_the_head_revision_is_the_newest_migration() -> None:
    from alembic.script import ScriptDirectory

    assert ScriptDirectory.from_config(config()).get_current_head() == HEAD_REVISION


def test_migrating_again_changes_nothing(database: Database) -> None:
    database.write(lambda c: c.execute(cursors.insert().values(name="a", value="1", changed_at=NOW)))
    database.migrate()
    with database.read() as connection:
        assert connection.execute(sa.select(cursors.c.value)).scalar() == "1"


def test_a_postgresql_that_does_not_answer_is_given_up(postgres_url: str) -> None:
    own = sa.make_url(postgres_url).update_query_dict({"connect_timeout": "7"}).render_as_string(hide_password=False)
    for url, patience in ((postgres_url, "10"), (own, "7")):
        database = Database(url)
        with database.read() as connection:
            told = connection.connection.dbapi_connection.info.dsn_parameters  # type: ignore[union-attr]  # psycopg2's own
        assert told["connect_timeout"] == patience
        database.dispose()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg2://u@127.0.0.1:{silent.getsockname()[1]}/d?connect_timeout=2"
        with pytest.raises(sa.exc.OperationalError, match="timeout expired"), Database(url).read():
            pass


def test_a_database_of_a_newer_version_is_refused(database: Database) -> None:
    database.write(lambda c: c.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")))
    with pytest.raises(IntegrityError, match="newer than this code"):
        database.migrate()


def test_times_come_back_aware_and_equal(database: Database) -> None:
    database.write(lambda c: c.execute(cursors.insert().values(name="a", value="", changed_at=NOW)))
    with database.read() as connection:
        assert connection.execute(sa.select(cursors.c.changed_at)).scalar() == NOW


def test_a_naive_time_is_refused(database: Database) -> None:
    with pytest.raises(sa.exc.StatementError, match="naive datetime"):
        database.write(lambda c: c.execute(cursors.insert().values(name="a", value="", changed_at=NOW.replace(tzinfo=None))))


def test_a_failing_change_leaves_nothing(database: Database) -> None:
    def change(connection: sa.Connection) -> None:
        connection.execute(cursors.insert().values(name="a", value="", changed_at=NOW))
        raise KeyError("after the insert")

    with pytest.raises(KeyError):
        database.write(change)
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(cursors)).scalar() == 0


def test_read_then_write_by_many_threads_loses_no_step(database: Database) -> None:
    def count_up(connection: sa.Connection) -> None:
        mine = sequences.c.name == "publications"
        connection.execute(sequences.update().where(mine).values(value=sequences.c.value + 1))

    def work() -> None:
        for _ in range(25):
            database.write(count_up)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert connection.execute(sa.select(sequences.c.value)).scalar() == 150


def test_several_processes_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    errors: list[Exception] = []

    def open_it() -> None:
        try:
            Database(url).migrate()
        except sa.exc.SQLAlchemyError as error:
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with Database(url).read() as connection:
        assert sa.inspect(connection).has_table(tenants.name)
