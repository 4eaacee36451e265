"""Which reports are due, and who sends them: rows in the database before anything is sent.

`note_due` writes one row for each recipient of a due time and moves the report's clock on, in one transaction: a due time is
noted once, whoever looks. A claim is a lease: what a killed process held is claimed again when the lease has run out, and sent
under the same key. `hold` renews it before each message, so that whoever was away too long finds the row taken and sends nothing.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from analytics_dagster.errors import UserError
from analytics_dagster.lake.state_tables import cursors, report_sendings, reports, tenants
from analytics_dagster.reports.report import Report
from analytics_dagster.reports.store import Sending, new_sendings, report_of, sending_of
from analytics_dagster.tenancy.tenants import TenantStatus

if TYPE_CHECKING:
    from analytics_dagster.lake.database import Database

_log = logging.getLogger(__name__)
_KEEP = dt.timedelta(days=90)
_WAITING = ("due", "sending")
_SUPERSEDED = "not sent before the next one was due, which went out in its place"
_UNREADABLE = "the report cannot be read"
_INACTIVE = "the tenant is suspended or removed"


SENDER = "report-sender"
"""Cursor that a process which sends all the time (`analytics serve`) renews."""
SENDER_SECONDS = 60
_RENEWED_AFTER = dt.timedelta(seconds=SENDER_SECONDS / 3)


@dataclass(frozen=True)
class Policy:
    """How long one process has for a due time, and when a recipient is given up. A newer due time ends an older one's tries."""

    lease: dt.timedelta = dt.timedelta(minutes=3)
    give_up_after: dt.timedelta = dt.timedelta(days=3)
    most_attempts: int = 200


@dataclass(frozen=True)
class Claim:
    """A report's due time, and those of its recipients that are ours to send to."""

    report: Report
    due_at: dt.datetime
    sendings: tuple[Sending, ...]


def has_due(database: Database, now: dt.datetime) -> bool:
    """Whether sending would find anything to do."""
    noted = sa.select(reports.c.name).where(reports.c.next_due_at <= now, reports.c.paused.is_(False)).limit(1)
    with database.read() as connection:
        if connection.execute(noted).first() is not None:
            return True
        return connection.execute(sa.select(report_sendings.c.name).where(_ready(now)).limit(1)).first() is not None


def note_due(database: Database, now: dt.datetime, tell: Callable[[str], None] = _log.error) -> int:
    """Note what is due. Of several due times that passed while nobody looked only the newest goes out, and says so.

    Returns how many reports. A tenant that is not active has its times pass by. One that cannot be noted is told to `tell` and
    stays due; it is no other's loss.
    """
    due = sa.select(reports).where(reports.c.next_due_at <= now, reports.c.paused.is_(False))
    with database.read() as connection:
        rows = connection.execute(due).all()
    noted = 0
    for row in rows:
        try:
            report = report_of(row)
            newest, missed = report.wanted.timetable.missed(report.next_due_at, now)
            following = report.wanted.timetable.after(newest)
            noted += database.write(partial(_note, report=report, due=newest, missed=missed, following=following, now=now))
        except Exception as error:  # broad: whatever one tenant's row is or meets, the reports of all others are behind it
            tell(f"report {row.name} of {row.tenant} cannot be made due: {type(error).__name__}: {error}")
    return noted


def claim(database: Database, me: str, now: dt.datetime, policy: Policy, only: tuple[str, str] | None = None) -> Claim | None:
    """Take one due time of one report, the one with the fewest tries first; None when nothing may be sent now.

    `only`: tenant and name of the one report that is looked at.
    """
    return database.write(lambda connection: _claim(connection, me, now, policy, only))


def hold(database: Database, sending: Sending, me: str, until: dt.datetime) -> bool:
    """Whether the row is still ours; if so, until `until`."""
    return _change(database, sending, me, {"claimed_until": until})


def finish(database: Database, sending: Sending, me: str, values: Mapping[str, Any]) -> bool:
    """Write what became of a row that is still ours."""
    return _change(database, sending, me, {"claimed_by": None, "claimed_until": None, **values})


