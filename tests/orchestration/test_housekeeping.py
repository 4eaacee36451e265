"""The maintenance job: what nobody reads goes, what says how figures came to be stays."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from small_home import Copied, content, opened

from analytics_dagster.clock import ManualClock
from analytics_dagster.ingest.landing import Refused
from analytics_dagster.installation import Installation
from analytics_dagster.lake.schemas import QUARANTINE
from analytics_dagster.orchestration.housekeeping import KEEP_RUNS, keep_house
from analytics_dagster.tenancy.tenants import Tenants, TenantStatus
from analytics_dagster.tenancy.usage import Usage


def test_old_runs_without_figures_go_and_everything_else_stays(copied: Copied, materialized_home: Path) -> None:
    with opened(copied(materialized_home)) as home:
        before = content(home)
        materializing = {run.run_id for run in home.instance.get_runs()}
        delivered = home.definitions.resolve_job_def("notify").execute_in_process(instance=home.instance)
        assert delivered.success
        assert keep_house(home.installation, home.instance).runs == 0
        later = ManualClock(dt.datetime.now(dt.UTC) + KEEP_RUNS + dt.timedelta(days=1))
        report = keep_house(replace(home.installation, clock=later), home.instance)
        assert report.runs == 1
        assert report.tables > 20
        assert {run.run_id for run in home.instance.get_runs()} == materializing
        assert content(home) == before
        kept = home.instance.get_materialized_partitions(dg.AssetKey(["raw", "plays"]))
        assert len(kept) == 16


def at(installation: Installation, now: dt.datetime) -> Installation:
    clock = ManualClock(now)
    return replace(installation, clock=clock, tenants=Tenants(installation.database, clock))


def test_a_removed_tenants_tables_go_with_the_days_and_the_others_sizes_are_noted(
    copied: Copied, materialized_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(copied(materialized_home)) as home:
        installation = home.installation
        removed = installation.tenants.set_status("borealis", TenantStatus.REMOVED)
        grace = dt.timedelta(days=installation.settings.analytics_tenant_grace_days)
        last_day = at(installation, removed.changed_at + grace - dt.timedelta(days=1))
        assert keep_house(last_day, home.instance).purged == []
        after = at(installation, removed.changed_at + grace)
        assert keep_house(after, home.instance).purged == ["borealis"]
        assert "tenant borealis: its data is gone" in caplog.text
        assert [record.tenant for record in installation.tenants.records()] == ["aurora"]
        assert {path.name for path in Path(installation.settings.lake_root).iterdir()} == {"aurora"}
        assert {tenant for tenant, _, _ in home.published()} == {"aurora"}
        [measured] = [
            day for day in Usage(installation.database, after.clock).days("aurora") if day.day == after.clock.now().date()
        ]
        assert measured.stored_bytes == installation.lake.tenant("aurora").stored_bytes() > 100_000


def test_a_demo_tenant_that_was_removed_is_not_simulated_back(copied: Copied, landed_home: Path) -> None:
    with opened(copied(landed_home)) as home:
        tenants = home.installation.tenants
        tenants.set_status("borealis", TenantStatus.REMOVED)
        assert home.definitions.resolve_job_def("simulate_demo").execute_in_process(instance=home.instance).success
        assert {record.tenant: record.status for record in tenants.records()} == {
            "aurora": TenantStatus.ACTIVE,
            "borealis": TenantStatus.REMOVED,
        }


def test_the_quarantines_small_files_are_merged(installation: Installation) -> None:
    installation.tenants.ensure("acme")
    for number in range(5):
        installation.landing.quarantine("acme", [Refused("http:x", number, "value", "is odd", b"{}")], f"http-{number}", "http")
    table = installation.lake.tenant("acme").table(QUARANTINE)
    assert len(table.files()) == 5
    keep_house(installation, dg.DagsterInstance.ephemeral())
    assert len(table.files()) == 1
    assert installation.landing.quarantined("acme").num_rows == 5
