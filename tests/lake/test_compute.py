"""Connections of the engine that a thread keeps."""

from __future__ import annotations

import threading

import duckdb
import pytest

from analytics_dagster.lake.compute import session


def test_what_is_temporary_ends_with_its_session() -> None:
    with session() as connection:
        connection.execute("CREATE TEMP TABLE kept AS SELECT 1 AS one")
        with session() as other, pytest.raises(duckdb.CatalogException):
            other.execute("FROM kept")
    with session() as again, pytest.raises(duckdb.CatalogException):
        again.execute("FROM kept")


@pytest.mark.parametrize(("fractions", "disabled"), [(True, "statistics_propagation"), (False, "")])
def test_each_session_tells_times_in_utc_and_whether_nan_may_be_read(fractions: bool, disabled: str) -> None:
    with session(fractions=not fractions):
        pass  # the other kind must not change this one
    with session(fractions=fractions) as connection:
        [row] = connection.execute("SELECT current_setting('TimeZone'), current_setting('disabled_optimizers')").fetchall()
    assert row[0].endswith("UTC")
    assert row[1] == disabled


def test_threads_have_engines_of_their_own() -> None:
    """Threads that shared one would share its memory limit."""
    seen: list[int] = []

    def count() -> None:
        with session() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS of_the_engine (n INTEGER); INSERT INTO of_the_engine VALUES (1)")
            seen.extend(connection.execute("SELECT count(*) FROM of_the_engine").fetchone() or ())

    for thread in [threading.Thread(target=count) for _ in range(2)]:
        thread.start()
        thread.join()
    assert seen == [1, 1]
