"""Why two counts of the same days differ: in total, by reason, and play by play.

Verdicts are computed anew from raw/plays, so the report explains what is there now; beside each total stands the figure that is
stored, which may be of older rows (a day that is not materialized yet, or whose gate is closed). Every play that one count has
and the other has not has exactly one reason: why the other leaves it out. So the reasons add up to the difference, always.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.lake.compute import connect, identifier
from analytics_dagster.lake.interruption import Interruption
from analytics_dagster.lake.schemas import PLAYS
from analytics_dagster.metrics.counting.policies import Count, Counting
from analytics_dagster.metrics.counting.verdicts import ARTIFICIAL, counting_step, verdict_column
from analytics_dagster.metrics.declarations import Catalogue, did_you_mean
from analytics_dagster.metrics.matchers import parse_matcher
from analytics_dagster.metrics.query import MetricQuery, answer_query

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from analytics_dagster.lake.lake import TenantLake

ROWS_AT_ONCE = 2_000_000
"""Plays whose verdicts are computed at once; one day is never divided."""
BOTH = "both"
_BATCH_ROWS = 8_192
_SHOWN = ("play_id", "ts", "listener_id", "track_id", "track", "artist", "ms_played", "country", "tier", "format")
ROW_COLUMNS = (*_SHOWN, "counted_by", "reason")
"""What a listed play has."""
_CONDITIONS = tuple(c.name for c in PLAYS.columns if c.type == PLAYS.column("country").type and c.name != "play_id")

Days = tuple[dt.date, dt.date]


@dataclass(frozen=True)
class Question:
    """Two counts to compare, over the days `first` to `last` (inclusive, UTC; None: all there is).

    `where` are conditions like `country="US"` on text columns of raw/plays; they choose among plays that were judged with all
    others of their day.
    """

    counts: tuple[Count, Count]
    first: dt.date | None = None
    last: dt.date | None = None
    where: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.counts[0].name == self.counts[1].name:
            raise UserError(f"{self.counts[0].name} is compared with itself; name two counts")


@dataclass(frozen=True)
class Total:
    """One count. `stored` is the figure of its metric, None where a condition is on what the metric cannot be split by."""

    count: Count
    plays: int
    stored: int | None


@dataclass(frozen=True)
class Part:
    """Plays that one count has and the other leaves out for a reason; `counted_by` is BOTH, and the reason None, for the rest."""

    counted_by: str
    reason: str | None
    plays: int


@dataclass(frozen=True)
class Reconciliation:
    """The whole report but the rows. `parts` are sorted by count, the most plays first; what both count comes first."""

    totals: tuple[Total, Total]
    parts: tuple[Part, ...]
    rules_version: int

    @property
    def difference(self) -> int:
        """Plays of the first count less those of the second."""
        return self.totals[0].plays - self.totals[1].plays

    @property
    def differing(self) -> int:
        """Plays that only one of the two has."""
        return sum(part.plays for part in self.parts if part.counted_by != BOTH)

    @property
    def stale(self) -> tuple[Total, ...]:
        """Totals whose stored figure is another."""
        return tuple(total for total in self.totals if total.stored is not None and total.stored != total.plays)


class Reconciler:
    """One question about a tenant. Raises UserError or NotFoundError for a condition that cannot be."""

    def __init__(
        self,
        tenant: TenantLake,
        catalogue: Catalogue,
        question: Question,
        *,
        stream_ms: int,
        rows_at_once: int = ROWS_AT_ONCE,
        memory_limit: str | None = None,
        interruption: Interruption | None = None,
    ) -> None:
        self._tenant, self._catalogue, self._question = tenant, catalogue, question
        self._counting = counting_of(catalogue)
        self._stream_ms, self._rows_at_once, self._memory_limit = stream_ms, rows_at_once, memory_limit
        self._interruption = interruption or Interruption()
        self._condition, self._parameters = _conditions(question.where)

    def report(self) -> Reconciliation:
        """Totals and parts, from one pass over the plays."""
        first, second = (_verdict(count) for count in self._question.counts)
        found: Counter[tuple[str | None, str | None]] = Counter()
        query = f"SELECT {first} AS a, {second} AS b, count(*) FROM {{}} GROUP BY ALL"
        for relation in self._relations(query):
            found.update({(a, b): plays for a, b, plays in relation.fetchall()})
        parts = Counter[tuple[str, str | None]]()
        names = [count.name for count in self._question.counts]
        totals = [0, 0]
        for (a, b), plays in found.items():
            totals[0] += plays if a is None else 0
            totals[1] += plays if b is None else 0
            if a is None and b is None:
                parts[BOTH, None] += plays
            elif a is None:
                parts[names[0], b] += plays
            elif b is None:
                parts[names[1], a] += plays
        order = [BOTH, *names]
        listed = sorted(parts.items(), key=lambda item: (order.index(item[0][0]), -item[1], item[0][1] or ""))
        made = [Total(c, n, self._stored(c)) for c, n in zip(self._question.counts, totals, strict=True)]
        return Reconciliation(
            (made[0], made[1]),
            tuple(Part(counted_by, reason, plays) for (counted_by, reason), plays in listed),
            self._counting.rules.version,
        )

    def rows(self, limit: int) -> Iterator[pa.RecordBatch]:
        """The plays that only one of the two counts, in order of time, at most `limit`.

        Columns: play_id, ts (timestamp[us, UTC]), listener_id, track_id, track, artist, ms_played, country, tier, format,
        counted_by (the name of the count that has it) and reason (why the other has not).
        """
        first, second = (_verdict(count) for count in self._question.counts)
        names = [count.name for count in self._question.counts]
        shown = ", ".join(identifier(name) for name in _SHOWN)
        judged = f"SELECT {shown}, {first} AS a, {second} AS b FROM {{}}"
        counted_by = f"CASE WHEN a IS NULL THEN '{names[0]}' ELSE '{names[1]}' END"
        query = (
            f"SELECT {shown}, {counted_by} AS counted_by, coalesce(a, b) AS reason FROM ({judged}) "
            "WHERE (a IS NULL) <> (b IS NULL) ORDER BY ts, play_id"
        )
        left = limit
        with closing(self._relations(query)) as relations:
            for relation in relations:
                for batch in relation.to_arrow_reader(_BATCH_ROWS):
                    if batch.num_rows >= left:
                        yield batch.slice(0, left)
                        return
                    left -= batch.num_rows
                    yield batch

    def _relations(self, query: str) -> Generator[duckdb.DuckDBPyRelation]:
        """`query` over the judged plays (in place of its braces) that meet the conditions, for some days at a time, in order."""
        raw = self._tenant.table(PLAYS)
        judged = f"(SELECT * FROM ({counting_step(self._counting).sql}){self._condition})"
        parameters: dict[str, Any] = dict(self._parameters)
        if "$stream_ms" in judged:
            parameters["stream_ms"] = self._stream_ms
        with closing(connect(memory_limit=self._memory_limit)) as connection, self._interruption.covering(connection):
            for first, last in self._spans(connection):
                self._interruption.check()
                connection.execute(f"CREATE OR REPLACE TEMP VIEW source AS SELECT * FROM {raw.sql(first, last)}")
                yield connection.sql(query.format(judged), params=parameters)

    def _spans(self, connection: duckdb.DuckDBPyConnection) -> list[Days]:
        """Runs of days that have plays, each of at most `rows_at_once` plays unless one day has more."""
        first, last = self._question.first, self._question.last
        raw = self._tenant.table(PLAYS)
        # Files are found by both ends of a range; an open one is as far as any day can be.
        rows = (
            raw.sql() if first is None and last is None else raw.sql(first or dt.date(1900, 1, 1), last or dt.date(9998, 12, 30))
        )
        counts = connection.execute(f"SELECT CAST(ts AS DATE) AS day, count(*) FROM {rows} GROUP BY day ORDER BY day").fetchall()
        spans: list[Days] = []
        held = 0
        for day, plays in counts:
            if spans and held + plays <= self._rows_at_once:
                spans[-1] = (spans[-1][0], day)
                held += plays
            else:
                spans.append((day, day))
                held = plays
        return spans

    def _stored(self, count: Count) -> int | None:
        metric = self._catalogue.metric(count.metric)
        dimensions = {d.name for d in self._catalogue.family_of(metric).dimensions}
        if not dimensions.issuperset(parse_matcher(text).name for text in self._question.where):
            return None
        asked = MetricQuery(metric.name, self._question.first, self._question.last, where=self._question.where)
        answer = answer_query(self._tenant, self._catalogue, asked, interruption=self._interruption)
        return int(sum(answer.figures.column("value").to_pylist()))


def counting_of(catalogue: Catalogue) -> Counting:
    """What a catalogue's files declare about counting."""
    if catalogue.counting is None:
        raise ValueError("the catalogue was made without files, so it has no counting policies")
    return catalogue.counting


