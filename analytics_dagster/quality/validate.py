"""Judges a range of days of all tenants in one Great Expectations validation, and fetches the rows that failed.

Great Expectations sees a small frame, one row per tenant and day and one column per check, so that a range costs one
validation (tens of milliseconds) whatever the number of rows, and each tenant-day has its own verdict.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from analytics_dagster.errors import IntegrityError, NotFoundError
from analytics_dagster.lake.compute import connect
from analytics_dagster.lake.lake import TenantLake
from analytics_dagster.lake.schemas import TableSchema, landing
from analytics_dagster.quality import queries
from analytics_dagster.quality.profile import History, ProfileRow, prepare, profile
from analytics_dagster.quality.results import CheckOutcome, Expectation, ExpectationType, Suite
from analytics_dagster.quality.score import check_score
from analytics_dagster.quality.suites import suite_of

if TYPE_CHECKING:
    from great_expectations.data_context.data_context.ephemeral_data_context import EphemeralDataContext

# What a person reads of a failed check; more is a query of their own.
FAILING_ROWS = 20

_Verdict = tuple[str, str, str]
"""(check, tenant, day in ISO form)."""


def validate(
    table: TableSchema,
    tenants: Sequence[TenantLake],
    first: date,
    last: date,
    *,
    history: History | None,
    now: datetime,
    suites: Mapping[str, Suite] | None = None,
) -> list[CheckOutcome]:
    """Judge the raw rows of the days `first` to `last` (inclusive, UTC) of every tenant, with one validation.

    Args:
        table: a raw event table.
        history: (tenant, day) -> row counts of the same weekday in the four weeks before, as far as known; where it
            knows none, the days of the range itself serve.
        now: the present (aware). Rows after it are in the future; hours and days that are not over are not judged for volume.
        suites: what `load_suites` gave; the built-in suite without it.

    Returns outcomes in the order of tenants, days and declared checks. A check that cannot judge a tenant's day (no row
    that it asks about, no known history, the tenant never had data in the table) gives no outcome.
    """
    suite = suite_of(table, suites)
    with connect() as connection:
        rows = [row for tenant in tenants for row in profile(connection, suite, tenant, first, last, history=history, now=now)]
    failed = judge(suite, rows)
    return [
        _outcome(suite, check, row, row.facts[check.name], (check.name, row.tenant, row.day.isoformat()) not in failed)
        for row in rows
        for check in suite.checks
        if check.name in row.facts
    ]


def failing_rows(
    tenant: TenantLake,
    table: TableSchema,
    check: str,
    day: date,
    limit: int = FAILING_ROWS,
    *,
    now: datetime | None = None,
    suites: Mapping[str, Suite] | None = None,
) -> pa.Table:
    """Up to `limit` rows of one day that a check counted as bad, oldest first, with the raw table's columns.

    Empty for checks of volume and of silence, which miss rows rather than have them. `now` is needed for checks that ask
    for it (future times); without it they give no rows. For arrivals not processed the rows come from landing. The rows may
    name listeners: show them only to those who may see them.

    Raises NotFoundError when the table's suite has no such check.
    """
    suite = suite_of(table, suites)
    declared = suite.check(check)
    if declared is None:
        known = ", ".join(c.name for c in suite.checks)
        raise NotFoundError(f"{table.path} has no check {check!r}; it has {known}")
    raw, arrivals = tenant.table(table).sql(day, day), tenant.table(landing(table)).sql(day, day)
    sql = queries.failing(declared, table, raw, arrivals, limit)
    if sql is None:
        return table.arrow.empty_table()
    with connect() as connection:
        prepare(connection, now)
        return connection.sql(sql).to_arrow_table().cast(table.arrow)


def judge(suite: Suite, rows: Sequence[ProfileRow]) -> frozenset[_Verdict]:
    """What fails, as (check, tenant, day): one Great Expectations validation over the profile, none without rows.

    Raises IntegrityError when Great Expectations could not evaluate an expectation: an error is never a verdict.
    """
    if not rows:
        return frozenset()
    import pandas as pd

    gx = _great_expectations()
    frame = pd.DataFrame(
        {
            "tenant": pd.Series([row.tenant for row in rows], dtype=object),
            "day": pd.Series([row.day.isoformat() for row in rows], dtype=object),
        }
        | {check.column: pd.Series([row.facts.get(check.name) for row in rows], dtype="float64") for check in suite.checks}
    )
    asset = _context(gx).data_sources.add_pandas("profile").add_dataframe_asset(suite.table.name)
    batch = asset.add_batch_definition_whole_dataframe("range").get_batch(batch_parameters={"dataframe": frame})
    result = batch.validate(
        _gx_suite(gx, suite),
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["tenant", "day"]},
    )
    return frozenset(verdict for one in result.results for verdict in _failed(suite, one))


def _failed(suite: Suite, result: Any) -> list[_Verdict]:
    check = str(result.expectation_config.meta["check"])
    found = result.result.get("unexpected_index_list")
    if found is None:
        # One entry, or one for each metric that could not be computed.
        info = result.exception_info
        causes = [info] if "exception_message" in info else list(info.values())
        reason = "; ".join(str(cause.get("exception_message")) for cause in causes)
        raise IntegrityError(f"check {check!r} of {suite.table.path} could not be evaluated: {reason}")
    return [(check, str(at["tenant"]), str(at["day"])) for at in found]


def _gx_suite(gx: ModuleType, suite: Suite) -> Any:
    built = gx.ExpectationSuite(name=suite.table.name)
    for check in suite.checks:
        built.add_expectation(_gx_expectation(gx, check))
    return built


def _gx_expectation(gx: ModuleType, check: Expectation) -> Any:
    common = {"column": check.column, "meta": {"check": check.name}}
    match check.expect:
        case ExpectationType.BETWEEN:
            bounds = {"min_value": check.minimum, "max_value": check.maximum}
            return gx.expectations.ExpectColumnValuesToBeBetween(**common, **bounds)
        case ExpectationType.IN_SET:
            return gx.expectations.ExpectColumnValuesToBeInSet(**common, value_set=list(check.values))
        case ExpectationType.NOT_IN_SET:
            return gx.expectations.ExpectColumnValuesToNotBeInSet(**common, value_set=list(check.values))


def _great_expectations() -> ModuleType:
    """Great Expectations, which takes seconds to import and imports two modules that Python 3.11 deprecates."""
    with warnings.catch_warnings(), _without_spark_connect():
        warnings.filterwarnings("ignore", "module 'sre_(constants|parse)' is deprecated", DeprecationWarning)
        import great_expectations as gx
        import great_expectations.expectations
    module: ModuleType = gx
    return module


@contextmanager
def _without_spark_connect() -> Iterator[None]:
    """Great Expectations looks whether Spark Connect is there, which nobody here uses. Where Connect lacks one of its packages
    and the main module has no file (`python -c`, a worker of pytest-xdist), it takes the process for its own doctests and ends it
    with status 0 (pyspark 4.3, `sql/connect/utils.py`).
    """
    name = "pyspark.sql.connect"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = cast(ModuleType, None)  # so importing it is an ImportError
    try:
        yield
    finally:
        del sys.modules[name]


def _context(gx: ModuleType) -> EphemeralDataContext:
    """A context in memory that neither reports usage to anybody nor prints progress bars."""
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
    )
    context: EphemeralDataContext = gx.get_context(mode="ephemeral", project_config=config)
    return context


def _outcome(suite: Suite, check: Expectation, row: ProfileRow, observed: float, passed: bool) -> CheckOutcome:
    return CheckOutcome(
        tenant=row.tenant,
        day=row.day,
        asset=suite.table.path,
        check=check.name,
        severity=check.severity,
        passed=passed,
        observed=observed,
        expected=check.expected,
        description=check.description,
        dimension=check.dimension,
        score=check_score(check, observed, passed),
        finding=f"{check.show(observed)}, expected {check.expected}",
        remedy=check.remedy,
    )
