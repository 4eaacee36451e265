"""When a day is closed: no more rows of it are expected, so a figure of it that changes afterwards is a restatement.

A source is one event table of one tenant. Its *watermark* is the newest event that came less the allowed lateness; a day is
closed once the watermark has passed its end. A source from which nothing came for the idle timeout closes its days by the
clock, or its death would keep them open for ever. What was closed stays closed. Rows of a closed day are taken like any other.

Whether rows came too late is a matter of what was known before them, so each arrival first fixes which days were closed until
then (`note_arrival`, in the transaction of its note), and only then counts towards the watermark itself.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analytics_dagster.errors import SettingsError
from analytics_dagster.lake.schemas import EVENT_TABLES

if TYPE_CHECKING:
    import sqlalchemy as sa

    from analytics_dagster.lake.database import Database
    from analytics_dagster.settings import Settings

_HOUR, _DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
_UNITS = {"s": dt.timedelta(seconds=1), "m": dt.timedelta(minutes=1), "h": _HOUR, "d": _DAY}
_IDLE, _LONGEST = 2 * _DAY, 3_650 * _DAY


@dataclass(frozen=True)
class Lateness:
    """How late rows of a source may be (`allowed`), and how long it may be silent (`idle`) before its days close by the clock."""

    allowed: dt.timedelta
    idle: dt.timedelta = _IDLE


@dataclass(frozen=True)
class Seen:
    """What is known of a source: its newest event, when its last rows came, the newest day that was closed before them (UTC)."""

    newest_event: dt.datetime
    last_arrival: dt.datetime
    closed_through: dt.date | None = None


DEFAULTS: Mapping[str, Lateness] = {
    # Phones play offline and report when they are back; billing and advertising systems send a day's file; machines retry for
    # minutes.
    "plays": Lateness(2 * _DAY),
    "interactions": Lateness(2 * _DAY),
    "metrics": Lateness(_HOUR),
    "subscriptions": Lateness(_DAY),
    "ad_impressions": Lateness(_DAY),
    "api_requests": Lateness(_HOUR),
    "system_samples": Lateness(_HOUR),
}
"""By event table; ANALYTICS_LATENESS and ANALYTICS_IDLE_TIMEOUT change it."""


def watermark(seen: Seen, lateness: Lateness, now: dt.datetime) -> dt.datetime:
    """The time before which no more rows are expected.

    An event from the future, as a client with a wrong clock sends, counts as one of now: it must not close days that have not
    been.
    """
    by_events = min(seen.newest_event, now) - lateness.allowed
    return max(by_events, now - lateness.idle) if now - seen.last_arrival >= lateness.idle else by_events


def closed_through(seen: Seen, lateness: Lateness, now: dt.datetime) -> dt.date | None:
    """The newest day whose end the watermark has passed, or that was closed before."""
    last = watermark(seen, lateness, now).astimezone(dt.UTC).date() - _DAY
    return last if seen.closed_through is None else max(last, seen.closed_through)


def after_arrival(seen: Seen | None, newest_event: dt.datetime, lateness: Lateness, now: dt.datetime) -> Seen:
    """What is known once rows up to `newest_event` have come at `now`. Nothing is closed before a source's first rows."""
    if seen is None:
        return Seen(newest_event, now)
    closed = closed_through(seen, lateness, now)
    return Seen(max(seen.newest_event, newest_event), max(seen.last_arrival, now), closed)


def lateness_of(settings: Settings) -> Mapping[str, Lateness]:
    """Each event table's lateness. Raises SettingsError for an entry of ANALYTICS_LATENESS that cannot be."""
    known = {table.name for table in EVENT_TABLES}
    allowed = {name: default.allowed for name, default in DEFAULTS.items()}
    for entry in filter(None, (part.strip() for part in (settings.analytics_lateness or "").split(","))):
        name, equals, text = (part.strip() for part in entry.partition("="))
        if not equals or name not in known:
            raise SettingsError(
                f"ANALYTICS_LATENESS: {entry!r} names no event table; write table=duration with one of {', '.join(sorted(known))}"
            )
        allowed[name] = _duration(text, entry)
    idle = dt.timedelta(seconds=settings.analytics_idle_timeout)
    return {name: Lateness(duration, idle) for name, duration in allowed.items()}


def note_arrival(
    connection: sa.Connection, tenant: str, table: str, newest_event: dt.datetime, now: dt.datetime, lateness: Lateness
) -> None:
    """Keep what is known of a source, in the transaction that notes its rows."""
    from sqlalchemy.dialects import postgresql, sqlite

    from analytics_dagster.lake.state_tables import watermarks

    after = after_arrival(_seen(connection, tenant, table), newest_event, lateness, now)
    values = {
        "newest_event": after.newest_event,
        "last_arrival": after.last_arrival,
        "closed_through": after.closed_through,
    }
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(watermarks)
    written = insert.values(tenant=tenant, table_name=table, **values)
    connection.execute(written.on_conflict_do_update(index_elements=["tenant", "table_name"], set_=values))


def seen_of(database: Database, tenant: str, table: str) -> Seen | None:
    """What is known of a source, None before its first rows."""
    with database.read() as connection:
        return _seen(connection, tenant, table)


def _seen(connection: sa.Connection, tenant: str, table: str) -> Seen | None:
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import watermarks as known

    query = sa.select(known.c.newest_event, known.c.last_arrival, known.c.closed_through)
    row = connection.execute(query.where(known.c.tenant == tenant, known.c.table_name == table)).first()
    return None if row is None else Seen(*row)


def _duration(text: str, entry: str) -> dt.timedelta:
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if match is None:
        raise SettingsError(f"ANALYTICS_LATENESS: {entry!r} has no duration; write 30m, 12h or 7d behind the =")
    duration = int(match[1]) * _UNITS[match[2]]
    if duration > _LONGEST:
        raise SettingsError(f"ANALYTICS_LATENESS: {entry!r} is more than {_LONGEST.days}d")
    return duration
