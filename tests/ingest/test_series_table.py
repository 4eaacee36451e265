"""The table of series: how much of them a process keeps, and that two threads may add to it."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from analytics_dagster.ingest.points import MAX_SERIES_TEXT, Admission, Parsed, SeriesTable, WriteScope
from analytics_dagster.server.readers import Readers
from tests.ingest.wire.prometheus_messages import write_request


def test_a_table_is_full_when_its_series_are_long_however_few_they_are() -> None:
    table, long = SeriesTable(), "x" * 2**20
    for number in range(MAX_SERIES_TEXT // 2**20 - 1):
        table.number("default", "gauge", str(number), long)
    assert not table.is_full
    for again in range(10):
        table.number("default", "gauge", str(again), long)
    assert not table.is_full
    table.number("default", "gauge", "one more", long)
    assert table.is_full


def test_two_threads_that_add_the_same_series_give_each_one_number() -> None:
    """Both through every cache: JSON, columns, line protocol and remote write, each thread with readers of its own."""
    table, readers = SeriesTable(), Readers(2**26)
    admission = Admission(table, WriteScope("default", frozenset()), 2**62)
    start = threading.Barrier(2)
    wrong: list[object] = []

    def write(mine: Readers, order: int) -> None:
        start.wait(30)
        for n in range(0, 4_000, 40)[::order]:
            for body, read in bodies(range(n, n + 40), mine):
                points = read(body, admission).points
                found = [(table.names[number], table.labels[number]) for number in points.series.tolist()]
                if found != [("load", f'{{"host":"{value:.0f}"}}') for value in points.values.tolist()]:
                    wrong.append(found)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(2) as threads:
            done = [threads.submit(write, readers, 1), threads.submit(write, Readers(2**26, others=readers), -1)]
            for each in done:
                each.result(60)
    finally:
        sys.setswitchinterval(before)
    assert wrong == []
    assert len(table) == len(set(zip(table.tenants, table.types, table.names, table.labels, strict=True))) == 4_000
    assert len(table.tenants) == len(table.types) == len(table.names) == len(table.labels)


def samples(*series: tuple[dict[str, str], float]) -> bytes:
    return write_request(*({"labels": labels, "samples": [(value, 1_700_000_000_000)]} for labels, value in series))


def bodies(hosts: range, readers: Readers) -> Iterator[tuple[bytes, Callable[[bytes, Admission], Parsed]]]:
    """The same series as each protocol writes them; a point's value is its host."""
    now = 1_700_000_000_000_000
    rows = [{"name": "load", "value": host, "labels": {"host": str(host)}} for host in hosts]
    yield json.dumps(rows).encode(), lambda body, admission: readers.points["json"](body, admission, now)
    columns = pa.table({"name": ["load"] * len(hosts), "value": [float(n) for n in hosts], "host": [str(n) for n in hosts]})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, columns.schema) as stream:
        stream.write_table(columns)
    yield sink.getvalue(), lambda body, admission: readers.points["arrow"](body, admission, now)
    lines = "\n".join(f"load,host={host} value={host}" for host in hosts).encode()
    yield lines, lambda body, admission: readers.influx.read(body, None, admission, now).parsed
    request = samples(*(({"__name__": "load", "host": str(host)}, host) for host in hosts))
    yield request, lambda body, admission: readers.remote_write.read(body, admission).parsed


def test_what_one_reader_learns_of_a_metric_the_others_know() -> None:
    """Metadata comes in small requests of its own, and may be about samples of a large one."""
    first = Readers(2**26)
    second = Readers(2**26, others=first)
    table = SeriesTable()
    admission = Admission(table, WriteScope("default", frozenset()), 2**62)

    def kind(readers: Readers) -> str:
        series = readers.remote_write.read(samples(({"__name__": "depth"}, 1.0)), admission).parsed.points.series
        return table.types[int(series[0])]

    assert [kind(first), kind(second)] == ["gauge", "gauge"]
    first.remote_write.read(b"\x1a\x09\x08\x01\x12\x05depth", admission)  # metadata: depth is a counter
    assert [kind(first), kind(second)] == ["counter", "counter"]
