"""Points as clients of the native formats write them, and what they are to become: for every format's round trip."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any, NamedTuple

import pyarrow as pa
from hypothesis import strategies as st

from analytics_dagster.ingest.points import EARLIEST_US, Parsed
from tests.ingest.wire.arrivals import LATEST_US, NOW_US, Row

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Written(NamedTuple):
    """A good row: what a client means."""

    name: str
    value: float
    ts: int | None
    tenant: str | None
    type: str | None
    labels: dict[str, str | int | bool]

    def as_json(self) -> dict[str, Any]:
        fields = {
            "name": self.name,
            "value": self.value,
            "timestamp": None if self.ts is None else iso(self.ts),
            "tenant_id": self.tenant,
            "metric_type": self.type,
            "labels": self.labels,
        }
        return {field: value for field, value in fields.items() if value is not None}

    def as_row(self) -> Row:
        labels = {key: _text(value) for key, value in self.labels.items() if value != ""}
        ts = NOW_US if self.ts is None else self.ts
        return Row(self.tenant or "acme", (self.type or "gauge").lower(), self.name, labels, ts, self.value)


def iso(us: int) -> str:
    return (EPOCH + dt.timedelta(microseconds=us)).isoformat(timespec="microseconds")


def table(written: list[Written], **columns: Any) -> pa.Table:
    """The rows' columns but for their labels, which come as `columns`."""
    return pa.table(
        {
            "name": pa.array([row.name for row in written], pa.string()),
            "value": pa.array([row.value for row in written], pa.float64()),
            "timestamp": pa.array([row.ts for row in written], pa.timestamp("us", "UTC")),
            "tenant_id": pa.array([row.tenant for row in written], pa.string()),
            "metric_type": pa.array([row.type for row in written], pa.string()),
            **columns,
        }
    )


def stream(rows: pa.Table, *, chunk: int | None = None, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(rows, max_chunksize=chunk)
    return bytes(sink.getvalue())


def json_labels(written: list[Written]) -> pa.Array:
    return pa.array([json.dumps(row.labels) for row in written], pa.string())


def refusals(parsed: Parsed) -> list[tuple[int, str | None, str, str]]:
    return [(each.index, each.field, each.value, each.reason) for each in parsed.refused]


def _text(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


label_keys = st.from_regex(r"\A[a-zA-Z_][a-zA-Z0-9_]{0,10}\Z").filter(
    lambda key: key not in {"tenant_id", "alertname", "severity"} and not key.startswith("__")
)
characters = st.characters(codec="utf-8")
label_values = st.one_of(st.sampled_from(["us-east", "premium", 'é"\\ \n']), st.text(characters, max_size=8))
names = st.one_of(
    st.sampled_from(["user_engagement_rate", "plays", "Wärme °C"]),
    st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=12).filter(str.isprintable),
)
rows_written = st.builds(
    Written,
    name=names,
    value=st.floats(allow_nan=False, allow_infinity=False),
    ts=st.one_of(st.none(), st.integers(EARLIEST_US, LATEST_US)),
    tenant=st.sampled_from([None, "acme", "beta"]),
    type=st.sampled_from([None, "gauge", "counter", "histogram", "timer", "GAUGE", "Timer", "cOuNtEr"]),
    labels=st.dictionaries(label_keys, st.one_of(label_values, st.integers(-(2**63), 2**63 - 1), st.booleans()), max_size=4),
)
# Few different series, as a client has them, and any.
batches = st.lists(rows_written, min_size=1, max_size=25)
