"""What clients of other houses send, answered in the words that they know."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import httpx
import pytest
from server.running import Running

from analytics_dagster.tenancy.roles import Role


@pytest.fixture(scope="module")
def key(server: Running) -> str:
    return server.key(Role.TENANT_ADMIN, "acme", name="ann")


@pytest.fixture(scope="module")
def client(server: Running, key: str) -> Iterator[httpx.Client]:
    with server.client(key) as made:
        yield made


def value_of(client: httpx.Client, metric: str, **asked: str) -> float:
    rows = client.get("/analytics/query", params={"metric": metric, **asked}).raise_for_status().json()
    return float(sum(row["value"] for row in rows))


def test_influxdb_client_writes(server: Running, client: httpx.Client, key: str) -> None:
    from influxdb_client import InfluxDBClient, Point
    from influxdb_client.client.write_api import SYNCHRONOUS
    from influxdb_client.rest import ApiException

    name = f"temperature_{uuid.uuid4().hex[:8]}"
    with InfluxDBClient(url=server.url, token=key, org="anything", enable_gzip=True) as influx:
        write = influx.write_api(write_options=SYNCHRONOUS)
        write.write(bucket="acme", record=Point(name).tag("room", "cellar").field("value", 12.5))
        with pytest.raises(ApiException) as refused:
            write.write(bucket="acme", record=f"{name} value=1\nnonsense")
    assert (refused.value.status, '"code":"invalid"' in refused.value.body) == (400, True)
    assert value_of(client, name, where='room="cellar"') == 12.5
    # The good line of the refused body is there.
    assert value_of(client, name, aggregate="count") == 2


def test_influxdb_1_writes_with_a_database_and_basic_credentials(server: Running, client: httpx.Client, key: str) -> None:
    name = f"load_{uuid.uuid4().hex[:8]}"
    line = f"{name},host=a value=3 {int(time.time())}"
    sent = httpx.post(f"{server.url}/write", params={"db": "telegraf", "precision": "s"}, content=line, auth=("user", key))
    assert (sent.status_code, sent.content) == (204, b"")
    assert value_of(client, name) == 3
    refused = httpx.post(f"{server.url}/write", params={"db": "x", "u": "user", "p": key}, content=line)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid")
    assert refused.headers["x-influxdb-error"] == refused.json()["error"]
    assert client.post("/write", params={"precision": "fortnight"}, content=line).status_code == 400


def test_the_opentelemetry_sdk_exports(server: Running, client: httpx.Client, key: str) -> None:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    name = f"jobs_{uuid.uuid4().hex[:8]}"
    exporter = OTLPMetricExporter(f"{server.url}/v1/metrics", headers={"Authorization": f"Bearer {key}"})
    provider = MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)])
    provider.get_meter("test").create_gauge(name).set(4, {"queue": "mail"})
    counter = provider.get_meter("test").create_counter(f"{name}_total")
    histogram = provider.get_meter("test").create_histogram(f"{name}_seconds")
    for _ in range(4):
        counter.add(5)
        histogram.record(0.5)
    assert provider.force_flush()
    # What was counted before the first export counts; a second export without news adds nothing.
    assert value_of(client, f"{name}_total") == 20
    assert provider.force_flush()
    provider.shutdown()
    assert value_of(client, name, where='queue="mail"') == 4
    assert value_of(client, f"{name}_total") == 20
    assert (value_of(client, f"{name}_seconds_count"), value_of(client, f"{name}_seconds_sum")) == (4, 2)


def test_otlp_errors_are_a_status_in_the_encoding_of_the_request(client: httpx.Client) -> None:
    as_json = client.post("/v1/metrics", json={"resourceMetrics": "no"})
    assert (as_json.status_code, as_json.json()["code"]) == (400, 3)
    binary = client.post("/v1/metrics", content=b"\xff", headers={"Content-Type": "application/x-protobuf"})
    assert (binary.status_code, binary.headers["content-type"]) == (400, "application/x-protobuf")
    assert client.post("/v1/metrics", json={}).json() == {}
    assert client.post("/v1/metrics", content=b"x", headers={"Content-Type": "text/plain"}).status_code == 415


def test_liblistenbrainz_submits_listens(server: Running, client: httpx.Client, key: str) -> None:
    import liblistenbrainz

    scrobbler = liblistenbrainz.ListenBrainz(server.url)
    scrobbler.set_auth_token(key)
    listen = liblistenbrainz.Listen("Harvest Moon", "Neil Young", listened_at=int(time.time()) - 60)
    assert scrobbler.submit_single_listen(listen) == {"status": "ok"}
    assert scrobbler.submit_playing_now(liblistenbrainz.Listen("Harvest Moon", "Neil Young")) == {"status": "ok"}


def test_listenbrainz_errors_have_its_shape(server: Running, client: httpx.Client, key: str) -> None:
    token = {"Authorization": f"Token {key}"}
    with server.client() as nobody:
        assert nobody.get("/1/validate-token", headers=token).json()["user_name"] == "ann"
        assert nobody.get("/1/validate-token", headers={"Authorization": "Token x"}).json()["valid"] is False
        assert nobody.get("/1/validate-token").json()["code"] == 400
        in_the_address = nobody.get("/1/validate-token", params={"token": key})
        assert (in_the_address.status_code, "addresses end up in logs" in in_the_address.json()["error"]) == (400, True)
        assert nobody.post("/1/submit-listens", json={}).json()["code"] == 401
    bad = client.post("/1/submit-listens", json={"listen_type": "single", "payload": []})
    assert (bad.status_code, bad.json()["error"]) == (400, "JSON document does not contain any listens")
