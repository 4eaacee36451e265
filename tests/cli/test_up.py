"""`analytics up` and a bare `dagster dev`: the UI answers, a page goes out in time and once, and Ctrl-C stops everything."""

from __future__ import annotations

import datetime as dt
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
import sqlalchemy as sa
from cli.command import analytics
from cli.services import ANALYTICS, Slack, answers, environment, free_port, running, slack_on, wait_for
from pytest_httpserver import HTTPServer
from small_home import LAST, TENANTS, Copied, opened

from analytics_dagster.alerts.judge_store import CURSOR
from analytics_dagster.lake.schemas import API_REQUESTS
from analytics_dagster.lake.state_tables import cursors
from analytics_dagster.orchestration.instance import prepare_dagster_home
from analytics_dagster.settings import Settings

# What is promised is a time, which another test beside it would spoil.
pytestmark = pytest.mark.alone

# What the issue promises, from the materialization to the message: with `analytics up`, and where Dagster runs alone.
UP_SECONDS, DAGSTER_SECONDS = 8.0, 20.0
READY_SECONDS = 60.0
FIGURES = ("--select", "raw/api_requests", "--select", "aggregates/api")

RULE = """
alert_rules:
  - {{name: Error Ratio, query: api_error_ratio, condition: gt, threshold: {ratio}, severity: critical, for_duration: 0s,
      channels: [slack]}}
  - {{name: Requests, query: api_requests, condition: gt, threshold: {requests}, severity: high, for_duration: 0s,
      channels: [slack]}}
"""


@pytest.fixture
def slack(httpserver: HTTPServer) -> Iterator[Slack]:
    yield slack_on(httpserver)
    httpserver.check()


@pytest.fixture
def watched(copied: Copied, materialized_home: Path) -> Path:
    """A materialized home with two rules that do not fire."""
    home = copied(materialized_home)
    write_rules(home, ratio=0.9, requests=1e9)
    return home


def write_rules(home: Path, ratio: float, requests: float) -> None:
    (home.parent / "rules.yaml").write_text(RULE.format(ratio=ratio, requests=requests))


def is_judged(home: Path) -> bool:
    """Whether the history that was there at the start has been judged: what comes now is news."""
    with opened(home) as found, found.installation.database.read() as connection:
        return connection.execute(sa.select(cursors.c.name).where(cursors.c.name == CURSOR)).scalar() is not None


def materialize(home: Path, *arguments: str) -> None:
    """As a user does, in a process of its own."""
    line = [ANALYTICS, "materialize", "--home", str(home), *arguments]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr


def published_at(home: Path, tenant: str) -> float:
    """When the newest day's API figures of a tenant were published, in seconds since 1970."""
    with opened(home) as found:
        [record] = found.installation.publications.of(tenant=tenant, asset="aggregates/api", first=LAST, last=LAST)
        return record.published_at.timestamp()


def many_requests(home: Path, tenant: str) -> None:
    """20,000 requests of the newest day arrive late: far more than it had."""
    start = dt.datetime(LAST.year, LAST.month, LAST.day, 9, tzinfo=dt.UTC)
    rows = [
        {
            "request_id": f"late-{n}",
            "ts": start + dt.timedelta(seconds=n % 3_600),
            "endpoint": "/play",
            "status": 200,
            "format": "t",
        }
        for n in range(20_000)
    ]
    with opened(home) as found:
        table = pa.Table.from_pylist(rows, schema=API_REQUESTS.arrow)
        assert found.installation.landing.append(tenant, API_REQUESTS, table, "late").kept == len(rows)


