"""Appending, reading back, positions, the lock, and what is refused."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from log_points import FIRST_US, SECONDS, FailingDisk, done, open_folder, plays, points, positions, source, values

from analytics_dagster.clock import ManualClock
from analytics_dagster.errors import BusyError, LogFullError
from analytics_dagster.ingest.log.embedded import EmbeddedLog
from analytics_dagster.ingest.log.interface import PLAYS, POINTS, IngestLog, LogSource
from analytics_dagster.ingest.points import PLAY_ROWS, POINT_ROWS, Plays, Points, SeriesTable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log" / "server-0"


@pytest.fixture
def log(folder: Path) -> Iterator[EmbeddedLog]:
    log = open_folder(folder)
    yield log
    log.close()


def test_it_is_a_log_and_a_source(log: EmbeddedLog, folder: Path) -> None:
    a_log: IngestLog = log
    a_source: LogSource = source(folder)
    assert (a_log, a_source.name) == (log, "log/server-0")


def test_points_come_back_with_their_series(log: EmbeddedLog, folder: Path) -> None:
    table = SeriesTable()
    one = table.number("acme", "counter", "plays_total", '{"region":"us-east"}')
    two = table.number("zoo", "gauge", "température", "{}")
    done(log.append(Points(table, np.array([two, one, two], np.int32), FIRST_US + np.arange(3), np.array([1.5, 2.5, -0.0]))))
    [batch] = source(folder).read(0, 10)
    assert batch.table == POINTS
    assert batch.rows.schema == POINT_ROWS
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    expected = [
        {"tenant": "zoo", "name": "température", "type": "gauge", "labels": "{}", "ts": start, "value": 1.5},
        {
            "tenant": "acme",
            "name": "plays_total",
            "type": "counter",
            "labels": '{"region":"us-east"}',
            "ts": start + dt.timedelta(microseconds=1),
            "value": 2.5,
        },
        {
            "tenant": "zoo",
            "name": "température",
            "type": "gauge",
            "labels": "{}",
            "ts": start + dt.timedelta(microseconds=2),
            "value": -0.0,
        },
    ]
    assert batch.rows.to_pylist() == expected
    # Distinct values, not one for each series: whoever groups by their codes may.
    dictionaries = {name: batch.rows[name].chunk(0).dictionary.to_pylist() for name in ("tenant", "type")}
    assert {name: sorted(held) for name, held in dictionaries.items()} == {
        "tenant": ["acme", "zoo"],
        "type": ["counter", "gauge"],
    }


def test_plays_come_back_as_they_were(log: EmbeddedLog, folder: Path) -> None:
    rows = [plays("a", "b"), plays("c", tenant="zoo")]
    done(*[log.append(each) for each in rows])
    batches = list(source(folder).read(0, 10))
    assert {batch.table for batch in batches} == {PLAYS}
    assert all(batch.rows.schema == PLAY_ROWS for batch in batches)
    back = pa.concat_tables([batch.rows for batch in batches])
    assert back.to_pylist() == pa.concat_tables([each.rows for each in rows]).to_pylist()


def test_the_order_of_appending_is_the_order_of_reading(log: EmbeddedLog, folder: Path) -> None:
    done(*[log.append(points(number, number + 0.5)) for number in range(500)])
    assert values(source(folder)) == [value for number in range(500) for value in (number, number + 0.5)]


def test_a_request_is_never_split_between_batches(log: EmbeddedLog, folder: Path) -> None:
    done(*[log.append(points(*[float(number)] * 1_000)) for number in range(50)])
    counted = [
        len(batch.rows.filter(pa.compute.equal(batch.rows["value"], float(n))))
        for n in range(50)
        for batch in source(folder).read(0, 10**9)
    ]
    assert set(counted) <= {0, 1_000}


def test_what_waits_shares_a_commit(folder: Path) -> None:
    disk = _SlowDisk()
    log = open_folder(folder, disk=disk)
    disk.slow.set()
    futures = [log.append(points(0))]
    assert disk.writing.wait(SECONDS)
    futures += [log.append(points(number)) for number in range(1, 200)]
    disk.slow.clear()
    disk.go_on.set()
    done(*futures)
    log.close()
    assert values(source(folder)) == list(range(200))
    assert len(positions(source(folder))) == 2


def test_a_slow_disk_makes_appends_wait_and_nothing_else(folder: Path) -> None:
    disk = _SlowDisk()
    log = open_folder(folder, disk=disk, max_waiting_points=10)
    disk.slow.set()
    futures = [log.append(points(*range(8)))]
    assert disk.writing.wait(SECONDS)
    futures.append(log.append(points(8, 9)))
    assert not any(future.done() for future in futures)
    assert values(source(folder)) == []
    with pytest.raises(LogFullError, match=r"10 rows wait to be committed.*10 may.*nothing was accepted") as refused:
        log.append(points(10))
    assert refused.value.retry_after == 1
    assert log.waiting == 10
    disk.slow.clear()
    disk.go_on.set()
    done(*futures)
    # Alone, a batch may be larger than what may wait.
    done(log.append(points(*range(10, 40))))
    log.close()
    assert values(source(folder)) == list(range(40))


def test_an_accepted_batch_cannot_be_cancelled(log: EmbeddedLog, folder: Path) -> None:
    future = log.append(points(1))
    assert not future.cancel()
    done(future)
    assert values(source(folder)) == [1]


def test_nothing_is_no_batch(log: EmbeddedLog, folder: Path) -> None:
    done(log.append(points()), log.append(Plays(PLAY_ROWS.empty_table())))
    assert positions(source(folder)) == []
    assert source(folder).end() == 0


def test_rows_of_another_shape_are_refused_and_trouble_nobody_else(log: EmbeddedLog, folder: Path) -> None:
    with pytest.raises(ValueError, match="1 series, 2 times and 1 values"):
        log.append(Points(SeriesTable(), np.zeros(1, np.int32), np.zeros(2, np.int64), np.zeros(1)))
    with pytest.raises(ValueError, match="not PLAY_ROWS"):
        log.append(Plays(pa.table({"a": [1]})))
    unknown = log.append(Points(SeriesTable(), np.array([3], np.int32), np.zeros(1, np.int64), np.zeros(1)))
    with pytest.raises(ValueError, match="points name series 3 to 3; their table has 0"):
        unknown.result(SECONDS)
    done(log.append(points(1)))
    assert values(source(folder)) == [1]


def test_series_tables_may_grow_and_be_replaced(log: EmbeddedLog, folder: Path) -> None:
    tables = [SeriesTable(), SeriesTable()]
    sent: list[tuple[str, float]] = []
    for number in range(300):
        name = f"tenant-{number % 70}"
        done(log.append(points(number, tenant=name, table=tables[number // 100 % 2])))
        sent.append((name, float(number)))
    rows = pa.concat_tables([batch.rows for batch in source(folder).read(0, 10**9)])
    assert list(zip(rows["tenant"].to_pylist(), rows["value"].to_pylist(), strict=True)) == sent


def test_batches_stay_as_they_were_given_when_more_series_come(log: EmbeddedLog, folder: Path) -> None:
    reader = source(folder)
    given: list[tuple[str, pa.Table]] = []
    after = 0
    for number in range(200):
        labels = '{"k":"' + "ü" * (number % 50) + f'{number}"}}'
        done(log.append(points(number, labels=labels)))
        [batch] = reader.read(after, 10)
        given.append((labels, batch.rows))
        after = batch.position
    for count, (labels, rows) in enumerate(given, 1):
        rows.validate(full=True)
        assert rows["labels"].to_pylist() == [labels]
        assert rows["labels"].chunk(0).dictionary.to_pylist() == [labels for labels, _ in given[:count]]


@pytest.mark.parametrize("segment_bytes", [1, 1_500, 2**20])
def test_every_position_is_a_place_to_go_on_from(folder: Path, segment_bytes: int) -> None:
    for _ in range(3):
        log = open_folder(folder, segment_bytes=segment_bytes)
        for number in range(8):
            done(log.append(points(number, tenant=f"tenant-{number}")))
        log.close()
    reader = source(folder)
    everything = [(batch.position, batch.rows["tenant"].to_pylist()) for batch in reader.read(0, 10**9)]
    assert [place for place, _ in everything] == sorted({place for place, _ in everything})
    assert reader.end() == everything[-1][0]
    for number, (place, _) in enumerate(everything):
        behind = [(batch.position, batch.rows["tenant"].to_pylist()) for batch in source(folder).read(place, 10**9)]
        assert behind == everything[number + 1 :]
        assert [batch.position for batch in reader.read(place, 1)] == [place for place, _ in everything[number + 1 : number + 2]]


def test_a_frame_larger_than_a_read_comes_whole(log: EmbeddedLog, folder: Path) -> None:
    many = points(*np.arange(400_000, dtype=float))
    done(log.append(points(-1)), log.append(many), log.append(points(-2)))
    assert values(source(folder)) == [-1, *range(400_000), -2]


def test_a_clock_that_steps_back_changes_nothing(folder: Path) -> None:
    clock = ManualClock(dt.datetime(2026, 3, 1, tzinfo=dt.UTC))
    seen = 0
    for number in range(5):
        log = open_folder(folder, clock)
        done(log.append(points(number)))
        clock.advance(-dt.timedelta(days=400))
        done(log.append(points(number + 0.5)))
        log.close()
        assert values(source(folder, clock), seen) == [number, number + 0.5]
        assert source(folder).end() > seen
        seen = source(folder).end()


def test_positions_rise_when_somebody_deleted_the_log(folder: Path) -> None:
    log = open_folder(folder)
    done(log.append(points(1)))
    log.close()
    before = source(folder).end()
    for file in folder.iterdir():
        file.unlink()
    log = open_folder(folder)
    done(log.append(points(2)))
    log.close()
    assert values(source(folder), before) == [2]


def test_a_second_writer_is_refused_by_name(log: EmbeddedLog, folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from log_points import open_folder\n"
        "from analytics_dagster.errors import BusyError\n"
        "try: open_folder(Path(sys.argv[1]), patience=0)\n"
        "except BusyError as error: print(error)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=_TESTS, capture_output=True, text=True, check=True, timeout=SECONDS
    )
    assert f"is being written by process {os.getpid()}; stop it first" in answer.stdout
    with pytest.raises(BusyError, match="is being written by process"):
        open_folder(folder, patience=0)
    done(log.append(points(1)))


def test_a_closed_log_refuses_and_lets_the_next_writer_in(folder: Path) -> None:
    log = open_folder(folder)
    futures = [log.append(points(number)) for number in range(100)]
    log.close()
    log.close()
    done(*futures)
    with pytest.raises(LogFullError, match="is closed"):
        log.append(points(1))
    again = open_folder(folder, patience=0)
    done(again.append(points(100)))
    again.close()
    assert values(source(folder)) == list(range(101))


def test_a_forked_child_neither_writes_nor_keeps_the_lock(folder: Path) -> None:
    program = """
