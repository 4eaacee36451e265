from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.sources.times import TimeReader, day_first, epoch_micros, micros, read_day
from tests.sources.imports_for_tests import at

BRUSSELS = ZoneInfo("Europe/Brussels")
ZONES = ["Europe/Brussels", "Australia/Sydney", "Australia/Lord_Howe", "America/New_York", "Asia/Kolkata"]
MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1))


@given(MOMENTS)
def test_a_written_time_is_read_back_exactly(moment: datetime) -> None:
    expected = micros(moment.replace(tzinfo=UTC))
    reader = TimeReader(None)
    assert reader.read(moment.isoformat() + "Z") == expected
    assert reader.read(moment.isoformat()) == expected


@given(MOMENTS, st.sampled_from(ZONES))
def test_a_local_time_is_what_zoneinfo_makes_of_it(moment: datetime, zone: str) -> None:
    expected = moment.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    assert TimeReader(ZoneInfo(zone)).read(moment.isoformat()) == micros(expected)


def test_an_hour_that_comes_twice_is_its_first_occurrence() -> None:
    assert TimeReader(BRUSSELS).read("2018-10-28T02:30:00") == at("2018-10-28T00:30:00Z")


def test_an_hour_that_does_not_exist_is_read_with_the_offset_before_the_change() -> None:
    assert TimeReader(BRUSSELS).read("2018-03-25T02:30:00") == at("2018-03-25T01:30:00Z")


def test_a_time_that_names_its_zone_ignores_the_imports() -> None:
    reader = TimeReader(BRUSSELS)
    assert reader.read("2018-06-01T12:00:00+09:00") == at("2018-06-01T03:00:00Z")
    assert not reader.naive


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30 Dec 2020 10:23", "2020-12-30T10:23:00Z"),
        ("30 Dec 2020, 10:23", "2020-12-30T10:23:00Z"),
        ("01 Jan 2024, 00:00:09", "2024-01-01T00:00:09Z"),
        ("7/02/2012 8:41:57", "2012-02-07T08:41:57Z"),
        ("2012/02/07 08:41", "2012-02-07T08:41:00Z"),
        ("31.12.2020 23:59", "2020-12-31T23:59:00Z"),
        ("Aug 13, 2006 5:07 PM", "2006-08-13T17:07:00Z"),
        ("2020-12-30 10:23:00 UTC", "2020-12-30T10:23:00Z"),
        ("1609323780", "2020-12-30T10:23:00Z"),
        ("1609323780000", "2020-12-30T10:23:00Z"),
        ("1609323780.0", "2020-12-30T10:23:00Z"),
        ("1609323780000000", "2020-12-30T10:23:00Z"),
        ("1609323780000000000", "2020-12-30T10:23:00Z"),
    ],
)
def test_the_usual_ways_of_writing_a_time_are_read(text: str, expected: str) -> None:
    assert TimeReader(None).read(text) == at(expected)


@pytest.mark.parametrize("text", ["", "yesterday", "2020-13-01", "32/01/2020", "2020-01-01T25:00", "12:00", "99 Foo 2020"])
def test_what_is_no_time_is_refused_with_what_would_be(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time; write"):
        TimeReader(None).read(text)


def test_a_file_says_whether_its_days_come_first() -> None:
    assert day_first(["1/2/2012", "13/2/2012"])
    assert not day_first(["1/2/2012", "2/13/2012"])
    assert day_first(["1/2/2012"])
    assert TimeReader(None, day_first=False).read("2/13/2012 10:00") == at("2012-02-13T10:00:00Z")


@pytest.mark.parametrize("text", ["2006-08-13", "Aug 13, 2006", "13 August 2006", "13/8/2006", "2006-08-13T10:00:00"])
def test_the_usual_ways_of_writing_a_date_are_read(text: str) -> None:
    assert read_day(text) == date(2006, 8, 13)


@given(st.integers(-(10**10), 10**10))
def test_whole_seconds_stay_whole(seconds: int) -> None:
    assert epoch_micros(seconds) == seconds * 1_000_000