@pytest.mark.slow
def test_up_answers_pages_once_in_time_and_stops_at_ctrl_c(watched: Path, slack: Slack, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "up.log"
    api = free_port()
    line = [ANALYTICS, "up", "--no-browser", "--port", str(port), "--api-port", str(api), "--home", str(watched)]
    with running(line, environment(SLACK_WEBHOOK_URL=slack.url), log) as up:
        ready = wait_for("the UI", lambda: answers(f"http://127.0.0.1:{port}/server_info"), READY_SECONDS, log)
        wait_for("the API", lambda: answers(f"http://127.0.0.1:{api}/readyz"), READY_SECONDS, log)
        wait_for("the first judgement", lambda: is_judged(watched), 20, log)
        assert slack.told == []

        # A rule edited to fire, and the materialization that the announcement tells to make.
        write_rules(watched, ratio=0.00001, requests=1e9)
        materialize(watched, "--select", "aggregates/api")
        for tenant in TENANTS:
            wait_for("a page", lambda tenant=tenant: slack.about("Error Ratio", tenant), UP_SECONDS, log)

        # Rows that make a rule fire which has been quiet: the time from publishing to the message is the platform's own.
        write_rules(watched, ratio=0.00001, requests=15_000)
        many_requests(watched, "aurora")
        materialize(watched, *FIGURES, "--tenant", "aurora", "--from", str(LAST), "--to", str(LAST))
        wait_for("a page", lambda: slack.about("Requests", "aurora"), UP_SECONDS, log)
        latency = slack.about("Requests", "aurora")[0] - published_at(watched, "aurora")
        print(f"\nanalytics up: ready after {ready:.1f} s, told {latency:.2f} s after publishing")
        assert latency <= UP_SECONDS

        started = psutil.Process(up.pid).children(recursive=True)
        assert len(started) >= 3  # webserver, daemon, code server
        up.send_signal(signal.SIGINT)
        assert up.wait(30) == 0
        _, alive = psutil.wait_procs(started, timeout=5)
        assert alive == []
        assert not answers(f"http://127.0.0.1:{port}/server_info")
    said = log.read_text()
    assert said.count(f"Dagster UI      http://127.0.0.1:{port}") == 1
    assert said.rstrip().endswith("stopped")
    # A log must not hold a link that signs in.
    assert f"dashboards      http://127.0.0.1:{api}/   sign in with a key" in said
    assert "/signin/once/" not in said
    assert "Traceback" not in said
    for tenant in TENANTS:
        assert len(slack.about("Error Ratio", tenant)) == 1
    assert len(slack.about("Requests", "aurora")) == 1
    assert slack.about("Requests", "borealis") == []


@pytest.mark.slow
def test_without_up_dagster_alone_pages_in_time(watched: Path, slack: Slack, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "dagster.log"
    settings = Settings.from_environment(watched)
    env = environment(SLACK_WEBHOOK_URL=slack.url, **prepare_dagster_home(settings))
    line = [sys.executable, "-m", "dagster", "dev", "-m", "analytics_dagster.definitions", "-h", "127.0.0.1", "-p", str(port)]
    with running(line, env, log):
        wait_for("the UI", lambda: answers(f"http://127.0.0.1:{port}/server_info"), READY_SECONDS, log)
        wait_for("the first judgement", lambda: is_judged(watched), 40, log)
        write_rules(watched, ratio=0.9, requests=15_000)
        published = published_at(watched, "aurora")
        many_requests(watched, "aurora")
        # Nobody materializes: the rows' own sensor asks for their day.
        wait_for("the day's run", lambda: published_at(watched, "aurora") > published, 60, log)
        wait_for("a page", lambda: slack.about("Requests", "aurora"), DAGSTER_SECONDS, log)
        latency = slack.about("Requests", "aurora")[0] - published_at(watched, "aurora")
        print(f"\ndagster alone: told {latency:.2f} s after publishing")
        assert latency <= DAGSTER_SECONDS
        with opened(watched) as found:
            jobs = [run.job_name for run in found.instance.get_runs()]
        assert jobs.count("materialize_days") == 1
        assert jobs.count("notify") == 1
    assert len(slack.about("Requests", "aurora")) == 1


def test_a_taken_port_is_told_at_once(home: Path, httpserver: HTTPServer) -> None:
    for option, other in (("--port", "--api-port"), ("--api-port", "--port")):
        line = ("up", "--no-browser", option, httpserver.port, other, free_port(), "--home", home)
        error = analytics(*line).error
        assert f"port {httpserver.port} is taken" in error
        assert f"with {option}" in error
    assert not home.exists()
