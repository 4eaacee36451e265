"""GET /analytics/query: figures as JSON, CSV or Arrow, with limits on how many run, how long, and how much they answer.

No tenant's queries can keep the others' out: one has at most half of the places, and whoever waits does so in its tenant's line.
"""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
import io
import threading
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from analytics_dagster.errors import UserError
from analytics_dagster.lake.interruption import GivenUpError, Interruption
from analytics_dagster.metrics.fresh import Fresh
from analytics_dagster.metrics.own import OwnMetrics
from analytics_dagster.server.problems import Problem, retry_after

if TYPE_CHECKING:
    from analytics_dagster.installation import Installation
    from analytics_dagster.metrics.declarations import Catalogue
    from analytics_dagster.metrics.query import MetricQuery

ARROW = "application/vnd.apache.arrow.stream"
MEDIA = {"json": "application/json", "csv": "text/csv; charset=utf-8", "arrow": ARROW}
MAX_ROWS = 1_000_000
QUERY_SECONDS = 30.0
_AT_ONCE = 4
_AT_ONCE_OF_ONE = _AT_ONCE // 2
_MOST_WAITING = 512
_MOST_WAITING_OF_ONE = 64
# DuckDB forgets that it was interrupted between two statements.
_INTERRUPT_AGAIN_SECONDS = 0.1

Answer = TypeVar("Answer")


class _Question:
    """One query from its place in the line to its end. `turn` is done when it may start."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.interruption = Interruption()


class _Line:
    """Whose query is next: a line for each tenant, which take turns. For one thread, the event loop."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[_Question]] = {}  # tenants whose turn comes first stand first

    def join(self, question: _Question) -> None:
        """Start it, or let it wait. Raises Problem 503 when too many wait."""
        of_one = len(self._waiting.get(question.tenant, ()))
        if of_one >= _MOST_WAITING_OF_ONE:
            raise Problem(503, f"{of_one} queries of this tenant are waiting; try again", headers=[retry_after(1)])
        if sum(map(len, self._waiting.values())) >= _MOST_WAITING:
            raise Problem(503, f"{_MOST_WAITING} queries are waiting; try again", headers=[retry_after(1)])
        self._waiting.setdefault(question.tenant, deque()).append(question)
        self._start()

    def leave(self, question: _Question) -> None:
        """It has ended, or waits no more."""
        if question.turn.done() and not question.turn.cancelled():
            self._running[question.tenant] -= 1
            if not self._running[question.tenant]:
                del self._running[question.tenant]
            self._start()
        else:
            self._drop(question)

    def _start(self) -> None:
        while self._running.total() < _AT_ONCE:
            tenant = next((t for t in self._waiting if self._running[t] < _AT_ONCE_OF_ONE), None)
            if tenant is None:
                return
            line = self._waiting.pop(tenant)
            question = line.popleft()
            if line:
                self._waiting[tenant] = line  # behind the others
            self._running[tenant] += 1
            question.turn.set_result(None)

    def _drop(self, question: _Question) -> None:
        line = self._waiting[question.tenant]
        line.remove(question)
        if not line:
            del self._waiting[question.tenant]


