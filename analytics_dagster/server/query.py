"""GET /analytics/query: figures as JSON, CSV or Arrow, with limits on how many run, how long, and how much they answer."""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from analytics_dagster.errors import UserError
from analytics_dagster.metrics.fresh import Fresh
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
_MOST_WAITING = 64


class QueryDesk:
    """Runs queries in threads of their own: at most _AT_ONCE, and no more than _MOST_WAITING behind them."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="query")
        self._lock = threading.Lock()
        self._catalogue: Catalogue | None = None
        self._open = 0
        self.fresh = Fresh(installation)

    def catalogue(self) -> Catalogue:
        """The declared metrics; read once."""
        from analytics_dagster.metrics.load import load_catalogue

        with self._lock:
            if self._catalogue is None:
                self._catalogue = load_catalogue(self._installation.settings.analytics_metrics)
            return self._catalogue

    async def run(self, tenant: str, asked: MetricQuery, format_: str) -> bytes:
        """The answer's body. Raises Problem 503 when too many wait or it takes too long, 422 when it is too much."""
        if self._open >= _AT_ONCE + _MOST_WAITING:
            raise Problem(503, f"{self._open} queries are waiting; try again", headers=[retry_after(1)])
        self._open += 1
        future = self._threads.submit(self._answer, tenant, asked, format_)
        # A query that takes too long keeps its thread until it ends, so it goes on counting.
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._closed))
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), QUERY_SECONDS)
        except TimeoutError:
            future.cancel()
            raise Problem(
                503,
                f"the query took longer than {QUERY_SECONDS:g} s; ask for a shorter range or a coarser grain",
                kind="query-timeout",
                headers=[retry_after(None)],
            ) from None

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.fresh.close()

    def _closed(self) -> None:
        self._open -= 1

    def _answer(self, tenant: str, asked: MetricQuery, format_: str) -> bytes:
        from analytics_dagster.metrics.query import answer_query

        answer = answer_query(self._installation.lake.tenant(tenant), self.catalogue(), asked, self.fresh)
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
    writer.writerows(zip(*(column.to_pylist() for column in told.columns), strict=True))
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
        pass
    raise UserError(f"{name}={text!r} is neither a day nor a time; write 2026-01-31 or 2026-01-31T12:00:00Z")
