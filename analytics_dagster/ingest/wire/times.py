"""Times as clients write them, as µs since 1970 (UTC): ISO 8601 texts, numbers in any of four units, and naive times in a zone.

Each comes twice: for a column at once, with NO_TIME where there is none, and for one value, exactly and with the reason. Both
give the same number for the same time. Whether a time is too old or too new is not decided here but by `points.check_time`,
which NO_TIME never passes.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Sequence
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from analytics_dagster.ingest.points import RefusedValueError, check_time

Micros = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int64] | npt.NDArray[np.float64]

NO_TIME = -(2**63)

_NANOSECONDS = re.compile(r"\.\d{7}")

# A number's unit follows from its size: seconds up to here, then ms, then µs, then ns. 10^11 s are in the year 5138 and
# 10^11 ms in 1973, before the first day that is kept, so no time that is taken can be read in two ways.
SECONDS_BELOW = 10**11
MILLIS_BELOW = 10**14
MICROS_BELOW = 10**17

_LIMITS = np.array([SECONDS_BELOW, MILLIS_BELOW, MICROS_BELOW])
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_UTC_US = pa.timestamp("us", "UTC")
_UTC_NS = pa.timestamp("ns", "UTC")
# Arrow's calls cost some µs each, whatever the size.
_FEW = 16
# An offset is looked up once for each quarter of an hour: nearly all changes fall between two (St John's came at one past).
_QUARTER_US = 900_000_000
# Some 28 years of them: so many may be marked one by one.
_QUARTERS_LISTED = 1_000_000
_SAFE_FLOAT = 9.2e18

LOCAL = "local"
"""A `Zone` that is this machine's own, as the C library knows it."""

Zone = dt.tzinfo | str


