"""The readers of wire formats that a worker keeps, with what they remember of their senders' series."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from analytics_dagster.ingest.points import Admission, Parsed
from analytics_dagster.ingest.wire.arrow_points import parse_arrow
from analytics_dagster.ingest.wire.influx import InfluxReader
from analytics_dagster.ingest.wire.json_points import parse_json, parse_ndjson
from analytics_dagster.ingest.wire.metric_families import FamiliesOfWriters
from analytics_dagster.ingest.wire.otlp import OtlpReader
from analytics_dagster.ingest.wire.remote_write import RemoteWriteReader

ReadPoints = Callable[[bytes, Admission, int], Parsed]


class Readers:
    """For one thread at a time. What is the same for all threads they share with `others`."""

    def __init__(self, body_limit: int, others: Readers | None = None) -> None:
        self._families: FamiliesOfWriters = others._families if others else FamiliesOfWriters()
        self.points: dict[str, ReadPoints] = {
            "json": parse_json,
            "ndjson": parse_ndjson,
            "arrow": partial(parse_arrow, limit=body_limit),
        }
        self.remote_write = RemoteWriteReader(self._families)
        self.influx = InfluxReader()
        self.otlp = OtlpReader()
