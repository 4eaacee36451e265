"""Up to where each source of the log is consumed: kept in the database, and written with what tenants are billed for."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analytics_dagster.errors import IntegrityError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from analytics_dagster.ingest.log.interface import LogSource
    from analytics_dagster.lake.database import Database

_PREFIX = "consumed/"
# The column's length; a topic's name may be longer than that by itself.
_MOST_NAME = 128

# About a million points of the embedded log, whose positions count bytes.
_WORTH_A_ROUND = 16 * 2**20


@dataclass(frozen=True)
class Position:
    """A source is consumed up to `position`, since `at`."""

    position: int
    at: dt.datetime


@dataclass(frozen=True)
class Waiting:
    """A source that holds more than is consumed of it. `left` counts bytes of a folder and records of a topic; of a source that
    was never consumed it says nothing, because positions need not begin at 0.
    """

    source: str
    consumed: int
    end: int
    since: dt.datetime | None
    """When it was last consumed; None for never."""

    @property
    def left(self) -> int:
        return self.end - self.consumed


def positions(database: Database) -> dict[str, Position]:
    """Each source that was ever consumed, by name."""
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import cursors

    query = sa.select(cursors.c.value, cursors.c.changed_at).where(cursors.c.name.startswith(_PREFIX, autoescape=True))
    with database.read() as connection:
        rows = [(json.loads(value), at) for value, at in connection.execute(query)]
    return {value["source"]: Position(int(value["position"]), at) for value, at in rows}


def remember(connection: sa.Connection, through: Mapping[str, int], at: dt.datetime) -> None:
    """Note positions, in the caller's transaction. A position never goes back."""
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import cursors

    for source, position in sorted(through.items()):
        mine = cursors.c.name == _cursor(source)
        found = connection.execute(sa.select(cursors.c.value).where(mine)).scalar()
        if found is not None and json.loads(found)["position"] > position:
            raise IntegrityError(f"{source} is consumed up to {json.loads(found)['position']}, past {position}; run it again")
        values = {"value": json.dumps({"source": source, "position": position}), "changed_at": at}
        if found is None:
            connection.execute(cursors.insert().values(name=_cursor(source), **values))
        else:
            connection.execute(cursors.update().where(mine).values(**values))


def waiting(database: Database, sources: Sequence[LogSource]) -> list[Waiting]:
    """What each source holds that is not consumed; sources without anything are left out. Cheap: no row is read."""
    known = positions(database)
    found = []
    for source in sources:
        there = known.get(source.name)
        left = Waiting(source.name, there.position if there else 0, source.end(), there.at if there else None)
        if left.left > 0:
            found.append(left)
    return found


def worth_a_round(left: Sequence[Waiting], now: dt.datetime, pause: dt.timedelta) -> bool:
    """Whether to consume now: something waits, and it is much, or nobody has consumed its source for `pause`.

    A clock that was stepped back counts as a pause that is over.
    """
    if sum(w.left for w in left) >= _WORTH_A_ROUND:
        return True
    return any(w.since is None or not dt.timedelta(0) <= now - w.since < pause for w in left)


def take_turn(database: Database, name: str, every: dt.timedelta, now: dt.datetime) -> bool:
    """Whether `name` is to be done now, because it was not for `every`; notes that it is."""
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import cursors

    mine = cursors.c.name == name
    with database.read() as connection:
        last = connection.execute(sa.select(cursors.c.changed_at).where(mine)).scalar()
    if last is not None and dt.timedelta(0) <= now - last < every:
        return False

    def write(connection: sa.Connection) -> None:
        if connection.execute(cursors.update().where(mine).values(changed_at=now)).rowcount == 0:
            connection.execute(cursors.insert().values(name=name, value="", changed_at=now))

    database.write(write)
    return True


def _cursor(source: str) -> str:
    name = _PREFIX + source
    return name if len(name) <= _MOST_NAME else _PREFIX + hashlib.sha256(source.encode()).hexdigest()
