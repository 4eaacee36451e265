"""What Prometheus' metadata says about metric families, and the type of a series that follows from it.

Metadata comes in requests of its own about once a minute, so it is remembered; until it has come, the name's ending decides.
"""

from __future__ import annotations

import threading

from analytics_dagster.ingest.points import MetricType, WriteScope
from analytics_dagster.ingest.wire.per_writer import MAX_WRITERS
from analytics_dagster.ingest.wire.prometheus_labels import type_by_name
from analytics_dagster.ingest.wire.protobuf_fields import LEN, VARINT, expect, fields, text

# A Prometheus with 10,000 targets of all kinds knows some 10,000 families.
MAX_FAMILIES = 50_000
_COUNTER, _GAUGE, _HISTOGRAM, _GAUGE_HISTOGRAM, _SUMMARY, _INFO, _STATE_SET = range(1, 8)
_PARTS = ("_total", "_bucket", "_count", "_sum", "_gcount", "_gsum", "_created")

_OF_FAMILY = {
    _COUNTER: {"_total": MetricType.COUNTER},
    _HISTOGRAM: dict.fromkeys(("_bucket", "_count", "_sum"), MetricType.COUNTER),
    _SUMMARY: dict.fromkeys(("_count", "_sum"), MetricType.COUNTER),
    _GAUGE_HISTOGRAM: dict.fromkeys(("_bucket", "_gcount", "_gsum", "_count", "_sum"), MetricType.GAUGE),
}


class MetricFamilies:
    """The kinds of one sender's families. Any thread may ask and learn; `changes` counts what was new."""

    def __init__(self) -> None:
        self._kinds: dict[str, int] = {}
        self._learning = threading.Lock()
        self.changes = 0

    def learn(self, body: bytes, at: int, end: int) -> bool:
        """Remember a `MetricMetadata` message; whether it said something new. Raises UnreadableBodyError."""
        kind, family = 0, ""
        for number, wire, start, stop in fields(body, at, end):
            if number == 1:
                expect(wire, VARINT, "a metric's type", at)
                kind = start
            elif number == 2:
                expect(wire, LEN, "a metric family's name", at)
                family = text(body, start, stop, "a metric family's name")
        if not _COUNTER <= kind <= _STATE_SET or self._kinds.get(family) == kind:
            return False
        if family not in self._kinds and len(self._kinds) >= MAX_FAMILIES:
            return False
        with self._learning:
            self._kinds[family] = kind
            # After what is new: who has seen the count knows it.
            self.changes += 1
        return True

    def type_of(self, name: str) -> MetricType:
        """The type of a series named `name`: its family's, or that of the part that it is of a family."""
        kind = self._kinds.get(name)
        if kind is not None:
            return MetricType.COUNTER if kind == _COUNTER else MetricType.GAUGE
        for part in _PARTS:
            if name.endswith(part):
                found = _OF_FAMILY.get(self._kinds.get(name.removesuffix(part), 0), {}).get(part)
                return found or type_by_name(name)
        return type_by_name(name)


class FamiliesOfWriters:
    """Each writer's families, for all the readers of a process: metadata comes in other requests than the samples it is about."""

    def __init__(self) -> None:
        self._families: dict[WriteScope, MetricFamilies] = {}
        self._adding = threading.Lock()

    def of(self, scope: WriteScope) -> MetricFamilies:
        with self._adding:
            if len(self._families) >= MAX_WRITERS and scope not in self._families:
                self._families.clear()
            return self._families.setdefault(scope, MetricFamilies())
