"""OTLP metrics over HTTP, protobuf and JSON: an `ExportMetricsServiceRequest` to points, and the answers that exporters expect.

A data point that cannot be taken costs itself alone: OTLP has partial success for it. Distributions become Prometheus' cumulative
series (`_bucket`, `_sum`, `_count`), resources become `job` and `instance`, as Prometheus translates OTLP.

Figures of a counter are its increase, so a counter that says when it started gets a point of 0 there: without it what was counted
before the first export would be lost. Every reader may add it anew, because the same point twice is one point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from analytics_dagster.ingest.points import (
    EARLIEST_US,
    Admission,
    MetricType,
    Parsed,
    Points,
    RefusedValueError,
    RowRefusal,
    check_name,
    check_time,
)
from analytics_dagster.ingest.wire.bodies import UnreadableBodyError
from analytics_dagster.ingest.wire.otlp_json import merge_json
from analytics_dagster.ingest.wire.per_writer import PerWriter
from analytics_dagster.ingest.wire.prometheus_labels import TENANT_LABEL, bound_text, metric_name, series_labels
from analytics_dagster.ingest.wire.refusals import note

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource

# opentelemetry.proto.metrics.v1: AggregationTemporality and DataPointFlags.
_CUMULATIVE, _NO_RECORDED_VALUE = 2, 1
_NAMED_REASONS = 3
_DELTA = (
    "is not of cumulative temporality; set the exporter's temporality preference to cumulative "
    "(OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=cumulative), or put the collector's deltatocumulative processor before it"
)

Pairs = tuple[tuple[str, str], ...]
_Known = dict[tuple[MetricType, str, Pairs, Pairs, Pairs], int]
"""The numbers of series by type, name, and the labels of resource, data point and bucket."""
_Start = tuple[int, int]
"""The number of a series, and when it began to count (µs since 1970)."""
# Tuples and texts of a remembered series beside its labels.
_BYTES_PER_KEY = 600
_BYTES_PER_START = 160


@dataclass
class _Memory:
    """What is remembered of one writer. `starts` are those whose 0 is stored; replaced, never emptied: requests hold it."""

    series: _Known = field(default_factory=dict)
    starts: set[_Start] = field(default_factory=set)

    def forget(self) -> None:
        self.series.clear()
        self.starts = set()


@dataclass(frozen=True)
class OtlpWritten:
    """The points of one request, and what partial success tells its sender: how many data points were not taken, and why.

    Whoever has stored the points says so with `stored`. Until then the reader begins the same counters with 0 again.
    """

    parsed: Parsed
    rejected: int
    message: str
    _starts: Collection[_Start] = ()
    _stored_starts: set[_Start] = field(default_factory=set)

    def stored(self) -> None:
        self._stored_starts.update(self._starts)


@dataclass
class _Rows:
    numbers: list[int] = field(default_factory=list)
    ts: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    refused: list[RowRefusal] = field(default_factory=list)
    data_points: int = 0


class OtlpReader:
    """Reads the requests of one process' exporters and remembers their series. For one thread at a time."""

    def __init__(self) -> None:
        self._writers: PerWriter[_Memory] = PerWriter(lambda _: _Memory(), _Memory.forget)

    def read(self, body: bytes, json: bool, admission: Admission, now_us: int) -> OtlpWritten:
        """The points of a request, as protobuf or in OTLP's JSON mapping. A data point without a time is of `now_us`.

        A refusal's index counts data points. Raises UnreadableBodyError for a body that is no request, ForeignTenantError when a
        resource or data point names a tenant of others.
        """
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # has no types of its own
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

        request = ExportMetricsServiceRequest()
        if json:
            merge_json(body, request)
        else:
            try:
                request.ParseFromString(body)
            except (DecodeError, RecursionError, ValueError) as error:
                raise UnreadableBodyError(f"the body is not an ExportMetricsServiceRequest: {error}") from None
        memory = self._writers.of(admission)
        reading = _Reading(admission, now_us, memory)
        for resource_metrics in request.resource_metrics:
            reading.resource = _resource_labels(resource_metrics.resource)
            for scope_metrics in resource_metrics.scope_metrics:
                for metric in scope_metrics.metrics:
                    reading.metric(metric)
        self._writers.charge(*reading.remembered)
        self._writers.charge(len(reading.starts), len(reading.starts) * _BYTES_PER_START)
        return _written(reading.rows, admission, reading.starts, memory.starts)