def instant_us(value: object) -> int:
    """One time: an ISO 8601 text with Z or an offset, or a number. Raises RefusedValueError."""
    if isinstance(value, str):
        return _text_us(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusedValueError("timestamp", value, "is not a time; write ISO 8601 with Z or an offset, or a number of seconds")
    return _number_us(value)


def refusal_of_time(value: object, latest_us: int) -> RefusedValueError:
    """What is wrong with a time that is none, or is too old or too new."""
    try:
        check_time(instant_us(value), latest_us)
    except RefusedValueError as why:
        return why
    return RefusedValueError("timestamp", value, "is no time that is kept")


def instants(values: Sequence[object], now_us: int) -> Micros:
    """A column of texts, numbers and None, which is `now_us`."""
    if len(values) <= _FEW:
        return _one_by_one(values, now_us)
    if are_all_one(values):
        return np.full(len(values), _one_by_one(values[:1], now_us)[0])
    try:
        return texts_us(pa.array(values, pa.string()), now_us)
    except pa.ArrowTypeError:
        pass  # not texts alone; found out in passing, since texts are what nearly everybody sends
    kinds = set(map(type, values))
    try:
        if kinds == {int}:
            return numbers_us(np.array(values, np.int64))
    except OverflowError:
        pass  # an integer past 64 bits
    return numbers_us(np.array(values, np.float64)) if kinds == {float} else _one_by_one(values, now_us)


def are_all_one(values: Sequence[object]) -> bool:
    """Whether all are equal: those who sample many series at once send one time. Not empty."""
    return values[0] == values[-1] and values.count(values[0]) == len(values)


def texts_us(texts: pa.Array, now_us: int) -> Micros:
    """A string column; null is `now_us`."""
    units = [(_UTC_US, 1), (_UTC_NS, 1_000)]
    # A cast that fails takes ten times as long as one that does not: begin with what the first text needs.
    if len(texts) and _NANOSECONDS.search(texts[0].as_py() or ""):
        units.reverse()
    for unit, divisor in units:
        try:
            found = pc.cast(texts, unit).view(pa.int64())
        except pa.ArrowInvalid:
            continue  # a text of more digits or of another century, or one that is no time
        micros = _numpy(found, now_us * divisor)
        return micros if divisor == 1 else micros // divisor
    return _one_by_one(texts.to_pylist(), now_us)


def numbers_us(numbers: Numbers) -> Micros:
    """Numbers as `instant_us` reads each."""
    if not len(numbers):
        return np.empty(0, np.int64)
    if numbers.dtype != np.int64 and not (finite := np.isfinite(numbers)).all():
        found = np.full(len(numbers), NO_TIME)
        found[finite] = numbers_us(numbers[finite])
        return found
    low, high = numbers.min(), numbers.max()
    size = _size(high)
    if low >= 0 and _size(low) == size:
        return _scaled(numbers, size)
    sizes = np.searchsorted(_LIMITS, np.abs(np.maximum(numbers, -MICROS_BELOW)).astype(numbers.dtype), side="right")
    found = np.empty(len(numbers), np.int64)
    for size in range(4):
        of_size = sizes == size
        found[of_size] = _scaled(numbers[of_size], size)
    return found


def naive_us(wall: Micros, zone: Zone) -> Micros:
    """Wall-clock times (µs since 1970 as if they were UTC) in `zone`, as Python converts a naive datetime: of an hour that comes
    twice the first, and an hour that is skipped by the offset before it.
    """
    tz = None if zone == LOCAL else ZoneInfo(zone) if isinstance(zone, str) else zone
    quarters, where = _distinct(wall // _QUARTER_US)
    first = np.array([_offset_us(quarter * _QUARTER_US, tz) for quarter in quarters.tolist()], dtype=np.int64)
    last = np.array([_offset_us((quarter + 1) * _QUARTER_US - 1, tz) for quarter in quarters.tolist()], dtype=np.int64)
    offsets = first[where]
    for row in np.flatnonzero((first != last)[where]).tolist():
        offsets[row] = _offset_us(int(wall[row]), tz)
    return wall - offsets


def _distinct(quarters: Micros) -> tuple[Micros, npt.NDArray[np.int64]]:
    """The different ones, rising, and each one's place among them: without sorting where they lie within some years."""
    first, last = (int(quarters.min()), int(quarters.max())) if len(quarters) else (0, 0)
    if last - first > _QUARTERS_LISTED:
        return np.unique(quarters, return_inverse=True)
    present = np.zeros(last - first + 1, bool)
    present[quarters - first] = True
    return np.flatnonzero(present) + first, (np.cumsum(present) - 1)[quarters - first]


def _offset_us(wall_us: int, tz: dt.tzinfo | None) -> int:
    try:
        wall = dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=wall_us)
        if tz is None:
            # Not astimezone(), which puts an hour that is skipped an hour earlier than timestamp() and PEP 495 do.
            return wall_us - round(wall.timestamp() - wall.microsecond / 1_000_000) * 1_000_000 - wall.microsecond
        offset = wall.replace(tzinfo=tz).utcoffset()
    except (OverflowError, ValueError, OSError):
        return 0  # a year that no datetime has: refused for its time anyway
    return (offset or dt.timedelta()) // _MICROSECOND


def _one_by_one(values: Sequence[object], now_us: int) -> Micros:
    return np.fromiter((now_us if value is None else _or_no_time(value) for value in values), np.int64, len(values))


def _or_no_time(value: object) -> int:
    try:
        us = instant_us(value)
    except RefusedValueError:
        return NO_TIME
    return us if abs(us) < 2**63 else NO_TIME


def _text_us(text: str) -> int:
    try:
        # RFC 3339 allows a small z; Python does not.
        time = dt.datetime.fromisoformat(text[:-1] + "Z" if text.endswith("z") else text)
    except ValueError:
        reason = "is not a time; write ISO 8601 with Z or an offset, such as 2026-11-20T12:00:00.123456Z, or a number of seconds"
        raise RefusedValueError("timestamp", text, reason) from None
    if time.tzinfo is None:
        raise RefusedValueError("timestamp", text, "has no time zone; end it with Z for UTC or with an offset such as +01:00")
    return (time - _EPOCH) // _MICROSECOND


def _number_us(number: int | float) -> int:
    if isinstance(number, float) and not math.isfinite(number):
        raise RefusedValueError("timestamp", number, "is not a finite number")
    size = abs(number)
    if size < SECONDS_BELOW:
        return round(number * 1_000_000)
    if size < MILLIS_BELOW:
        return round(number * 1_000)
    if size < MICROS_BELOW:
        return math.floor(number)
    return math.floor(number) // 1_000


def _size(number: np.int64 | np.float64) -> int:
    return 0 if number < SECONDS_BELOW else 1 if number < MILLIS_BELOW else 2 if number < MICROS_BELOW else 3


def _scaled(numbers: Numbers, size: int) -> Micros:
    if size < 2:
        scaled = numbers * (1_000_000, 1_000)[size]
        return (scaled if scaled.dtype == np.int64 else np.rint(scaled)).astype(np.int64, copy=False)
    if numbers.dtype != np.int64:
        numbers = np.floor(np.clip(numbers, -_SAFE_FLOAT, _SAFE_FLOAT))
    whole = numbers.astype(np.int64, copy=False)
    return whole if size == 2 else whole // 1_000


def _numpy(column: pa.Array, null: int) -> Micros:
    if column.null_count:
        column = pc.fill_null(column, null)
    found: Micros = column.to_numpy(zero_copy_only=False)
    return found
