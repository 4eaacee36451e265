"""When a report is due: five fields of cron in a named time zone. `0 7 * * mon` is seven on Mondays, there.

The wall clock of the zone counts. A time that a change to summer time leaves out comes as much later as the clock jumps (02:30
is then 03:30), and one that comes twice in autumn counts the first time, so that a day has each of its times once.
"""

from __future__ import annotations

import datetime as dt
import re
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from analytics_dagster.errors import UserError
from analytics_dagster.metrics.declarations import did_you_mean

MOST_CHARACTERS = 120
# From one 29 February to the next are at most eight years (2096 and 2104).
_MOST_DAYS = 8 * 366
_ONE_DAY = dt.timedelta(days=1)
_MACROS = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *"}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_PART = re.compile(r"(?P<first>\*|[a-z0-9]+)(-(?P<last>[a-z0-9]+))?(/(?P<step>[0-9]{1,4}))?")


@dataclass(frozen=True)
class _Field:
    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()

    def number(self, text: str) -> int:
        if text in self.names:
            return self.names.index(text) + (1 if self.least else 0)
        if not text.isdecimal() or not self.least <= int(text) <= self.most:
            names = f" or {self.names[0]} to {self.names[-1]}" if self.names else ""
            raise ValueError(f"{self.name} {text!r} is not {self.least} to {self.most}{names}")
        return int(text)

    def read(self, text: str) -> frozenset[int]:
        """The numbers that a field stands for. Raises ValueError."""
        found: set[int] = set()
        for part in text.split(","):
            match = _PART.fullmatch(part)
            if match is None or (match["first"] == "*" and match["last"]):
                raise ValueError(f"{self.name} {part!r} is none of *, 5, 1-5, */2 and lists of them")
            first = self.least if match["first"] == "*" else self.number(match["first"])
            alone = first if match["step"] is None and match["first"] != "*" else self.most
            last = alone if match["last"] is None else self.number(match["last"])
            step = int(match["step"] or 1)
            if first > last or step == 0:
                raise ValueError(f"{self.name} {part!r} names nothing; write the smaller number first, and a step from 1 on")
            found |= set(range(first, last + 1, step))
        return frozenset(found)


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("weekday", 0, 7, _WEEKDAYS),
)


@dataclass(frozen=True)
class Timetable:
    """Due times. Made by `parse_timetable`. `weekdays`: 0 is Sunday."""

    text: str
    zone: str
    minute: int
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]

    def after(self, moment: dt.datetime) -> dt.datetime:
        """The first due time later than `moment` (both UTC). Raises UserError when there is none in eight years."""
        for time in self._from(moment.astimezone(zoneinfo.ZoneInfo(self.zone)).date() - _ONE_DAY):
            if time > moment:
                return time
        raise UserError(f"the schedule {self.text!r} names a day that never comes; `0 7 1 * *` is the first of each month")

    def missed(self, first: dt.datetime, now: dt.datetime) -> tuple[dt.datetime, int]:
        """The newest due time up to `now`, and how many were before it, from the due time `first` on (`first <= now`)."""
        newest, before = first, 0
        while (following := self.after(newest)) <= now:
            newest, before = following, before + 1
        return newest, before

    def __str__(self) -> str:
        return f"{self.text} ({self.zone})"

    def _from(self, first: dt.date) -> Iterator[dt.datetime]:
        day = first
        for _ in range(_MOST_DAYS):
            if self._has(day):
                yield from self._times(day)
            day += _ONE_DAY

    def _has(self, day: dt.date) -> bool:
        if day.month not in self.months:
            return False
        by_day, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        # Cron's own rule: where both are restricted, either will do.
        either = len(self.days) < 31 and len(self.weekdays) < 7
        return by_day or by_weekday if either else by_day and by_weekday

    def _times(self, day: dt.date) -> list[dt.datetime]:
        zone = zoneinfo.ZoneInfo(self.zone)
        local = (dt.datetime(day.year, day.month, day.day, hour, self.minute, tzinfo=zone) for hour in self.hours)
        return sorted({time.astimezone(dt.UTC) for time in local})


@lru_cache(maxsize=1_024)
def parse_timetable(text: str, zone: str) -> Timetable:
    """Read a schedule. Raises UserError naming the field and what would do."""
    _require_zone(zone)
    named = " ".join(text.lower().split())
    fields = _MACROS.get(named, named).split(" ")
    try:
        if len(named) > MOST_CHARACTERS or len(fields) != len(_FIELDS):
            raise ValueError(f"{len(fields)} fields are given; five are minute, hour, day of the month, month, weekday")
        minutes, hours, days, months, weekdays = (field.read(part) for field, part in zip(_FIELDS, fields, strict=True))
        if len(minutes) > 1:
            raise ValueError("a report goes out once an hour at most; name one minute")
    except ValueError as error:
        remedy = "`0 7 * * mon` is seven on Mondays, `30 6 1 * *` half past six on the first of each month"
        raise UserError(f"the schedule {text[:MOST_CHARACTERS]!r} cannot be used: {error}; {remedy}") from None
    made = Timetable(named, zone, min(minutes), hours, days, months, frozenset(day % 7 for day in weekdays))
    made.after(dt.datetime(2000, 1, 1, tzinfo=dt.UTC))
    return made


def _require_zone(zone: str) -> None:
    if zone not in zones():
        raise UserError(f"no time zone {zone[:80]!r}; write one like Europe/Berlin or UTC{did_you_mean(zone[:80], zones())}")


@lru_cache(maxsize=1)
def zones() -> frozenset[str]:
    """All names of time zones. Read once: walking those of the machine takes 50 ms."""
    return frozenset(zoneinfo.available_timezones())
