from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToJson, ParseDict
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest, ExportMetricsServiceResponse

from analytics_dagster.errors import ForeignTenantError
from analytics_dagster.ingest.points import Admission
from analytics_dagster.ingest.wire.bodies import UnreadableBodyError
from analytics_dagster.ingest.wire.otlp import OtlpReader, OtlpWritten, error_answer, success_answer
from tests.ingest.wire.arrivals import LATEST_US, NOW_US, Row, admission, rows

NS = NOW_US * 1_000
CUMULATIVE, DELTA = "AGGREGATION_TEMPORALITY_CUMULATIVE", "AGGREGATION_TEMPORALITY_DELTA"


def attributes(**values: Any) -> list[dict[str, Any]]:
    kinds = {str: "stringValue", bool: "boolValue", int: "intValue", float: "doubleValue"}
    return [{"key": key.replace("__", "."), "value": {kinds[type(value)]: value}} for key, value in values.items()]


def request(*metrics: dict[str, Any], **resource: Any) -> dict[str, Any]:
    return {
        "resourceMetrics": [{"resource": {"attributes": attributes(**resource)}, "scopeMetrics": [{"metrics": list(metrics)}]}]
    }


def gauge(name: str, value: float = 1.0, **labels: Any) -> dict[str, Any]:
    return {
        "name": name,
        "gauge": {"dataPoints": [{"timeUnixNano": str(NS), "asDouble": value, "attributes": attributes(**labels)}]},
    }


def total(name: str, value: int = 7, *, monotonic: bool = True, temporality: str = CUMULATIVE) -> dict[str, Any]:
    point = {"timeUnixNano": str(NS), "startTimeUnixNano": str(NS - 10**12), "asInt": str(value)}
    return {"name": name, "sum": {"dataPoints": [point], "isMonotonic": monotonic, "aggregationTemporality": temporality}}


def histogram(name: str, temporality: str = CUMULATIVE, **more: Any) -> dict[str, Any]:
    point = {
        "timeUnixNano": str(NS),
        "count": "6",
        "sum": 3.5,
        "explicitBounds": [0.1, 1.0],
        "bucketCounts": ["1", "2", "3"],
        **more,
    }
    return {"name": name, "unit": "s", "histogram": {"dataPoints": [point], "aggregationTemporality": temporality}}


def taken(document: dict[str, Any], *, tenants: tuple[str, ...] = ("acme",)) -> OtlpWritten:
    """Through JSON and through protobuf, which must agree."""
    body = json.dumps(document).encode()
    from_json = OtlpReader().read(body, True, admission("acme", *tenants), NOW_US)
    message = ExportMetricsServiceRequest()
    ParseDict(without_exemplars(document), message)
    from_protobuf = OtlpReader().read(message.SerializeToString(), False, admission("acme", *tenants), NOW_US)
    assert rows(from_json.parsed.points) == rows(from_protobuf.parsed.points)
    assert (from_json.rejected, from_json.message) == (from_protobuf.rejected, from_protobuf.message)
    return from_protobuf


def without_exemplars(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_exemplars(each) for key, each in value.items() if key != "exemplars"}
    return [without_exemplars(each) for each in value] if isinstance(value, list) else value


def figures(document: dict[str, Any]) -> dict[tuple[str, str, str], float]:
    got = taken(document)
    assert (got.rejected, got.message) == (0, "")
    return {
        (row.name, row.type, row.labels.get("le", row.labels.get("quantile", ""))): row.value for row in rows(got.parsed.points)
    }


def test_a_gauge_is_a_point_of_its_service() -> None:
    service = {"service__name": "api", "service__namespace": "shop", "service__instance__id": "i-1", "host__name": "left.out"}
    got = taken(request(gauge("queue.depth", 2.5, region="eu", http__code=200, ok=True, ratio=0.5), **service))

    labels = {"job": "shop/api", "instance": "i-1", "region": "eu", "http_code": "200", "ok": "true", "ratio": "0.5"}
    assert rows(got.parsed.points) == [Row("acme", "gauge", "queue_depth", labels, NOW_US, 2.5)]


@pytest.mark.parametrize(("monotonic", "kind"), [(True, "counter"), (False, "gauge")])
def test_a_cumulative_sum_is_a_counter_if_it_only_rises(monotonic: bool, kind: str) -> None:
    assert figures(request(total("requests", monotonic=monotonic))) == {("requests", kind, ""): 7.0}


START_US = NOW_US - 10**9


def counted(
    reader: OtlpReader, made: dict[str, Any], admitted: Admission, *, stored: bool = True
) -> list[tuple[str, int, float]]:
    written = reader.read(json.dumps(request(made)).encode(), True, admitted, NOW_US)
    if stored:
        written.stored()
    return [(row.name, row.ts, row.value) for row in rows(written.parsed.points)]


