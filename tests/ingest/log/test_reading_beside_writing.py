"""Readers beside a writer, in its process and in others, see whole batches of a growing prefix; the log shrinks behind them."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import threading
import time
from pathlib import Path

from log_points import SECONDS, FailingDisk, done, open_folder, points, segments, source, values

from analytics_dagster.ingest.log.source import FolderSource

_LAST = 3_000


def test_readers_see_a_prefix_of_whole_batches(tmp_path: Path) -> None:
    folder = tmp_path / "log" / "server-0"
    log = open_folder(folder, segment_bytes=20_000)
    program = "import sys; import ingest.log.test_reading_beside_writing as beside; beside.follow_folder(sys.argv[1])"
    tests = Path(__file__).parents[2]
    elsewhere = subprocess.Popen([sys.executable, "-c", program, str(folder)], cwd=tests, stderr=subprocess.PIPE, text=True)
    errors: list[BaseException] = []
    reader = source(folder)

    def follow_here() -> None:
        try:
            follow(reader)
        except BaseException as error:  # of whatever kind: the thread's end would hide it
            errors.append(error)

    threads = [threading.Thread(target=follow_here) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(1, _LAST + 1):
        future = log.append(points(*[number] * 3, tenant=f"tenant-{number % 100}"))
        if number % 20 == 0:
            done(future)
    log.close()
    for thread in threads:
        thread.join(SECONDS)
    _, told = elsewhere.communicate(timeout=SECONDS)
    assert (errors, elsewhere.returncode, told) == ([], 0, "")
    assert len(segments(folder)) > 3


def follow_folder(folder: str) -> None:
    """As another process does."""
    follow(source(Path(folder)))


def follow(reader: FolderSource) -> None:
    """Read on from the last position until the last number; each must come in order, three times, within one batch."""
    position, expected = 0, 1
    deadline = time.monotonic() + SECONDS
    while expected <= _LAST:
        assert time.monotonic() < deadline, f"{expected} did not come"
        for batch in reader.read(position, 50):
            numbers = [int(value) for value in batch.rows["value"].to_pylist()]
            count = len(numbers) // 3
            assert numbers == [number for number in range(expected, expected + count) for _ in range(3)]
            assert batch.rows["tenant"].to_pylist() == [f"tenant-{number % 100}" for number in numbers]
            assert batch.position > position
            position, expected = batch.position, expected + count


def test_a_consumer_that_releases_as_it_goes_misses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "log" / "server-0"
    log = open_folder(folder, segment_bytes=2_000)
    consumer, looker = source(folder), source(folder)
    seen: list[float] = []
    position = 0
    for number in range(400):
        future = log.append(points(number, tenant=f"tenant-{number % 9}"))
        if number % 7 == 0:
            done(future)
            for batch in consumer.read(position, 10):
                seen += batch.rows["value"].to_pylist()
                position = batch.position
            consumer.release(position)
            behind = values(looker, position)
            assert behind == [seen[-1] + 1 + at for at in range(len(behind))]
    log.close()
    assert seen + values(consumer, position) == list(range(400))
    assert len(segments(folder)) < 10


def test_what_is_not_durable_yet_is_not_seen(tmp_path: Path) -> None:
    folder = tmp_path / "log" / "server-0"

    class Watched(FailingDisk):
        seen: list[float] | None = None

        def raise_when(self, call: str) -> None:
            if call == "sync" and self.seen is None and values(reader):
                self.seen = values(source(folder))

    reader = source(folder)
    disk = Watched()
    log = open_folder(folder, disk=disk)
    done(log.append(points(1)))
    done(log.append(points(2)))
    log.close()
    assert disk.seen == [1]
    assert values(reader) == [1, 2]


def test_old_and_new_times_are_alike(tmp_path: Path) -> None:
    """Reading goes by positions; what a point's time says is its own affair."""
    folder = tmp_path / "log" / "local-0"
    log = open_folder(folder)
    far = dt.datetime(2005, 1, 1, tzinfo=dt.UTC).timestamp() * 1_000_000
    done(log.append(points(5)), log.append(points(far - 1_767_225_600_000_000)), log.append(points(6)))
    log.close()
    assert [batch.rows["ts"][-1].as_py().year for batch in source(folder).read(0, 10)][-1] == 2026
    assert len(values(source(folder))) == 3
