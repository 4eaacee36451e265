"""Delta tables: atomic days, tenants apart, writers kept apart, nothing partial after a kill."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from rows import samples

from analytics_dagster.errors import IntegrityError, InvalidNameError, SettingsError
from analytics_dagster.lake.content import EMPTY_HASH, day_contents
from analytics_dagster.lake.lake import Lake
from analytics_dagster.lake.schemas import PLAYS, RAW_TABLES, SYSTEM_SAMPLES, landing

JAN_1 = dt.date(2026, 1, 1)


def day(number: int) -> dt.date:
    return JAN_1 + dt.timedelta(days=number - 1)


@pytest.mark.parametrize("table", RAW_TABLES, ids=lambda t: t.name)
def test_a_table_that_was_never_written_reads_as_empty_with_its_columns(lake: Lake, table) -> None:
    for schema in (table, landing(table)):
        empty = lake.tenant("acme").table(schema).read()
        assert empty.num_rows == 0
        assert empty.schema.names == [c.name for c in schema.columns]


def test_what_is_written_is_read_back_equal(lake: Lake) -> None:
    table = lake.tenant("acme").table(SYSTEM_SAMPLES)
    rows = samples(JAN_1, 3)
    table.overwrite_days(rows, day(1), day(3))
    assert table.read().sort_by("ts").equals(rows.sort_by("ts").cast(SYSTEM_SAMPLES.arrow), check_metadata=False)


def test_overwriting_a_range_is_one_commit_and_leaves_other_days_alone(lake: Lake) -> None:
    table = lake.tenant("acme").table(SYSTEM_SAMPLES)
    table.overwrite_days(samples(JAN_1, 40), day(1), day(40))
    before, version = day_contents(table, day(1), day(40)), table.version()
    table.overwrite_days(samples(day(10), 11, cpu=99.0), day(10), day(20))
    after = day_contents(table, day(1), day(40))
    assert table.version() == version + 1
    assert {d for d in before if before[d] != after[d]} == {day(n) for n in range(10, 21)}


def test_overwriting_days_with_nothing_empties_just_them(lake: Lake) -> None:
    table = lake.tenant("acme").table(SYSTEM_SAMPLES)
    table.overwrite_days(samples(JAN_1, 3), day(1), day(3))
    table.overwrite_days(SYSTEM_SAMPLES.arrow.empty_table(), day(2), day(2))
    assert [c.rows for c in day_contents(table, day(1), day(3)).values()] == [24, 0, 24]


def test_a_row_of_another_day_stops_the_write_and_changes_nothing(lake: Lake) -> None:
    table = lake.tenant("acme").table(SYSTEM_SAMPLES)
    table.overwrite_days(samples(JAN_1, 2), day(1), day(2))
    with pytest.raises(IntegrityError, match="rows of 2026-01-01 to 2026-01-03 in a write of 2026-01-01 to 2026-01-02"):
        table.overwrite_days(samples(JAN_1, 3, cpu=1.0), day(1), day(2))
    assert table.version() == 0


def test_the_hash_does_not_depend_on_the_order_of_rows(lake: Lake) -> None:
    rows = samples(JAN_1, 1)
    hashes = []
    for tenant, data in (("a", rows), ("b", rows.sort_by([("ts", "descending")]))):
        table = lake.tenant(tenant).table(SYSTEM_SAMPLES)
        table.overwrite_days(data, JAN_1, JAN_1)
        hashes.append(day_contents(table, JAN_1, JAN_1)[JAN_1])
    assert hashes[0] == hashes[1]


def test_the_hash_tells_a_null_from_an_empty_text_and_a_doubled_row_from_a_single_one(lake: Lake) -> None:
    rows = samples(JAN_1, 1)
    empty = rows.set_column(2, "host", pa.array([""] * rows.num_rows))
    null = rows.set_column(2, "host", pa.array([None] * rows.num_rows, pa.string()))
    contents = []
    for tenant, data in (("a", rows), ("b", empty), ("c", null), ("d", pa.concat_tables([rows, rows]))):
        table = lake.tenant(tenant).table(SYSTEM_SAMPLES)
        table.overwrite_days(data, JAN_1, JAN_1)
        contents.append(day_contents(table, JAN_1, JAN_1)[JAN_1].content_hash)
    assert len(set(contents)) == 4


def test_a_day_without_rows_has_the_empty_hash(lake: Lake) -> None:
    contents = day_contents(lake.tenant("acme").table(SYSTEM_SAMPLES), day(1), day(2))
    assert [(c.rows, c.content_hash) for c in contents.values()] == [(0, EMPTY_HASH)] * 2


@pytest.mark.parametrize("bad", ["", "Acme", "a/b", "../x", "a|b", "a,b", ".", "-a", "a" * 64, "é"])
def test_no_path_is_made_from_what_is_no_tenant_id(lake: Lake, bad: str) -> None:
    with pytest.raises(InvalidNameError):
        lake.tenant(bad)


def test_tenants_do_not_see_each_other(lake: Lake) -> None:
    lake.tenant("acme").table(SYSTEM_SAMPLES).append(samples(JAN_1, 1))
    assert lake.tenant("acm").table(SYSTEM_SAMPLES).read().num_rows == 0


def test_maintenance_keeps_what_is_there(lake: Lake) -> None:
    table = lake.tenant("acme").table(SYSTEM_SAMPLES)
    for _ in range(3):
        table.overwrite_days(samples(JAN_1, 5), day(1), day(5))
    before = day_contents(table, day(1), day(5))
    table.maintain(dt.timedelta(0))
    assert day_contents(table, day(1), day(5)) == before
    folder = Path(table.uri)
    assert len(list(folder.glob("day=*/*.parquet"))) == 5


_OVERWRITE = """
    import datetime as dt, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from rows import samples
    from analytics_dagster.lake.lake import Lake
    from analytics_dagster.lake.schemas import SYSTEM_SAMPLES
    first = dt.date(2026, 1, 1)
    table = Lake({root!r}, Path({locks!r})).tenant("acme").table(SYSTEM_SAMPLES)
    print("ready", flush=True)
    for n in range({times}):
        day = first + dt.timedelta(days={offset})
        table.overwrite_days(samples(day, 1, cpu=float(n)), day, day)
