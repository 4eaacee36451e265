"""What people say of a tenant's days ("campaign in Germany", "player 4.2 released"): kept in the database, drawn on charts.

One is of all metrics or of one, and of everything or of one value of a dimension. What happened by itself (releases, alerts,
restatements) is not kept here but found where it is known, by `happenings.py`.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analytics_dagster.clock import Clock
from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.metrics.declarations import Catalogue, did_you_mean
from analytics_dagster.metrics.matchers import Operator, parse_matcher
from analytics_dagster.tenancy.audit import Audit
from analytics_dagster.words import one_line

if TYPE_CHECKING:
    import sqlalchemy as sa

    from analytics_dagster.lake.database import Database

MOST_ANNOTATIONS = 10_000
"""Annotations of one tenant."""
MOST_CHARACTERS = 500


@dataclass(frozen=True)
class Written:
    """What somebody wants to say. `metric` None: of every metric; `condition`, as `country="DE"`, None: of every value.

    begins_at, ends_at: UTC, both included; equal for a moment.
    """

    text: str
    begins_at: dt.datetime
    ends_at: dt.datetime
    metric: str | None = None
    condition: str | None = None


@dataclass(frozen=True)
class Annotation(Written):
    """What somebody said. `author` is a key's name or id, or who signed in."""

    id: int = 0
    author: str = ""
    created_at: dt.datetime = dt.datetime.min


def written(
    catalogue: Catalogue, text: str, begins: str, ends: str | None = None, metric: str | None = None, condition: str | None = None
) -> Written:
    """Check what came from a form, a body or a command line. Times are days (UTC) or RFC 3339; without `ends` it is of one day or
    moment.

    Raises UserError naming the field, NotFoundError for an unknown metric or dimension.
    """
    said = text.strip()
    if not said or len(said) > MOST_CHARACTERS:
        raise UserError(f"text has {len(said)} characters; write 1 to {MOST_CHARACTERS}")
    try:
        one_line(said)
    except ValueError as error:
        raise UserError(f"text {said[:80]!r} {error}") from None
    begin, end = _time("from", begins, last=False), _time("to", ends or begins, last=True)
    if end < begin:
        raise UserError(f"from={begins} is after to={ends}")
    named = catalogue.metric(metric).name if metric else None
    return Written(said, begin, end, named, _condition(catalogue, named, condition) if condition else None)


class Annotations:
    """The annotations of an installation's tenants."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock
        self._audit = Audit(database, clock)

    def of(self, tenant: str, first: dt.date | None = None, last: dt.date | None = None) -> list[Annotation]:
        """Those of a tenant that touch the days `first` to `last` (inclusive, UTC), in order of time."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import chart_annotations as table

        query = sa.select(table).where(table.c.tenant == tenant).order_by(table.c.begins_at, table.c.id)
        if first is not None:
            query = query.where(table.c.ends_at >= _midnight(first))
        if last is not None and last < dt.date.max:  # after which there is no day, and nothing to leave out
            query = query.where(table.c.begins_at < _midnight(last + dt.timedelta(days=1)))
        with self._database.read() as connection:
            return [_annotation(row) for row in connection.execute(query)]

    def add(self, tenant: str, new: Written, author: str, request_id: str | None = None) -> Annotation:
        """Keep one, with a row in the audit trail. Raises UserError when there are MOST_ANNOTATIONS."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import chart_annotations as table

        now = self._clock.now()

        def write(connection: sa.Connection) -> Annotation:
            counted = sa.select(sa.func.count()).select_from(table).where(table.c.tenant == tenant)
            if connection.execute(counted).scalar_one() >= MOST_ANNOTATIONS:
                raise UserError(f"there are {MOST_ANNOTATIONS} annotations already; remove old ones first")
            values = {**new.__dict__, "author": author, "created_at": now}
            made = connection.execute(table.insert().values(tenant=tenant, **values)).inserted_primary_key
            assert made is not None
            self._record("annotation.add", author, tenant, made[0], new.text, request_id, connection)
            return Annotation(**values, id=made[0])

        return self._database.write(write)

    def remove(self, tenant: str, number: int, author: str, request_id: str | None = None) -> None:
        """Raises NotFoundError for one that is not the tenant's."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import chart_annotations as table

        mine = sa.and_(table.c.tenant == tenant, table.c.id == number)

        def write(connection: sa.Connection) -> None:
            found = connection.execute(sa.select(table).where(mine)).one_or_none()
            if found is None:
                raise NotFoundError(f"no annotation {number}")
            connection.execute(table.delete().where(mine))
            self._record("annotation.remove", author, tenant, number, found.text, request_id, connection)

        self._database.write(write)

    def _record(
        self, action: str, actor: str, tenant: str, number: int, text: str, request_id: str | None, connection: sa.Connection
    ) -> None:
        self._audit.record(
            action, actor, tenant=tenant, target=str(number), detail=text[:200], request_id=request_id, connection=connection
        )


def _annotation(row: Any) -> Annotation:
    return Annotation(**{name: value for name, value in row._mapping.items() if name != "tenant"})


def _condition(catalogue: Catalogue, metric: str | None, text: str) -> str:
    matcher = parse_matcher(text)
    if matcher.operator is not Operator.EQUAL:
        raise UserError(f'{text!r}: an annotation is of one value; write {matcher.name}="..."')
    families = [catalogue.dimensions_of(catalogue.metric(metric))] if metric else [f.dimensions for f in catalogue.families]
    known = {dimension.name for dimensions in families for dimension in dimensions}
    if matcher.name not in known:
        raise NotFoundError(
            f"no dimension {matcher.name!r}{' of ' + metric if metric else ''}{did_you_mean(matcher.name, known)}"
        )
    return text.strip()


def _time(name: str, text: str, *, last: bool) -> dt.datetime:
    """A day (its first second, or its last one) or a time with a zone."""
    try:
        if len(text) == 10:
            return _midnight(dt.date.fromisoformat(text)) + (dt.timedelta(days=1, seconds=-1) if last else dt.timedelta())
        moment = dt.datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        pass
    raise UserError(f"{name}={text!r} is neither a day nor a time; write 2026-01-31 or 2026-01-31T12:00:00Z")


def _midnight(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), dt.UTC)
