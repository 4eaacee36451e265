"""What is left after a crash or on a bad disk: a torn tail is cut, anything else is named, nothing is skipped."""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_points import done, open_folder, plays, points, positions, segments, source, values

from analytics_dagster.errors import IntegrityError
from analytics_dagster.ingest.log.recovery import recover
from analytics_dagster.ingest.log.segments import COMMITTED, Mark, segment_path


@dataclass(frozen=True)
class Written:
    """A folder whose last commit may be torn: `before` and `after` are the ends of the stream without and with it."""

    folder: Path
    before: int
    after: int

    def copy(self, to: Path) -> Path:
        shutil.rmtree(to, ignore_errors=True)
        return Path(shutil.copytree(self.folder, to))

    @property
    def last(self) -> Path:
        return segments(self.folder)[-1]

    @property
    def cut(self) -> int:
        """Size of the last segment without the last commit."""
        return self.before - int(self.last.stem)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("log") / "server-0"
    log = open_folder(folder)
    done(log.append(points(1, 2)))
    done(log.append(points(3, tenant="acme")))
    before = source(folder).end()
    done(log.append(points(4, tenant="zoo")))
    log.close()
    return Written(folder, before, source(folder).end())


def test_a_tail_torn_at_any_byte_is_cut_at_the_last_whole_batch(written: Written, tmp_path: Path) -> None:
    folder = written.copy(tmp_path / "server-0")
    path = segments(folder)[-1]
    whole = path.read_bytes()
    for size in range(written.cut, len(whole) + 1):
        for torn in (whole[:size], whole[:size] + bytes(len(whole) - size)):
            path.write_bytes(torn)
            # As at the crash: the mark is set after the sync, and that never came.
            Mark(folder / COMMITTED).write(written.before)
            assert values(source(folder)) == ([1, 2, 3, 4] if torn == whole else [1, 2, 3]), f"torn at byte {size}"
            assert path.read_bytes() == (whole if torn == whole else _last_whole_frame(whole, torn, written.cut))


def _last_whole_frame(whole: bytes, torn: bytes, cut: int) -> bytes:
    """What stays. The commit is a frame of series and one of points; the first may be whole without the second."""
    first_frame = whole[: cut + 64 + int.from_bytes(whole[cut + 16 : cut + 24], "little")]
    return first_frame if torn.startswith(first_frame) else whole[:cut]


