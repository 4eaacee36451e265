"""Runs whose process was killed: Dagster shows them as started for ever, so the next one to come along ends them."""

from __future__ import annotations

import os
import socket

import dagster as dg
import psutil

PROCESS_TAG = "analytics/process"


def process_tag() -> dict[str, str]:
    """Names this process so that nobody takes another one with the same number for it."""
    # Retrying belongs to whoever called: the daemon cannot start an in-process run again.
    return {"dagster/max_retries": "0", PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.0f}"}


def cancel_abandoned(instance: dg.DagsterInstance) -> int:
    """End the runs of this machine whose process is gone. Canceled, not failed: nobody is to be paged for a Ctrl-C."""
    ended = 0
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.NOT_STARTED])):
        owner = run.tags.get(PROCESS_TAG)
        if owner is not None and _gone(owner):
            instance.report_run_canceled(run, message="The process that ran it was stopped; its days are computed again.")
            ended += 1
    return ended


def _gone(owner: str) -> bool:
    host, process, created = owner.rsplit(":", 2)
    if host != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(int(process)).create_time() - float(created)) > 2
    except psutil.NoSuchProcess:
        return True
