"""The table of series: how much of them a process keeps."""

from __future__ import annotations

from analytics_dagster.ingest.points import MAX_SERIES_TEXT, SeriesTable


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
