"""Whatever is done to a log in whatever order, it gives back what was acknowledged: all, once, in order, behind any position."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from log_points import SECONDS, FailingDisk, open_folder, plays, points, segments, source

from analytics_dagster.errors import LogFullError
from analytics_dagster.ingest.log.limits import unconsumed_bytes

Content = tuple[str, ...]


class LogStates(RuleBasedStateMachine):
    """The model is a list of (position, content) for every acknowledged batch."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="log-states-"))
        self.folder = self.root / "log" / "server-0"
        self.disk = FailingDisk()
        self.kept: list[tuple[int, Content]] = []
        self.released = 0
        self.next = 0

    def teardown(self) -> None:
        self.log.close()
        shutil.rmtree(self.root)

    @initialize(segment_bytes=st.sampled_from([1, 700, 5_000]))
    def start(self, segment_bytes: int) -> None:
        self.segment_bytes = segment_bytes
        self.open()
        self.reader = source(self.folder)

    def open(self) -> None:
        self.log = open_folder(self.folder, disk=self.disk, segment_bytes=self.segment_bytes)

    @rule(tenants=st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3))
    def append_points(self, tenants: list[str]) -> None:
        for tenant in tenants:
            self.next += 1
            if self.log.append(points(self.next, tenant=tenant)).exception(SECONDS) is None:
                self.kept.append((self.reader.end(), (tenant, str(float(self.next)))))

    @rule()
    def append_a_play(self) -> None:
        self.next += 1
        if self.log.append(plays(str(self.next))).exception(SECONDS) is None:
            self.kept.append((self.reader.end(), (str(self.next),)))

    @rule(
        call=st.sampled_from(["write", "sync", "write create", "sync truncate"]), error=st.sampled_from([errno.ENOSPC, errno.EIO])
    )
    def fail(self, call: str, error: int) -> None:
        self.disk.fail, self.disk.error = call, error
        assert isinstance(self.log.append(points(-1, tenant="failed")).exception(SECONDS), LogFullError)

    @rule()
    def have_the_disk_mended(self) -> None:
        self.disk.fail = None

    @precondition(lambda self: self.disk.fail is None)
    @rule(torn=st.binary(max_size=200))
    def close_and_open(self, torn: bytes) -> None:
        self.log.close()
        with segments(self.folder)[-1].open("ab") as file:
            file.write(torn)
        self.open()

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.kept:
            self.released = max(self.released, data.draw(st.sampled_from(self.kept))[0])
            self.reader.release(self.released)

    @rule(data=st.data())
    def read_behind_a_position(self, data: st.DataObject) -> None:
        after = data.draw(st.sampled_from([self.released, *[place for place, _ in self.kept if place >= self.released]]))
        expected = [batch for batch in self.kept if batch[0] > after]
        for reader in (self.reader, source(self.folder)):
            got = [(batch.position, _content(batch.table, batch.rows.to_pylist())) for batch in reader.read(after, 10**9)]
            assert got == expected

    @invariant()
    def the_end_is_the_last_acknowledged_batch(self) -> None:
        if hasattr(self, "log"):
            assert self.reader.end() == (self.kept[-1][0] if self.kept else 0)
            assert (unconsumed_bytes(self.folder) > 0) == (self.reader.end() > self.released)


def _content(table: str, rows: list[dict[str, object]]) -> Content:
    assert len(rows) == 1
    return (str(rows[0]["play_id"]),) if table == "plays" else (str(rows[0]["tenant"]), str(rows[0]["value"]))


TestLogStates = LogStates.TestCase
TestLogStates.settings = settings(max_examples=40, stateful_step_count=30)
