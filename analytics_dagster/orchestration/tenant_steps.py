"""One step for many tenants: each is computed on its own, so that a broken one stops itself and nobody else.

No Dagster here. A step gives the domain's work as a function of one tenant; what went wrong comes back by tenant and
becomes a failed check, a log line and a stale day that the next run computes again.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from analytics_dagster.errors import AnalyticsError
from analytics_dagster.installation import Installation
from analytics_dagster.lake.content import day_contents
from analytics_dagster.lake.lake import TenantLake
from analytics_dagster.lake.publications import Publication, Status
from analytics_dagster.lake.schemas import TableSchema

T = TypeVar("T")


@dataclass(frozen=True)
class TenantResults(Generic[T]):
    """What a step made of each tenant, and why it could not of some."""

    made: Mapping[str, T]
    failed: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


class EveryTenantFailedError(AnalyticsError):
    """No tenant could be computed: the cause is common, so the step itself fails and is tried again. `failed`: tenant -> why."""

    def __init__(self, failed: Mapping[str, str]) -> None:
        self.failed = failed
        details = "; ".join(f"{tenant}: {reason}" for tenant, reason in failed.items())
        super().__init__(f"no tenant could be computed: {details}")


def for_each_tenant(
    installation: Installation,
    tenants: Iterable[str],
    work: Callable[[TenantLake], T],
    log: logging.Logger,
    *,
    at_once: int | None = None,
) -> TenantResults[T]:
    """Run `work` on each tenant's lake, PARALLEL_WORKERS of them `at_once` unless said otherwise.

    Raises EveryTenantFailedError when none succeeded and at least one was tried.
    """
    import duckdb
    import pyarrow as pa
    from deltalake.exceptions import DeltaError

    began = time.monotonic()
    made: dict[str, T] = {}
    failed: dict[str, str] = {}

    def one(tenant: str) -> None:
        try:
            made[tenant] = work(installation.lake.tenant(tenant))
        # What a damaged file, a bad declaration or a full disk of one tenant raises; anything else is a defect of ours
        # and stops the step.
        except (AnalyticsError, DeltaError, duckdb.Error, pa.ArrowException, OSError, ValueError) as error:
            log.exception("tenant %s could not be computed", tenant)
            failed[tenant] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"

    workers = at_once or min(installation.settings.parallel_workers, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers, thread_name_prefix="tenant") as threads:
        list(threads.map(one, tenants))
    failed = dict(sorted(failed.items()))  # threads end in any order, and messages should not
    if failed and not made:
        raise EveryTenantFailedError(failed)
    return TenantResults(made, failed, time.monotonic() - began)


def publications_of(
    lake: TenantLake,
    table: TableSchema,
    asset: str,
    first: dt.date,
    last: dt.date,
    *,
    since: dt.date | None = None,
    input_id: int = 0,
    failed_checks: Mapping[dt.date, tuple[str, ...]] | None = None,
    closed: frozenset[dt.date] = frozenset(),
    skip: frozenset[dt.date] = frozenset(),
) -> list[Publication]:
    """What `asset` now publishes for this tenant: each day from `since` (its first data) on, except `skip`.

    `failed_checks` are named in the publication; the days in `closed` are gated.
    """
    checks = failed_checks or {}
    return [
        Publication(
            lake.tenant,
            asset,
            content,
            Status.GATED if day in closed else Status.PUBLISHED,
            checks.get(day, ()),
            input_id,
        )
        for day, content in day_contents(lake.table(table), first, last).items()
        if day not in skip and (since is None or day >= since)
    ]