def test_a_writer_goes_on_behind_a_torn_tail_and_says_what_it_cut(
    written: Written, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = written.copy(tmp_path / "server-0")
    path = segments(folder)[-1]
    path.write_bytes(path.read_bytes()[: written.cut + 20])
    Mark(folder / COMMITTED).write(written.before)
    with caplog.at_level(logging.WARNING):
        log = open_folder(folder)
    # Zeros at its end are no bytes of it: they may have been there before.
    assert re.search(r"cut (1\d|20) bytes of a commit that was never acknowledged", caplog.text)
    done(log.append(points(5)))
    log.close()
    assert values(source(folder)) == [1, 2, 3, 5]
    assert values(source(folder), written.before) == [5]


def test_zeros_lie_ahead_of_a_segment_only_while_it_is_written(tmp_path: Path) -> None:
    log = open_folder(tmp_path / "server-0")
    for value in range(20):
        done(log.append(points(*[value] * 500)))
    path = segments(tmp_path / "server-0")[-1]
    used = source(tmp_path / "server-0").end() - int(path.stem)
    assert used < path.stat().st_size <= 2 * used
    log.close()
    assert path.stat().st_size == used


def test_the_zeros_of_a_writer_that_was_killed_are_no_damage(
    written: Written, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = written.copy(tmp_path / "server-0")
    path = segments(folder)[-1]
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(5_000))
    with caplog.at_level(logging.WARNING):
        assert values(source(folder)) == [1, 2, 3, 4]
    assert not caplog.records
    assert path.read_bytes() == whole


@pytest.mark.parametrize("mark", [b"", b"\0" * 12, b"torn"])
def test_a_mark_that_a_crash_took_is_found_again(written: Written, tmp_path: Path, mark: bytes) -> None:
    folder = written.copy(tmp_path / "server-0")
    (folder / COMMITTED).write_bytes(mark)
    assert values(source(folder)) == [1, 2, 3, 4]
    assert source(folder).end() == written.after


def test_a_segment_whose_beginning_was_torn_is_begun_again(written: Written, tmp_path: Path) -> None:
    for beginning in (b"", b"ADLOGSEG", bytes(64)):
        folder = written.copy(tmp_path / "server-0")
        segment_path(folder, written.after).write_bytes(beginning)
        log = open_folder(folder)
        done(log.append(points(5)))
        log.close()
        assert values(source(folder)) == [1, 2, 3, 4, 5]


@given(st.data())
def test_a_flipped_bit_is_found_or_harmless(
    written: Written, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = written.last.read_bytes()
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    folder = written.copy(tmp_path_factory.getbasetemp() / "flipped" / "server-0")
    segments(folder)[-1].write_bytes(damaged)
    # The zeros that fill up a header or a frame carry nothing.
    assert _read_or_named(folder) in ([1, 2, 3, 4], "named")


def _read_or_named(folder: Path) -> list[float] | str:
    try:
        return values(source(folder))
    except IntegrityError as error:
        named = str(segments(folder)[-1]) in str(error) and ("is damaged at offset" in str(error) or "has format" in str(error))
        return "named" if named else str(error)


def test_what_is_before_the_damage_is_given_first(written: Written, tmp_path: Path) -> None:
    folder = written.copy(tmp_path / "server-0")
    path = segments(folder)[-1]
    damaged = bytearray(path.read_bytes())
    damaged[-9] ^= 1
    path.write_bytes(damaged)
    reader = source(folder)
    [first, *_] = positions(source(written.folder))
    assert [batch.position for batch in reader.read(0, 1)] == [first]
    with pytest.raises(IntegrityError, match=f"{path} is damaged at offset .*the checksum"):
        list(reader.read(first, 10))


def test_damage_within_what_was_acknowledged_is_not_taken_for_a_torn_tail(written: Written, tmp_path: Path) -> None:
    """Not even when the mark is gone too: a later commit is the witness."""
    folder = written.copy(tmp_path / "server-0")
    path = segments(folder)[-1]
    damaged = bytearray(path.read_bytes())
    damaged[64 + 64 + 8] ^= 1  # within the first frame's payload
    path.write_bytes(damaged)
    (folder / COMMITTED).unlink()
    assert recover(folder).end == written.after
    assert path.read_bytes() == bytes(damaged)
    with pytest.raises(IntegrityError, match=f"{path} is damaged at offset 64"):
        values(source(folder))


def test_acknowledged_bytes_that_are_missing_are_named_and_new_ones_still_come_behind(
    written: Written, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = written.copy(tmp_path / "server-0")
    path = segments(folder)[-1]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(IntegrityError, match="10 committed bytes are missing"):
        values(source(folder))
    with caplog.at_level(logging.ERROR):
        log = open_folder(folder)
    assert "acknowledged bytes are missing" in caplog.text
    done(log.append(points(5)))
    log.close()
    assert values(source(folder)) == [1, 2, 3, 5]
    # The lake may have stored the lost batch's position: what comes now must lie behind it.
    assert values(source(folder), written.after) == [5]


def test_a_file_that_bears_another_segments_name_is_found(written: Written, tmp_path: Path) -> None:
    folder = written.copy(tmp_path / "server-0")
    log = open_folder(folder)
    done(log.append(points(5)))
    log.close()
    first, second = segments(folder)
    first.write_bytes(second.read_bytes())
    with pytest.raises(IntegrityError, match=f"{first} is damaged at offset 0: it has another segment's header"):
        values(source(folder))


def test_a_missing_segment_is_named(written: Written, tmp_path: Path) -> None:
    folder = written.copy(tmp_path / "server-0")
    for number in (5, 6):
        log = open_folder(folder)
        done(log.append(points(number)))
        log.close()
    first, second, _ = segments(folder)
    second_bytes = second.read_bytes()
    second.unlink()
    with pytest.raises(IntegrityError, match=f"{first} is damaged at offset .* committed bytes are missing"):
        values(source(folder))
    second.write_bytes(second_bytes)
    first.unlink()
    with pytest.raises(IntegrityError, match="never consumed: a segment is missing; restore it or move its folder away"):
        values(source(folder))


def test_damaged_plays_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "server-0"
    log = open_folder(folder)
    done(log.append(plays("a", "b")))
    log.close()
    path = segments(folder)[-1]
    damaged = bytearray(path.read_bytes())
    damaged[300] ^= 0x10
    path.write_bytes(damaged)
    with pytest.raises(IntegrityError, match="the checksum of its frame differs"):
        list(source(folder).read(0, 10))
