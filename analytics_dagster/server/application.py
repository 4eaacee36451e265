"""The ASGI application of a worker process, put together. Loaded by Granian in each worker."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading

from analytics_dagster.server.front import Front
from analytics_dagster.server.service import Plan, Service

_PR_SET_PDEATHSIG = 1


def load(plan: Plan) -> Front:
    """A worker's application. Called in the worker, before its event loop runs."""
    from analytics_dagster.server.api import build_api
    from analytics_dagster.server.doors import DOORS
    from analytics_dagster.server.logs import configure_logs

    end_with_parent()
    configure_logs(plan.settings.analytics_log_level, "worker")
    return Front(Service(plan), DOORS, build_api())


def end_with_parent() -> None:
    """A worker without its parent would hold the port and the log against the next server, so it ends with it.

    At once and not in good order: whatever was acknowledged is on disk, and a parent that was killed may be started anew already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
