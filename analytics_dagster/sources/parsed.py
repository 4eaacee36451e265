"""What a format's reader hands to the import: rows of our tables, or a record refused with its reason.

A format is one object with a `read` method; it decides nothing about tenants' storage, duplicates or counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeVar

from analytics_dagster.errors import InvalidNameError, UserError
from analytics_dagster.lake.schemas import TableSchema
from analytics_dagster.sources.files import SourceFile
from analytics_dagster.sources.times import micros, shown
from analytics_dagster.tenancy.tenants import tenant_id_from

Row = tuple[object, ...]
"""Values in the order of a table's columns; timestamps as microseconds since 1970."""

FUTURE_ALLOWED = timedelta(days=1)
UNASSIGNED = "unassigned"
"""Home of records that a file split by --tenant-column gives to nobody, unless --tenant names another."""

T = TypeVar("T")


class RefusedRecordError(UserError):
    """One record cannot be taken. `field` is the source's own name of what is wrong, None for the record as a whole."""

    def __init__(self, field: str | None, reason: str) -> None:
        super().__init__(reason)
        self.field = field
        self.reason = reason


class Parsed(NamedTuple):
    """One record taken: the rows it makes, each with the name of its table."""

    tenant: str
    rows: tuple[tuple[str, Row], ...]


class RefusedRecord(NamedTuple):
    """One record not taken, as it stands in its file."""

    tenant: str
    line: int
    field: str | None
    reason: str
    original: bytes


Outcome = Parsed | RefusedRecord


@dataclass(frozen=True)
class Window:
    """The days that an installation takes, in microseconds since 1970."""

    first: int
    last: int
    first_day: date

    @classmethod
    def of(cls, first_day: date, now: datetime) -> Window:
        start = datetime(first_day.year, first_day.month, first_day.day, tzinfo=UTC)
        return cls(micros(start), micros(now + FUTURE_ALLOWED), first_day)

    def check(self, moment: int, name: str) -> int:
        """`moment` itself. Raises RefusedRecordError for one that is before the first day, or to come."""
        if self.first <= moment <= self.last:
            return moment
        if moment < self.first:
            raise RefusedRecordError(name, f"is before {self.first_day}, the first day of all tables")
        raise RefusedRecordError(name, "is more than a day in the future; is the clock of whoever wrote it right?")


@dataclass
class Reading:
    """What one import asks of the formats, and the notes that they leave for whoever runs it."""

    window: Window
    tenant: str | None
    tenant_column: str | None = None
    zone: tzinfo | None = None
    notes: dict[str, None] = field(default_factory=dict)

    @property
    def home(self) -> str:
        return self.tenant or UNASSIGNED

    def tenant_of(self, value: object) -> str:
        """The tenant that a record's tenant column names; `home` where it is empty."""
        text = "" if value is None else str(value).strip()
        if not text:
            return self.home
        try:
            return _tenant_id(text)
        except InvalidNameError:
            raise RefusedRecordError(self.tenant_column, f"no tenant id can be made from {shown(text)}") from None

    def note(self, text: str) -> None:
        """Say something once, however many records give cause."""
        self.notes[text] = None

    def note_naive_times(self, name: str) -> None:
        if self.zone is None:
            self.note(f"{name}: times name no zone and were read as UTC; give --time-zone if they are local")


class SourceFormat(Protocol):
    """One format that `analytics import` takes."""

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def tables(self) -> tuple[TableSchema, ...]:
        """What it fills. The last is the one every record has a row in, and by which records are counted."""

    def belongs(self, name: str, sample: bytes) -> bool:
        """Whether a file met in a folder or archive is of this format; `sample` is empty at the first asking."""

    def read(self, file: SourceFile, reading: Reading) -> Iterator[Outcome]:
        """Every record of `file`, in its order. Raises UnreadableFileError for a file that is something else."""


@lru_cache(maxsize=4_096)
def _tenant_id(text: str) -> str:
    return tenant_id_from(text)


def outcomes(
    records: Iterable[tuple[int, bytes, T | None, str | None]],
    convert: Callable[[T], Parsed],
    reading: Reading,
    tenant_of: Callable[[T], object],
) -> Iterator[Outcome]:
    """`convert` each record of (line, original bytes, values, problem), turning what it refuses into a RefusedRecord."""
    for line, raw, values, problem in records:
        if values is None:
            yield RefusedRecord(reading.home, line, None, problem or "cannot be read", raw)
            continue
        try:
            yield convert(values)
        except RefusedRecordError as error:
            yield RefusedRecord(_home_of_refused(reading, tenant_of, values), line, error.field, error.reason, raw)


def _home_of_refused(reading: Reading, tenant_of: Callable[[T], object], values: T) -> str:
    try:
        return reading.tenant_of(tenant_of(values))
    except RefusedRecordError:
        return reading.home
