"""Names and labels of clients that cannot be told our grammar (Prometheus, OpenTelemetry, InfluxDB, StatsD) brought into it.

Prometheus' own conventions: what a name may not hold becomes `_`, a label that is reserved here becomes `exported_<label>`, and
labels that become one are joined with `;` in the order of the names that they had.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from analytics_dagster.ingest.points import MetricType, RefusedValueError, WriteScope, canonical_labels, is_reserved

TENANT_LABEL = "tenant_id"
_NOT_IN_A_LABEL = re.compile(r"[^a-zA-Z0-9_]")
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_:]+")
_COUNTER_ENDINGS = ("_total", "_count", "_sum", "_bucket")


@lru_cache(maxsize=16_384)
def label_key(name: str) -> str:
    """A label's key from any text but the empty one; never a reserved key."""
    key = _NOT_IN_A_LABEL.sub("_", name)
    if key[:1].isdigit():
        key = f"key_{key}"
    while is_reserved(key):
        key = f"exported_{key}"
    return key


def metric_name(name: str) -> str:
    """A metric's name that can stand in a rule's query: runs of other characters than letters, digits, `_` and `:` become `_`.

    `http.server.duration` is `http_server_duration`. The empty text stays empty, for check_name to refuse.
    """
    made = _NOT_IN_A_NAME.sub("_", name)
    # As Prometheus' translation of OTLP names does: separators at the ends of a name separate nothing.
    made = made[_NOT_IN_A_NAME.match(name) is not None :]
    if made.endswith("_") and _NOT_IN_A_NAME.fullmatch(name[-1:]):
        made = made[:-1]
    return f"_{made}" if made[:1].isdigit() else made


def series_labels(pairs: Iterable[tuple[str, str]], scope: WriteScope) -> tuple[str, str]:
    """The tenant and the canonical labels of a series. A label `tenant_id` names the tenant and is taken out.

    Raises ForeignTenantError, and RefusedValueError for a key or value that cannot be taken.
    """
    tenant: str | None = None
    labels: dict[str, str] = {}
    for name, value in sorted(pairs):
        if name == TENANT_LABEL:
            tenant = value
            continue
        if not name:
            raise RefusedValueError("labels", name, "is a label without a name")
        key = label_key(name)
        if key in labels:
            value = f"{labels[key]};{value}"
        labels[key] = value
    return scope.resolve(tenant), canonical_labels(labels)


def type_by_name(name: str) -> MetricType:
    """What a metric of Prometheus is when nobody says: a counter by the endings that counters have, otherwise a gauge."""
    return MetricType.COUNTER if name.endswith(_COUNTER_ENDINGS) else MetricType.GAUGE


def bound_text(bound: float) -> str:
    """A bucket's upper bound, or a quantile, as Prometheus writes it in a label: 0.5, 1, +Inf."""
    if bound == float("inf"):
        return "+Inf"
    text = repr(bound)
    return text.removesuffix(".0")
