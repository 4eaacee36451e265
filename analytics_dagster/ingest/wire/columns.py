"""Points as columns: an Arrow table, whoever made it, to points. No row is ever an object, and each series is looked up once.

The columns are name and value, and if they are there timestamp, tenant_id, metric_type (or type) and labels; every further
one is a label of its own name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from analytics_dagster.ingest.points import (
    EARLIEST_US,
    MAX_LABELS,
    Admission,
    Parsed,
    Points,
    RefusedValueError,
    RowRefusal,
    check_name,
    check_time,
    check_type,
)
from analytics_dagster.ingest.wire.bodies import UnreadableBodyError
from analytics_dagster.ingest.wire.codes import Coded, Codes, coded, combined, of_maps
from analytics_dagster.ingest.wire.series_cache import cache_of, labels_of, series_number
from analytics_dagster.ingest.wire.times import NO_TIME, Micros, Zone, instant_us, naive_us, numbers_us, texts_us

_POINT_COLUMNS = ("name", "value", "timestamp", "tenant_id", "metric_type", "type", "labels")
_US_PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1}


class ColumnsError(UnreadableBodyError):
    """The table as a whole cannot be points: a column is missing, is there twice, or has a type that it may not have."""


def points_from_table(table: pa.Table, admission: Admission, now_us: int, *, naive_zone: Zone | None = None) -> Parsed:
    """Points of a table's rows.

    `name` (text) and `value` (any number) must be there. `timestamp`: a timestamp of any unit, ISO 8601 text, or numbers as in
    JSON; null, or no such column, is `now_us`; one without a zone is refused unless `naive_zone` says whose wall clock it is.
    `tenant_id` and `metric_type` (or `type`): text. `labels`: a map of texts, a struct, or text that is a JSON object. Every
    other column, of text, whole numbers or truths, is a label of its own name, null being no such label.

    Raises ColumnsError and ForeignTenantError. What is wrong with single rows is in `refused`, made when it is looked at.
    """
    check_columns(table.schema, naive=naive_zone is not None)
    return _Rows(_one_chunk(table), admission, now_us, naive_zone).parsed()


def _one_chunk(table: pa.Table) -> pa.Table:
    """The table with one chunk a column, whatever the dictionaries of its batches are."""
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type) and table.column(place).num_chunks > 1:
            # Several dictionaries together may have more texts than each one's indices can count.
            wide = pa.dictionary(pa.int32(), field.type.value_type)
            table = table.set_column(place, field.name, table.column(place).cast(wide))
    try:
        return table.combine_chunks()
    except pa.ArrowInvalid as error:
        raise ColumnsError(f"the batches cannot be put together: {error}") from None


def check_columns(schema: pa.Schema, *, naive: bool = False) -> None:
    """Raise ColumnsError unless a table of this schema can be points; `naive`: times without a zone may be."""
    names = schema.names
    labels = _label_columns(schema)
    if len(labels) > MAX_LABELS:
        raise ColumnsError(f"{len(labels)} columns are labels; at most {MAX_LABELS} may be")
    for name, count in (*Counter(names).items(), *Counter(labels).items()):
        if count > 1:
            raise ColumnsError(f"column {name!r} is there twice")
    for name in ("name", "value"):
        if name not in names:
            raise ColumnsError(f"column {name!r} is missing; the columns are {', '.join(names[:20]) or 'none'}")
    if "metric_type" in names and "type" in names:
        raise ColumnsError("column 'type' stands beside 'metric_type', of which it is the short name; give one")
    for field in schema:
        _check_column(field, naive)


def _check_column(field: pa.Field, naive: bool) -> None:
    kind = field.type
    match field.name:
        case "value":
            good, wanted = pa.types.is_floating(kind) or pa.types.is_integer(kind), "numbers"
        case "timestamp":
            good, wanted = _is_time(kind), "times with a zone, ISO 8601 texts or numbers"
            if pa.types.is_timestamp(kind) and kind.tz is None and not naive:
                raise ColumnsError("column 'timestamp' has no time zone; give it one, as in timestamp[us, tz=UTC]")
        case "name" | "tenant_id" | "metric_type" | "type":
            good, wanted = _is_text(kind), "text"
        case "labels" if pa.types.is_map(kind):
            good, wanted = _is_text(kind.key_type) and _is_text(kind.item_type), "a map of texts"
        case "labels" if pa.types.is_struct(kind):
            for inner in kind:
                _check_label(inner, f"labels.{inner.name}")
            return
        case "labels":
            good, wanted = _is_text(kind) or pa.types.is_null(kind), "a map of texts, a struct or JSON text"
        case _:
            return _check_label(field, field.name)
    if not good:
        raise ColumnsError(f"column {field.name!r} is of type {kind}; it must be {wanted}")


def _check_label(field: pa.Field, name: str) -> None:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        reason = "a label is text, a whole number or true or false"
        raise ColumnsError(f"column {name!r} would be a label, but is of type {field.type}; {reason}")


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_time(kind: pa.DataType) -> bool:
    if pa.types.is_null(kind) or pa.types.is_timestamp(kind) or _is_text(kind):
        return True
    return bool(pa.types.is_integer(kind) or pa.types.is_float64(kind) or pa.types.is_float32(kind))


def _label_columns(schema: pa.Schema) -> list[str]:
    """The columns that are labels, and the fields of `labels` when it is a struct: `labels.region`."""
    found = [field.name for field in schema if field.name not in _POINT_COLUMNS and not pa.types.is_null(field.type)]
    if "labels" in schema.names and pa.types.is_struct(schema.field("labels").type):
        found += [f"labels.{field.name}" for field in schema.field("labels").type if not pa.types.is_null(field.type)]
    return found


class _Refusals(Sequence[RowRefusal]):
    """Refusals that are made when they are looked at: a table may have a million bad rows, of which a hundred are named."""

    def __init__(self, rows: npt.NDArray[np.intp], make: Callable[[int], RowRefusal]) -> None:
        self._rows = rows
        self._make = make

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> RowRefusal: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RowRefusal]: ...
    def __getitem__(self, index: int | slice) -> RowRefusal | Sequence[RowRefusal]:
        if isinstance(index, slice):
            return _Refusals(self._rows[index], self._make)
        return self._make(int(self._rows[index]))

    def __iter__(self) -> Iterator[RowRefusal]:
        return map(self._make, self._rows.tolist())


@dataclass(frozen=True)
class _Series:
    """Each row's series, -1 for none; row i has combination `which[i]` of texts, and the combinations that are refused."""

    of_rows: npt.NDArray[np.int32]
    which: Codes
    refused: dict[int, RefusedValueError]


