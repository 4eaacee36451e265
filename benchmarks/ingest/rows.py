"""The rows that every part of the benchmark sends, in each wire format: points of the shape of the product's first example."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

NAMES, REGIONS, TIERS = 20, 25, 20
SERIES = NAMES * REGIONS * TIERS


@dataclass(frozen=True)
class Rows:
    """`count` points over SERIES series, in order of time: every series has a point a second."""

    tenant: str
    start_ms: int
    count: int
    offset: int = 0

    def batches(self, size: int) -> Iterator[Rows]:
        for begin in range(0, self.count, size):
            yield Rows(self.tenant, self.start_ms, min(size, self.count - begin), self.offset + begin)

    @property
    def numbers(self) -> range:
        return range(self.offset, self.offset + self.count)

    def time_ms(self, number: int) -> int:
        return self.start_ms + 1_000 * (number // SERIES)

    def value(self, number: int) -> float:
        return (number * 7_919 % 100_003) / 1_000


def name(series: int) -> str:
    return f"user_engagement_rate_{series % NAMES}"


def labels(series: int) -> dict[str, str]:
    return {"region": f"region-{series // NAMES % REGIONS}", "user_tier": f"tier-{series // NAMES // REGIONS}"}


def json_body(rows: Rows) -> bytes:
    """The JSON array that `POST /analytics/metrics` takes."""
    return json.dumps([_object(rows, number) for number in rows.numbers]).encode()


def json_lines_of_victoria(rows: Rows) -> bytes:
    """The same rows as VictoriaMetrics' own JSON lines, one sample a line."""
    lines = []
    for number in rows.numbers:
        series = number % SERIES
        metric = {"__name__": name(series), **labels(series)}
        lines.append(json.dumps({"metric": metric, "values": [rows.value(number)], "timestamps": [rows.time_ms(number)]}))
    return "\n".join(lines).encode()


def table(rows: Rows) -> pa.Table:
    """The same rows as columns, a label in each."""
    numbers = np.arange(rows.offset, rows.offset + rows.count)
    series = numbers % SERIES

    def text(prefix: str, codes: np.ndarray, distinct: int) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(
            pa.array(codes.astype("int32")), pa.array([f"{prefix}{n}" for n in range(distinct)])
        )

    return pa.table(
        {
            "name": text("user_engagement_rate_", series % NAMES, NAMES),
            "value": (numbers * 7_919 % 100_003) / 1_000,
            "timestamp": pa.array((rows.start_ms + 1_000 * (numbers // SERIES)) * 1_000).cast(pa.timestamp("us", tz="UTC")),
            "region": text("region-", series // NAMES % REGIONS, REGIONS),
            "user_tier": text("tier-", series // NAMES // REGIONS, TIERS),
        }
    )


def arrow_body(rows: Rows) -> bytes:
    """The same rows as an Arrow IPC stream."""
    made = table(rows)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, made.schema) as stream:
        stream.write_table(made)
    return bytes(sink.getvalue())


def remote_write_body(rows: Rows) -> bytes:
    """The same rows as a snappy-compressed prometheus.WriteRequest, one sample a series."""
    import cramjam

    request = b"".join(_field(1, _time_series(rows, number)) for number in rows.numbers)
    return bytes(cramjam.snappy.compress_raw(request))


def _object(rows: Rows, number: int) -> dict[str, object]:
    series = number % SERIES
    seconds, milliseconds = divmod(rows.time_ms(number), 1_000)
    at = np.datetime_as_string(np.datetime64(seconds, "s"))
    return {
        "name": name(series),
        "value": rows.value(number),
        "timestamp": f"{at}.{milliseconds:03d}Z",
        "tenant_id": rows.tenant,
        "metric_type": "gauge",
        "labels": labels(series),
    }


def _time_series(rows: Rows, number: int) -> bytes:
    series = number % SERIES
    pairs = {"__name__": name(series), **labels(series)}
    label = b"".join(_field(1, _field(1, key.encode()) + _field(2, value.encode())) for key, value in sorted(pairs.items()))
    sample = b"\x09" + struct.pack("<d", rows.value(number)) + b"\x10" + _varint(rows.time_ms(number))
    return label + _field(2, sample)


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