def report_document(report: Reconciliation, stream_ms: int) -> dict[str, Any]:
    """The report as plain data, for programs. Field names are an interface: they stay."""
    return {
        "counts": [
            {
                "name": total.count.name,
                "metric": total.count.metric,
                "policy": total.count.policy.name,
                "version": total.count.policy.version,
                "minimum_seconds": total.count.policy.minimum_ms(stream_ms) / 1000,
                "adjusted": total.count.adjusted,
                "rules_version": report.rules_version if total.count.adjusted else None,
                "plays": total.plays,
                "stored": total.stored,
            }
            for total in report.totals
        ],
        "difference": report.difference,
        "parts": [{"counted_by": part.counted_by, "reason": part.reason, "plays": part.plays} for part in report.parts],
    }


def _verdict(count: Count) -> str:
    """SQL for the reason that a count has not to count a play; null where it counts."""
    name = identifier(verdict_column(count.policy))
    return f"coalesce({name}, 'artificial_' || {ARTIFICIAL})" if count.adjusted else name


def _conditions(where: Sequence[str]) -> tuple[str, dict[str, str]]:
    conditions, parameters = [], {}
    for number, text in enumerate(where):
        matcher = parse_matcher(text)
        if matcher.name not in _CONDITIONS:
            near = did_you_mean(matcher.name, _CONDITIONS)
            raise NotFoundError(f"{PLAYS.path} has no text column {matcher.name!r}{near}; it has {', '.join(_CONDITIONS)}")
        condition, value = matcher.sql(identifier(matcher.name))
        # Named, for DuckDB does not take both kinds in one query.
        conditions.append(condition.replace("?", f"$where_{number}"))
        parameters[f"where_{number}"] = value
    return (f" WHERE {' AND '.join(conditions)}" if conditions else ""), parameters
