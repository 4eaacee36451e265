"""The reports of an installation's tenants, and what became of their sendings. Every change is in the audit trail."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analytics_dagster.clock import Clock
from analytics_dagster.errors import ConflictError, NotFoundError, UserError
from analytics_dagster.metrics.declarations import did_you_mean
from analytics_dagster.reports.report import Form, Report, Wanted, read_recipients
from analytics_dagster.reports.timetable import parse_timetable
from analytics_dagster.tenancy.audit import COMMAND_LINE, Audit

if TYPE_CHECKING:
    import sqlalchemy as sa

    from analytics_dagster.lake.database import Database

MOST_REPORTS = 100
"""Reports of one tenant."""
PAUSED = "the report was paused"


@dataclass(frozen=True)
class By:
    """Who asks for a change, for the audit trail."""

    actor: str = COMMAND_LINE
    request_id: str | None = None


@dataclass(frozen=True)
class Sending:
    """A due time of a report and one of its recipients. `days`: what the view covered; `missed`: due times it stands for too;
    `noted_at`: when it was first seen to be due.
    """

    tenant: str
    name: str
    due_at: dt.datetime
    recipient: str
    by_hand: bool
    missed: int
    state: str
    attempts: int
    try_at: dt.datetime
    last_error: str | None
    days: str | None
    noted_at: dt.datetime
    sent_at: dt.datetime | None


class Reports:
    """The reports in the operational database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock
        self._audit = Audit(database, clock)

    def all(self, tenant: str) -> list[Report]:
        """A tenant's, by name."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import reports as table

        query = sa.select(table).where(table.c.tenant == tenant).order_by(table.c.name)
        with self._database.read() as connection:
            return [report_of(row) for row in connection.execute(query)]

    def get(self, tenant: str, name: str) -> Report:
        """Raises NotFoundError with the nearest names."""
        found = self.all(tenant)
        for report in found:
            if report.name == name:
                return report
        raise NotFoundError(f"no report {name[:80]!r} of {tenant}{did_you_mean(name[:80], [one.name for one in found])}")

    def add(self, tenant: str, wanted: Wanted, by: By) -> Report:
        """Keep a new one. Raises ConflictError for a name that is taken, UserError for more than MOST_REPORTS."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import reports as table

        now = self._clock.now()
        made = Report(tenant, wanted, by.actor, now, paused=False, next_due_at=wanted.timetable.after(now))
        mine = sa.select(table.c.name).where(table.c.tenant == tenant)

        def write(connection: sa.Connection) -> None:
            names = set(connection.execute(mine).scalars())
            if wanted.name in names:
                raise _taken(tenant, wanted.name)
            if len(names) >= MOST_REPORTS:
                raise UserError(f"{tenant} has {MOST_REPORTS} reports already; remove one first")
            connection.execute(table.insert().values(**_row(made)))
            self._note("report.add", made, by, connection, f"{wanted.board}{wanted.query} to {_told(wanted)}")

        try:
            self._database.write(write)
        except sa.exc.IntegrityError:  # PostgreSQL lets two look at once; the primary key lets one of them write
            raise _taken(tenant, wanted.name) from None
        return made

    def pause(self, tenant: str, name: str, by: By) -> Report:
        """Send nothing more of it by schedule; what waits for another try is given up. Raises NotFoundError."""
        from analytics_dagster.lake.state_tables import report_sendings as sendings
        from analytics_dagster.lake.state_tables import reports as table

        report = self.get(tenant, name)

        def write(connection: sa.Connection) -> None:
            mine = (table.c.tenant == tenant, table.c.name == name, table.c.paused.is_(False))
            if connection.execute(table.update().where(*mine).values(paused=True)).rowcount:
                waiting = (sendings.c.tenant == tenant, sendings.c.name == name, sendings.c.state == "due")
                connection.execute(sendings.update().where(*waiting).values(state="skipped", last_error=PAUSED))
                self._note("report.pause", report, by, connection)

        self._database.write(write)
        return self.get(tenant, name)

    def resume(self, tenant: str, name: str, by: By) -> Report:
        """Go on with the next due time; what fell into the pause is not made up for. Raises NotFoundError."""
        from analytics_dagster.lake.state_tables import reports as table

        report = self.get(tenant, name)
        following = report.wanted.timetable.after(self._clock.now())

        def write(connection: sa.Connection) -> None:
            mine = (table.c.tenant == tenant, table.c.name == name, table.c.paused.is_(True))
            if connection.execute(table.update().where(*mine).values(paused=False, next_due_at=following)).rowcount:
                self._note("report.resume", report, by, connection)

        self._database.write(write)
        return self.get(tenant, name)

    def remove(self, tenant: str, name: str, by: By) -> None:
        """Forget it and its sendings; the audit trail keeps that it was there. Raises NotFoundError."""
        from analytics_dagster.lake.state_tables import report_sendings as sendings
        from analytics_dagster.lake.state_tables import reports as table

        report = self.get(tenant, name)

        def write(connection: sa.Connection) -> None:
            for one in (sendings, table):
                connection.execute(one.delete().where(one.c.tenant == tenant, one.c.name == name))
            self._note("report.remove", report, by, connection)

        self._database.write(write)

    def send_now(self, tenant: str, name: str, by: By) -> dt.datetime:
        """Make it due at once, beside its schedule; returns the due time.

        Raises NotFoundError, and ConflictError while it is on its way.
        """
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import report_sendings as sendings

        report, now = self.get(tenant, name), self._clock.now()
        due = now.replace(microsecond=0)

        asked = (sendings.c.tenant == tenant, sendings.c.name == name, sendings.c.by_hand.is_(True))
        waiting = sa.select(sendings.c.due_at).where(*asked, sendings.c.state.in_(("due", "sending"))).limit(1)

        def write(connection: sa.Connection) -> None:
            if connection.execute(waiting).first() is not None:
                raise ConflictError(f"the report {name!r} is on its way already; `report show` tells how far it is")
            connection.execute(sendings.insert(), new_sendings(report, due, now, by_hand=True))
            self._note("report.send", report, by, connection, f"to {_told(report.wanted)}")

        try:
            self._database.write(write)
        except sa.exc.IntegrityError:
            raise ConflictError(f"the report {name!r} is due at {due:%H:%M:%S} UTC already; try again in a second") from None
        return due

    def sendings(self, tenant: str, name: str | None = None, *, limit: int = 100) -> list[Sending]:
        """The newest first; of one report, or of all of a tenant's."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import report_sendings as table

        query = sa.select(table).where(table.c.tenant == tenant)
        if name is not None:
            query = query.where(table.c.name == name)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(table.c.due_at.desc(), table.c.recipient).limit(limit)).all()
        return [sending_of(row) for row in rows]

    def newest(self, tenant: str) -> dict[str, list[Sending]]:
        """The sendings of each report's newest due time, by its name."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import report_sendings as table

        mine = table.c.tenant == tenant
        last = sa.select(table.c.name, sa.func.max(table.c.due_at).label("due_at")).where(mine).group_by(table.c.name).subquery()
        same = sa.and_(table.c.name == last.c.name, table.c.due_at == last.c.due_at)
        found: dict[str, list[Sending]] = {}
        with self._database.read() as connection:
            for row in connection.execute(sa.select(table).join(last, same).where(mine).order_by(table.c.recipient)):
                found.setdefault(row.name, []).append(sending_of(row))
        return found

    def _note(self, action: str, report: Report, by: By, connection: sa.Connection, detail: str = "") -> None:
        self._audit.record(
            action,
            by.actor,
            tenant=report.tenant,
            target=report.name,
            detail=detail,
            request_id=by.request_id,
            connection=connection,
        )


