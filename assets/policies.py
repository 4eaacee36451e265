"""What all assets share: who owns them, how they are backfilled, tried again and expected to be fresh."""

import datetime as dt
from collections.abc import Iterator
from typing import Any, TypeAlias

import dagster as dg

StepResults: TypeAlias = Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]

OWNERS = ["team:data-platform"]

# A range of days is one run, one validation, one fit and one commit per table.
BACKFILL = dg.BackfillPolicy.single_run()

# A busy lock or object store passes; a defect does not, and a third try would only delay the page.
RETRY = dg.RetryPolicy(max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


def daily_freshness() -> dg.FreshnessPolicy:
    """Materialized since midnight UTC by six in the morning, when people open the UI. Speaks of the asset; a single
    tenant's freshness is a metric and a rule.
    """
    return dg.FreshnessPolicy.cron(deadline_cron="0 6 * * *", lower_bound_delta=dt.timedelta(hours=6))
