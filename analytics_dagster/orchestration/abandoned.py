"""Runs whose process was killed: Dagster shows them as started for ever, so the next one to come along ends them."""

from __future__ import annotations

import json
import os
import socket

import dagster as dg
import psutil

PROCESS_TAG = "analytics/process"
ABANDONED_TAG = "analytics/abandoned"
"""Of a run that was ended here: it says nothing about its days."""
# Where Dagster's default launcher notes the code server that a run is a child of.
_SERVER_TAG = ".dagster/grpc_info"


def process_tag() -> dict[str, str]:
    """Names this process so that nobody takes another one with the same number for it."""
    # Retrying belongs to whoever called: the daemon cannot start an in-process run again.
    return {"dagster/max_retries": "0", PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.0f}"}


def cancel_abandoned(instance: dg.DagsterInstance, *, launched: bool = False) -> int:
    """End the runs of this machine whose process is gone. Canceled, not failed: nobody is to be paged for a Ctrl-C.

    `launched` looks at the runs that the daemon started, too. Only its own code server may ask for that: their sockets are
    seen on its machine alone. Dagster's run monitoring does not look after them, and a run that is under way for ever keeps
    its pools, and whoever waits for it.
    """
    ended = 0
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.NOT_STARTED])):
        owner, server = run.tags.get(PROCESS_TAG), run.tags.get(_SERVER_TAG)
        if (owner is not None and _gone(owner)) or (launched and server is not None and _silent(server)):
            instance.add_run_tags(run.run_id, {ABANDONED_TAG: "true"})
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


def _silent(server: str) -> bool:
    """Whether nobody listens any more at the socket of the code server that ran it. It looks after its runs while it lives."""
    path = json.loads(server).get("socket")
    if path is None:
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return True
        except OSError:
            return False  # busy is not gone
    return False
