"""A small server at its limits: a full log, a quota that is used up, StatsD, and what it says about itself."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from server.running import Running, serving, wait_for

from analytics_dagster.clock import SystemClock
from analytics_dagster.ingest.consume import alone
from analytics_dagster.installation import open_installation
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.quotas import Quotas
from analytics_dagster.tenancy.roles import Role

ROUTE = "/analytics/metrics"


def free_udp_port() -> int:
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def statsd_port() -> int:
    return free_udp_port()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, statsd_port: int) -> Iterator[Running]:
    """A log of 1 MiB; tenant `bounded` may send 10 points a second, 100 at once, and have 3 series."""
    home = tmp_path_factory.mktemp("small") / ".analytics"
    settings = {"ANALYTICS_LOG_MAX_BYTES": str(2**20), "ANALYTICS_STATSD": f"127.0.0.1:{statsd_port}"}
    opened = open_installation(Settings.from_environment(home), create=True)
    opened.tenants.ensure("bounded")
    Quotas(opened.database, opened.settings, opened.clock).set("bounded", {"points_per_second": 10, "active_series": 3})
    opened.database.dispose()
    with serving(home, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def client(small: Running) -> Iterator[httpx.Client]:
    with small.client(small.key(Role.PLATFORM_ADMIN)) as made:
        yield made


@pytest.fixture(scope="module")
def bounded(small: Running) -> Iterator[httpx.Client]:
    with small.client(small.key(Role.TENANT_ADMIN, "bounded")) as made:
        yield made


def rows(count: int, name: str = "filler") -> list[dict[str, object]]:
    return [{"name": name, "value": float(n)} for n in range(count)]


def test_a_tenant_over_its_rate_is_told_to_wait_and_how_it_stands(bounded: httpx.Client) -> None:
    first = bounded.post(ROUTE, json=rows(60))
    assert first.status_code == 202
    assert first.headers["ratelimit-policy"] == '"points";q=100;w=10'
    assert first.headers["ratelimit"].startswith('"points";r=')
    refused = bounded.post(ROUTE, json=rows(95))
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 10
    assert refused.headers["content-type"] == "application/problem+json"
    # What speaks another protocol says it in that protocol's words.
    assert bounded.post("/write", content=b"\n".join(b"m,n=1 v=%d" % n for n in range(95))).json()["code"] == "too many requests"


def test_bad_rows_are_charged_too_and_what_a_quota_refuses_leaves_none_in_the_quarantine(small: Running) -> None:
    small.installation.tenants.ensure("careless")
    quotas = Quotas(small.installation.database, Settings.from_environment(small.home), SystemClock())
    quotas.set("careless", {"points_per_second": 1})
    with small.client(small.key(Role.TENANT_ADMIN, "careless")) as client:

        def aside() -> int:
            return len(client.get("/analytics/quarantine").json())

        def send(bad: int, key: str | None = None) -> int:
            body = [{"name": "fine", "value": 1}, *[{"name": "", "value": n} for n in range(bad)]]
            headers = {"Idempotency-Key": key} if key else {}
            return client.post(ROUTE, params={"partial": "true"}, json=body, headers=headers).status_code

        def limited() -> bool:
            return "ratelimit" in client.post(ROUTE, json=rows(1, "fine")).headers

        wait_for("the quota", limited)
        assert [send(30), send(30, "k1"), aside()] == [429, 429, 0]
        # The same body again, its answer lost: its rows are there once.
        assert wait_for("points to be allowed", lambda: send(3) == 202)
        assert aside() == 3
        assert wait_for("points to be allowed", lambda: send(3, "k2") == 202)
        assert aside() == 3


def test_a_runaway_label_is_refused_by_its_name(small: Running) -> None:
    def many(client: httpx.Client) -> httpx.Response | None:
        points = [{"name": "runaway", "value": 1, "labels": {"session": str(n)}} for n in range(8)]
        answer = client.post(ROUTE, json=points)
        return answer if "session" in answer.text else None  # the rate may have to recover first

    with small.client(small.key(Role.INGEST, "bounded")) as client:
        refused = wait_for("the refusal", lambda: many(client))
    assert refused.status_code == 429


def test_a_full_log_refuses_before_it_accepts_and_takes_again_when_it_is_consumed(small: Running, client: httpx.Client) -> None:
    from analytics_dagster.ingest.consume import consume_all

    with alone(small.installation, patience=30) as mine:
        assert mine

        def full(batch: list[dict[str, object]]) -> httpx.Response | None:
            answer = client.post(ROUTE, json=batch)
            assert answer.status_code in (202, 503), answer.text
            return answer if answer.status_code == 503 else None

        assert wait_for("a log that is nearly full", lambda: full(rows(20_000)))
        refused = wait_for("a full log", lambda: full(rows(1_000)))
        assert int(refused.headers["retry-after"]) >= 1
        assert "ANALYTICS_LOG_MAX_BYTES" in refused.json()["detail"]
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert [check["name"] for check in ready.json()["checks"] if not check["ready"]] == ["log"]
        assert client.get("/healthz").status_code == 200
    consume_all(small.installation)
    wait_for("room", lambda: client.post(ROUTE, json=rows(1)).status_code == 202)
    assert client.get("/readyz").json()["ready"]


def test_statsd_counts_and_gauges_become_points(small: Running, client: httpx.Client, statsd_port: int) -> None:
    def asked() -> bool:
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            sender.sendto(b"plays.started:3|c|#region:eu\nqueue:7|g\nbroken", ("127.0.0.1", statsd_port))
        answer = client.get("/analytics/query", params={"metric": "queue"})
        return answer.status_code == 200 and answer.json()[-1]["value"] == 7

    wait_for("the gauge", asked)
    wait_for("the log line", lambda: "statsd lines not taken" in small.said)


def test_counters_say_what_was_answered_accepted_and_refused(client: httpx.Client) -> None:
    client.post(ROUTE, json=rows(3))
    client.post(ROUTE, json={"name": "", "value": 1})
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}

    def total(name: str, **labels: str) -> float:
        return sum(s.value for s in families[name].samples if labels.items() <= s.labels.items() and "created" not in s.name)

    assert total("analytics_http_requests", route=ROUTE, status="202") >= 1
    assert total("analytics_http_requests", route=ROUTE, status="422") >= 1
    assert total("analytics_rows_accepted", route=ROUTE) >= 3
    assert total("analytics_rows_refused", route=ROUTE) >= 1
    assert "analytics_log_unconsumed_bytes" in families
    assert "analytics_consumer_lag_seconds" in families
    assert total("analytics_process_resident_bytes") > 2**20
