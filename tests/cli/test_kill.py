"""kill -9 during `analytics materialize`: no partial day is ever readable, and the next run completes to the same figures."""

from __future__ import annotations

import datetime as dt
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
from small_home import FIRST, LAST, TENANTS, Copied, Home, content, opened

from analytics_dagster.lake.content import DayContent, day_contents
from analytics_dagster.lake.schemas import EVENT_TABLES
from analytics_dagster.orchestration.staleness import stale_tenant_days

KILLS = 10
ANALYTICS = str(Path(sys.executable).parent / "analytics")
RawDays = dict[tuple[str, str, dt.date], DayContent]


def raw_days(home: Home) -> RawDays:
    """What each tenant's raw tables hold, by day."""
    return {
        (tenant, table.name, day): found
        for tenant in TENANTS
        for table in EVENT_TABLES
        for day, found in day_contents(home.installation.lake.tenant(tenant).table(table), FIRST, LAST).items()
    }


def started(home: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [ANALYTICS, "materialize", "--home", str(home)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def whole_run(home: Path) -> float:
    began = time.monotonic()
    process = started(home)
    assert process.wait(120) == 0
    return time.monotonic() - began


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_kills_leave_whole_days_and_the_next_run_completes(
    copied: Copied, landed_home: Path, materialized_home: Path
) -> None:
    with opened(materialized_home) as never_killed:
        expected, figures = raw_days(never_killed), content(never_killed)
    home, chance = copied(landed_home), random.Random(9)
    for _ in range(KILLS):
        process = started(home)
        # The first two seconds go to imports; the run itself takes about ten.
        time.sleep(chance.uniform(1.5, 10.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        with opened(home) as killed:
            for key, found in raw_days(killed).items():
                assert found.rows == 0 or found == expected[key], f"{key} is partly there: {found}"
    whole_run(home)
    with opened(home) as completed:
        assert stale_tenant_days(completed.installation, TENANTS) == []
        assert content(completed) == figures
        running = completed.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        assert running == []