def starting(made: dict[str, Any], start_ns: int) -> dict[str, Any]:
    kind = next(key for key in made if key in ("sum", "histogram", "exponentialHistogram", "summary"))
    made[kind]["dataPoints"][0]["startTimeUnixNano"] = str(start_ns)
    return made


def test_a_counter_begins_with_0_where_it_started_once_for_each_start() -> None:
    reader, admitted = OtlpReader(), admission()
    first, again = counted(reader, total("c"), admitted), counted(reader, total("c", 9), admitted)
    restarted = counted(reader, starting(total("c", 2), NS - 10**9), admitted)

    assert first == [("c", START_US, 0.0), ("c", NOW_US, 7.0)]
    assert again == [("c", NOW_US, 9.0)]
    assert restarted == [("c", NOW_US - 10**6, 0.0), ("c", NOW_US, 2.0)]
    # Another process' reader, or one that forgot: the same point, which is one point.
    assert counted(reader, total("c"), admission()) == first


def test_the_0_comes_again_until_it_is_stored() -> None:
    reader, admitted = OtlpReader(), admission()
    refused = counted(reader, total("c"), admitted, stored=False)

    assert refused == counted(reader, total("c"), admitted) == [("c", START_US, 0.0), ("c", NOW_US, 7.0)]
    bad = starting(histogram("h", sum="NaN"), NS - 10**12)
    good = starting(histogram("h"), NS - 10**12)
    assert counted(reader, bad, admitted) == []
    assert sorted(counted(reader, good, admitted)) == sorted(
        [(name, START_US, 0.0) for name in ("h_count", "h_sum", "h_bucket", "h_bucket", "h_bucket")]
        + [("h_count", NOW_US, 6.0), ("h_sum", NOW_US, 3.5), *[("h_bucket", NOW_US, float(n)) for n in (1, 3, 6)]]
    )


@pytest.mark.parametrize("start_ns", [0, 10**9, NS, NS + 10**9, 2**64 - 1])
def test_a_start_that_is_unknown_too_old_or_not_before_the_point_makes_no_0(start_ns: int) -> None:
    assert counted(OtlpReader(), starting(total("c"), start_ns), admission()) == [("c", NOW_US, 7.0)]


def test_only_counters_begin_with_0() -> None:
    point = {"timeUnixNano": str(NS), "count": "3", "sum": 1.5, "quantileValues": [{"quantile": 0.5, "value": 0.4}]}
    summary = starting({"name": "s", "summary": {"dataPoints": [point]}}, NS - 10**12)

    assert counted(OtlpReader(), total("g", monotonic=False), admission()) == [("g", NOW_US, 7.0)]
    assert counted(OtlpReader(), summary, admission()) == [
        ("s_count", START_US, 0.0),
        ("s_count", NOW_US, 3.0),
        ("s_sum", START_US, 0.0),
        ("s_sum", NOW_US, 1.5),
        ("s", NOW_US, 0.4),
    ]


def test_a_histogram_becomes_cumulative_buckets_sum_and_count() -> None:
    assert figures(request(histogram("http.server.duration"))) == {
        ("http_server_duration_count", "counter", ""): 6.0,
        ("http_server_duration_sum", "counter", ""): 3.5,
        ("http_server_duration_bucket", "counter", "0.1"): 1.0,
        ("http_server_duration_bucket", "counter", "1"): 3.0,
        ("http_server_duration_bucket", "counter", "+Inf"): 6.0,
    }


def test_a_histogram_without_sum_or_buckets_is_its_count() -> None:
    bare = histogram("h")
    del bare["histogram"]["dataPoints"][0]["sum"]
    bare["histogram"]["dataPoints"][0] |= {"explicitBounds": [], "bucketCounts": []}

    assert figures(request(bare)) == {("h_count", "counter", ""): 6.0, ("h_bucket", "counter", "+Inf"): 6.0}


def test_an_exponential_histogram_becomes_sum_and_count() -> None:
    point = {"timeUnixNano": str(NS), "count": "3", "sum": 1.5, "scale": 2, "positive": {"offset": 1, "bucketCounts": ["1", "2"]}}
    made = {"name": "e", "exponentialHistogram": {"dataPoints": [point], "aggregationTemporality": CUMULATIVE}}

    assert figures(request(made)) == {("e_count", "counter", ""): 3.0, ("e_sum", "counter", ""): 1.5}


def test_a_summary_becomes_quantiles_sum_and_count() -> None:
    point = {
        "timeUnixNano": str(NS),
        "count": "3",
        "sum": 1.5,
        "quantileValues": [{"quantile": 0.5, "value": 0.4}, {"quantile": 1, "value": 1}],
    }

    assert figures(request({"name": "s", "summary": {"dataPoints": [point]}})) == {
        ("s_count", "counter", ""): 3.0,
        ("s_sum", "counter", ""): 1.5,
        ("s", "gauge", "0.5"): 0.4,
        ("s", "gauge", "1"): 1.0,
    }