def renew_sender(database: Database, now: dt.datetime) -> None:
    """Say that somebody sends all the time; written three times a minute, however often it is called."""
    with database.read() as connection:
        renewed = connection.execute(sa.select(cursors.c.changed_at).where(cursors.c.name == SENDER)).scalar()
    if renewed is not None and dt.timedelta(0) <= now - renewed < _RENEWED_AFTER:
        return

    def write(connection: sa.Connection) -> None:
        mine = cursors.update().where(cursors.c.name == SENDER).values(value="", changed_at=now)
        if not connection.execute(mine).rowcount:
            connection.execute(cursors.insert().values(name=SENDER, value="", changed_at=now))

    database.write(write)


def needs_a_sender(database: Database, now: dt.datetime) -> bool:
    """Whether something is due and no process sends all the time. Two that both send take different rows."""
    with database.read() as connection:
        renewed = connection.execute(sa.select(cursors.c.changed_at).where(cursors.c.name == SENDER)).scalar()
    if renewed is not None and now - renewed < dt.timedelta(seconds=SENDER_SECONDS):
        return False
    return has_due(database, now)


def forget_old(database: Database, now: dt.datetime) -> int:
    """Delete what is over since 90 days."""
    old = sa.and_(report_sendings.c.created_at < now - _KEEP, report_sendings.c.state.not_in(_WAITING))
    return database.write(lambda connection: connection.execute(report_sendings.delete().where(old)).rowcount)


def not_sent(database: Database) -> list[Sending]:
    """Of each report's newest due time, what failed for good or was tried in vain: for whoever looks after the installation."""
    newest = (
        sa.select(report_sendings.c.tenant, report_sendings.c.name, sa.func.max(report_sendings.c.due_at).label("due_at"))
        .group_by(report_sendings.c.tenant, report_sendings.c.name)
        .subquery()
    )
    same = [getattr(report_sendings.c, name) == getattr(newest.c, name) for name in ("tenant", "name", "due_at")]
    wrong = sa.or_(
        report_sendings.c.state == "failed",
        sa.and_(report_sendings.c.state.in_(_WAITING), report_sendings.c.last_error.is_not(None)),
    )
    query = sa.select(report_sendings).join(newest, sa.and_(*same)).where(wrong)
    order = (report_sendings.c.tenant, report_sendings.c.name, report_sendings.c.recipient)
    with database.read() as connection:
        return [sending_of(row) for row in connection.execute(query.order_by(*order))]


def _note(
    connection: sa.Connection, report: Report, due: dt.datetime, missed: int, following: dt.datetime, now: dt.datetime
) -> int:
    mine = (reports.c.tenant == report.tenant, reports.c.name == report.name)
    seen = (reports.c.next_due_at == report.next_due_at, reports.c.paused.is_(False))
    if not connection.execute(reports.update().where(*mine, *seen).values(next_due_at=following)).rowcount:
        return 0  # somebody else noted it, or it was paused or removed
    if not _is_active(connection, report.tenant):
        return 0
    over: dict[str, int] = {}
    # One that was asked for by hand since, or in this very second, is no older one: it goes out, and for this one too.
    older = report_sendings.c.due_at < due
    for old in connection.execute(sa.select(report_sendings).where(_of(report), _free(now), older)).all():
        connection.execute(report_sendings.update().where(_is(old)).values(state="skipped", last_error=_why_over(old)))
        over[old.recipient] = over.get(old.recipient, 0) + old.missed + (not old.by_hand)
    counts = {str(one): missed + over.get(str(one), 0) for one in report.wanted.recipients}
    _insert(connection, report, due, now, counts)
    return 1


def _insert(connection: sa.Connection, report: Report, due: dt.datetime, now: dt.datetime, missed: dict[str, int]) -> None:
    """Rows for those who do not have this due time yet. Those who do, as asked by hand, are told what else it stands for."""
    same = sa.and_(_of(report), report_sendings.c.due_at == due)
    there = set(connection.execute(sa.select(report_sendings.c.recipient).where(same)).scalars())
    new = [row for row in new_sendings(report, due, now, missed=missed) if row["recipient"] not in there]
    if new:
        connection.execute(report_sendings.insert(), new)
    for recipient in there & missed.keys():
        waits = sa.and_(same, report_sendings.c.recipient == recipient, report_sendings.c.state.in_(_WAITING))
        connection.execute(report_sendings.update().where(waits).values(missed=missed[recipient]))