def success_answer(written: OtlpWritten, json: bool) -> bytes:
    """An `ExportMetricsServiceResponse`: empty for full success."""
    from google.protobuf.json_format import MessageToJson  # type: ignore[import-untyped]  # has no types of its own
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

    response = ExportMetricsServiceResponse()
    if written.rejected or written.message:
        response.partial_success.rejected_data_points = written.rejected
        response.partial_success.error_message = written.message
    if json:
        return str(MessageToJson(response, indent=None)).encode()
    return bytes(response.SerializeToString())


def error_answer(code: int, message: str, json: bool) -> bytes:
    """A `google.rpc.Status`: the body of every answer that is not 200. `code` is gRPC's."""
    if json:
        return msgspec.json.encode({"code": code, "message": message})
    # The message has two fields; its own package would be one more to install for this.
    text = message.encode()
    return b"".join((b"\x08", _varint(code), b"\x12", _varint(len(text)), text))


class _Reading:
    """One walk over one request."""

    def __init__(self, admission: Admission, now_us: int, memory: _Memory) -> None:
        self._admission = admission
        self._now_us = now_us
        self._known = memory.series
        self._stored_starts = memory.starts
        self._attributes: Pairs = ()
        self._start = 0
        self.starts: dict[_Start, None] = {}
        self.rows = _Rows()
        self.resource: Pairs = ()
        self.remembered = (0, 0)

    def metric(self, metric: Metric) -> None:
        kind = metric.WhichOneof("data")
        if kind == "gauge":
            self._numbers(metric, metric.gauge.data_points, MetricType.GAUGE)
        elif kind == "sum":
            monotonic = MetricType.COUNTER if metric.sum.is_monotonic else MetricType.GAUGE
            self._numbers(metric, metric.sum.data_points, monotonic, metric.sum.aggregation_temporality)
        elif kind == "histogram":
            self._each(metric, metric.histogram.data_points, self._histogram, metric.histogram.aggregation_temporality)
        elif kind == "exponential_histogram":
            distribution = metric.exponential_histogram
            self._each(metric, distribution.data_points, self._exponential, distribution.aggregation_temporality)
        elif kind == "summary":
            self._each(metric, metric.summary.data_points, self._summary)

    def _numbers(self, metric: Metric, points: Iterable[Any], kind: MetricType, temporality: int = _CUMULATIVE) -> None:
        def add(name: str, point: Any, ts: int) -> None:
            held = point.WhichOneof("value")
            if held is None:
                raise RefusedValueError(name, "", "has no value")
            self._add(kind, name, ts, float(point.as_int if held == "as_int" else point.as_double))

        self._each(metric, points, add, temporality)

    def _each(
        self, metric: Metric, points: Iterable[Any], add: Callable[[str, Any, int], None], temporality: int = _CUMULATIVE
    ) -> None:
        """`add` for each data point, with what it refuses noted."""
        rows = self.rows
        for point in points:
            index, before, starts_before = rows.data_points, len(rows.numbers), len(self.starts)
            rows.data_points += 1
            if point.flags & _NO_RECORDED_VALUE:
                continue
            self._attributes = _attributes(point.attributes)
            self._start = point.start_time_unix_nano // 1_000
            try:
                name = check_name(metric_name(metric.name))
                if temporality != _CUMULATIVE:
                    raise RefusedValueError("aggregation_temporality", metric.name, _DELTA)
                ts = point.time_unix_nano // 1_000 if point.time_unix_nano else self._now_us
                add(name, point, check_time(ts, self._admission.latest_us))
            except RefusedValueError as error:
                del rows.numbers[before:], rows.ts[before:], rows.values[before:]
                while len(self.starts) > starts_before:
                    self.starts.popitem()
                original = f"{metric.name} {dict(self._attributes)}"[:1_000].encode(errors="replace")
                note(rows.refused, RowRefusal(index, error.field, error.value, error.reason, original))

    def _add(self, kind: MetricType, name: str, ts: int, value: float, *more: tuple[str, str]) -> None:
        """A point of the data point that is being read."""
        if not math.isfinite(value):
            raise RefusedValueError(name, value, "is no finite number")
        key = (kind, name, self.resource, self._attributes, more)
        number = self._known.get(key)
        if number is None:
            # A data point's own attributes win over its resource's.
            pairs = {**dict(self.resource), **dict(self._attributes), **dict(more)}
            tenant, labels = series_labels(pairs.items(), self._admission.scope)
            number = self._known[key] = self._admission.table.number(tenant, kind, check_name(name), labels)
            self.remembered = (self.remembered[0] + 1, self.remembered[1] + 2 * len(labels) + _BYTES_PER_KEY)
        if kind is MetricType.COUNTER and EARLIEST_US <= self._start < ts:
            self._begin(number, self._start)
        self._append(number, ts, value)

    def _begin(self, number: int, start: int) -> None:
        """A 0 where a counter began to count, unless it is there already. A restarted process has another start."""
        key = (number, start)
        if key not in self._stored_starts and key not in self.starts:
            self.starts[key] = None
            self._append(number, start, 0.0)

    def _append(self, number: int, ts: int, value: float) -> None:
        self.rows.numbers.append(number)
        self.rows.ts.append(ts)
        self.rows.values.append(value)

    def _sum_and_count(self, name: str, point: Any, ts: int, *, with_sum: bool) -> None:
        self._add(MetricType.COUNTER, f"{name}_count", ts, float(point.count))
        if with_sum:
            self._add(MetricType.COUNTER, f"{name}_sum", ts, point.sum)

    def _histogram(self, name: str, point: Any, ts: int) -> None:
        bounds, counts = point.explicit_bounds, point.bucket_counts
        if counts and len(counts) != len(bounds) + 1:
            raise RefusedValueError(
                name, len(counts), f"are its bucket counts, where its {len(bounds)} bounds make {len(bounds) + 1}"
            )
        if any(later <= earlier for earlier, later in pairwise(bounds)):
            raise RefusedValueError(name, list(bounds)[:10], "are its bounds, which must rise")
        self._sum_and_count(name, point, ts, with_sum=point.HasField("sum"))
        cumulative = 0
        for bound, count in zip(bounds, counts, strict=False):
            cumulative += count
            self._add(MetricType.COUNTER, f"{name}_bucket", ts, float(cumulative), ("le", bound_text(bound)))
        self._add(MetricType.COUNTER, f"{name}_bucket", ts, float(point.count), ("le", "+Inf"))

    def _exponential(self, name: str, point: Any, ts: int) -> None:
        # Its buckets come and go with its scale, and a cumulative count over moving bounds is no counter.
        self._sum_and_count(name, point, ts, with_sum=point.HasField("sum"))

    def _summary(self, name: str, point: Any, ts: int) -> None:
        self._sum_and_count(name, point, ts, with_sum=True)
        for quantile in point.quantile_values:
            if not math.isnan(quantile.value):
                self._add(MetricType.GAUGE, name, ts, quantile.value, ("quantile", bound_text(quantile.quantile)))


