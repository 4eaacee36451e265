"""kill -9 during `analytics materialize`: no partial day is ever readable, and the next run completes to the same figures."""

from __future__ import annotations

import datetime as dt
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from small_home import FIRST, LAST, TENANTS, Copied, Home, content, opened

from analytics_dagster.installation import Installation, open_installation
from analytics_dagster.lake.compute import connect
from analytics_dagster.lake.content import DayContent, day_contents
from analytics_dagster.lake.schemas import EVENT_TABLES, landing
from analytics_dagster.orchestration.staleness import stale_tenant_days
from analytics_dagster.orchestration.tables import catalogue
from analytics_dagster.settings import Settings

KILLS = 10
ANALYTICS = str(Path(sys.executable).parent / "analytics")
StoredDays = dict[tuple[str, str, dt.date], DayContent]


def stored_days(installation: Installation) -> StoredDays:
    """What each tenant's raw and aggregate tables hold, by day."""
    families = catalogue(None).families
    tables = [*EVENT_TABLES, *(family.table(grain) for family in families for grain in family.grains)]
    return {
        (tenant, table.path, day): found
        for tenant in TENANTS
        for table in tables
        for day, found in day_contents(installation.lake.tenant(tenant).table(table), FIRST, LAST).items()
    }


def rows_that_landed(home: Home) -> dict[tuple[str, str, dt.date], int]:
    """Distinct keys by raw table and day, counted in landing: what a whole raw day has, however it is computed."""
    counted = {}
    with connect() as connection:
        for tenant in TENANTS:
            for table in EVENT_TABLES:
                source = home.installation.lake.tenant(tenant).table(landing(table))
                query = f"SELECT ts::DATE, count(DISTINCT {table.key}) FROM {source.sql()} GROUP BY 1"
                counted.update({(tenant, table.path, day): rows for day, rows in connection.execute(query).fetchall()})
    return counted


def started(home: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [ANALYTICS, "materialize", "--home", str(home)]
    with said_by(home).open("wb") as said:
        return subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)


def said_by(home: Path) -> Path:
    """What the newest run printed: why it failed, should it fail."""
    return home.parent / f"{home.name}.said"


def killed_after(home: Path, seconds: float) -> bool:
    """Whether a run was still going when it was killed after `seconds`."""
    process = started(home)
    try:
        return process.wait(seconds) < 0
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait() == -signal.SIGKILL


def assert_nothing_partial(home: Path, whole: StoredDays) -> None:
    installation = open_installation(Settings.from_environment(home), create=False)
    for key, found in stored_days(installation).items():
        assert found.rows == 0 or found == whole[key], f"{key} is partly there: {found}"
    days = {family.asset: family.table("day").path for family in catalogue(None).families}
    for record in installation.publications.of():
        table = days.get(record.asset, record.asset)
        if (record.tenant, table, record.day) in whole:
            assert record.content_hash == whole[record.tenant, table, record.day].content_hash, record
    installation.database.dispose()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_kills_leave_whole_days_and_the_next_run_completes(
    copied: Copied, landed_home: Path, materialized_home: Path
) -> None:
    with opened(materialized_home) as never_killed:
        whole, figures = stored_days(never_killed.installation), content(never_killed)
        for key, rows in rows_that_landed(never_killed).items():
            assert whole[key].rows == rows, key
    home, chance, kills = copied(landed_home), random.Random(9), 0
    while kills < KILLS:
        # The first two seconds go to imports; the run itself takes about ten, and less where the machine is quick.
        kills += killed_after(home, chance.uniform(1.5, 8.0))
        assert_nothing_partial(home, whole)
    assert started(home).wait(120) == 0, said_by(home).read_text()
    with opened(home) as completed:
        assert stale_tenant_days(completed.installation, TENANTS) == []
        assert content(completed) == figures
        assert stored_days(completed.installation) == whole
        ended = [run.status for run in completed.instance.get_runs()]
        assert set(ended) <= {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED}
        assert 0 < ended.count(dg.DagsterRunStatus.CANCELED) <= KILLS
