"""Spark as another engine over the same files: one JVM for each process, a session for each piece of work, Arrow in and out.

What belongs here: starting it, reading a table's files by name, and handing its answers over. What its SQL says is not known
here. Sessions share the JVM and nothing else, so that tenants computed in threads do not see each other's views.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from analytics_dagster.errors import AnalyticsError, UserError
from analytics_dagster.lake.schemas import TableSchema

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_STARTING = threading.Lock()
# Where and how it runs, unless PYSPARK_SUBMIT_ARGS says: on this machine, reachable from nowhere else.
_LOCAL = {
    "spark.master": "local[*]",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false",
}
# What figures depend on. Decimals keep all nine places: Spark would give up the last to make room for a digit that no sum has.
_MEANING = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.decimalOperations.allowPrecisionLoss": "false",
}
_INSTALL = "install the extra (`pip install 'analytics-dagster[spark]'`) or set ANALYTICS_ENGINE=duckdb"


class SparkFailedError(AnalyticsError):
    """Spark could not run what it was given; the message is Spark's own first line."""


class Spark:
    """A session of its own. Views and functions that are defined in it are nobody else's."""

    def __init__(self, session: SparkSession) -> None:
        self._session = session

    def define(self, statements: Iterable[str]) -> None:
        """Run statements that define functions."""
        for statement in statements:
            self._session.sql(statement)

    def view(self, name: str, schema: TableSchema, files: Iterable[str], condition: str) -> None:
        """Make `name` stand for the rows of a table's Parquet files that meet `condition` (Spark's SQL). A column that a file
        does not have yet is null in its rows.
        """
        columns = ", ".join(f"`{column.name}` {spark_type(column.type)}" for column in schema.columns)
        paths = [_unglobbed(file) for file in files]
        reader = self._session.read.schema(columns)
        rows = reader.parquet(*paths) if paths else self._session.createDataFrame([], columns)
        rows.where(condition).createOrReplaceTempView(name)

    def answer(self, query: str, parameters: Mapping[str, Any]) -> pa.Table:
        """All rows of a query with named parameters (`:name`). Raises SparkFailedError."""
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        try:
            rows: pa.Table = self._session.sql(query, args=dict(parameters)).toArrow()
        except (PySparkException, Py4JError) as error:
            said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise SparkFailedError(f"Spark: {said}") from error
        return rows


def open_spark() -> Spark:
    """A new session; the first of a process starts the JVM, which takes some seconds and ends with the process.

    Raises UserError where pyspark or Java is missing.
    """
    missing = what_is_missing()
    if missing:
        raise UserError(missing)
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    settings = {
        "spark.app.name": "analytics",
        "spark.local.dir": tempfile.gettempdir(),
        "spark.log.level": "ERROR",
        "spark.ui.showConsoleProgress": "false",
        **({} if os.environ.get("PYSPARK_SUBMIT_ARGS") else _LOCAL),
    }
    with _STARTING:
        try:
            session = SparkSession.builder.config(map=settings).getOrCreate().newSession()
        except PySparkException as error:
            raise UserError(f"Spark did not start ({error}); it needs Java 17 or newer") from error
    # By default 200, which on one machine is 200 small files for each GROUP BY.
    meaning = {**_MEANING, "spark.sql.shuffle.partitions": str(session.sparkContext.defaultParallelism)}
    for name, value in meaning.items():
        session.conf.set(name, value)
    return Spark(session)


def what_is_missing() -> str | None:
    """What this machine lacks to run Spark, as an error's message; None where it lacks nothing."""
    from importlib.util import find_spec

    if find_spec("pyspark") is None:
        return f"ANALYTICS_ENGINE=spark needs pyspark, which is not installed; {_INSTALL}"
    home = os.environ.get("JAVA_HOME")
    if shutil.which(str(Path(home, "bin", "java")) if home else "java") is None:
        where = f"JAVA_HOME={home} has no bin/java" if home else "there is no `java` on the PATH and JAVA_HOME is not set"
        return f"ANALYTICS_ENGINE=spark needs Java 17 or newer: {where}; install a JRE or set ANALYTICS_ENGINE=duckdb"
    return None


def spark_type(kind: pa.DataType) -> str:
    """Spark's name of an Arrow type that our schemas use."""
    if pa.types.is_list(kind):
        return f"ARRAY<{spark_type(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"STRUCT<{', '.join(f'`{field.name}`: {spark_type(field.type)}' for field in kind)}>"
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP"
    return _SPARK_TYPES[kind]


_SPARK_TYPES = {
    pa.string(): "STRING",
    pa.int64(): "BIGINT",
    pa.int32(): "INT",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.date32(): "DATE",
    pa.binary(): "BINARY",
}


def _unglobbed(path: str) -> str:
    """`path` for a reader that takes patterns; on this machine's disk whatever Hadoop's default file system is."""
    plain = "".join(f"\\{c}" if c in "*?[]{}\\" else c for c in path)
    return plain if "://" in plain else f"file://{plain}"
