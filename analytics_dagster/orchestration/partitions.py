"""Daily partitions in UTC, one dimension. Tenants are not partitions: 1,000 tenants x 730 days would be far past the 100,000
that Dagster's UI bears, and a step costs seconds of process start; all tenants of a day are computed in one step.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import dagster as dg

from analytics_dagster.lake.schemas import FIRST_DAY

DAYS = dg.DailyPartitionsDefinition(start_date=FIRST_DAY.isoformat(), timezone="UTC")

RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"


@dataclass(frozen=True)
class DayRange:
    """Both ends included."""

    first: dt.date
    last: dt.date

    @property
    def days(self) -> int:
        return (self.last - self.first).days + 1

    @property
    def tags(self) -> dict[str, str]:
        """Run tags that make one run of all these days."""
        return {RANGE_START_TAG: self.first.isoformat(), RANGE_END_TAG: self.last.isoformat()}


def day_range(context: dg.AssetExecutionContext) -> DayRange:
    """The days that this step materializes. A partition is one UTC day, so a range needs no time zone."""
    keys = context.partition_key_range
    return DayRange(dt.date.fromisoformat(keys.start), dt.date.fromisoformat(keys.end))
