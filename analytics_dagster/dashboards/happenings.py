"""What is marked on a page's charts: annotations of people, releases of the catalogue, alerts that fired, restated figures.

All of a tenant's days are read once for a page; which of them a chart shows follows from its metric and its filters.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from analytics_dagster.dashboards.annotations import Annotations
from analytics_dagster.insights.numbers import figure
from analytics_dagster.lake.compute import session
from analytics_dagster.lake.schemas import RESTATEMENTS, TRACKS
from analytics_dagster.metrics.matchers import parse_matcher

if TYPE_CHECKING:
    from analytics_dagster.dashboards.figures import Shown
    from analytics_dagster.dashboards.view import Days
    from analytics_dagster.installation import Installation
    from analytics_dagster.lake.lake import TenantLake
    from analytics_dagster.metrics.declarations import Catalogue

MOST_MARKS = 60
"""Marks of one chart; of more the first ones are drawn, by kind."""
_NAMED = 3
"""Releases, alerts and figures of one day that are told by name; the others are counted."""


_OF_MUSIC = ("plays", "interactions")
"""Sources whose figures a release may move."""


class Kind(StrEnum):
    """Who says so. In the order in which they are kept where there are too many."""

    PERSON = "person"
    ALERT = "alert"
    RESTATEMENT = "restatement"
    RELEASE = "release"


@dataclass(frozen=True)
class Mark:
    """Something to mark on charts, from a day to a day (both included, UTC). `metric` and `asset` (the family's) narrow the
    charts, `condition` what they are filtered to; None: any.
    """

    kind: Kind
    first: dt.date
    last: dt.date
    text: str
    metric: str | None = None
    asset: str | None = None
    condition: str | None = None
    id: int | None = None
    author: str = ""

    @property
    def words(self) -> str:
        """As it is read on a page: what, of what, by whom."""
        of = f" ({self.condition})" if self.condition else ""
        return f"{self.text}{of}{f', {self.author}' if self.author else ''}"

    def on(self, shown: Shown, catalogue: Catalogue) -> bool:
        """Whether a chart of this series shows it."""
        if self.metric not in (None, shown.metric.name):
            return False
        if self.kind is Kind.RELEASE and catalogue.family_of(shown.metric).source not in _OF_MUSIC:
            return False
        if self.asset not in (None, catalogue.family_of(shown.metric).asset):
            return False
        if self.condition is None:
            return True
        mine = parse_matcher(self.condition)
        if mine.name not in {dimension.name for dimension in catalogue.dimensions_of(shown.metric)}:
            return False
        given = [parse_matcher(text) for text in shown.where]
        return all(matcher.accepts(mine.value) for matcher in given if matcher.name == mine.name)


class Happenings:
    """Finds what happened in a view's days."""

    def __init__(self, installation: Installation, lake: TenantLake, catalogue: Catalogue, days: Days) -> None:
        self._installation, self._lake, self._catalogue, self._days = installation, lake, catalogue, days
        self._found: list[Mark] | None = None

    def of(self, shown: Shown) -> tuple[Mark, ...]:
        """The marks of a chart, by time."""
        if self._found is None:
            self._found = [*self._people(), *self._alerts(), *self._restatements(), *self._releases()]
        mine = [mark for mark in self._found if mark.on(shown, self._catalogue)]
        return tuple(sorted(mine[:MOST_MARKS], key=lambda mark: (mark.first, mark.kind, mark.text)))

    def _people(self) -> Iterator[Mark]:
        notes = Annotations(self._installation.database, self._installation.clock)
        for note in notes.of(self._lake.tenant, self._days.first, self._days.last):
            yield Mark(
                Kind.PERSON, note.begins_at.date(), note.ends_at.date(), note.text, note.metric, None, note.condition, note.id,
                note.author,
            )  # fmt: skip

    def _alerts(self) -> Iterator[Mark]:
        """Alerts that fired, on charts of the family that their rule reads."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import alert_transitions as changes
        from analytics_dagster.lake.state_tables import verdicts

        begin, end = _bounds(self._days)
        rule = sa.and_(verdicts.c.tenant == changes.c.tenant, verdicts.c.rule == changes.c.rule)
        query = sa.select(changes.c.at, changes.c.rule, verdicts.c.asset).join(verdicts, rule).where(
            changes.c.tenant == self._lake.tenant, changes.c.to_state == "firing", changes.c.at >= begin, changes.c.at < end
        )  # fmt: skip
        by_day: dict[tuple[dt.date, str], dict[str, int]] = {}
        with self._installation.database.read() as connection:
            for at, name, asset in connection.execute(query):
                rules = by_day.setdefault((at.date(), asset), {})
                rules[name] = rules.get(name, 0) + 1
        for (day, asset), rules in sorted(by_day.items()):
            told = [f"{name} fired{f' {count} times' if count > 1 else ''}" for name, count in sorted(rules.items())]
            yield Mark(Kind.ALERT, day, day, f"Alert {_listed(told)}", asset=asset)

    def _restatements(self) -> Iterator[Mark]:
        """Figures of whole days that changed after they were published; the newest change of a day tells what stands now."""
        first, last = self._days.first, self._days.last
        query = (
            # Also where it is none: a figure that came late was none before, and one of erased rows is none now.
            "SELECT day, metric, dimensions, arg_min_null(old, ts), arg_max_null(new, ts), arg_max(cause, ts) "
            f"FROM {self._lake.table(RESTATEMENTS).sql()} WHERE split_by IS NULL AND day BETWEEN ? AND ? "
            "GROUP BY day, metric, dimensions ORDER BY day, metric, dimensions"
        )
        with session() as connection:
            rows = connection.execute(query, [first, last]).fetchall()
        for day, name, dimensions, old, new, cause in rows:
            metric = self._catalogue.find(name)
            if metric is not None and old != new:
                told = f"Restated from {figure(old, metric.unit)} to {figure(new, metric.unit)} ({cause.replace('_', ' ')})"
                pinned = [f'{key}="{value}"' for key, value in json.loads(dimensions).items()]
                yield Mark(Kind.RESTATEMENT, day, day, told, name, condition=pinned[0] if pinned else None)

    def _releases(self) -> Iterator[Mark]:
        """Releases of the tenant's catalogue, one mark a day."""
        query = (
            f"SELECT released, coalesce(album, title) AS name, any_value(artist) FROM {self._lake.table(TRACKS).sql()} "
            "WHERE released BETWEEN ? AND ? AND coalesce(album, title) IS NOT NULL "
            "GROUP BY released, name, artist_id ORDER BY released, name, artist_id"
        )
        with session() as connection:
            rows = connection.execute(query, [self._days.first, self._days.last]).fetchall()
        by_day: dict[dt.date, list[str]] = {}
        for day, name, artist in rows:
            by_day.setdefault(day, []).append(f"{name} by {artist}" if artist else name)
        for day, names in by_day.items():
            yield Mark(Kind.RELEASE, day, day, f"Release of {_listed(names)}")


def _listed(names: list[str]) -> str:
    told = ", ".join(names[:_NAMED])
    return told if len(names) <= _NAMED else f"{told} and {len(names) - _NAMED} more"


def _bounds(days: Days) -> tuple[dt.datetime, dt.datetime]:
    begin = dt.datetime.combine(days.first, dt.time(), dt.UTC)
    return begin, dt.datetime.combine(days.last, dt.time(), dt.UTC) + dt.timedelta(days=1)