class QueryDesk:
    """Runs queries in threads of their own: at most _AT_ONCE, half of them one tenant's, the others in line by tenant.

    A query that nobody waits for any more (its time is up, its client is gone) is interrupted and makes room.
    """

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="query")
        self._lock = threading.Lock()
        self._catalogue: Catalogue | None = None
        self._own = OwnMetrics(installation.database, installation.clock, installation.settings.analytics_metrics)
        self._line = _Line()
        self._running: set[_Question] = set()
        self.fresh = Fresh(installation)

    def catalogue(self) -> Catalogue:
        """The declared metrics; read once."""
        from analytics_dagster.metrics.load import load_catalogue

        with self._lock:
            if self._catalogue is None:
                self._catalogue = load_catalogue(self._installation.settings.analytics_metrics)
            return self._catalogue

    def catalogue_of(self, tenant: str) -> Catalogue:
        """The same with what the tenant declared for itself; waits for the database."""
        return self._own.catalogue(tenant, self.catalogue)

    async def run(self, tenant: str, asked: MetricQuery, format_: str, gone: Coroutine[None, None, None]) -> bytes:
        """The answer's body. Raises as `work`, and Problem 422 when it is too much."""
        return await self.work(tenant, lambda interruption: self._answer(tenant, asked, format_, interruption), gone)

    async def work(self, tenant: str, read: Callable[[Interruption], Answer], gone: Coroutine[None, None, None]) -> Answer:
        """What `read` gives, run in a thread when it is the tenant's turn; it must let itself be interrupted.

        Raises Problem 503 when too many wait or it takes too long. `gone` ends when the client has gone away.
        """
        question = _Question(tenant)
        leaving = asyncio.ensure_future(gone)
        try:
            self._line.join(question)
            answering = asyncio.ensure_future(self._turn(question, read))
            # Its place is free when its thread has ended, not before.
            answering.add_done_callback(lambda _: self._ended(question))
            await asyncio.wait({answering, leaving}, timeout=QUERY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                return answering.result()
            raise self._give_up(question, answering, left=leaving.done())
        except asyncio.CancelledError:
            self._give_up(question, answering, left=True)
            raise
        finally:
            leaving.cancel()

    def close(self) -> None:
        for question in self._running:
            question.interruption.interrupt()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.fresh.close()

    async def _turn(self, question: _Question, read: Callable[[Interruption], Answer]) -> Answer:
        """Wait in line, then answer."""
        await question.turn
        self._running.add(question)
        return await asyncio.wrap_future(self._threads.submit(self._read, question, read))

    def _ended(self, question: _Question) -> None:
        self._running.discard(question)
        self._line.leave(question)

    def _give_up(self, question: _Question, answering: asyncio.Future[Any], *, left: bool) -> Problem:
        """Nobody waits for it any more. What to say, if there is somebody to say it to."""
        started = question.turn.done()
        if started:
            self._interrupt(question, answering)
        else:
            answering.cancel()
        if left:
            return Problem(400, "the client went away before its answer was there")
        said = f"the query took longer than {QUERY_SECONDS:g} s; ask for a shorter range or a coarser grain"
        if not started:
            said = f"the query waited for others for {QUERY_SECONDS:g} s; try again"
        return Problem(503, said, kind="query-timeout", headers=[retry_after(None)])

    def _interrupt(self, question: _Question, answering: asyncio.Future[Any]) -> None:
        if answering.done():
            answering.exception()  # nobody else looks at it
            return
        question.interruption.interrupt()
        asyncio.get_running_loop().call_later(_INTERRUPT_AGAIN_SECONDS, self._interrupt, question, answering)

    @staticmethod
    def _read(question: _Question, read: Callable[[Interruption], Answer]) -> Answer:
        import duckdb

        try:
            question.interruption.check()
            answer = read(question.interruption)
            question.interruption.check()
        except duckdb.InterruptException:
            raise GivenUpError("the query was interrupted; try again") from None
        return answer

    def _answer(self, tenant: str, asked: MetricQuery, format_: str, interruption: Interruption) -> bytes:
        from analytics_dagster.metrics.query import answer_query

        answer = answer_query(self._installation.lake.tenant(tenant), self.catalogue_of(tenant), asked, self.fresh, interruption)
        figures = answer.figures
        if figures.num_rows > MAX_ROWS:
            raise Problem(
                422,
                f"the answer would have {figures.num_rows} rows, {MAX_ROWS} are given at most; ask for a shorter range, a "
                "coarser grain or fewer dimensions",
                kind="too-many-rows",
            )
        return encoded(figures, format_, whole=answer.metric.integer)


def encoded(figures: pa.Table, format_: str, *, whole: bool) -> bytes:
    """Rows as they are sent: `arrow` an IPC stream; else times in ISO 8601 with Z, and whole numbers without a fraction."""
    if format_ == "arrow":
        sink = io.BytesIO()
        with pyarrow.ipc.new_stream(sink, figures.schema) as stream:
            stream.write_table(figures)
        return sink.getvalue()
    text = pc.strftime(figures.column("ts"), format="%Y-%m-%dT%H:%M:%SZ")
    told = figures.set_column(0, "ts", pc.replace_substring_regex(text, r"\.0+Z$", "Z"))
    if whole:
        last = told.num_columns - 1
        told = told.set_column(last, told.column_names[last], told.column(last).cast(pa.int64(), safe=False))
    if format_ == "json":
        return msgspec.json.encode(told.to_pylist())
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(told.column_names)
    columns = (c.cast(pa.string()) if pa.types.is_boolean(c.type) else c for c in told.columns)
    writer.writerows(zip(*(column.to_pylist() for column in columns), strict=True))
    return out.getvalue().encode("utf-8")


def chosen_format(named: str | None, accept: str) -> str:
    """`?format=`, else what Accept asks for, else JSON. Raises Problem 406 when nothing that is asked for is there."""
    if named is not None:
        if named not in MEDIA:
            raise Problem(400, f"format {named!r} is not known; one of {', '.join(MEDIA)}")
        return named
    wanted = [part.partition(";")[0].strip().lower() for part in accept.split(",") if part.strip()]
    for media in wanted:
        if media in ("*/*", "application/*", "application/json"):
            return "json"
        if media in ("text/csv", "text/*"):
            return "csv"
        if media == ARROW:
            return "arrow"
    if wanted:
        raise Problem(406, f"none of {accept!r} is there; ask for application/json, text/csv or {ARROW}")
    return "json"


def parse_bound(name: str, text: str | None) -> tuple[dt.date | None, dt.datetime | None]:
    """A day, or a time of RFC 3339. Raises UserError for anything else."""
    if not text:
        return None, None
    try:
        if len(text) == 10:
            return dt.date.fromisoformat(text), None
        # A plus sign that was not percent-encoded arrives as a space.
        moment = dt.datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        if moment.tzinfo is not None:
            return None, moment.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise UserError(f"{name}={text!r} is neither a day nor a time; write 2026-01-31 or 2026-01-31T12:00:00Z") from None
    raise UserError(f"{name}={text!r} has no time zone; write {moment.isoformat()}Z, or an offset in place of Z (UTC)")
