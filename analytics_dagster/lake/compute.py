"""DuckDB connections, all opened alike: UTC, bounded memory, no extension downloads, no progress bars.

Aggregate tables may be computed by another engine (`ComputeEngine`); Spark's sessions are in `spark.py`.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

# A day of 1,000,000 plays goes from landing to aggregates in less than half of this; beyond it DuckDB spills to disk.
MEMORY_LIMIT = "1200MB"


class ComputeEngine(StrEnum):
    """What computes aggregate tables (ANALYTICS_ENGINE). Everything else, figures included, is DuckDB's."""

    DUCKDB = "duckdb"
    SPARK = "spark"


def connect(threads: int | None = None, memory_limit: str | None = None, database: str = ":memory:") -> duckdb.DuckDBPyConnection:
    """Open DuckDB. `memory_limit` is DuckDB's notation ("1200MB"); `database` a file where staging must not stay in memory."""
    import duckdb

    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": memory_limit or MEMORY_LIMIT,
        "temp_directory": tempfile.gettempdir(),
        "autoinstall_known_extensions": False,
    }
    if threads is not None:
        config["threads"] = threads
    connection = duckdb.connect(database, config=config)
    connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
    # Parquet's min and max leave NaN out, and DuckDB 2.0 believes them: with this optimizer `isnan(x)` and `x > c` drop
    # rows that hold NaN (duckdb#25521).
    connection.execute("SET disabled_optimizers = 'statistics_propagation'")
    return connection


@contextmanager
def session(*, fractions: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with nothing in it, as `connect` gives, of an engine that this thread keeps: opening one takes 17 ms.
    Temporary tables and views end with it. Without `fractions` nothing that is read may hold NaN, and all optimizers are on.
    """
    engines = _KEPT.__dict__.setdefault("engines", {})
    # After a fork the parent's engines have no threads.
    key = (os.getpid(), fractions)
    if key not in engines:
        engines[key] = connect()
        # What an engine keeps of files would stay when the work is done.
        engines[key].execute("SET enable_external_file_cache = false")
        if not fractions:
            engines[key].execute("SET disabled_optimizers = ''")
    with engines[key].cursor() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        yield connection


_KEPT = threading.local()


def literal(text: str) -> str:
    """`text` as an SQL string literal. For file names and keys that a prepared parameter cannot carry (FROM lists)."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """`name` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