class _Rows:
    """A table on its way to points. `_table` has one chunk a column."""

    def __init__(self, table: pa.Table, admission: Admission, now_us: int, naive_zone: Zone | None) -> None:
        self._table = table
        self._admission = admission
        self._now_us = now_us
        self._naive_zone = naive_zone
        self._values = _values(self._column("value"))
        self._ts = self._times()
        self._series = self._numbered()

    def parsed(self) -> Parsed:
        series = self._series.of_rows
        bad = (self._ts < EARLIEST_US) | (self._ts > self._admission.latest_us) | ~np.isfinite(self._values)
        if self._series.refused:
            bad |= series < 0
        if not bad.any():
            return Parsed(Points(self._admission.table, series, self._ts, self._values), ())
        good = ~bad
        points = Points(self._admission.table, series[good], self._ts[good], self._values[good])
        return Parsed(points, _Refusals(np.flatnonzero(bad), self._refusal))

    def _column(self, name: str) -> pa.Array:
        column = self._table.column(name)
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

    # --- why a row is refused

    def _refusal(self, row: int) -> RowRefusal:
        why = self._why(row)
        return RowRefusal(row, why.field, why.value, why.reason, self._original(row))

    def _why(self, row: int) -> RefusedValueError:
        """The first mistake of a row, in the order in which a JSON row's are looked for."""
        of_series = self._series.refused.get(int(self._series.which[row]))
        if of_series is not None and of_series.field == "name":
            return of_series
        if not np.isfinite(self._values[row]):
            if self._column("value")[row].as_py() is None:
                return RefusedValueError("value", "", "is missing; every point needs a number")
            return RefusedValueError("value", self._values[row], "is not a finite number")
        return of_series or self._why_time(row)

    def _why_time(self, row: int) -> RefusedValueError:
        column = self._table.column("timestamp")
        try:
            given = self._ts[row] if pa.types.is_timestamp(column.type) else instant_us(column[row].as_py())
            check_time(int(given), self._admission.latest_us)
        except RefusedValueError as why:
            return why
        return RefusedValueError("timestamp", self._ts[row], "is no time that is kept")

    def _original(self, row: int) -> bytes:
        """The row as JSON: it has no bytes of its own."""
        one = self._table.slice(row, 1)
        return json.dumps({name: _cell(column) for name, column in zip(one.column_names, one.columns, strict=True)}).encode()

    # --- time

    def _times(self) -> Micros:
        if "timestamp" not in self._table.column_names:
            return np.full(self._table.num_rows, self._now_us, np.int64)
        column = self._column("timestamp")
        kind = column.type
        if pa.types.is_null(kind):
            return np.full(len(column), self._now_us, np.int64)
        if pa.types.is_dictionary(kind):
            # Each text once, and null by a code of its own.
            texts = coded(column)
            known = np.append(texts_us(texts.texts, self._now_us), self._now_us)
            return known[texts.codes] if texts.codes is not None else np.full(len(column), known[0])
        if not (pa.types.is_timestamp(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            return texts_us(column.cast(pa.string()), self._now_us)
        numbers = pc.fill_null(column.view(pa.int64()) if pa.types.is_timestamp(kind) else column, 0).to_numpy(
            zero_copy_only=False
        )
        found = self._instants(numbers, kind) if pa.types.is_timestamp(kind) else numbers_us(_wide(numbers))
        if column.null_count:
            found = np.where(column.is_valid().to_numpy(zero_copy_only=False), found, self._now_us)
        return found

    def _instants(self, numbers: Micros, kind: pa.DataType) -> Micros:
        if kind.unit == "ns":
            found = numbers // 1_000
        else:
            factor = _US_PER_UNIT[kind.unit]
            # What does not fit is beyond all time that is kept, on either side.
            found = np.clip(numbers, NO_TIME // factor + 1, -NO_TIME // factor - 1) * factor if factor > 1 else numbers
        if kind.tz is None and self._naive_zone is not None:
            return naive_us(found, self._naive_zone)
        return found

    # --- series

    def _numbered(self) -> _Series:
        """Each row's series, as it is known of a table that said the same, or by combinations of texts."""
        names = self._table.column_names
        kind = next((name for name in ("metric_type", "type") if name in names), None)
        fixed = [self._coded(name) for name in ("tenant_id", kind, "name")]
        labels = self._labels()
        repeats = cache_of(self._admission.table).repeats
        said = self._said(fixed, labels) if repeats.are_likely() else None
        if said is not None and (known := repeats.find(said)) is not None:
            return _Series(known, known, {})
        found, all_known = self._by_combination(fixed, labels)
        if said is not None and all_known:
            repeats.keep(said, sum(len(part) for column in said[3:] for part in column), found.of_rows)
        return found

    def _said(self, fixed: Sequence[Coded], labels: dict[str, Coded]) -> tuple[Any, ...] | None:
        """All that the table says of its series, when it is one tenant's."""
        if fixed[0].codes is not None:
            return None
        columns = [column.said() for column in (*fixed[1:], *labels.values())]
        if None in columns:
            return None
        tenant = _resolved(fixed[0].texts[0].as_py(), self._admission)
        return (tenant, self._table.num_rows, tuple(labels), *columns)

    def _by_combination(self, fixed: Sequence[Coded], labels: dict[str, Coded]) -> tuple[_Series, bool]:
        """Each row's series, looked up once for every combination of texts; and whether all were known before."""
        which, first = combined([*fixed, *labels.values()], self._table.num_rows)
        tenants, kinds, metrics = (column.at(first) for column in fixed)
        texts = [column.at(first) for column in labels.values()]
        resolved = {tenant: _resolved(tenant, self._admission) for tenant in set(tenants)}
        parts: list[Sequence[str | None]] = [[resolved[tenant] for tenant in tenants], kinds, metrics, *texts]
        known = cache_of(self._admission.table).columns(tuple(labels))
        # zip gives one tuple again and again when nobody keeps it.
        numbers = list(map(known.get, zip(*parts, strict=True)))
        new = [place for place, number in enumerate(numbers) if number is None]
        refused: dict[int, RefusedValueError] = {}
        for place in new:
            numbers[place] = -1
            try:
                numbers[place] = self._new_number(tenants[place], tuple(part[place] for part in parts), tuple(labels))
            except RefusedValueError as why:
                refused[place] = why
        return _Series(np.array(numbers, np.int32)[which], which, refused), not new

    def _new_number(self, named: str | None, key: tuple[str | None, ...], columns: tuple[str, ...]) -> int:
        resolved, kind, name, *texts = key
        if name is None:
            _resolved(named, self._admission)
            raise RefusedValueError("name", "", "is missing; every point needs a metric name")
        check_name(name)
        labels = _labels_of(columns, texts)
        checked = check_type(kind) if kind is not None else "gauge"
        number, tenant = series_number(self._admission, named, checked, name, labels)
        # As in JSON: what sends a row elsewhere than its tenant_id does is true of this writer only.
        if tenant == resolved:
            cache_of(self._admission.table).keep_columns(columns, key, number)
        return number

    def _coded(self, name: str | None) -> Coded:
        if name is None or name not in self._table.column_names or pa.types.is_null(self._table.schema.field(name).type):
            return Coded(None, pa.nulls(1, pa.string()))
        return coded(self._column(name))

    def _labels(self) -> dict[str, Coded]:
        found = {name: self._coded(name) for name in _label_columns(self._table.schema) if name in self._table.column_names}
        if "labels" not in self._table.column_names:
            return found
        column = self._column("labels")
        if pa.types.is_struct(column.type):
            inner = zip(column.type, column.flatten(), strict=True)
            return found | {f"labels.{f.name}": coded(child) for f, child in inner if not pa.types.is_null(f.type)}
        return found | {"labels": of_maps(column) if pa.types.is_map(column.type) else self._coded("labels")}


def _labels_of(columns: Sequence[str], texts: Sequence[str | None]) -> dict[str, object]:
    """One row's labels, from the columns that are labels and from the column `labels`."""
    found: dict[str, object] = {}
    for column, text in zip(columns, texts, strict=True):
        if text is None:
            continue
        of_column = labels_of(text.encode()) if column == "labels" else {column.removeprefix("labels."): text}
        for label, value in of_column.items():
            if label in found:
                raise RefusedValueError("labels", label, "is given twice, by a column and in labels")
            found[label] = value
    return found


def _cell(column: pa.ChunkedArray) -> object:
    """The one value of `column`, as JSON has it."""
    if pa.types.is_timestamp(column.type) and column[0].is_valid:
        # Not by way of a datetime: it has no ns, and no year after 9999.
        text = column.cast(pa.timestamp(column.type.unit)).cast(pa.string())[0].as_py()
        return f"{text}Z" if column.type.tz else text
    return column[0].as_py()


def _resolved(named: str | None, admission: Admission) -> str:
    try:
        return admission.scope.resolve(named)
    except RefusedValueError:
        return ""  # nothing is ever cached there; each row's labels may still name a tenant


def _values(column: pa.Array) -> npt.NDArray[np.float64]:
    if not pa.types.is_float64(column.type):
        column = column.cast(pa.float64(), safe=False)
    found: npt.NDArray[np.float64] = column.to_numpy(zero_copy_only=False)  # null is NaN
    return found


def _wide(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | npt.NDArray[np.float64]:
    if np.issubdtype(numbers.dtype, np.floating):
        return numbers.astype(np.float64, copy=False)
    if numbers.dtype == np.uint64:
        return np.minimum(numbers, -NO_TIME - 1).astype(np.int64)
    return numbers.astype(np.int64, copy=False)
