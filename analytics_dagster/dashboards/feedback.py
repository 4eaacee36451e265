"""What people say of findings: useful, or dismissed. A dismissed one stays away, and so does its story for two weeks.

A finding's id is its day and its story: metric, element and direction, so that a page that is written again has the same ids.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from enum import StrEnum
from typing import TYPE_CHECKING

from analytics_dagster.clock import Clock
from analytics_dagster.errors import UserError

if TYPE_CHECKING:
    from analytics_dagster.lake.database import Database

STAYS_AWAY = dt.timedelta(days=14)
"""How long a dismissed story is not told again."""
_ID = re.compile(r"(\d{4}-\d{2}-\d{2})-([0-9a-f]{10})")


class Verdict(StrEnum):
    """What may be said."""

    USEFUL = "useful"
    DISMISS = "dismiss"


def story_of(metric: str, element: tuple[str, str] | None, change: float | None) -> str:
    """What a finding is about, whatever the day: ten hexadecimal digits."""
    side = "" if change is None else "+" if change > 0 else "-"
    return hashlib.sha256("\0".join((metric, *(element or ()), side)).encode()).hexdigest()[:10]


def finding_id(day: dt.date, story: str) -> str:
    return f"{day}-{story}"


def read_id(text: str) -> tuple[dt.date, str]:
    """Day and story. Raises UserError for what is no finding's id."""
    found = _ID.fullmatch(text)
    try:
        if found:
            return dt.date.fromisoformat(found[1]), found[2]
    except ValueError:
        pass
    raise UserError(f"{text!r} is no finding; GET /analytics/insights/TENANT names each with its id, as 2026-03-09-0123456789")


class Feedback:
    """What was said of an installation's findings."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def say(self, tenant: str, finding: str, verdict: str, author: str) -> None:
        """The newest word counts. Raises UserError for an unknown verdict or id."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import finding_feedback as table

        if verdict not in set(Verdict):
            raise UserError(f"verdict={verdict!r} is not known; one of {', '.join(Verdict)}")
        day, story = read_id(finding)
        mine = {"tenant": tenant, "day": day, "story": story}
        said = {"verdict": verdict, "author": author, "said_at": self._clock.now()}

        def note(connection: sa.Connection) -> None:
            connection.execute(sa.delete(table).where(*(table.c[name] == value for name, value in mine.items())))
            connection.execute(sa.insert(table).values(**mine, **said))

        self._database.write(note)

    def verdicts(self, tenant: str, day: dt.date) -> dict[str, Verdict]:
        """Story -> what was said of it on the day itself, or its dismissal within the two weeks before."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import finding_feedback as table

        query = (
            sa.select(table.c.day, table.c.story, table.c.verdict)
            .where(table.c.tenant == tenant, table.c.day > day - STAYS_AWAY, table.c.day <= day)
            .order_by(table.c.day)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return {row.story: Verdict(row.verdict) for row in rows if row.day == day or row.verdict == Verdict.DISMISS}
