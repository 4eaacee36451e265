"""Points: the one shape that every way in (Python, HTTP, remote write, ...) makes and every log carries.

Columns, never an object per row: a request's points are three arrays, and a number for each row's series in a table that the
whole process shares. What a name, a label or a time may be is decided here and nowhere else.
"""

from __future__ import annotations

import datetime as dt
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from analytics_dagster.errors import ForeignTenantError, UserError
from analytics_dagster.lake.schemas import FIRST_DAY, PLAYS, TIMESTAMP

MAX_NAME = 255
MAX_LABEL_KEY = 128
MAX_LABEL_VALUE = 1_024
MAX_LABELS = 64
# Mimir's default limit of active series is of this size too. A table that outgrows either is replaced, so that memory is
# bounded: a million series whose labels are as long as labels may be would be 70 GB.
MAX_SERIES_KEPT = 1_000_000
MAX_SERIES_TEXT = 256 * 2**20
# Rows that one refusal names; a broken client's batch of 10,000 equal mistakes helps nobody.
MAX_REFUSALS_NAMED = 100

EARLIEST_US = int(dt.datetime.combine(FIRST_DAY, dt.time(), dt.UTC).timestamp()) * 1_000_000

_LABEL_KEY = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_RESERVED = frozenset({"tenant_id", "alertname", "severity"})
_NO_LABEL_KEY = "is not a label name; use letters, digits and _, beginning with a letter or _"
_encode = msgspec.json.Encoder().encode


class MetricType(StrEnum):
    """What a point's value is. A counter's is cumulative: figures are its increase, resets allowed for."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"
    """One observation of a distribution."""
    TIMER = "timer"
    """One observation of a duration."""


_TYPES = frozenset(MetricType)
_DICTIONARY = pa.dictionary(pa.int32(), pa.string())
POINT_ROWS = pa.schema(
    [
        pa.field("tenant", _DICTIONARY),
        pa.field("name", _DICTIONARY),
        pa.field("type", _DICTIONARY),
        pa.field("labels", _DICTIONARY),  # canonical JSON: sorted keys, no spaces; {} for none
        pa.field("ts", TIMESTAMP),
        pa.field("value", pa.float64()),
    ]
)
"""A batch of points as a log gives it back."""

PLAY_ROWS = pa.schema([pa.field("tenant", _DICTIONARY), *PLAYS.arrow])
"""A batch of plays, on the way in and as a log gives it back."""


class SeriesTable:
    """Series by number: (tenant, type, name, canonical labels), each once, in the order they were first seen.

    Any thread may add and read. Below a number that somebody has, all series are there with all their parts.
    """

    def __init__(self) -> None:
        self._adding = threading.Lock()
        self._numbers: dict[tuple[str, str, str, str], int] = {}
        self._text = 0
        self.tenants: list[str] = []
        self.types: list[str] = []
        self.names: list[str] = []
        self.labels: list[str] = []

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_full(self) -> bool:
        """Whether a new table should take its place: it has more series, or more characters of them, than are kept."""
        return len(self) > MAX_SERIES_KEPT or self._text > MAX_SERIES_TEXT

    def number(self, tenant: str, type_: str, name: str, labels: str) -> int:
        """The number of a series whose parts were checked, added if it is new."""
        key = (tenant, type_, name, labels)
        found = self._numbers.get(key)
        return self._add(key) if found is None else found

    def _add(self, key: tuple[str, str, str, str]) -> int:
        tenant, type_, name, labels = key
        with self._adding:
            # Another thread may have been faster.
            found = self._numbers.get(key)
            if found is None:
                found = len(self)
                self.tenants.append(tenant)
                self.types.append(type_)
                self.names.append(name)
                # The last part, so that what is counted is whole; then the number, so that whoever gets one finds its parts.
                self.labels.append(labels)
                self._text += len(name) + len(labels)
                self._numbers[key] = found
        return found


@dataclass(frozen=True)
class Points:
    """Points of one request. Row i is of series `series[i]` in `table`, at `ts[i]` µs since 1970 (UTC), with `values[i]`.

    `origin` (at most 64 ASCII characters) names a request that may be sent again: appended twice, row i is the same point twice,
    of a histogram or timer too.
    """

    table: SeriesTable
    series: npt.NDArray[np.int32]
    ts: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    origin: str | None = None

    def __len__(self) -> int:
        return len(self.series)


@dataclass(frozen=True)
class Plays:
    """Plays of one request, in PLAY_ROWS' columns."""

    rows: pa.Table

    def __len__(self) -> int:
        return int(self.rows.num_rows)


@dataclass(frozen=True)
class RowRefusal:
    """A row that could not be taken. `index` counts from 0 within the body; `original` is the row as it came, for quarantine."""

    index: int
    field: str | None
    value: str
    reason: str
    original: bytes = b""


