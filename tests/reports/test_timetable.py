"""When a report is due: cron's own cases, changes to summer time, and Dagster's reading of the same schedules."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise

import pytest
from dagster._vendored.croniter import CroniterBadDateError, croniter
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.errors import UserError
from analytics_dagster.reports.timetable import parse_timetable

UTC = dt.UTC


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=UTC)


def times(schedule: str, zone: str, after: str, count: int) -> list[str]:
    """The first due times later than `after`, as UTC."""
    timetable, found, moment = parse_timetable(schedule, zone), [], at(after)
    for _ in range(count):
        moment = timetable.after(moment)
        found.append(f"{moment:%Y-%m-%d %H:%M}")
    return found


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("0 7 * * mon", ["2026-03-16 07:00", "2026-03-23 07:00"]),
        ("30 6 1 * *", ["2026-04-01 06:30", "2026-05-01 06:30"]),
        ("0 */6 * * *", ["2026-03-10 12:00", "2026-03-10 18:00"]),
        ("0 9-17/4 * * 1-5", ["2026-03-10 09:00", "2026-03-10 13:00"]),
        ("0 0 29 feb *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("5 4 13 * fri", ["2026-03-13 04:05", "2026-03-20 04:05"]),  # either will do, as cron has it
        ("0 8 * * 7", ["2026-03-15 08:00", "2026-03-22 08:00"]),
        ("@monthly", ["2026-04-01 00:00", "2026-05-01 00:00"]),
    ],
)
def test_schedules_mean_what_cron_says(schedule: str, expected: list[str]) -> None:
    assert times(schedule, "UTC", "2026-03-10 06:00", 2) == expected


def test_the_wall_clock_of_the_zone_counts_in_summer_and_winter() -> None:
    # Berlin goes to summer time on 29 March 2026: seven there is 06:00 and then 05:00 UTC.
    assert times("0 7 * * *", "Europe/Berlin", "2026-03-27 12:00", 2) == ["2026-03-28 06:00", "2026-03-29 05:00"]


def test_a_time_that_summer_time_leaves_out_comes_as_much_later() -> None:
    # 02:30 is not on 29 March; 03:30 summer time is 01:30 UTC.
    assert times("30 2 * * *", "Europe/Berlin", "2026-03-28 12:00", 2) == ["2026-03-29 01:30", "2026-03-30 00:30"]


def test_a_time_that_comes_twice_counts_once() -> None:
    # 02:30 comes twice on 25 October 2026, at 00:30 and 01:30 UTC.
    assert times("30 2 * * *", "Europe/Berlin", "2026-10-24 12:00", 2) == ["2026-10-25 00:30", "2026-10-26 01:30"]


def test_what_was_missed_is_counted_and_the_newest_is_named() -> None:
    timetable = parse_timetable("0 7 * * *", "UTC")
    assert timetable.missed(at("2026-03-01 07:00"), at("2026-03-04 09:00")) == (at("2026-03-04 07:00"), 3)
    assert timetable.missed(at("2026-03-04 07:00"), at("2026-03-04 07:00")) == (at("2026-03-04 07:00"), 0)


@pytest.mark.parametrize(
    ("schedule", "zone", "said"),
    [
        ("0 25 * * *", "UTC", "hour '25' is not 0 to 23"),
        ("0 7 * * funday", "UTC", "weekday 'funday' is not 0 to 7 or sun to sat"),
        ("0 7 * *", "UTC", "4 fields are given; five are minute"),
        ("*/5 * * * *", "UTC", "once an hour at most; name one minute"),
        ("0 9-5 * * *", "UTC", "write the smaller number first"),
        ("0 */0 * * *", "UTC", "a step from 1 on"),
        ("0 7 31 feb *", "UTC", "names a day that never comes"),
        ("0 7 L * *", "UTC", "day of the month 'l' is not 1 to 31"),
        ("0 7 * * mon#1", "UTC", "is none of"),
        ("0 7 * * *", "Europe/Berln", "did you mean 'Europe/Berlin'"),
        ("0 7 * * *", "CEST", "no time zone 'CEST'"),
    ],
)
def test_what_cannot_be_used_is_named_with_what_would_do(schedule: str, zone: str, said: str) -> None:
    with pytest.raises(UserError, match=r"write one like|half past six|of each month") as refused:
        parse_timetable(schedule, zone)
    assert said in str(refused.value)


_NUMBERS = {"hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 6)}


@st.composite
def fields(draw: st.DrawFn, name: str) -> str:
    least, most = _NUMBERS[name]
    first = draw(st.integers(least, most - 1))
    last = draw(st.integers(first + 1, most))  # Dagster reads 0-0 of weekdays as every day
    several = ",".join(map(str, draw(st.lists(st.integers(least, most), min_size=1, max_size=4))))
    return draw(st.sampled_from(["*", str(first), f"{first}-{last}", several, f"*/{draw(st.integers(1, 6))}"]))


@given(
    st.integers(0, 59),
    fields("hour"),
    fields("day"),
    fields("month"),
    fields("weekday"),
    st.datetimes(dt.datetime(2020, 1, 1), dt.datetime(2030, 1, 1)),
)
def test_the_next_times_are_those_that_dagster_would_take(
    minute: int, hour: str, day: str, month: str, weekday: str, moment: dt.datetime
) -> None:
    """In UTC, where both agree on what a time is. Where a step restricts both days the two read cron differently."""
    schedule = f"{minute} {hour} {day} {month} {weekday}"
    if day.startswith("*/") or weekday.startswith("*/"):
        return
    try:
        timetable = parse_timetable(schedule, "UTC")
    except UserError:
        with pytest.raises(CroniterBadDateError):
            croniter(schedule, moment).get_next()
        return
    begin = moment.replace(tzinfo=UTC)
    theirs = croniter(schedule, begin)
    mine = begin
    for _ in range(3):
        mine = timetable.after(mine)
        assert mine == theirs.get_next(dt.datetime)


@given(st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]), st.integers(0, 23))
def test_a_year_of_days_has_each_of_its_times_once(zone: str, hour: int) -> None:
    timetable = parse_timetable(f"15 {hour} * * *", zone)
    found, moment = [], at("2026-01-01 00:00")
    while (moment := timetable.after(moment)) < at("2027-01-01 00:00"):
        found.append(moment)
    assert len(found) in (364, 365, 366)
    assert all(dt.timedelta(hours=22) < later - earlier < dt.timedelta(hours=26) for earlier, later in pairwise(found))
