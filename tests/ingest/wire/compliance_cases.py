"""The receiver cases of prometheus/compliance (folder remotewrite/receiver), written anew for remote write 1.0 and with what must
be read back.

The suite speaks remote write 2.0, whose messages this receiver does not take (415); of each case what it is about is kept: the
series, values, exemplars, metadata and histograms that are sent, and whether they must be taken. What 1.0 has no field for
(created timestamps) is sent as 1.x senders do: as a `_created` series.

| case of the suite | here |
|---|---|
| BadContentTypes, BadContentEncodings, CorruptRequestBody, RW1ErrorHandling | over HTTP only: status 415, 415, 400, 400 |
| SingleMetric, MultipleMetrics | each with 1, NaN, stale NaN, +Inf, -Inf; the last four are taken and nothing is kept of them |
| MultipleMetrics, ExemplarValidation, MetadataValidation: no name | 400; the good series of the request are told apart |
| Exemplars and all with exemplars | taken, the exemplars are not kept |
| Metadata and all with metadata | taken, kinds become types |
| Histograms and all with histograms | read back as `_count` and `_sum`, with custom buckets also as `_bucket` |
| CreatedTimestamp (4 cases) | `_created` is read back as a gauge |
| EdgeCaseCombinations | metadata alone and exemplars alone are no error |
| RW1BasicCompatibility | as it stands |
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.ingest.wire.arrivals import NOW_MS

STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
COUNTER, GAUGE, HISTOGRAM, GAUGE_HISTOGRAM, SUMMARY, INFO, STATE_SET = range(1, 8)
Labels = dict[str, str]
HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Case:
    """`kept` is what must be read back: (metric, type, labels, value) for each point; `refused` how many series are refused."""

    suite: str
    title: str
    series: tuple[dict[str, Any], ...]
    kept: tuple[tuple[str, str, Labels, float], ...]
    metadata: tuple[dict[str, Any], ...] = ()
    refused: int = 0

    def __str__(self) -> str:
        return f"{self.suite}: {self.title}" if self.title else self.suite


@dataclass
class _Building:
    suite: str
    title: str = ""
    series: list[dict[str, Any]] = field(default_factory=list)
    kept: list[tuple[str, str, Labels, float]] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    refused: int = 0

    def sample(
        self,
        name: str | None,
        value: float = 1.0,
        kind: str = "gauge",
        *,
        ago_ms: int = 0,
        trace: Labels | None = None,
        **labels: str,
    ) -> _Building:
        """A series of one sample, with an exemplar when `trace` is given."""
        return self.labelled({**({} if name is None else {"__name__": name}), **labels}, value, kind, ago_ms=ago_ms, trace=trace)

    def labelled(
        self, labels: Labels, value: float, kind: str = "gauge", *, ago_ms: int = 0, trace: Labels | None = None
    ) -> _Building:
        self.series.append({"labels": labels, "samples": [(value, NOW_MS - ago_ms)], "exemplars": _exemplars(trace, value)})
        if not labels.get("__name__"):
            self.refused += 1
        elif math.isfinite(value):
            self.keep(labels["__name__"], kind, labels, value)
        return self

    def keep(self, name: str, kind: str, labels: Labels, value: float) -> None:
        shown = {key.replace(".", "_").replace(" ", "_"): text for key, text in labels.items() if key != "__name__"}
        self.kept.append((name, kind, shown, value))

    def histogram(self, name: str, total: float, *parts: str, trace: Labels | None = None, **labels: str) -> _Building:
        made = histogram(total, *parts)
        self.series.append({"labels": {"__name__": name, **labels}, "histograms": [made], "exemplars": _exemplars(trace, total)})
        if "bad count" in parts:
            self.refused += 1
            return self
        self.keep(f"{name}_count", "counter", labels, float(made["count_int"]))
        self.keep(f"{name}_sum", "counter", labels, total)
        if "custom" in parts:
            for bound, count in zip(("0.1", "0.5", "1", "2.5", "5", "10", "+Inf"), (2, 5, 10, 18, 25, 30, 30), strict=True):
                self.keep(f"{name}_bucket", "counter", {**labels, "le": bound}, float(count))
        return self

    def says(self, family: str, kind: int, text: str = "what it is", unit: str = "") -> _Building:
        self.metadata.append({"type": kind, "metric_family_name": family, "help": text, "unit": unit})
        return self

    def case(self) -> Case:
        return Case(self.suite, self.title, tuple(self.series), tuple(self.kept), tuple(self.metadata), self.refused)


def _exemplars(trace: Labels | None, value: float) -> list[dict[str, Any]]:
    if trace is None:
        return []
    return [{"labels": [{"name": key, "value": text} for key, text in trace.items()], "value": value, "timestamp": NOW_MS}]


def histogram(total: float, *parts: str) -> dict[str, Any]:
    """A native histogram of the named parts, with a count that fits them unless `bad count` is one."""
    made: dict[str, Any] = {"sum": total, "timestamp": NOW_MS, "count_int": 0}
    if "positive" in parts:
        made |= {"positive_spans": [{"offset": 0, "length": 3}, {"offset": 2, "length": 2}], "positive_deltas": [1, 2, 1, 3, 1]}
        made["count_int"] += 1 + 3 + 4 + 7 + 8
    if "negative" in parts:
        made |= {"negative_spans": [{"offset": 0, "length": 2}], "negative_deltas": [1, 1]}
        made["count_int"] += 1 + 2
    if "zero" in parts:
        made |= {"zero_count_int": 1}
        made["count_int"] += 1
    if "custom" in parts:
        made |= {"schema": -53, "custom_values": [0.1, 0.5, 1.0, 2.5, 5.0, 10.0], "positive_spans": [{"offset": 0, "length": 6}]}
        made |= {"positive_deltas": [2, 1, 2, 3, -1, -2], "count_int": 2 + 3 + 5 + 8 + 7 + 5}
    if "bad count" in parts:
        made["count_int"] = 99
    return made


def _samples() -> Iterator[_Building]:
    up = {"__name__": "up", "job": "testjob", "instance": "localhost:9090"}
    for name, value in {"1": 1.0, "stale": STALE, "NaN": math.nan, "Inf": math.inf, "-Inf": -math.inf}.items():
        for title, labels in {
            "plain": {"__name__": "up"},
            "several labels": up,
            "newlines": {"__name__": "up", "job": "test\njob\n", "instance": "localhost:9090"},
            "dots": {"__name__": "resource.cpu.usage", "job.name": "testjob", "instance.name": "localhost:9090"},
            "spaces": {"__name__": "resource cpu usage", "job name": "testjob", "instance name": "localhost:9090"},
            "no name": {"job": "testjob", "instance": "localhost:9090"},
            "empty": {},
        }.items():
            yield _Building("SingleMetric", f"{title}, {name}").labelled(labels, value)
        several = [{**up, "instance": f"localhost:909{n}"} for n in range(4)]
        nameless = [{key: text for key, text in labels.items() if key != "__name__"} for labels in several]
        for title, all_labels in {
            "all named": several,
            "none named": nameless,
            "one not named": [nameless[0], *several[1:]],
        }.items():
            made = _Building("MultipleMetrics", f"{title}, {name}")
            for labels in all_labels:
                made.labelled(labels, value)
            yield made
    for suite in ("CounterWithCreatedTimestamp", "CounterMetadataWithCreatedTimestamp", "ExemplarWithCreatedTimestamp"):
        trace = {"trace_id": "abc123"} if suite.startswith("Exemplar") else None
        made = _Building(suite).sample("http_requests_total", 150.0, "counter", job="api", trace=trace)
        made.sample("http_requests_created", (NOW_MS - HOUR_MS) / 1_000, "gauge", job="api")
        yield made.says("http_requests_total", COUNTER) if "Metadata" in suite else made


def _exemplar_cases() -> Iterator[_Building]:
    for title, trace in {
        "basic": {"trace_id": "abc123def456"},
        "span": {"trace_id": "xyz789", "span_id": "span123"},
        "no trace": {"user_id": "user123"},
        "several": {"trace_id": "trace456", "user": "admin", "endpoint": "/login"},
        "no labels": {},
        "special": {"trace_id": "trace-with-dashes_and_underscores.123"},
        "unicode": {"trace_id": "unicode_trace_测试"},
    }.items():
        yield _Building("Exemplars", title).sample("request_latency", 0.05, trace=trace, region="🌍")
    made = _Building("MultipleExemplars")
    for n, method in enumerate(("GET", "POST", "PUT")):
        made.sample("request_duration", 0.1 * n, trace={"trace_id": f"trace{n}"}, method=method)
    yield made
    made = _Building("ExemplarTimestamps")
    for ago, value in ((HOUR_MS, 0.05), (60_000, 0.15), (0, 0.08)):
        made.sample("latency_hist", value, ago_ms=ago, trace={"trace_id": f"{ago} ago"})
    yield made
    for title, name in {"no name": None, "empty name": "", "valid name": "valid_metric"}.items():
        yield _Building("ExemplarValidation", title).sample(name, trace={"trace_id": "test"})
    for value in (0.0, -123.456, 1e10, 1e-10, math.nan, math.inf, -math.inf):
        yield _Building("ExemplarSpecialValues", str(value)).sample("test_metric", value, trace={"trace_id": "special"})


def _metadata_cases() -> Iterator[_Building]:
    for title, name, kind, type_, text in (
        ("counter", "http_requests_total", COUNTER, "counter", "Total"),
        ("counter without the ending", "simple_counter", COUNTER, "counter", ""),
        ("gauge", "cpu_usage_percent", GAUGE, "gauge", "Current"),
        ("special characters", "test_metric", GAUGE, "gauge", 'with\nnewlines and "quotes"'),
        ("unspecified", "unknown_metric", 0, "gauge", "Unknown"),
        ("info", "build_info", INFO, "gauge", "Build"),
        ("state set", "node_state", STATE_SET, "gauge", "State"),
        ("summary", "request_latency_summary", SUMMARY, "gauge", "Latency"),
        ("gauge histogram", "temperature_histogram", GAUGE_HISTOGRAM, "gauge", "Temperature"),
    ):
        yield _Building("Metadata", title).sample(name, 1.0, type_).says(name, kind, text, "bytes/sec")
    yield (
        _Building("Metadata", "histogram")
        .histogram("request_duration_seconds", 1.0, "positive", "negative", "zero")
        .says("request_duration_seconds", HISTOGRAM)
    )
    yield (
        _Building("MetadataWithSamples")
        .sample("http_requests_total", 42.0, "counter", job="test")
        .says("http_requests_total", COUNTER)
    )
    made = _Building("MultipleMetadata")
    for name, value in (("cpu_usage", 85.5), ("memory_usage", 4_096_000_000.0), ("disk_usage", 75.2)):
        made.sample(name, value).says(name, GAUGE)
    yield made
    yield (
        _Building("MetadataWithComplexLabels")
        .histogram(
            "http_request_duration_seconds",
            0.25,
            "positive",
            "negative",
            "zero",
            method="GET",
            status="200",
            endpoint="/api/v1/users",
        )
        .says("http_request_duration_seconds", HISTOGRAM)
    )
    for title, name in {"no name": None, "empty name": "", "valid name": "valid_metric_name"}.items():
        kind = "counter" if name == "valid_metric_name" else "gauge"
        yield _Building("MetadataValidation", title).sample(name, 1.0, kind).says(name or "", COUNTER)


def _histogram_cases() -> Iterator[_Building]:
    for parts in (
        ("positive", "negative", "zero"),
        ("custom",),
        ("positive", "zero"),
        ("negative",),
        ("zero",),
        ("positive", "bad count"),
    ):
        yield _Building("Histograms", " and ".join(parts)).histogram("test_histogram", 1.0, *parts, job="test")
    yield (
        _Building("HistogramWithCreatedTimestamp")
        .histogram("request_duration_seconds", 1.5, "positive", "negative", "zero", job="api")
        .sample("request_duration_seconds_created", (NOW_MS - HOUR_MS) / 1_000, job="api")
    )
    yield _Building("MultipleHistograms").histogram("hist1", 10.5, "positive", "zero").histogram("hist2", 5.2, "negative")
    yield _Building("EmptyHistogram").histogram("empty_hist", 0.0)
    trace = {"trace_id": "abc123def456", "span_id": "span789"}
    for suite in (
        "HistogramWithMetadata",
        "HistogramWithExemplar",
        "HistogramWithMetadataAndExemplar",
        "HistogramsWithMetadataAndExemplars",
    ):
        made = _Building(suite).histogram(
            "request_duration_seconds",
            2.5,
            "positive",
            "negative",
            "zero",
            service="auth",
            trace=trace if "Exemplar" in suite else None,
        )
        yield made.says("request_duration_seconds", HISTOGRAM) if "Metadata" in suite else made
    for suite in ("MultipleHistogramsWithMetadata", "ComplexHistogramsRequest"):
        made = _Building(suite)
        for name, value, part in (("response_time_hist", 0.125, "positive"), ("request_size_hist", 1024.0, "negative")):
            made.histogram(name, value, part, "zero", trace=trace if "Complex" in suite else None).says(name, HISTOGRAM)
        yield made
    yield (
        _Building("MultipleMetricFamiliesHistograms")
        .histogram("request_duration_seconds", 0.003, "positive", "zero", trace=trace, handler="/metrics")
        .says("request_duration_seconds", HISTOGRAM)
    )
    yield _Building("CustomBucketsHistogramWithExemplar").histogram(
        "custom_latency_hist", 0.05, "custom", trace=trace, version="v2"
    )
    made = _Building("ManyHistograms")
    for n in range(50):
        parts = ("positive", "zero", "negative") if n % 2 == 0 else ("positive", "zero")
        made.histogram(f"histogram_metric_{n}", n / 10, *parts, trace=trace, bucket=f"bucket_{n}").says(
            f"histogram_metric_{n}", HISTOGRAM
        )
    yield made


def _combined_cases() -> Iterator[_Building]:
    trace = {"trace_id": "request_trace_123"}
    yield (
        _Building("SamplesWithMetadataAndExemplars")
        .sample("http_requests_total", 1.0, "counter", trace=trace, method="POST")
        .says("http_requests_total", COUNTER)
    )
    yield (
        _Building("ComplexSamplesRequest")
        .sample("cpu_usage", 0.85, trace=trace, instance="server1")
        .sample("memory_usage", 8_589_934_592.0, instance="server1")
        .says("cpu_usage", GAUGE)
        .says("memory_usage", GAUGE)
    )
    yield (
        _Building("MultipleMetricFamiliesSamples")
        .sample("http_requests_total", 1000.0, "counter", trace=trace, status="200")
        .sample("temperature_celsius", 23.5, location="datacenter1")
        .says("http_requests_total", COUNTER)
        .says("temperature_celsius", GAUGE)
    )
    yield _Building("EdgeCaseCombinations", "metadata without data").says("orphan_metric", COUNTER)
    alone = _Building("EdgeCaseCombinations", "exemplars without data")
    alone.series.append({"labels": {"__name__": "orphan_metric"}, "exemplars": _exemplars(trace, 42.0)})
    yield alone
    yield (
        _Building("EdgeCaseCombinations", "mixed times")
        .sample("old_metric", 1.0, ago_ms=HOUR_MS, trace=trace)
        .sample("new_metric", 2.0)
    )
    made = _Building("ManySamples")
    for n in range(50):
        made.sample(f"counter_metric_{n}", n * 100.0, "counter", trace=trace, series=f"series_{n}").says(
            f"counter_metric_{n}", COUNTER
        )
    yield made
    yield (
        _Building("SpecialCharactersCombined")
        .sample(
            "test_metric",
            42.0,
            trace={"trace_id": "special_trace_äöü-123"},
            job="test-job_with.special@chars",
            environment="test🚀",
        )
        .says("test_metric", GAUGE, 'special characters: äöü, newlines\nand "quotes"', "special/units")
    )
    yield (
        _Building("RW1BasicCompatibility")
        .sample("up", 1.0, job="testjob", instance="localhost:9090")
        .sample("http_requests_total", 100.0, "counter")
    )


def _all() -> Iterator[_Building]:
    yield from _samples()
    yield from _exemplar_cases()
    yield from _metadata_cases()
    yield from _histogram_cases()
    yield from _combined_cases()


CASES = [made.case() for made in _all()]
OVER_HTTP_ONLY = ("BadContentTypes", "BadContentEncodings", "CorruptRequestBody", "RW1ErrorHandling")