@pytest.mark.parametrize(
    "made", [total("d", temporality=DELTA), histogram("d", DELTA), total("d", temporality="AGGREGATION_TEMPORALITY_UNSPECIFIED")]
)
def test_delta_temporality_is_rejected_with_its_remedy_and_costs_nothing_else(made: dict[str, Any]) -> None:
    got = taken(request(gauge("good"), made, gauge("good.too")))

    assert [row.name for row in rows(got.parsed.points)] == ["good", "good_too"]
    assert got.rejected == 1
    assert "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=cumulative" in got.message


@pytest.mark.parametrize(
    "wrong",
    [
        {"asDouble": "NaN"},
        {"asDouble": "Infinity"},
        {"timeUnixNano": "1"},
        {"timeUnixNano": str(LATEST_US * 1_000 + 10**9)},
        {"timeUnixNano": str(2**64 - 1)},
        {"attributes": attributes(long="x" * 2_000)},
        {"attributes": [{"key": "", "value": {}}]},
    ],
)
def test_a_data_point_that_cannot_be_taken_is_rejected_alone(wrong: dict[str, Any]) -> None:
    bad = gauge("bad")
    bad["gauge"]["dataPoints"] = [{**bad["gauge"]["dataPoints"][0], **wrong}, bad["gauge"]["dataPoints"][0]]
    got = taken(request(bad))

    assert [row.name for row in rows(got.parsed.points)] == ["bad"]
    assert (got.rejected, [each.index for each in got.parsed.refused]) == (1, [0])


@pytest.mark.parametrize("wrong", [{"bucketCounts": ["1", "2"]}, {"explicitBounds": [1.0, 0.5]}, {"sum": "NaN"}])
def test_a_histogram_that_contradicts_itself_leaves_nothing_behind(wrong: dict[str, Any]) -> None:
    got = taken(request(histogram("bad", **wrong), gauge("good")))

    assert [row.name for row in rows(got.parsed.points)] == ["good"]
    assert got.rejected == 1


def test_points_without_a_recorded_value_are_skipped_and_those_without_a_time_are_of_now() -> None:
    skipped, timeless = gauge("skipped"), gauge("timeless")
    skipped["gauge"]["dataPoints"][0]["flags"] = 1
    del timeless["gauge"]["dataPoints"][0]["timeUnixNano"]
    got = taken(request(skipped, timeless))

    assert [(row.name, row.ts) for row in rows(got.parsed.points)] == [("timeless", NOW_US)]
    assert got.rejected == 0


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("http.server.duration", "http_server_duration"),
        ("a-b/c", "a_b_c"),
        ("9lives", "_9lives"),
        (".x.", "x"),
        ("ok:x_", "ok:x_"),
        ("température", "temp_rature"),
    ],
)
def test_a_name_is_made_one_that_a_rule_can_query(name: str, made: str) -> None:
    assert [key[0] for key in figures(request(gauge(name)))] == [made]


def test_a_metric_without_a_name_is_rejected() -> None:
    assert taken(request(gauge(""))).rejected == 1


@pytest.mark.parametrize("where", ["resource", "point"])
def test_a_tenant_attribute_names_the_tenant_and_is_taken_out(where: str) -> None:
    made = request(gauge("g"), tenant_id="other") if where == "resource" else request(gauge("g", tenant_id="other"))

    assert [(row.tenant, row.labels) for row in rows(taken(made, tenants=("acme", "other")).parsed.points)] == [("other", {})]
    with pytest.raises(ForeignTenantError):
        OtlpReader().read(json.dumps(made).encode(), True, admission(), NOW_US)


def test_json_may_use_the_original_names_unknown_fields_and_exemplars_with_hexadecimal_ids() -> None:
    point = {
        "time_unix_nano": NS,
        "as_int": 5,
        "new_field": {},
        "exemplars": [{"traceId": "5B8EFFF798038103D269B633813FC60C", "asInt": "1"}],
    }
    made = {
        "resource_metrics": [
            {"scope_metrics": [{"metrics": [{"name": "g", "gauge": {"data_points": [point]}}], "schemaUrl": "x"}]}
        ]
    }
    got = OtlpReader().read(json.dumps(made).encode(), True, admission(), NOW_US)

    assert [(row.name, row.value) for row in rows(got.parsed.points)] == [("g", 5.0)]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"resourceMetrics": 5}',
        b'{"resourceMetrics": [5]}',
        b'{"resourceMetrics": [{"resource": [5]}]}',
        b'{"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"gauge": {"dataPoints": [{"asInt": "x"}]}}]}]}]}',
        b'{"resourceMetrics":[{"resource":{"attributes":[{"key":"k","value":' + b'{"arrayValue":{"values":[' * 500,
    ],
)
def test_json_that_is_no_request_is_unreadable(body: bytes) -> None:
    with pytest.raises(UnreadableBodyError):
        OtlpReader().read(body, True, admission(), NOW_US)


