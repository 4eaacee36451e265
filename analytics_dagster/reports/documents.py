"""Reports and their sendings as plain JSON, the same for the command line and the API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analytics_dagster.reports.report import Report
from analytics_dagster.reports.store import Sending, state_of


def report_document(report: Report, newest: Sequence[Sending]) -> dict[str, Any]:
    """A report, and how the newest of its due times went. Times are ISO 8601 in UTC; `next_due_at` is null while it is paused."""
    wanted = report.wanted
    return {
        "name": report.name,
        "tenant": report.tenant,
        "view": f"{wanted.board}{wanted.query}",
        "format": wanted.form.value,
        "schedule": wanted.timetable.text,
        "time_zone": wanted.timetable.zone,
        "recipients": [str(one) for one in wanted.recipients],
        "creator": report.creator,
        "created_at": report.created_at.isoformat(),
        "paused": report.paused,
        "next_due_at": None if report.paused else report.next_due_at.isoformat(),
        "state": state_of(newest),
        "last_error": next((one.last_error for one in newest if one.state != "sent" and one.last_error), None),
    }


def sending_document(sending: Sending) -> dict[str, Any]:
    """One recipient of one due time."""
    return {
        "due_at": sending.due_at.isoformat(),
        "recipient": sending.recipient,
        "state": sending.state,
        "by_hand": sending.by_hand,
        "missed": sending.missed,
        "attempts": sending.attempts,
        "try_at": sending.try_at.isoformat() if sending.state in ("due", "sending") else None,
        "last_error": sending.last_error,
        "days": sending.days,
        "sent_at": sending.sent_at.isoformat() if sending.sent_at else None,
    }
