"""Times and dates as files write them, to microseconds since 1970 in UTC.

A time that names its zone (`Z`, `+02:00`, an epoch) is taken as it is; one that does not is local to the zone of the
import. The two odd hours a year follow PEP 495 with fold=0: an hour that comes twice is its first occurrence, one that
does not exist is read with the offset before the change (02:30 in the gap becomes what the new clock calls 03:30).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, tzinfo
from functools import lru_cache

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGITS = re.compile(r"-?\d{1,20}(?:\.\d+)?")
_SLASHED = re.compile(r"(\d{1,4})[/.](\d{1,2})[/.](\d{1,4})(?:,?[ T]+(.+))?")
_DAY_MONTH = re.compile(r"(\d{1,2})[ -]([A-Za-z]{3,9})\.?,?[ -](\d{4})(?:,?\s+(.+))?")
_MONTH_DAY = re.compile(r"([A-Za-z]{3,9})\.? (\d{1,2}),? (\d{4})(?:,?\s+(.+))?")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,6}))?)?(?:\s*([AaPp])\.?[Mm]\.?)?")
_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, start=1)}


def micros(moment: datetime) -> int:
    """Microseconds since 1970 of an aware datetime, exact (a float of seconds is not)."""
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def epoch_micros(number: float) -> int:
    """Microseconds of a Unix time in seconds, milli-, micro- or nanoseconds; its size tells which (until the year 5138)."""
    size = abs(number)
    if size < 1e11:
        return round(number * 1_000_000)
    if size < 1e14:
        return round(number * 1_000)
    if size < 1e17:
        return int(number)
    return int(number) // 1_000


class TimeReader:
    """Reads the times of one file. `day_first` decides 1/2/2012 only; `naive` tells afterwards if a zone was missing."""

    def __init__(self, zone: tzinfo | None, *, day_first: bool = True) -> None:
        self._zone = zone or UTC
        self._day_first = day_first
        self.naive = False

    def read(self, text: str) -> int:
        """Microseconds since 1970. Raises ValueError saying what would be right."""
        try:
            return self._read(text)
        except (ValueError, OverflowError):
            raise ValueError(
                f"{shown(text)} is not a time; write 2024-05-31T18:30:00Z, a local time with --time-zone, or a Unix time"
            ) from None

    def _read(self, text: str) -> int:
        if text[4:5] != "-" and _DIGITS.fullmatch(text):
            return epoch_micros(float(text) if "." in text else int(text))
        if text.endswith((" UTC", " GMT")):
            return micros(self._calendar(text[:-4]).replace(tzinfo=UTC))
        moment = self._calendar(text)
        if moment.tzinfo is None:
            self.naive = True
            moment = moment.replace(tzinfo=self._zone)
        return micros(moment)

    def _calendar(self, text: str) -> datetime:
        if text[4:5] == "-":
            return datetime.fromisoformat(text)
        day, rest = read_date(text, day_first=self._day_first)
        hour, minute, second, fraction = _clock(rest) if rest else (0, 0, 0, 0)
        return datetime(day.year, day.month, day.day, hour, minute, second, fraction)


@lru_cache(maxsize=4_096)
def _date_only(text: str, day_first: bool) -> date:
    return _read_date(text, day_first)[0]


def read_day(text: str, *, day_first: bool = True) -> date:
    """A date, with a time after it ignored. Raises ValueError saying what would be right."""
    try:
        return _date_only(text, day_first)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a date; write 2006-08-13") from None


def read_date(text: str, *, day_first: bool = True) -> tuple[date, str | None]:
    """A date in one of the usual ways of writing it, and whatever follows it."""
    return _read_date(text, day_first)


def day_first(dates: Iterable[str]) -> bool:
    """Whether slashed dates put the day first: the file says, once a number over 12 comes. Undecided is day first."""
    for text in dates:
        match = _SLASHED.fullmatch(text)
        if match and len(match[1]) < 3:
            if int(match[1]) > 12:
                return True
            if int(match[2]) > 12:
                return False
    return True


def shown(value: str) -> str:
    """A value as it stands in a message: quoted and not longer than a line."""
    return repr(value if len(value) <= 80 else value[:77] + "...")


def _read_date(text: str, day_first: bool) -> tuple[date, str | None]:
    if len(text) >= 10 and text[4] == "-":
        return date.fromisoformat(text[:10]), text[11:] or None
    if match := _SLASHED.fullmatch(text):
        first, second, third = int(match[1]), int(match[2]), int(match[3])
        if len(match[1]) == 4:
            return date(first, second, third), match[4]
        if len(match[3]) != 4:
            raise ValueError(text)
        return (date(third, second, first) if day_first else date(third, first, second)), match[4]
    if match := _DAY_MONTH.fullmatch(text):
        return date(int(match[3]), _month(match[2]), int(match[1])), match[4]
    if match := _MONTH_DAY.fullmatch(text):
        return date(int(match[3]), _month(match[1]), int(match[2])), match[4]
    raise ValueError(text)


def _month(name: str) -> int:
    number = _MONTHS.get(name[:3].lower())
    if number is None:
        raise ValueError(name)
    return number


def _clock(text: str) -> tuple[int, int, int, int]:
    match = _CLOCK.fullmatch(text)
    if match is None:
        raise ValueError(text)
    hour = int(match[1])
    if match[5]:
        if not 1 <= hour <= 12:
            raise ValueError(text)
        hour = hour % 12 + (12 if match[5].lower() == "p" else 0)
    return hour, int(match[2]), int(match[3] or 0), int((match[4] or "0").ljust(6, "0"))
