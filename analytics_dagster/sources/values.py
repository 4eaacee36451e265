"""One value of a file to one value of a column, by the column's type, whether it comes from CSV, JSON or Parquet."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import msgspec
import pyarrow as pa

from analytics_dagster.lake.schemas import Column
from analytics_dagster.sources.parsed import Reading, RefusedRecordError
from analytics_dagster.sources.tables import INT64_MAX, number, whole_number
from analytics_dagster.sources.times import TimeReader, epoch_micros, micros, read_day, shown

Conversion = Callable[[Any], object]
"""From a value as the file has it to one that Arrow takes; None stays None. Raises RefusedRecordError."""

_TRUE, _FALSE = frozenset({"true", "1", "yes", "t", "y"}), frozenset({"false", "0", "no", "f", "n"})
_MAY_BE_NEGATIVE = frozenset({"amount_minor", "mrr_change_minor", "revenue_micros"})
_CANONICAL = msgspec.json.Encoder(order="sorted")


def conversion(column: Column, name: str, times: TimeReader, reading: Reading) -> Conversion:
    """The conversion for `column`, whose values the file calls `name`."""
    if pa.types.is_timestamp(column.type):
        return _timestamps(name, times, reading)
    if pa.types.is_date(column.type):
        return _dates(name)
    if pa.types.is_int64(column.type):
        return _integers(name, -INT64_MAX if column.name in _MAY_BE_NEGATIVE else 0)
    if pa.types.is_floating(column.type):
        return _floats(name)
    if pa.types.is_boolean(column.type):
        return _booleans(name)
    return _labels(name) if column.name == "labels" else _texts(name)


def _texts(name: str) -> Conversion:
    def convert(value: Any) -> object:
        if isinstance(value, str):
            return value.strip() or None
        if value is None:
            return None
        if isinstance(value, dict | list | bytes):
            raise RefusedRecordError(name, f"{shown(str(value))} is not a text")
        return str(value)

    return convert


def _integers(name: str, least: int) -> Conversion:
    def convert(value: Any) -> object:
        if type(value) is int and least <= value <= INT64_MAX:
            return value
        if value is None:
            return None
        if isinstance(value, bool | dict | list | bytes):
            raise RefusedRecordError(name, f"{shown(str(value))} is not a whole number")
        text = value.strip() if isinstance(value, str) else str(value)
        return whole_number(text, name, least=least) if text else None

    return convert


def _floats(name: str) -> Conversion:
    def convert(value: Any) -> object:
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        if isinstance(value, bool | dict | list | bytes):
            raise RefusedRecordError(name, f"{shown(str(value))} is not a number")
        return number(str(value), name)

    return convert


def _booleans(name: str) -> Conversion:
    def convert(value: Any) -> object:
        if value is None or isinstance(value, bool):
            return value
        text = str(value).strip().lower()
        if not text:
            return None
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        raise RefusedRecordError(name, f"{shown(str(value))} is not true or false")

    return convert


def _timestamps(name: str, times: TimeReader, reading: Reading) -> Conversion:
    check, read = reading.window.check, times.read

    def convert(value: Any) -> object:
        if isinstance(value, str):
            text = value.strip()
        elif isinstance(value, datetime):
            if value.tzinfo is not None:
                return check(micros(value), name)
            text = value.isoformat()
        elif value is None:
            return None
        elif isinstance(value, int | float) and not isinstance(value, bool):
            return check(epoch_micros(value), name)
        else:
            raise RefusedRecordError(name, f"{shown(str(value))} is not a time")
        if not text:
            return None
        try:
            return check(read(text), name)
        except ValueError as error:
            raise RefusedRecordError(name, str(error)) from None

    return convert


def _dates(name: str) -> Conversion:
    def convert(value: Any) -> object:
        if isinstance(value, datetime):
            return value.date()
        if value is None or isinstance(value, date):
            return value
        text = str(value).strip()
        if not text:
            return None
        try:
            return read_day(text)
        except ValueError as error:
            raise RefusedRecordError(name, str(error)) from None

    return convert


def _labels(name: str) -> Conversion:
    """Labels as canonical JSON, from an object or from JSON text."""

    def convert(value: Any) -> object:
        if isinstance(value, str):
            if not value.strip():
                return None
            try:
                value = msgspec.json.decode(value)
            except msgspec.DecodeError as error:
                raise RefusedRecordError(name, f"is not JSON: {error}") from None
        if value is None:
            return None
        if not isinstance(value, dict):
            raise RefusedRecordError(name, f"{shown(str(value))} is not an object of labels")
        labels = {key: item if isinstance(item, str) else _CANONICAL.encode(item).decode() for key, item in value.items()}
        return _CANONICAL.encode(labels).decode()

    return convert
