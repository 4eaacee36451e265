"""Programs that are no Python, as their users have them, writing to the real server: Prometheus and curl."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from server.running import Running, wait_for

from analytics_dagster.tenancy.roles import Role

PROMETHEUS = shutil.which("prometheus")


def figures(server: Running, metric: str, by: str = "", **asked: str) -> dict[str, float]:
    """What a query answers for today and yesterday, by a label."""
    since = (dt.datetime.now(dt.UTC) - dt.timedelta(days=1)).date().isoformat()
    asked = {"metric": metric, "grain": "minute", "from": since, **({"by": by} if by else {}), **asked}
    with server.client(server.key(Role.VIEWER, "acme")) as client:
        answer = client.get("/analytics/query", params=asked)
    if answer.status_code == 404:
        return {}
    assert answer.status_code == 200, answer.text
    return {row[by] if by else "": row["value"] for row in answer.json()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def prometheus(folder: Path, url: str, key: str) -> Iterator[str]:
    """A Prometheus that scrapes itself each second and writes to `url`."""
    port = free_port()
    (folder / "key").write_text(key)
    configuration = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "itself", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}],
        "remote_write": [
            {
                "url": f"{url}/api/v1/write",
                "authorization": {"credentials_file": str(folder / "key")},
                "queue_config": {"batch_send_deadline": "1s"},
                "metadata_config": {"send": True, "send_interval": "1s"},
            }
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(configuration))
    line = [PROMETHEUS or "", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*line, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.skipif(PROMETHEUS is None, reason="Prometheus is not installed")
def test_prometheus_writes_what_it_scrapes(server: Running, tmp_path: Path) -> None:
    key = server.key(Role.INGEST, "acme")
    with prometheus(tmp_path, server.url, key) as url:
        up = wait_for("the metric up", lambda: figures(server, "up", "job"))
        wait_for(
            "an increase", lambda: any(value > 0 for value in figures(server, "prometheus_http_requests_total", "job").values())
        )
        wait_for("metadata", lambda: _total(url, "prometheus_remote_storage_metadata_total") > 0)
        refused = _total(url, "prometheus_remote_storage_samples_failed_total")

    assert up == {"itself": 1.0}
    assert refused == 0


def _total(url: str, metric: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(metric))


def test_curl_writes_line_protocol_of_version_1(server: Running) -> None:
    key = server.key(Role.INGEST, "acme")
    line = ["curl", "-sS", "-i", "-u", f"any:{key}", "--data-binary", "curled,by=hand value=2"]
    said = subprocess.run([*line, f"{server.url}/write?db=any"], capture_output=True, text=True, check=True).stdout

    assert said.startswith("HTTP/1.1 204")
    assert figures(server, "curled", "by") == {"hand": 2.0}
