"""Dagster's home: the `dagster.yaml` of an installation, written from its settings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from analytics_dagster.orchestration.event_log import BATCH_SIZE, BATCH_VARIABLE
from analytics_dagster.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

POSTGRES_VARIABLE = "ANALYTICS_DAGSTER_POSTGRES_URL"
"""Carries the database's address to Dagster's processes, so that its password is in no file."""

_TICK_DAYS = {"skipped": 2, "success": 14, "failure": 30, "started": 30}


def dagster_configuration(settings: Settings) -> dict[str, Any]:
    """What goes into `dagster.yaml`: storage beside our own state, retries, monitoring, retention, one slot per pool."""
    common: dict[str, Any] = {
        "telemetry": {"enabled": False},
        # No newsletter dialog over the graph at the first start.
        "nux": {"enabled": False},
        # A notification waits for a place in the queue: the default of 5 s would be half of its way.
        "run_queue": {"dequeue_interval_seconds": 1},
        # One slot per pool, one pool per table: two runs never write the same Delta table at once.
        "concurrency": {"runs": {"max_concurrent_runs": 4}, "pools": {"default_limit": 1, "granularity": "run"}},
        "run_retries": {"enabled": True, "max_retries": 1},
        "run_monitoring": {"enabled": True, "start_timeout_seconds": 180, "poll_interval_seconds": 30},
        "sensors": {"use_threads": True, "num_workers": 4},
        "schedules": {"use_threads": True, "num_workers": 2},
        "retention": {"sensor": {"purge_after_days": _TICK_DAYS}, "schedule": {"purge_after_days": _TICK_DAYS}},
        "python_logs": {"python_log_level": settings.analytics_log_level},
    }
    if settings.database_url.startswith("postgresql"):
        config = {"postgres_url": {"env": POSTGRES_VARIABLE}}
        return {
            **common,
            "run_storage": {"module": "dagster_postgres.run_storage", "class": "PostgresRunStorage", "config": config},
            "schedule_storage": {
                "module": "dagster_postgres.schedule_storage",
                "class": "PostgresScheduleStorage",
                "config": config,
            },
            "event_log_storage": {
                "module": "analytics_dagster.orchestration.event_log_postgres",
                "class": "WholeRangePostgresEventLogStorage",
                "config": config,
            },
        }
    folder = str(settings.dagster_home / "history")
    event_log = {
        "module": "analytics_dagster.orchestration.event_log",
        "class": "BatchedSqliteEventLogStorage",
        "config": {"base_dir": folder},
    }
    return {**common, "event_log_storage": event_log}


def prepare_dagster_home(settings: Settings) -> dict[str, str]:
    """Write `dagster.yaml` and return the environment that Dagster's processes need to find it and their storage.

    The database's password stays out of the file: it names a variable.
    """
    import yaml

    home = settings.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    text = "# Written by `analytics`; change settings, not this file.\n" + yaml.safe_dump(dagster_configuration(settings))
    target = home / "dagster.yaml"
    if not target.exists() or target.read_text() != text:
        draft = target.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(text)
        draft.replace(target)
    environment = {
        "DAGSTER_HOME": str(home),
        "ANALYTICS_HOME": str(settings.analytics_home),
        BATCH_VARIABLE: os.environ.get(BATCH_VARIABLE, BATCH_SIZE),
    }
    if settings.database_url.startswith("postgresql"):
        environment[POSTGRES_VARIABLE] = settings.database_url
    return environment


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """The instance of this installation, for use in this process."""
    import dagster as dg

    os.environ.update(prepare_dagster_home(settings))
    return dg.DagsterInstance.get()
