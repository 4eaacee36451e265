"""The mission's example, in a process, a folder and a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = """
import asyncio
from datetime import datetime

from analytics_dagster import analytics_engine, AnalyticsMetric, MetricType

metric = AnalyticsMetric(name="user_engagement_rate", value=0.85, timestamp=datetime.now(), tenant_id="tenant_123",
                         metric_type=MetricType.GAUGE, labels={"region": "us-east", "user_tier": "premium"})

async def main():
    await analytics_engine.record_metric(metric)

asyncio.run(main())
"""


def _run(program: str, folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANALYTICS_", "METRICS_", "DAGSTER_"))}
    (folder / "home").mkdir(exist_ok=True)
    environment = {**kept, "HOME": str(folder / "home"), **environment}
    command = [sys.executable, *options, "-c", program]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_the_example_runs_as_it_stands_and_its_point_is_consumed(tmp_path: Path) -> None:
    from analytics_dagster.ingest.consume import consume
    from analytics_dagster.installation import open_installation
    from analytics_dagster.lake import schemas
    from analytics_dagster.settings import Settings

    ran = _run(EXAMPLE, tmp_path, "-W", "error")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    installation = open_installation(Settings.from_environment(tmp_path / ".analytics"), create=False)
    consumed = consume(installation)
    assert (consumed.points, consumed.tenants) == (1, frozenset({"tenant_123"}))
    [row] = installation.lake.tenant("tenant_123").table(schemas.landing(schemas.METRICS)).read().to_pylist()
    assert (row["name"], row["type"], row["value"]) == ("user_engagement_rate", "gauge", 0.85)
    assert row["labels"] == '{"region":"us-east","user_tier":"premium"}'
    installation.database.dispose()


def test_a_program_that_ends_at_once_loses_nothing_and_imports_no_other_rooms_libraries(tmp_path: Path) -> None:
    program = """
import sys
from analytics_dagster import analytics_engine, AnalyticsMetric
for i in range(1000):
    analytics_engine.record_metric_nowait(AnalyticsMetric("cpu", i))
print([name for name in ("dagster", "fastapi", "deltalake", "httpx", "duckdb") if name in sys.modules])
"""
    ran = _run(program, tmp_path, "-W", "error")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "[]\n", "")
    ran = _run(
        "from analytics_dagster.ingest.log.open import open_sources; from analytics_dagster.settings import Settings;"
        "print(sum(b.rows.num_rows for s in open_sources(Settings.from_environment()) for b in s.read(0, 10**9)))",
        tmp_path,
    )
    assert ran.stdout == "1000\n"


def test_importing_the_package_imports_nothing_heavy(tmp_path: Path) -> None:
    program = """
import sys
before = set(sys.modules)
import analytics_dagster
assert "analytics_engine" in dir(analytics_dagster)
heavy = {"pyarrow", "numpy", "pandas", "dagster", "sqlalchemy", "pydantic", "msgspec", "httpx", "duckdb", "deltalake"}
print(sorted(heavy & {name.partition(".")[0] for name in set(sys.modules) - before}))
"""
    assert _run(program, tmp_path).stdout == "[]\n"


def test_a_name_that_is_none_of_the_packages_is_an_attribute_error(tmp_path: Path) -> None:
    ran = _run("import analytics_dagster; analytics_dagster.analitics_engine", tmp_path)
    assert "module 'analytics_dagster' has no attribute 'analitics_engine'" in ran.stderr


def test_all_public_names_can_be_imported() -> None:
    import analytics_dagster

    for name in analytics_dagster.__all__:
        assert getattr(analytics_dagster, name) is not None
