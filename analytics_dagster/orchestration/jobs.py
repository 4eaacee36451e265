"""The jobs: materialize days, consume the ingest log, deliver what is due, go on with the demo, keep house."""

from typing import Any

import dagster as dg

from analytics_dagster.orchestration.consuming import CONSUMED_TABLES
from analytics_dagster.orchestration.ops import continue_demo, deliver_notifications, keep_house, send_due_reports

UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

materialize_days = dg.define_asset_job(
    "materialize_days",
    selection=dg.AssetSelection.all() - dg.AssetSelection.groups("landing"),
    description="Raw to insights for a day or a range of days, all tenants in one step each.",
    executor_def=dg.in_process_executor,
)


consume_log = dg.define_asset_job(
    "consume_log",
    selection=dg.AssetSelection.assets(*(["landing", table.name] for table in CONSUMED_TABLES)),
    description="Takes what is in the ingest log to landing.",
    executor_def=dg.in_process_executor,
)


@dg.job(executor_def=dg.in_process_executor, description="Send the alert messages that are due.")
def notify() -> None:
    deliver_notifications()


@dg.job(executor_def=dg.in_process_executor, description="Send the views that are due by e-mail and to Slack.")
def send_reports() -> None:
    send_due_reports()


@dg.job(executor_def=dg.in_process_executor, description="Simulate the demo tenants' missing days up to yesterday.")
def simulate_demo() -> None:
    continue_demo()


@dg.job(
    executor_def=dg.in_process_executor,
    description="Vacuum and checkpoint Delta tables, prune Dagster's event log, delete what removed tenants left.",
)
def maintenance() -> None:
    keep_house()


JOBS: list[Any] = [materialize_days, consume_log, notify, send_reports, simulate_demo, maintenance]
