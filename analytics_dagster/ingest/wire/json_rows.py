"""One point as a JSON object: its fields, and what each may be.

`Row` is what msgspec decodes at full speed when nothing is wrong; `careful_row` reads the same object field by field and says
what is wrong with it. Whatever the first takes, the second takes as well.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import msgspec

from analytics_dagster.ingest.points import Admission, RefusedValueError, check_name, check_type
from analytics_dagster.ingest.wire.series_cache import labels_of

# The spellings that are met in practice; any other mix of cases is understood too, a row at a time.
_Kind = Literal[
    "gauge", "counter", "histogram", "timer", "GAUGE", "COUNTER", "HISTOGRAM", "TIMER", "Gauge", "Counter", "Histogram", "Timer"
]
_Time = str | int | float | None
_NO_LABELS = msgspec.Raw(b"{}")


class Row(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """In the order in which clients write them: msgspec finds the next field without looking when it comes next."""

    name: str
    value: float
    timestamp: _Time = None
    tenant_id: str | None = None
    metric_type: _Kind | None = None
    labels: msgspec.Raw = _NO_LABELS


class ShortRow(Row, gc=False, forbid_unknown_fields=True, rename={"metric_type": "type"}):
    """The same with metric_type's short name."""


class OwnRow(Row, gc=False, forbid_unknown_fields=True):
    """A row that names no tenant but the writer's own: `own_rows` decodes subclasses of it."""


@lru_cache(maxsize=1_024)
def own_rows(tenant: str) -> msgspec.json.Decoder[list[OwnRow]]:
    """Rows of `tenant` or of none named: a text that is known before costs nothing to read and need not be looked at again."""
    own = msgspec.defstruct(
        "OwnRow",
        [("tenant_id", Literal[tenant] | None, None)],
        bases=(OwnRow,),
        gc=False,
        forbid_unknown_fields=True,
    )
    return msgspec.json.Decoder(list[own])  # type: ignore[valid-type]  # known only when it runs


FIELDS = ("name", "value", "timestamp", "tenant_id", "metric_type", "type", "labels")
ROW, ROWS = msgspec.json.Decoder(Row), msgspec.json.Decoder(list[Row])
SHORT_ROW, SHORT_ROWS = msgspec.json.Decoder(ShortRow), msgspec.json.Decoder(list[ShortRow])
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str | None)
_TIME = msgspec.json.Decoder(_Time)


def row_of(original: bytes, admission: Admission) -> Row:
    """One row, as fast as it goes. Raises as `careful_row`."""
    for decoder in (ROW, SHORT_ROW):
        try:
            return decoder.decode(original)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
    return careful_row(original, admission)


def careful_row(original: bytes, admission: Admission) -> Row:
    """One row, field by field. Raises RefusedValueError for the first that is wrong; ForeignTenantError before all others."""
    fields = _fields(original)
    labels = fields.get("labels", b"{}")
    tenant = _of_foreign_tenants(fields, labels, admission)
    for field, raw in fields.items():
        if field not in FIELDS:
            reason = f"is not a field of a point; they are {', '.join(FIELDS)}"
            raise RefusedValueError(field, _text(raw), reason)
    if "metric_type" in fields and "type" in fields:
        raise RefusedValueError(
            "type", _text(fields["type"]), "stands beside metric_type, of which it is the short name; give one"
        )
    name = _decoded(_TEXT, "name", fields.get("name", b"null"), "is not text")
    if name is None:
        raise RefusedValueError("name", "", "is missing; every point needs a metric name")
    check_name(name)
    value = _value(fields.get("value"))
    kind_raw = fields.get("metric_type", fields.get("type", b"null"))
    kind = None if kind_raw == b"null" else check_type(_plain(kind_raw))
    labels_of(labels)
    time = _decoded(_TIME, "timestamp", fields.get("timestamp", b"null"), "is not a time; write ISO 8601 or a number of seconds")
    return Row(name, value, time, tenant, kind, msgspec.Raw(labels))  # type: ignore[arg-type]  # check_type's is one of _Kind


def _fields(original: bytes) -> dict[str, bytes]:
    try:
        return {field: bytes(raw) for field, raw in _FIELDS.decode(original).items()}
    except msgspec.ValidationError:
        raise RefusedValueError("", _text(original), "is not a JSON object") from None
    except UnicodeDecodeError:
        raise RefusedValueError("", repr(original), "is not UTF-8") from None
    except (msgspec.DecodeError, RecursionError) as error:
        return _lenient_fields(original, str(error))


def _lenient_fields(original: bytes, error: str) -> dict[str, bytes]:
    try:
        found = json.loads(original)
    except (ValueError, RecursionError):
        raise RefusedValueError("", _text(original), f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise RefusedValueError("", _text(original), "is not a JSON object")
    return {field: json.dumps(value).encode() for field, value in found.items()}


def _of_foreign_tenants(fields: Mapping[str, bytes], labels: bytes, admission: Admission) -> str | None:
    """The tenant that a row names. Raises ForeignTenantError whatever else is wrong with the row."""
    tenant: str | None = _decoded(_TEXT, "tenant_id", fields.get("tenant_id", b"null"), "is not text")
    if tenant:
        admission.scope.resolve(tenant)
    try:
        label = labels_of(labels).get("tenant_id")
    except RefusedValueError:
        label = None  # said when it is the labels' turn
    if label and isinstance(label, str):
        admission.scope.resolve(label)
    return tenant


def _value(raw: bytes | None) -> float:
    if raw is None or raw == b"null":
        raise RefusedValueError("value", "", "is missing; every point needs a number")
    text = _text(raw)
    if raw[:1] == b'"':
        text = str(_plain(raw))
        if re.fullmatch(r"\s*[+-]?(nan|inf|infinity)\s*", text, re.IGNORECASE):
            raise RefusedValueError("value", text, "is not a finite number")
        raise RefusedValueError("value", text, "is text; write a number without quotes")
    try:
        value = float(text)
    except ValueError:
        raise RefusedValueError("value", text, "is not a number") from None
    if not math.isfinite(value):
        raise RefusedValueError("value", text, "is not a finite number")
    return value


def _decoded(decoder: msgspec.json.Decoder[Any], field: str, raw: bytes, reason: str) -> Any:
    try:
        return decoder.decode(raw)
    except UnicodeDecodeError:
        raise RefusedValueError(field, repr(raw), "is not UTF-8") from None
    except (msgspec.DecodeError, RecursionError):
        raise RefusedValueError(field, _text(raw), reason) from None


def _plain(raw: bytes) -> object:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _text(raw)


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
