"""Our event log against Dagster's default one: the same two assets over the same range of days, in turn, in one run."""

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

DAYS = 500
ROUNDS = 3

warnings.filterwarnings("ignore", category=dg.BetaWarning)
_PARTITIONS = dg.DailyPartitionsDefinition("2020-01-01", end_date="2022-01-01")


@dg.asset(partitions_def=_PARTITIONS, backfill_policy=dg.BackfillPolicy.single_run())
def plays() -> dg.MaterializeResult[Any]:
    return dg.MaterializeResult(metadata={"dagster/row_count": 5})


@dg.asset(
    deps=[plays],
    partitions_def=_PARTITIONS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    check_specs=[dg.AssetCheckSpec("rows_arrived", asset="streams")],
)
def streams():  # type: ignore[no-untyped-def]  # Dagster refuses MaterializeResult beside a check
    return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=True, check_name="rows_arrived")])


def ours(home: Path) -> Mapping[str, Any]:
    storage = {"module": "analytics_dagster.orchestration.event_log", "class": "BatchedSqliteEventLogStorage"}
    return {"event_log_storage": {**storage, "config": {"base_dir": str(home / "history")}}}


def default(_home: Path) -> Mapping[str, Any]:
    return {}


def measure(storage: Any) -> tuple[float, float]:
    """Seconds for the run, and megabytes of databases afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        quiet = {"telemetry": {"enabled": False}, "python_logs": {"python_log_level": "ERROR"}}
        (home / "dagster.yaml").write_text(yaml.safe_dump({**quiet, **storage(home)}))
        os.environ["DAGSTER_HOME"] = folder
        keys = _PARTITIONS.get_partition_keys()[:DAYS]
        tags = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
        job = dg.Definitions([plays, streams]).resolve_implicit_global_asset_job_def()
        with dg.DagsterInstance.get() as instance:
            began = time.perf_counter()
            result = job.execute_in_process(
                instance=instance, tags=tags, run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
            )
            seconds = time.perf_counter() - began
        assert result.success
        return seconds, sum(f.stat().st_size for f in home.rglob("*.db")) / 1e6


def main() -> None:
    os.environ["DAGSTER_EVENT_BATCH_SIZE"] = "500"
    pairs = [(measure(ours), measure(default)) for _ in range(ROUNDS)]
    for number, what in enumerate(("seconds", "megabytes")):
        mine, theirs = (statistics.median(pair[side][number] for pair in pairs) for side in (0, 1))
        ratio = statistics.median(pair[0][number] / pair[1][number] for pair in pairs)
        print(f"{DAYS} days x 2 assets, {what}: ours {mine:.2f}, Dagster's default {theirs:.2f}, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