"""


def _writer(tmp_path: Path, times: int, offset: int) -> subprocess.Popen[bytes]:
    code = _OVERWRITE.format(
        tests=str(Path(__file__).parent.parent),
        root=str(tmp_path / "lake"),
        locks=str(tmp_path / "locks"),
        times=times,
        offset=offset,
    )
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)


def test_two_processes_overwriting_one_table_lose_no_commit(lake: Lake, tmp_path: Path) -> None:
    writers = [_writer(tmp_path, 10, offset) for offset in (0, 1)]
    for writer in writers:
        writer.communicate(timeout=60)
    assert [w.returncode for w in writers] == [0, 0]
    table = lake.tenant("acme").table(SYSTEM_SAMPLES)
    assert table.version() == 19
    assert set(table.read(columns=["cpu_percent"]).column(0).to_pylist()) == {9.0}


def test_a_killed_writer_leaves_whole_days_and_no_lock(lake: Lake, tmp_path: Path) -> None:
    table = lake.tenant("acme").table(SYSTEM_SAMPLES)
    table.overwrite_days(samples(JAN_1, 1, cpu=-1.0), JAN_1, JAN_1)
    for pause in (0.02, 0.05, 0.11):
        writer = _writer(tmp_path, 100_000, 0)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(pause)
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        values = table.read(columns=["cpu_percent"]).column(0).to_pylist()
        assert len(values) == 24
        assert len(set(values)) == 1
    table.overwrite_days(samples(JAN_1, 1, cpu=5.0), JAN_1, JAN_1)
    assert set(table.read(columns=["cpu_percent"]).column(0).to_pylist()) == {5.0}


def test_landing_is_partitioned_by_month_and_raw_by_day(lake: Lake) -> None:
    assert (landing(PLAYS).partition_by, PLAYS.partition_by) == ("month", "day")


@pytest.mark.parametrize("folder", ["my lake", "música", "a#b"])
def test_a_lake_may_lie_in_a_folder_of_any_sensible_name(tmp_path: Path, folder: str) -> None:
    table = Lake(str(tmp_path / folder), tmp_path / "locks").tenant("acme").table(SYSTEM_SAMPLES)
    rows = samples(JAN_1, 1)
    table.overwrite_days(rows, JAN_1, JAN_1)
    assert table.read(JAN_1, JAN_1).num_rows == table.read().num_rows == rows.num_rows


@pytest.mark.parametrize("folder", ["lake[1]", "50%", "what?"])
def test_a_folder_that_delta_would_misread_is_refused_by_name(tmp_path: Path, folder: str) -> None:
    with pytest.raises(SettingsError, match="use another folder"):
        Lake(str(tmp_path / folder), tmp_path / "locks")


def test_a_column_may_be_described_otherwise_when_its_table_is_there(lake: Lake) -> None:
    tenant = lake.tenant("acme")
    tenant.table(SYSTEM_SAMPLES).overwrite_days(samples(JAN_1, 2), day(1), day(2))
    columns = tuple(replace(c, description=f"{c.description} Corrected.") for c in SYSTEM_SAMPLES.columns)
    corrected = tenant.table(replace(SYSTEM_SAMPLES, columns=columns))
    corrected.overwrite_days(samples(JAN_1, 1, cpu=9.0), day(1), day(1))
    assert corrected.read(day(1), day(1)).column("cpu_percent").to_pylist() == [9.0] * 24
    described = {f.name: f.metadata["comment"] for f in DeltaTable(corrected.uri).schema().fields if "comment" in f.metadata}
    assert described == {c.name: c.description for c in columns}
    version = corrected.version()
    corrected.overwrite_days(samples(JAN_1, 1, cpu=9.5), day(1), day(1))
    assert corrected.version() == version + 1
