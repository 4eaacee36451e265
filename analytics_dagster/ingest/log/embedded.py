"""The embedded log: any thread appends, one thread commits whatever waits as one write and one sync, and says so.

Group commit: while a commit waits for the disk the next one gathers, so the slower the disk, the larger the groups.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections import deque
from concurrent.futures import Future
from copy import copy
from pathlib import Path

from analytics_dagster.clock import Clock
from analytics_dagster.errors import BusyError, LogFullError
from analytics_dagster.ingest.log.folder_lock import acquire
from analytics_dagster.ingest.log.limits import Headroom
from analytics_dagster.ingest.log.stream import Disk, Stream
from analytics_dagster.ingest.points import PLAY_ROWS, Plays, Points

_LOG = logging.getLogger(__name__)
MAX_WAITING_POINTS = 4_000_000
# A commit takes this many rows of different requests at most: one frame is held in memory whole, by writer and reader.
_MAX_COMMIT_ROWS = 500_000
_POINT_BYTES = 20
# A writer that is being replaced may need this long to go.
LOCK_PATIENCE_SECONDS = 2.0
# While the disk fails and nothing comes in, it is tried this often.
_MEND_SECONDS = 1.0
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_Waiting = tuple[Points | Plays, Future[None]]


class EmbeddedLog:
    """Implements IngestLog over a folder of its own, which is locked until `close` or the process' end."""

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        *,
        segment_bytes: int,
        max_bytes: int,
        max_waiting_points: int = MAX_WAITING_POINTS,
        patience: float = LOCK_PATIENCE_SECONDS,
        disk: Disk | None = None,
    ) -> None:
        """Lock `folder` (created if need be), settle what the last writer left and begin a new segment.

        Raises BusyError naming the process that writes there, and LogFullError when the disk has no room for even that.
        """
        self.folder = folder
        self._process = os.getpid()
        self._max_waiting = max_waiting_points
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = acquire(folder, patience=patience)
            try:
                self._stream = Stream(folder, clock, segment_bytes, disk or Disk())
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            raise _refusal(folder, error) from error
        self._headroom = Headroom(folder, max_bytes, segment_bytes)
        self._queue: deque[_Waiting] = deque()
        self._waiting_rows = self._waiting_bytes = 0
        self._closing = self._failing = False
        self._changed = threading.Condition()
        self._committer = threading.Thread(target=self._run, name=f"log-{folder.name}", daemon=True)
        self._committer.start()

    @property
    def waiting(self) -> int:
        """Rows accepted and not durable yet."""
        return self._waiting_rows

    def append(self, rows: Points | Plays) -> Future[None]:
        """Take rows for the next commit; the future is done when they are durable, and carries the error when they are not.

        Raises LogFullError before anything is accepted, ValueError for rows of another shape, and BusyError in a process that was
        forked from the one that opened the log. Once accepted, rows are committed: the future cannot be cancelled. Its callbacks
        run in the committing thread, so they must be short.
        """
        count, size = len(rows), _size(rows)
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()
        if not count:
            future.set_result(None)
            return future
        if os.getpid() != self._process:
            raise BusyError(
                f"the log {self.folder} was opened by process {self._process}, from which this one was forked; open one here"
            )
        self._headroom.check(self._waiting_bytes + size)
        with self._changed:
            if self._closing:
                raise LogFullError(f"the log {self.folder} is closed; nothing was accepted")
            if self._waiting_rows and self._waiting_rows + count > self._max_waiting:
                raise LogFullError(
                    f"{self._waiting_rows} rows wait to be committed to {self.folder}, and {self._max_waiting} may: "
                    "the disk is slower than what comes in; nothing was accepted",
                    retry_after=1.0,
                )
            self._queue.append((rows, future))
            self._waiting_rows += count
            self._waiting_bytes += size
            if len(self._queue) == 1:
                self._changed.notify()
        return future

    def close(self) -> None:
        """Commit what waits and let go of the folder. A second call does nothing, nor one in a forked process."""
        if os.getpid() != self._process:
            return
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._committer.join()
        self._stream.close()
        self._lock.release()

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            if not taken:
                self._stream.mend()
                continue
            failure = self._commit([rows for rows, _ in taken])
            self._tell(failure)
            with self._changed:
                self._waiting_rows -= sum(len(rows) for rows, _ in taken)
                self._waiting_bytes -= sum(_size(rows) for rows, _ in taken)
            for _, future in taken:
                if failure is None:
                    future.set_result(None)
                else:
                    # Each its own: raising sets the traceback of the very object.
                    future.set_exception(copy(failure))
            self._headroom.look_ahead()

    def _take(self) -> list[_Waiting] | None:
        """What goes into the next commit; None when the log is closed and all is done, nothing when there is time to mend."""
        with self._changed:
            while not self._queue:
                if self._closing:
                    return None
                if not self._changed.wait(_MEND_SECONDS if self._stream.broken else None):
                    return []
            taken: list[_Waiting] = []
            rows = 0
            while self._queue and (not taken or rows + len(self._queue[0][0]) <= _MAX_COMMIT_ROWS):
                taken.append(self._queue.popleft())
                rows += len(taken[-1][0])
            return taken

    def _commit(self, taken: list[Points | Plays]) -> Exception | None:
        points = [rows for rows in taken if isinstance(rows, Points)]
        plays = [rows for rows in taken if isinstance(rows, Plays)]
        try:
            self._headroom.add(self._stream.commit(points, plays))
        except OSError as error:
            return _refusal(self.folder, error)
        except Exception as error:  # a caller waits for each future, and this thread must live on for the next commit
            return error
        return None

    def _tell(self, failure: Exception | None) -> None:
        """Log the first commit that fails and the first that works again, not the thousands between."""
        if failure is not None and not self._failing:
            _LOG.error("%s; refusing until a commit works again", failure, exc_info=failure)
        elif failure is None and self._failing:
            _LOG.warning("the log %s takes points again", self.folder)
        self._failing = failure is not None


def _size(rows: Points | Plays) -> int:
    if isinstance(rows, Points):
        if not len(rows.series) == len(rows.ts) == len(rows.values):
            raise ValueError(f"points have {len(rows.series)} series, {len(rows.ts)} times and {len(rows.values)} values")
        return _POINT_BYTES * len(rows)
    if not rows.rows.schema.equals(PLAY_ROWS):
        raise ValueError(f"plays have the columns {rows.rows.schema.names}, not PLAY_ROWS'")
    return int(rows.rows.nbytes)


def _refusal(folder: Path, error: OSError) -> LogFullError:
    if error.errno in _FULL:
        return LogFullError(f"the log {folder} cannot grow ({error.strerror}): free space on its disk; nothing was accepted")
    return LogFullError(f"the log {folder} cannot be written ({error}): see to its disk; nothing was accepted")
