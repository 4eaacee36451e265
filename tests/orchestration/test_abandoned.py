"""Runs whose process was killed are ended, so that nobody waits for them; those that go on are left alone."""

from __future__ import annotations

import datetime as dt
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest
from orchestration.ticking import Ticking, ticking

from analytics_dagster.orchestration.abandoned import PROCESS_TAG, cancel_abandoned, process_tag
from analytics_dagster.orchestration.sensors import MOST_TRIES, arrivals_sensor

DAY = dt.date(2026, 3, 1)


@pytest.fixture
def here(home: Path) -> Iterator[Ticking]:
    with ticking(home) as opened:
        yield opened


@pytest.fixture
def server(tmp_path: Path) -> Iterator[socket.socket]:
    """A code server's socket; a run notes its path."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        yield listening


def of(server: socket.socket) -> dict[str, str]:
    return {".dagster/grpc_info": json.dumps({"host": "localhost", "socket": server.getsockname()})}


def status(here: Ticking, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = here.instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


def a_dead_process() -> str:
    """What `process_tag` gave in a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    created = psutil.Process(process.pid).create_time()
    process.communicate()
    return f"{socket.gethostname()}:{process.pid}:{created:.0f}"


def test_a_run_of_a_process_that_is_gone_is_canceled(here: Ticking) -> None:
    gone = here.begin("__ASSET_JOB", {PROCESS_TAG: a_dead_process()})
    assert cancel_abandoned(here.instance) == 1
    assert status(here, gone) is dg.DagsterRunStatus.CANCELED
    assert cancel_abandoned(here.instance) == 0


def test_runs_that_go_on_are_left_alone(here: Ticking, server: socket.socket) -> None:
    elsewhere = {PROCESS_TAG: "another-machine:1:0"}
    going = [here.begin("__ASSET_JOB", tags) for tags in (process_tag(), elsewhere, of(server), {})]
    assert cancel_abandoned(here.instance, launched=True) == 0
    assert {status(here, run) for run in going} == {dg.DagsterRunStatus.STARTED}


def test_a_process_with_the_number_of_a_dead_one_is_another(here: Ticking) -> None:
    name, number, created = process_tag()[PROCESS_TAG].rsplit(":", 2)
    gone = here.begin("__ASSET_JOB", {PROCESS_TAG: f"{name}:{number}:{float(created) - 60:.0f}"})
    cancel_abandoned(here.instance)
    assert status(here, gone) is dg.DagsterRunStatus.CANCELED


def test_a_run_of_a_killed_code_server_is_ended_by_the_next_ones_sensor(here: Ticking, server: socket.socket) -> None:
    run = here.begin("notify", of(server))
    here.tick(arrivals_sensor)
    assert status(here, run) is dg.DagsterRunStatus.STARTED
    server.close()
    assert cancel_abandoned(here.instance) == 0  # the command line may be on another machine
    here.tick(arrivals_sensor)
    assert status(here, run) is dg.DagsterRunStatus.CANCELED


def test_days_whose_runs_were_killed_are_requested_again_however_often(here: Ticking) -> None:
    here.land(DAY)
    for _ in range(MOST_TRIES + 1):
        answer = here.tick(arrivals_sensor)
        assert isinstance(answer, dg.SensorResult)
        [request] = answer.run_requests or ()
        here.begin("materialize_days", {**request.tags, ".dagster/grpc_info": json.dumps({"socket": "/nowhere"})})