def test_nesting_is_bounded() -> None:
    inner = b"\x0a\x01x"
    for _ in range(300):
        inner = b"\x2a" + _size(len(inner) + 1 + len(_size(len(inner)))) + b"\x0a" + _size(len(inner)) + inner
    attribute = b"\x0a\x01k\x12" + _size(len(inner)) + inner
    resource = b"\x0a" + _size(len(attribute)) + attribute
    body = b"\x0a" + _size(len(resource)) + resource
    body = b"\x0a" + _size(len(body)) + body
    with pytest.raises(UnreadableBodyError):
        OtlpReader().read(body, False, admission(), NOW_US)
    deep = {"key": "k", "value": {"stringValue": "x"}}
    for _ in range(60):
        deep = {"key": "k", "value": {"kvlistValue": {"values": [deep]}}}
    made = request(gauge("g"))
    made["resourceMetrics"][0]["resource"]["attributes"] = [deep]
    with pytest.raises(UnreadableBodyError):
        OtlpReader().read(json.dumps(made).encode(), True, admission(), NOW_US)


def _size(value: int) -> bytes:
    return (
        bytes([value & 0x7F | 0x80, value >> 7])
        if value < 16_384
        else bytes([value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14])
    )


def test_nested_attributes_become_json() -> None:
    made = gauge("g")
    nested = {
        "kvlistValue": {"values": [{"key": "a", "value": {"arrayValue": {"values": [{"intValue": "1"}, {"boolValue": True}]}}}]}
    }
    made["gauge"]["dataPoints"][0]["attributes"] = [{"key": "k", "value": nested}]

    assert rows(taken(request(made)).parsed.points)[0].labels == {"k": '{"a":[1,true]}'}


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_raise_anything_else(body: bytes, as_json: bool) -> None:
    with contextlib.suppress(UnreadableBodyError, ForeignTenantError):
        OtlpReader().read(body, as_json, admission(), NOW_US)


keys = st.sampled_from(["a", "b.c", "d_e", "f"])
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1)
points = st.lists(st.tuples(st.dictionaries(keys, st.text(max_size=5), max_size=3), numbers, st.integers(0, 10**6)), max_size=5)
metrics = st.lists(st.tuples(st.sampled_from(["m.one", "m_two"]), st.booleans(), points), max_size=4)


@given(metrics, st.booleans())
def test_what_the_official_encoder_writes_is_read_back(made: list[Any], as_json: bool) -> None:
    message = ExportMetricsServiceRequest()
    scope = message.resource_metrics.add().scope_metrics.add()
    expected = []
    for name, monotonic, held in made:
        metric = scope.metrics.add(name=name)
        metric.sum.is_monotonic, metric.sum.aggregation_temporality = monotonic, 2
        for labels, value, ago in held:
            point = metric.sum.data_points.add(time_unix_nano=NS - ago * 10**9)
            if isinstance(value, int):
                point.as_int = value
            else:
                point.as_double = value
            for key, text in labels.items():
                point.attributes.add(key=key).value.string_value = text
            kept = {key.replace(".", "_"): text for key, text in labels.items() if text}
            expected.append(
                Row("acme", "counter" if monotonic else "gauge", name.replace(".", "_"), kept, NOW_US - ago * 10**6, float(value))
            )
    body = MessageToJson(message).encode() if as_json else message.SerializeToString()
    reader, admitted = OtlpReader(), admission()
    for _ in range(2):
        got = reader.read(body, as_json, admitted, NOW_US)
        assert rows(got.parsed.points) == expected
        assert got.rejected == 0


def test_answers_are_what_exporters_read() -> None:
    whole = taken(request(gauge("g")))
    part = taken(request(gauge("g"), total("d", temporality=DELTA)))

    assert success_answer(whole, json=False) == b""
    assert json.loads(success_answer(whole, json=True)) == {}
    response = ExportMetricsServiceResponse.FromString(success_answer(part, json=False))
    assert response.partial_success.rejected_data_points == 1
    assert "temporality" in response.partial_success.error_message
    assert json.loads(success_answer(part, json=True))["partialSuccess"]["rejectedDataPoints"] == "1"
    status = Status.FromString(error_answer(3, "not a request: é" * 50, json=False))
    assert (status.code, status.message) == (3, "not a request: é" * 50)
    assert json.loads(error_answer(16, "no key", json=True)) == {"code": 16, "message": "no key"}