def _claim(connection: sa.Connection, me: str, now: dt.datetime, policy: Policy, only: tuple[str, str] | None) -> Claim | None:
    query = sa.select(report_sendings).where(_ready(now)).order_by(report_sendings.c.attempts, report_sendings.c.try_at)
    if only is not None:
        query = query.where(report_sendings.c.tenant == only[0], report_sendings.c.name == only[1])
    for first in connection.execute(query.limit(200)).all():
        found = connection.execute(
            sa.select(reports).where(reports.c.tenant == first.tenant, reports.c.name == first.name)
        ).one_or_none()
        why = _why_not(connection, first, found, policy)
        if why is not None:
            state = "skipped" if first.attempts < policy.most_attempts and not why.startswith(_UNREADABLE) else "failed"
            connection.execute(report_sendings.update().where(_is(first), _ready(now)).values(state=state, last_error=why))
            continue
        due = sa.and_(*(getattr(report_sendings.c, name) == getattr(first, name) for name in ("tenant", "name", "due_at")))
        values = {"state": "sending", "claimed_by": me, "claimed_until": now + policy.lease}
        # Each by itself: of two that claim at once on PostgreSQL the second finds the row changed and lets it be.
        mine = [
            row
            for row in connection.execute(
                sa.select(report_sendings).where(due, _ready(now)).order_by(report_sendings.c.recipient)
            )
            if connection.execute(
                report_sendings.update().where(_is(row), _ready(now)).values(attempts=row.attempts + 1, **values)
            ).rowcount
        ]
        if mine:
            return Claim(report_of(found), first.due_at, tuple(sending_of(row) for row in mine))
    return None


def _why_not(connection: sa.Connection, sending: Any, report: Any, policy: Policy) -> str | None:
    """Why a row that is due goes out to nobody, None when it may."""
    if report is None:
        return "the report was removed"
    if (unreadable := _why_unreadable(report)) is not None:
        return unreadable
    if not _is_active(connection, sending.tenant):
        return _INACTIVE
    if sending.attempts >= policy.most_attempts:
        return f"given up after {sending.attempts} attempts; last: {sending.last_error}"
    if report.paused and not sending.by_hand:
        return "the report is paused"
    newer = sa.select(report_sendings.c.name).where(
        _of(sending), report_sendings.c.recipient == sending.recipient, report_sendings.c.due_at > sending.due_at
    )
    return _why_over(sending) if connection.execute(newer.limit(1)).first() is not None else None


def _why_unreadable(row: Any) -> str | None:
    """Why a report's own row cannot be used (any more): a time zone that is gone, for one."""
    try:
        report_of(row)
    except (UserError, ValueError) as error:
        return f"{_UNREADABLE}: {error}"
    return None


def _why_over(sending: Any) -> str:
    return f"{_SUPERSEDED}; last: {sending.last_error}" if sending.last_error else _SUPERSEDED


def _is_active(connection: sa.Connection, tenant: str) -> bool:
    status = connection.execute(sa.select(tenants.c.status).where(tenants.c.tenant == tenant)).scalar()
    return status == TenantStatus.ACTIVE


def _change(database: Database, sending: Sending, me: str, values: Mapping[str, Any]) -> bool:
    mine = sa.and_(_is(sending), report_sendings.c.claimed_by == me, report_sendings.c.state == "sending")
    return database.write(lambda c: c.execute(report_sendings.update().where(mine).values(**values)).rowcount) == 1


def _of(of: Any) -> sa.ColumnElement[bool]:
    return sa.and_(report_sendings.c.tenant == of.tenant, report_sendings.c.name == of.name)


def _is(row: Any) -> sa.ColumnElement[bool]:
    return sa.and_(_of(row), report_sendings.c.due_at == row.due_at, report_sendings.c.recipient == row.recipient)


def _ready(now: dt.datetime) -> sa.ColumnElement[bool]:
    due = sa.and_(report_sendings.c.state == "due", report_sendings.c.try_at <= now)
    return sa.or_(due, _lost(now))


def _free(now: dt.datetime) -> sa.ColumnElement[bool]:
    """Waits, and nobody is sending it."""
    return sa.or_(report_sendings.c.state == "due", _lost(now))


def _lost(now: dt.datetime) -> sa.ColumnElement[bool]:
    return sa.and_(report_sendings.c.state == "sending", report_sendings.c.claimed_until <= now)