import os, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which is what is tried here
from pathlib import Path
from log_points import done, open_folder, points
from analytics_dagster.errors import BusyError
folder = Path(sys.argv[1])
log = open_folder(folder)
done(log.append(points(1)))
told, tell = os.pipe()
child = os.fork()
if child == 0:
    os.close(tell)
    try:
        log.append(points(2))
    except BusyError as error:
        print(error, flush=True)
    log.close()
    os.read(told, 1)
    os._exit(0)
os.close(told)
done(log.append(points(3)))
log.close()
open_folder(folder, patience=10).close()
os.close(tell)
os.waitpid(child, 0)
"""
    answer = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=_TESTS, capture_output=True, text=True, timeout=SECONDS
    )
    assert answer.returncode == 0, answer.stderr
    assert "from which this one was forked; open one here" in answer.stdout
    assert values(source(folder)) == [1, 3]


def test_a_log_over_its_limit_refuses_until_it_is_consumed(tmp_path: Path) -> None:
    beside = open_folder(tmp_path / "log" / "local-0")
    done(beside.append(points(*range(20_000))))
    beside.close()
    folder = tmp_path / "log" / "server-0"
    log = open_folder(folder, max_bytes=500_000)
    done(log.append(points(*range(2_000))))
    with pytest.raises(LogFullError, match=r"ANALYTICS_LOG_MAX_BYTES is 500000.*nothing was accepted"):
        log.append(points(*range(4_000)))
    reader = source(tmp_path / "log" / "local-0", retention=3_600)
    reader.release(reader.end())
    _until_taken(lambda: log.append(points(*range(4_000))))
    log.close()
    assert len(values(source(folder))) == 6_000


def _until_taken(append: Callable[[], Future[None]]) -> None:
    """Try until it is not refused any more."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return done(append())
        except LogFullError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


class _SlowDisk(FailingDisk):
    """Its writes wait while `slow` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.writing, self.go_on = threading.Event(), threading.Event(), threading.Event()

    def raise_when(self, call: str) -> None:
        if call == "write" and self.slow.is_set():
            self.writing.set()
            assert self.go_on.wait(SECONDS)


_TESTS = Path(__file__).parents[2]
