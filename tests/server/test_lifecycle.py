"""Starting, stopping and dying: what is refused at the start, and what a killed server had acknowledged."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import httpx
import psutil
import pytest
from cli.command import analytics
from server.running import Running, serving, wait_for

ROUTE = "/analytics/metrics"


def test_a_home_has_one_server_and_the_second_is_told_whose_it_is(server: Running) -> None:
    assert f"process {server.process.pid} " in analytics("--home", server.home, "serve", "--port", "0").error


def test_a_taken_port_is_told_at_once(server: Running, home: Path) -> None:
    port = server.url.rpartition(":")[2]
    assert f"port {port} of 127.0.0.1 is taken" in analytics("--home", home, "serve", "--port", port).error


@pytest.mark.parametrize(
    ("host", "environment", "told"),
    [
        ("0.0.0.0", {}, "ANALYTICS_TLS_CERTIFICATE"),
        ("0.0.0.0", {"ANALYTICS_TLS_KEY": "key.pem"}, "ANALYTICS_TLS_CERTIFICATE is not set"),
        ("0.0.0.0", {"ANALYTICS_TRUSTED_PROXIES": "the proxy"}, "not an address or a network"),
        ("no.such.host.invalid", {}, "not an address of this machine"),
        ("127.0.0.1", {"ANALYTICS_STATSD": "0.0.0.0:8125"}, "StatsD has no keys"),
        ("127.0.0.1", {"ANALYTICS_STATSD": "8125"}, "is not an address"),
    ],
)
def test_an_unsafe_start_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, host: str, environment: dict[str, str], told: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert told in analytics("--home", home, "serve", "--port", "0", "--host", host).error
    assert not home.exists()


def test_what_a_killed_server_acknowledged_is_there_when_it_comes_back(tmp_path: Path) -> None:
    home, once = tmp_path / ".analytics", {"Idempotency-Key": "a retry after the crash"}
    body = [{"name": "survivor", "value": 1, "metric_type": "histogram"} for _ in range(3)]
    with serving(home) as running, running.client((home / "admin.key").read_text().strip()) as client:
        assert client.post(ROUTE, json=body, headers=once).json() == {"accepted": 3}
        assert client.post(ROUTE, json={"name": "survivor_too", "value": 1}).status_code == 202
        workers = psutil.Process(running.process.pid).children(recursive=True)
        # The parent alone: its workers must not stay behind and hold the port and the log.
        running.stop(signal.SIGKILL)
        psutil.wait_procs(workers, timeout=30)
        assert not [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]
    with serving(home) as running, running.client((home / "admin.key").read_text().strip()) as client:
        again = client.post(ROUTE, json=body, headers=once)
        assert (again.json(), again.headers["idempotency-replayed"]) == ({"accepted": 3}, "true")
        for metric, points in (("survivor", 3), ("survivor_too", 1)):
            [row] = client.get("/analytics/query", params={"metric": metric, "aggregate": "count"}).json()
            assert row["value"] == points
        assert running.stop(signal.SIGINT) == 0
        assert running.said.rstrip().endswith("stopped")


def test_requests_under_way_are_answered_before_the_server_ends(tmp_path: Path) -> None:
    with serving(tmp_path / ".analytics") as running:
        key = (running.home / "admin.key").read_text().strip()
        host, port = running.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            body = b'{"name":"slow","value":1}'
            head = f"POST {ROUTE} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n"
            slow.sendall(head.encode() + body[:10])
            wait_for("another answer", lambda: httpx.get(f"{running.url}/healthz").status_code == 200)
            running.process.send_signal(signal.SIGTERM)
            slow.sendall(body[10:])
            slow.settimeout(30)
            assert b" 202 " in slow.recv(4_096)
        assert running.process.wait(60) == 0