class RefusedValueError(UserError):
    """One name, label or time that is not allowed. Raised by the checks here; parsers turn it into a RowRefusal."""

    def __init__(self, field: str, value: object, reason: str) -> None:
        text = str(value)
        self.field, self.value, self.reason = field, text if len(text) <= 200 else f"{text[:200]}...", reason
        super().__init__(f"{field} {self.value!r}: {reason}")


@dataclass(frozen=True)
class Parsed:
    """What a body held: the rows that are good, and those that are not (all of them, in order)."""

    points: Points
    refused: Sequence[RowRefusal]


@dataclass(frozen=True)
class WriteScope:
    """Which tenants a writer may name.

    `default` is the tenant of rows that name none (None: each row must name one); `allowed` are those that may be named.
    """

    default: str | None
    allowed: frozenset[str]

    def resolve(self, named: str | None) -> str:
        """The tenant of a row that names `named`. Raises ForeignTenantError; RefusedValueError when there is no default."""
        if not named:
            if self.default is None:
                raise RefusedValueError("tenant_id", "", "names no tenant; this key may write for several, so each row names one")
            return self.default
        if named != self.default and named not in self.allowed:
            raise ForeignTenantError(named)
        return named


@dataclass(frozen=True)
class Admission:
    """What a parser needs beside the body: the process' series, whose rows they may be, and how new a point may be."""

    table: SeriesTable
    scope: WriteScope
    latest_us: int


def check_name(name: object) -> str:
    """A metric's name itself: 1 to MAX_NAME printable characters that are not all blank. Raises RefusedValueError."""
    if not isinstance(name, str):
        raise RefusedValueError("name", name, "is not text")
    if not name.strip():
        raise RefusedValueError("name", name, "is empty; every point needs a metric name")
    if len(name) > MAX_NAME:
        raise RefusedValueError("name", name, f"is longer than {MAX_NAME} characters")
    if not name.isprintable():
        raise RefusedValueError("name", repr(name), "has a character that cannot be printed")
    return name


def check_type(value: object) -> str:
    """gauge, counter, histogram or timer, in any case. Raises RefusedValueError."""
    kind = value.lower() if isinstance(value, str) else ""
    if kind not in _TYPES:
        raise RefusedValueError("metric_type", value, f"is not known; one of {', '.join(MetricType)}")
    return kind


def canonical_labels(labels: Mapping[str, object]) -> str:
    """Labels as canonical JSON: sorted keys, no spaces, every value text; {} for none. An empty value is no label.

    `tenant_id` must have been taken out before. Raises RefusedValueError for a key that is no identifier or is reserved, a value
    that is not text, a whole number or true or false, and what is too long, too many or no Unicode text.
    """
    if len(labels) > MAX_LABELS:
        raise RefusedValueError("labels", len(labels), f"are more than {MAX_LABELS}")
    text = {(checked := _label_key(key)): _label_value(checked, value) for key, value in labels.items()}
    kept = {key: text[key] for key in sorted(text) if text[key]}
    try:
        return _encode(kept).decode()
    except UnicodeEncodeError:
        raise RefusedValueError("labels", ascii(kept), "have a character that is not Unicode (a lone surrogate)") from None


def _label_key(key: object) -> str:
    if not isinstance(key, str):
        raise RefusedValueError("labels", key, _NO_LABEL_KEY)
    return _checked_label_key(str(key))


# A client names the same few labels in all of its series. What is refused is not kept, so nothing here is long.
@lru_cache(maxsize=4_096)
def _checked_label_key(key: str) -> str:
    if not _LABEL_KEY.fullmatch(key):
        raise RefusedValueError("labels", key, _NO_LABEL_KEY)
    if len(key) > MAX_LABEL_KEY:
        raise RefusedValueError("labels", key, f"is longer than {MAX_LABEL_KEY} characters")
    if is_reserved(key):
        raise RefusedValueError("labels", key, "is a reserved label")
    return key


def is_reserved(key: str) -> bool:
    """Whether a label may not be set by a client: `tenant_id`, `alertname`, `severity` and `__*`."""
    return key in _RESERVED or key.startswith("__")


def check_time(ts_us: int, latest_us: int) -> int:
    """`ts_us` itself (µs since 1970). Raises RefusedValueError before FIRST_DAY and after `latest_us`."""
    if ts_us < EARLIEST_US:
        raise RefusedValueError("timestamp", _iso(ts_us), f"is before {FIRST_DAY}, the first day that is kept")
    if ts_us > latest_us:
        raise RefusedValueError("timestamp", _iso(ts_us), f"is in the future; at most {_iso(latest_us)} is taken now")
    return ts_us


def _label_value(key: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        value = str(value)
    if not isinstance(value, str):
        raise RefusedValueError(f"labels.{key}", value, "is not text, a whole number or true or false")
    if len(value) > MAX_LABEL_VALUE:
        raise RefusedValueError(f"labels.{key}", value, f"is longer than {MAX_LABEL_VALUE} characters")
    return str(value)


def _iso(ts_us: int) -> str:
    try:
        return (dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=ts_us)).isoformat()
    except OverflowError:
        return f"{ts_us} µs"
