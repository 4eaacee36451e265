"""A disk that is full or fails: a clear refusal, nothing acknowledged lost, nothing refused seen, and it mends itself."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from log_points import SECONDS, FailingDisk, done, open_folder, points, segments, source, values

from analytics_dagster.errors import LogFullError
from analytics_dagster.ingest.log.limits import Headroom
from analytics_dagster.ingest.points import Points


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log" / "server-0"


def refused(future: Future[None]) -> str:
    """Why a commit failed."""
    error = future.exception(SECONDS)
    assert isinstance(error, LogFullError), error
    return str(error)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("call", ["write", "sync", "write truncate", "write create", "write truncate create"])
def test_a_full_disk_fails_the_commit_and_the_next_one_works_when_there_is_room(folder: Path, error: int, call: str) -> None:
    disk = FailingDisk()
    disk.error = error
    log = open_folder(folder, disk=disk)
    done(log.append(points(1)))
    end = source(folder).end()
    disk.fail = call
    for number in range(3):
        why = refused(log.append(points(100 + number, tenant=f"tenant-{number}")))
        assert "cannot grow" in why
        assert "free space on its disk; nothing was accepted" in why
        assert values(source(folder)) == [1]
        assert source(folder).end() == end
    disk.fail = None
    done(log.append(points(2, tenant="tenant-1")), log.append(points(3)))
    assert values(source(folder)) == [1, 2, 3]
    log.close()
    again = open_folder(folder)
    done(again.append(points(4)))
    again.close()
    assert values(source(folder)) == [1, 2, 3, 4]


def test_a_failed_sync_is_never_tried_again_on_the_same_file(folder: Path) -> None:
    disk = FailingDisk()
    disk.error = errno.EIO
    log = open_folder(folder, disk=disk)
    done(log.append(points(1)))
    used = segments(folder)[-1]
    disk.fail = "sync"
    assert "see to its disk" in refused(log.append(points(100)))
    disk.fail = None
    done(log.append(points(2)))
    log.close()
    assert disk.syncs_after_failure == []
    assert segments(folder)[-1] != used
    assert values(source(folder)) == [1, 2]


def test_what_failed_stays_away_after_the_process_is_gone_too(folder: Path) -> None:
    """The failed frame may have reached the disk whole, and the cut of its file may not: the next segment says where it ends."""
    disk = FailingDisk()
    disk.error = errno.EIO
    log = open_folder(folder, disk=disk)
    done(log.append(points(1)))
    path = segments(folder)[-1]
    kept = path.read_bytes().rstrip(b"\0")
    disk.fail = "sync truncate"
    refused(log.append(points(100)))
    assert len(path.read_bytes().rstrip(b"\0")) > len(kept)
    disk.fail = None
    log.close()
    assert values(source(folder)) == [1]
    again = open_folder(folder)
    done(again.append(points(2)))
    again.close()
    assert values(source(folder)) == [1, 2]


def test_a_failing_disk_is_told_once_and_its_recovery_too(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = FailingDisk()
    with caplog.at_level(logging.WARNING):
        log = open_folder(folder, disk=disk)
        disk.fail = "write"
        for _ in range(5):
            refused(log.append(points(1)))
        disk.fail = None
        done(log.append(points(2)))
        log.close()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "takes points again" in caplog.text


def test_a_log_opens_on_a_full_disk_and_begins_when_there_is_room(folder: Path) -> None:
    disk = FailingDisk()
    disk.fail = "create"
    log = open_folder(folder, disk=disk)
    refused(log.append(points(1)))
    disk.fail = None
    done(log.append(points(2)))
    log.close()
    assert values(source(folder)) == [2]


def test_a_folder_that_cannot_be_made_is_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file where the folder should be")
    with pytest.raises(LogFullError, match="cannot be written"):
        open_folder(tmp_path / "log" / "server-0")


def test_free_space_below_the_reserve_is_refused_ahead(folder: Path) -> None:
    folder.mkdir(parents=True)
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    headroom = Headroom(folder, max_bytes=2**60, segment_bytes=0)
    headroom.check(free // 2)
    with pytest.raises(LogFullError, match=r"bytes free, and the log keeps \d+: free some; nothing was accepted"):
        headroom.check(free * 2)
    headroom.add(free)
    with pytest.raises(LogFullError, match="bytes free"):
        headroom.check(free // 2)


def test_a_file_that_may_grow_no_further(folder: Path) -> None:
    """RLIMIT_FSIZE, in a process of its own: the kernel cuts a write in the middle and refuses the rest."""
    program = """
import json, resource, sys
from pathlib import Path
from log_points import SECONDS, open_folder, points
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, most))
log = open_folder(Path(sys.argv[1]))
acknowledged, refused = [], 0
for number in range(200):
    future = log.append(points(*[number] * (3_000 if number % 50 == 9 else 100)))
    if future.exception(SECONDS) is None:
        acknowledged.append(number)
    else:
        refused += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
log.append(points(1_000)).result(SECONDS)
print(json.dumps([acknowledged, refused]))
"""
    tests = Path(__file__).parents[2]
    answer = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=tests, capture_output=True, text=True, timeout=SECONDS
    )
    assert answer.returncode == 0, answer.stderr
    acknowledged, refused = json.loads(answer.stdout)
    assert len(acknowledged) + refused == 200
    assert refused >= 4
    assert list(dict.fromkeys(values(source(folder)))) == [*acknowledged, 1_000]
    assert len(values(source(folder))) == 100 * len(acknowledged) + 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, where one may be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_that_really_is_full(small_disk: Path) -> None:
    folder = small_disk / "log" / "server-0"
    log = open_folder(folder, segment_bytes=2**18)
    acknowledged = _fill(log.append)
    assert len(acknowledged) > 10
    ballast = small_disk / "ballast"
    # Past what the log keeps free: the next write meets the end of the disk itself.
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(bytes(2**22))
    assert values(source(folder))[::2_000] == acknowledged
    _fill(log.append)
    ballast.unlink()
    reader = source(folder)
    read = values(reader)
    reader.release(reader.end())
    end = reader.end()
    deadline = time.monotonic() + SECONDS
    while True:
        assert time.monotonic() < deadline
        try:
            if log.append(points(-1)).exception(SECONDS) is None:
                break
        except LogFullError:
            time.sleep(0.02)
    log.close()
    assert list(dict.fromkeys(read))[: len(acknowledged)] == acknowledged
    assert values(reader, end) == [-1]


def _fill(append: Callable[[Points], Future[None]]) -> list[float]:
    """Append until it is refused; the numbers that were acknowledged."""
    acknowledged: list[float] = []
    number = 0.0
    while True:
        try:
            future = append(points(*[number] * 2_000))
        except LogFullError:
            return acknowledged
        if future.exception(SECONDS) is not None:
            return acknowledged
        acknowledged.append(number)
        number += 1


def test_batches_of_a_commit_that_fails_fail_together(folder: Path) -> None:
    disk = FailingDisk()
    log = open_folder(folder, disk=disk)
    disk.fail = "write"
    futures = [log.append(rows) for rows in _hundred()]
    errors = [future.exception(SECONDS) for future in futures]
    assert all(isinstance(error, LogFullError) for error in errors)
    assert len({id(error) for error in errors}) == len(errors)
    assert log.waiting == 0
    log.close()
    assert values(source(folder)) == []


def _hundred() -> list[Points]:
    return [points(number) for number in range(100)]