def new_sendings(
    report: Report, due: dt.datetime, now: dt.datetime, *, by_hand: bool = False, missed: dict[str, int] | None = None
) -> list[dict[str, Any]]:
    """Rows for all recipients of a due time. `missed`: by recipient, how many before it went out to nobody."""
    return [
        {
            "tenant": report.tenant,
            "name": report.name,
            "due_at": due,
            "recipient": str(one),
            "by_hand": by_hand,
            "missed": (missed or {}).get(str(one), 0),
            "state": "due",
            "try_at": now,
            "attempts": 0,
            "created_at": now,
        }
        for one in report.wanted.recipients
    ]


def report_of(row: Any) -> Report:
    """From a row of `reports`."""
    timetable = parse_timetable(row.schedule, row.time_zone)
    wanted = Wanted(row.name, row.board, row.query, Form(row.format), timetable, read_recipients(json.loads(row.recipients)))
    return Report(row.tenant, wanted, row.creator, row.created_at, row.paused, row.next_due_at)


def sending_of(row: Any) -> Sending:
    """From a row of `report_sendings`."""
    return Sending(
        row.tenant,
        row.name,
        row.due_at,
        row.recipient,
        row.by_hand,
        row.missed,
        row.state,
        row.attempts,
        row.try_at,
        row.last_error,
        row.days,
        row.created_at,
        row.sent_at,
    )


def state_of(sendings: Sequence[Sending]) -> str:
    """How its newest due time went, in a line: `sent to 2 of 3; ann@example.com: 550 no such user`."""
    if not sendings:
        return "nothing sent yet"
    sent = sum(one.state == "sent" for one in sendings)
    wrong = next((one for one in sendings if one.last_error and one.state != "sent"), None)
    said = f"sent to {sent} of {len(sendings)}" if len(sendings) > 1 else sendings[0].state
    again = ", trying again" if wrong is not None and wrong.state in ("due", "sending") else ""
    return f"{said}{again}; {wrong.recipient}: {wrong.last_error}" if wrong is not None else said


def _row(report: Report) -> dict[str, Any]:
    wanted = report.wanted
    return {
        "tenant": report.tenant,
        "name": wanted.name,
        "board": wanted.board,
        "query": wanted.query,
        "format": wanted.form.value,
        "schedule": wanted.timetable.text,
        "time_zone": wanted.timetable.zone,
        "recipients": json.dumps([str(one) for one in wanted.recipients]),
        "creator": report.creator,
        "created_at": report.created_at,
        "paused": report.paused,
        "next_due_at": report.next_due_at,
    }


def _taken(tenant: str, name: str) -> ConflictError:
    return ConflictError(f"{tenant} has a report {name!r} already; take another name, or remove that one first")


def _told(wanted: Wanted) -> str:
    return ", ".join(str(one) for one in wanted.recipients)
