"""What a program records: one value of one metric at one time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

import msgspec

from analytics_dagster.ingest.points import MetricType


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


# A Struct is made four times as fast as a dataclass, and a million of them cost the collector nothing.
class AnalyticsMetric(msgspec.Struct, frozen=True, gc=False):
    """One point. Made freely; what it says is checked when it is recorded.

    A `timestamp` without a zone is this machine's local time, as everywhere in Python; without one it is the moment of making.
    `tenant_id` None is the engine's own tenant: `default`, or the one that a server's key writes for. Label values are text;
    whole numbers, True and False are written as text.
    """

    name: str
    value: float
    timestamp: dt.datetime = msgspec.field(default_factory=_now)
    tenant_id: str | None = None
    metric_type: MetricType = MetricType.GAUGE
    labels: Mapping[str, str | int | bool] = msgspec.field(default_factory=dict)
