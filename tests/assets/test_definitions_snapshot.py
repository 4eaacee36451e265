"""What Dagster is given: every asset, check, job, schedule and sensor, as committed; how fast it loads; who accepts it.

After a change that is meant, write the snapshot again and read its difference:

    UPDATE_SNAPSHOT=1 .venv/bin/python -m pytest tests/assets/test_definitions_snapshot.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from analytics_dagster.definitions import defs
from analytics_dagster.lake.schemas import FIRST_DAY

PROJECT = Path(__file__).parents[2]
SNAPSHOT = Path(__file__).with_name("definitions_snapshot.json")
HEAVY = ("altair", "great_expectations", "keras", "pandas", "prophet", "sklearn", "duckdb", "deltalake", "sqlalchemy")
LOAD = f"""
import sys, time
began = time.perf_counter()
from analytics_dagster.definitions import defs
defs.get_repository_def()
print(time.perf_counter() - began, *[name for name in {HEAVY!r} if name in sys.modules])
"""


def described() -> dict[str, Any]:
    """The definitions as plain data, sorted."""
    graph = defs.resolve_asset_graph()
    repository = defs.get_repository_def()
    return {
        "assets": {key.to_user_string(): asset(graph.get(key)) for key in sorted(graph.get_all_asset_keys())},
        "jobs": sorted(name for name in repository.job_names if not name.startswith("__")),
        "schedules": {
            s.name: {"cron": s.cron_schedule, "job": s.job_name, "status": s.default_status.value}
            for s in sorted(repository.schedule_defs, key=lambda s: s.name)
        },
        "sensors": {
            s.name: {
                "every": s.minimum_interval_seconds,
                "jobs": [t.job_name for t in s.targets],
                "status": s.default_status.value,
            }
            for s in sorted(repository.sensor_defs, key=lambda s: s.name)
        },
    }


def asset(node: Any) -> dict[str, Any]:
    lineage = node.metadata.get("dagster/column_lineage")
    return {
        "group": node.group_name,
        "deps": listed(sorted(key.to_user_string() for key in node.parent_keys)),
        "kinds": listed(sorted(node.kinds)),
        "owners": listed(node.owners),
        "tags": {name: value for name, value in sorted(node.tags.items()) if not name.startswith("dagster/kind/")},
        "pools": listed(sorted(node.pools or ())),
        "partitions": str(node.partitions_def) if node.partitions_def else None,
        "backfill": node.backfill_policy.policy_type.value if node.backfill_policy else None,
        "freshness": node.freshness_policy.deadline_cron if node.freshness_policy else None,
        "checks": listed(sorted(key.name for key in node.check_keys)),
        "described": bool(node.description and len(node.description) > 20),
        "columns": listed(column.name for column in node.metadata["dagster/column_schema"].columns),
        "columns with lineage": listed(sorted(lineage.deps_by_column) if lineage else ()),
        "code references": "dagster/code_references" in node.metadata,
    }


def listed(names: Iterable[str]) -> str:
    """One line, so that the file stays readable."""
    return ", ".join(names)


def test_the_definitions_are_as_committed() -> None:
    text = json.dumps(described(), indent=1, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(text)
    assert json.loads(SNAPSHOT.read_text()) == json.loads(text), "read this module's docstring"


def test_every_materializable_asset_has_all_that_the_catalogue_shows() -> None:
    assets = described()["assets"]
    computed = {path: one for path, one in assets.items() if not path.startswith("landing/")}
    assert len(computed) >= 20
    for path, one in assets.items():
        assert one["described"], path
        assert one["owners"], path
        assert one["kinds"], path
        assert one["tags"], path
        assert one["columns"], path
    for path, one in computed.items():
        assert one["code references"], path
        assert one["columns with lineage"], path
        assert one["checks"].startswith("every_tenant_was_computed") or ", every_tenant_was_computed" in one["checks"], path
        assert one["pools"], path
    daily = {path: one for path, one in computed.items() if one["group"] != "catalogue"}
    for path, one in daily.items():
        assert one["partitions"] == f"Daily, starting {FIRST_DAY} UTC.", path
        assert one["freshness"], path
        assert one["backfill"] == "SINGLE_RUN", path


def test_column_lineage_names_columns_that_exist() -> None:
    graph = defs.resolve_asset_graph()
    columns = {
        key: {column.name for column in graph.get(key).metadata["dagster/column_schema"].columns}
        for key in graph.get_all_asset_keys()
    }
    for key in graph.materializable_asset_keys:
        if not graph.get(key).parent_keys:
            continue  # landing: what clients sent has no columns upstream
        for column, deps in graph.get(key).metadata["dagster/column_lineage"].deps_by_column.items():
            assert column in columns[key]
            for dep in deps:
                assert dep.asset_key in graph.get(key).parent_keys
                assert dep.column_name in columns[dep.asset_key], (key, column, dep)


def test_every_check_says_what_it_expects() -> None:
    graph = defs.resolve_asset_graph()
    for key in graph.asset_check_keys:
        assert len(graph.get(key).description or "") > 20, key
        assert not graph.get(key).blocking, key


@pytest.mark.alone
def test_the_code_location_loads_in_under_three_seconds_and_without_what_is_heavy(tmp_path: Path) -> None:
    seconds = []
    for _ in range(3):
        done = command([sys.executable, "-c", LOAD], tmp_path)
        measured, *heavy = done.stdout.split()
        assert heavy == []
        seconds.append(float(measured))
        if min(seconds) < 2:
            break
    assert min(seconds) < 3, seconds


def test_dagster_accepts_the_workspace(tmp_path: Path) -> None:
    done = command([sys.executable, "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"], tmp_path)
    assert "Validation successful" in done.stdout + done.stderr


def test_dg_accepts_the_project(tmp_path: Path) -> None:
    done = command([str(Path(sys.executable).with_name("dg")), "check", "defs"], tmp_path)
    assert "All definitions loaded successfully" in done.stdout + done.stderr


def command(line: list[str], dagster_home: Path) -> subprocess.CompletedProcess[str]:
    """Run one command of the project in a fresh process, which must succeed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER_", "ANALYTICS_", "PYTEST_"))}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    environment = {**kept, "DAGSTER_HOME": str(dagster_home), "VIRTUAL_ENV": str(Path(sys.prefix))}
    done = subprocess.run(line, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(line)} exited with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def test_schedules_and_sensors_run_unless_somebody_stops_them() -> None:
    repository = defs.get_repository_def()
    assert {s.default_status for s in repository.schedule_defs} == {dg.DefaultScheduleStatus.RUNNING}
    assert {s.default_status for s in repository.sensor_defs} == {dg.DefaultSensorStatus.RUNNING}
