"""DuckDB connections, all opened alike: UTC, bounded memory, no extension downloads, no progress bars.

Aggregate tables may be computed by another engine (`ComputeEngine`); Spark's sessions are in `spark.py`.
"""

from __future__ import annotations

import tempfile
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


def literal(text: str) -> str:
    """`text` as an SQL string literal. For file names and keys that a prepared parameter cannot carry (FROM lists)."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """`name` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
