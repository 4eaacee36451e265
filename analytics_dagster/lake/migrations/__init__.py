"""Alembic migrations of the operational database; the same ones run on SQLite and PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import filelock
from alembic import command
from alembic.config import Config

if TYPE_CHECKING:
    import sqlalchemy as sa

# Any number that no other program on the server uses as an advisory lock.
_POSTGRES_LOCK = 7_261_400_511


def config() -> Config:
    """Alembic's configuration, made here so that no alembic.ini has to be found."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    return made


def upgrade(url: str, engine: sa.Engine) -> None:
    """Run what is missing, one process at a time: the webserver, the daemon and a verb often start together."""
    if engine.dialect.name == "sqlite":
        with filelock.FileLock(url.removeprefix("sqlite:///") + ".migrate.lock"):
            _run(engine)
        return
    with engine.connect() as guard:
        guard.exec_driver_sql(f"SELECT pg_advisory_lock({_POSTGRES_LOCK})")
        try:
            _run(engine)
        finally:
            guard.exec_driver_sql(f"SELECT pg_advisory_unlock({_POSTGRES_LOCK})")


def _run(engine: sa.Engine) -> None:
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        made = config()
        made.attributes["connection"] = connection
        command.upgrade(made, "head")
