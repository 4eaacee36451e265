"""What is consumed and past retention goes; the writer's segment and every position stay; backlog figures follow."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import pytest
from log_points import done, open_folder, points, positions, segments, source, values

from analytics_dagster.clock import ManualClock
from analytics_dagster.ingest.log.limits import backlog

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of three segments with two batches each, whose writer is gone."""
    folder = tmp_path / "log" / "server-0"
    for number in range(3):
        log = open_folder(folder)
        done(log.append(points(2 * number)))
        done(log.append(points(2 * number + 1)))
        log.close()
    return folder


def set_age(folder: Path, age: dt.timedelta) -> None:
    when = (NOW - age).timestamp()
    for path in segments(folder):
        os.utime(path, (when, when))


def test_only_segments_that_are_wholly_consumed_are_deleted(folder: Path) -> None:
    reader = source(folder)
    ends = positions(reader)
    before = segments(folder)
    reader.release(ends[0])
    assert segments(folder) == before
    reader.release(ends[2])
    assert segments(folder) == before[1:]
    assert values(reader, ends[2]) == [3, 4, 5]
    assert values(source(folder)) == [2, 3, 4, 5]


def test_the_retention_is_kept(folder: Path) -> None:
    clock = ManualClock(NOW)
    reader = source(folder, clock, retention=3_600)
    before = segments(folder)
    set_age(folder, HOUR / 2)
    reader.release(reader.end())
    assert segments(folder) == before
    clock.advance(HOUR / 2)
    reader.release(reader.end())
    assert len(segments(folder)) == 1


@pytest.mark.parametrize(("ahead", "kept"), [(HOUR / 2, 3), (1_000 * HOUR, 1)])
def test_a_clock_that_was_stepped_back_does_not_keep_files_for_ever(folder: Path, ahead: dt.timedelta, kept: int) -> None:
    reader = source(folder, ManualClock(NOW), retention=3_600)
    set_age(folder, -ahead)
    reader.release(reader.end())
    assert len(segments(folder)) == kept


def test_a_writer_keeps_its_segment(folder: Path) -> None:
    log = open_folder(folder)
    done(log.append(points(6)))
    reader = source(folder)
    reader.release(reader.end())
    assert len(segments(folder)) == 1
    done(log.append(points(7)))
    log.close()
    assert values(reader) == [6, 7]


def test_an_emptied_folder_goes_on_counting(folder: Path) -> None:
    reader = source(folder)
    end = reader.end()
    reader.release(end)
    assert [path.stat().st_size for path in segments(folder)] == [64]
    assert (reader.end(), values(reader, end), values(reader)) == (end, [], [])
    reader.release(end)
    for number in range(3):
        log = open_folder(folder)
        done(log.append(points(number)))
        log.close()
        assert values(reader, end) == [number]
        assert reader.end() > end
        end = reader.end()
        reader.release(end)
        assert len(segments(folder)) == 1


def test_releasing_never_goes_back(folder: Path) -> None:
    reader = source(folder)
    ends = positions(reader)
    reader.release(ends[3])
    reader.release(ends[0])
    assert backlog(folder.parent)["log/server-0"].unconsumed_bytes == ends[5] - ends[3]


def test_backlog_says_how_much_waits_and_since_when(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    log = open_folder(tmp_path / "log" / "server-0", clock)
    other = open_folder(tmp_path / "log" / "local-0", clock)
    assert backlog(tmp_path / "none") == {}
    empty = backlog(tmp_path / "log")["log/server-0"]
    assert (empty.segments, empty.oldest) == (1, None)
    assert empty.unconsumed_bytes == 0
    done(log.append(points(1)))
    clock.advance(HOUR)
    done(log.append(points(2)))
    done(other.append(points(3)))
    reader = source(tmp_path / "log" / "server-0")
    [first, second] = positions(reader)
    figures = backlog(tmp_path / "log")
    assert figures["log/server-0"].oldest == NOW
    assert sum(figures.values(), empty).oldest == NOW
    assert sum(figures.values(), empty).segments == 3
    reader.release(first)
    waiting = backlog(tmp_path / "log")["log/server-0"]
    assert (waiting.unconsumed_bytes, waiting.oldest) == (second - first, NOW + HOUR)
    reader.release(second)
    assert backlog(tmp_path / "log")["log/server-0"].oldest is None
    log.close()
    other.close()
