"""The maintenance job: what nobody reads goes, what says how figures came to be stays."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import dagster as dg
from small_home import Copied, content, opened

from analytics_dagster.clock import ManualClock
from analytics_dagster.orchestration.housekeeping import KEEP_RUNS, keep_house


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
