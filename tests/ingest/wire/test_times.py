from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_dagster.ingest.points import RefusedValueError
from analytics_dagster.ingest.wire.times import LOCAL, NO_TIME, instant_us, instants, naive_us, numbers_us

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MICROSECOND = dt.timedelta(microseconds=1)
NOW_US = 1_795_176_000_000_000

offsets = st.integers(-23 * 60, 23 * 60).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
times = st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2200, 1, 1), timezones=offsets)
# What is a time, what is nearly one, and what is none.
texts = st.one_of(
    times.map(dt.datetime.isoformat),
    times.map(lambda time: time.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")),
    times.map(lambda time: time.isoformat(" ", "microseconds")),
    times.map(lambda time: time.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f789Z")),
    times.map(lambda time: time.replace(tzinfo=None).isoformat()),
    st.sampled_from(
        ["", "now", "2026-11-20", "2026-02-30T00:00:00Z", "2026-11-20T24:00:00Z", "2026-11-20t12:00:00z", "2026-11-20T12Z"]
    ),
)
numbers = st.one_of(st.integers(-(2**70), 2**70), st.integers(0, 2 * 10**9), st.floats(allow_nan=False, allow_infinity=False))


def exactly(value: object) -> int:
    try:
        us = NOW_US if value is None else instant_us(value)
        return us if abs(us) < 2**63 else NO_TIME
    except RefusedValueError:
        return NO_TIME


@given(time=times)
def test_an_iso_text_is_its_instant_to_the_microsecond(time):
    assert instant_us(time.isoformat()) == (time - EPOCH) // MICROSECOND


@given(values=st.lists(st.one_of(texts, st.none()), min_size=17, max_size=40))
def test_a_column_of_texts_is_what_each_text_is(values):
    assert instants(values, NOW_US).tolist() == [exactly(value) for value in values]


@given(values=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=17, max_size=40))
def test_a_column_of_whole_numbers_is_what_each_number_is(values):
    assert instants(values, NOW_US).tolist() == [exactly(value) for value in values]


@given(values=st.lists(st.floats(-1e18, 1e18), min_size=17, max_size=40))
def test_a_column_of_floats_is_what_each_float_is(values):
    assert instants(values, NOW_US).tolist() == [exactly(value) for value in values]


@given(values=st.lists(st.one_of(texts, numbers, st.none(), st.booleans()), min_size=17, max_size=40))
def test_a_mixed_column_is_what_each_value_is(values):
    assert instants(values, NOW_US).tolist() == [exactly(value) for value in values]


@pytest.mark.parametrize(
    ("number", "us"),
    [
        (1_795_176_000, 1_795_176_000_000_000),
        (1_795_176_000.123456, 1_795_176_000_123_456),
        (1_795_176_000_123, 1_795_176_000_123_000),
        (1_795_176_000_123_456, 1_795_176_000_123_456),
        (1_795_176_000_123_456_789, 1_795_176_000_123_456),
        (10**11 - 1, (10**11 - 1) * 10**6),
        (10**11, 10**11 * 10**3),
        (10**14 - 1, (10**14 - 1) * 10**3),
        (10**14, 10**14),
        (10**17 - 1, 10**17 - 1),
        (10**17, 10**14),
        (0, 0),
        (-1, -1_000_000),
    ],
)
def test_the_unit_of_a_number_follows_from_its_size(number, us):
    assert instant_us(number) == us
    assert numbers_us(np.array([number])).tolist() == [us]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("2026-11-20T12:00:00", "has no time zone; end it with Z for UTC or with an offset such as +01:00"),
        ("2026-11-20", "has no time zone; end it with Z for UTC or with an offset such as +01:00"),
        ("yesterday", "is not a time; write ISO 8601"),
        (True, "is not a time"),
        ([], "is not a time"),
        (float("nan"), "is not a finite number"),
    ],
)
def test_what_is_no_time_is_refused_with_its_reason(value, reason):
    with pytest.raises(RefusedValueError) as refused:
        instant_us(value)
    assert refused.value.field == "timestamp"
    assert refused.value.reason.startswith(reason)


ZONES = ["Europe/Berlin", "America/New_York", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kolkata"]


@pytest.mark.parametrize("name", ZONES)
@settings(max_examples=40)
@given(
    walls=st.lists(
        st.one_of(
            st.datetimes(dt.datetime(2005, 1, 1), dt.datetime(2035, 1, 1)),
            # Hours that are skipped or come twice, in one of these zones or another.
            st.datetimes(dt.datetime(2010, 3, 14), dt.datetime(2010, 3, 14, 4)),
            st.datetimes(dt.datetime(2010, 11, 6, 22), dt.datetime(2010, 11, 7, 4)),
            st.datetimes(dt.datetime(2025, 3, 30), dt.datetime(2025, 3, 30, 4)),
            st.datetimes(dt.datetime(2025, 10, 26), dt.datetime(2025, 10, 26, 4)),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_naive_times_are_converted_as_python_converts_them(name, walls):
    zone = ZoneInfo(name)
    given_us = np.array([(wall - dt.datetime(1970, 1, 1)) // MICROSECOND for wall in walls])
    assert naive_us(given_us, name).tolist() == [(wall.replace(tzinfo=zone, fold=0) - EPOCH) // MICROSECOND for wall in walls]


def test_naive_times_of_this_machine_are_converted_as_timestamp_does():
    walls = [dt.datetime(2026, 1, 1, 12), dt.datetime(2026, 7, 1, 12)]
    given_us = np.array([(wall - dt.datetime(1970, 1, 1)) // MICROSECOND for wall in walls])
    assert naive_us(given_us, LOCAL).tolist() == [round(wall.timestamp() * 1_000_000) for wall in walls]