def _resource_labels(resource: Resource) -> Pairs:
    """`job` and `instance` as Prometheus makes them, and the tenant. The other attributes describe the sender, not the figure."""
    attributes = dict(_attributes(resource.attributes))
    labels: list[tuple[str, str]] = []
    if service := attributes.get("service.name"):
        namespace = attributes.get("service.namespace")
        labels.append(("job", f"{namespace}/{service}" if namespace else service))
    if instance := attributes.get("service.instance.id"):
        labels.append(("instance", instance))
    if TENANT_LABEL in attributes:
        labels.append((TENANT_LABEL, attributes[TENANT_LABEL]))
    return tuple(labels)


def _attributes(attributes: Iterable[KeyValue]) -> Pairs:
    return tuple([(each.key, _text(each.value)) for each in attributes])


def _text(value: AnyValue) -> str:
    """An attribute's value as a label's: texts as they are, anything nested as JSON, as Prometheus does."""
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return str(value.string_value)
    if kind == "bool_value":
        return "true" if value.bool_value else "false"
    if kind == "int_value":
        return str(value.int_value)
    return "" if kind is None else msgspec.json.encode(_plain(value)).decode()


def _plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(each) for each in value.array_value.values]
    if kind == "kvlist_value":
        return {each.key: _plain(each.value) for each in value.kvlist_value.values}
    return getattr(value, kind) if kind else None


def _written(rows: _Rows, admission: Admission, starts: Collection[_Start], stored_starts: set[_Start]) -> OtlpWritten:
    points = Points(
        admission.table,
        np.array(rows.numbers, dtype=np.int32),
        np.array(rows.ts, dtype=np.int64),
        np.array(rows.values, dtype=np.float64),
    )
    return OtlpWritten(Parsed(points, rows.refused), len(rows.refused), _message(rows.refused), starts, stored_starts)


def _message(refused: Sequence[RowRefusal]) -> str:
    """The first few different reasons, in a sentence each."""
    reasons = dict.fromkeys(f"{refusal.field} {refusal.value!r} {refusal.reason}" for refusal in refused)
    named = list(reasons)[:_NAMED_REASONS]
    more = len(reasons) - len(named)
    return "; ".join(named) + (f"; and {more} other reasons" if more else "")


def _varint(value: int) -> bytes:
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
