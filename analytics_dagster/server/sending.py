"""The thread of `analytics serve` that sends reports when they are due.

It runs beside the consumer, where no requests are answered: drawing takes a second or two of Python, and what it loads stays out
of the workers.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

import structlog

from analytics_dagster.errors import AnalyticsError

if TYPE_CHECKING:
    from analytics_dagster.installation import Installation

SEND_SECONDS = 5.0
_NICE = 19

log = structlog.get_logger("analytics.reports")


def send_reports(installation: Installation, ready: threading.Event, stopping: threading.Event, patience: float) -> None:
    """Until `stopping`. Not before the workers are ready, or `patience` seconds have passed."""
    from analytics_dagster.reports.send import send_due
    from analytics_dagster.reports.sendings import has_due, renew_sender

    if sys.platform == "linux":  # there nice is a thread's
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
    ready.wait(patience)
    while not stopping.wait(SEND_SECONDS):
        try:
            renew_sender(installation.database, installation.clock.now())
            if not has_due(installation.database, installation.clock.now()):
                continue
            report = send_due(installation, limit=10)
        except AnalyticsError as error:
            log.warning("sending reports will try again", error=str(error))
        except Exception as error:  # a thread that ends sends no report ever again, so it tells and goes on
            log.error("sending reports failed and will try again", exc_info=error)
            stopping.wait(10 * SEND_SECONDS)
        else:
            for problem in report.problems:
                log.warning("a report was not sent", problem=problem)
            if report.sent:
                log.info("reports sent", messages=report.sent)
