"""Verdicts in SQL: for every play of `source`, why a policy does not count it, and which rule takes it for artificial.

`source` holds whole UTC days. Each day is judged by itself, and where plays have an order it is (ts, play_id), so the verdicts
are the same however the plays arrived, and whichever days are computed together. Comparisons are of integers, so that they do
not depend on the order in which a sum was made, and of ones wide enough for any length that a broken client may report.

Most listeners of a day come nowhere near a cap or a rule. Cheap groupings find those who do (`_close`); only their plays go
through windows, which sort. All others get the verdict that one row gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analytics_dagster.lake.compute import connect, literal
from analytics_dagster.lake.compute import identifier as q
from analytics_dagster.lake.schemas import PLAYS, Column
from analytics_dagster.metrics.counting.policies import ArtificialRules, Counting, CountingPolicy
from analytics_dagster.metrics.declarations import SourceStep

if TYPE_CHECKING:
    import pyarrow as pa

ARTIFICIAL = "artificial"
FORMAT_LEFT_OUT, UNKNOWN_LENGTH, TOO_SHORT = "format_left_out", "unknown_length", "too_short"
UNKNOWN_LISTENER, ABOVE_CAP = "unknown_listener", "above_cap"
RULES = ("more_than_a_day", "overlapping", "too_many", "repeated", "just_over_threshold", "farm")
MEANING = {
    FORMAT_LEFT_OUT: "the policy leaves out what was read from this format",
    UNKNOWN_LENGTH: "how long it was listened to is not known",
    TOO_SHORT: "it was listened to for less than the policy's minimum",
    UNKNOWN_LISTENER: "nobody knows who listened",
    ABOVE_CAP: "the listener had played the track as often as the policy counts on that day",
    "artificial_more_than_a_day": "artificial: the listener was heard for longer than a day",
    "artificial_overlapping": "artificial: the listener was heard in several places at once for hours",
    "artificial_too_many": "artificial: the listener had more streams on that day than a day has room for",
    "artificial_repeated": "artificial: the listener repeated the track too often on that day",
    "artificial_just_over_threshold": "artificial: one of very many plays that ended just after the stream threshold",
    "artificial_farm": "artificial: a group of listeners did the same with one artist",
}
"""What each reason says of the play that has it."""

_TEXT = PLAYS.column("play_id").type
_DAY = "epoch_us(ts) // 86400000000"
_KEYS = ("listener_id", "_day")
# Read by every rule; what a verdict column is said to be made from.
_BY_POLICY = ("ms_played", "format")
_BY_CAP = ("listener_id", "track_id", "ts", "play_id")
_BY_RULES = ("listener_id", "track_id", "artist_id", "country", "device", "ms_played", "ts", "play_id")


def verdict_column(policy: CountingPolicy) -> str:
    """The column with the reason for which a policy does not count a play; null where it does."""
    return f"not_counted_{policy.name}"


def counting_step(counting: Counting) -> SourceStep:
    """The step that gives each play a column for every policy, and `artificial`, the rule that takes it for that or null."""
    columns, reads = [], {}
    for policy in counting.policies:
        name = verdict_column(policy)
        columns.append(
            Column(name, _TEXT, f"Why {policy.name} (version {policy.version}) does not count the play; null: it does.")
        )
        listener = ("listener_id",) if policy.known_listener else ()
        reads[name] = (*_BY_POLICY, *listener, *(_BY_CAP if policy.most_a_day else ()))
    columns.append(Column(ARTIFICIAL, _TEXT, "The rule that takes the play for artificial; null: none does."))
    reads[ARTIFICIAL] = _BY_RULES
    return SourceStep(_sql(counting), tuple(columns), {name: tuple(dict.fromkeys(of)) for name, of in reads.items()})


def judged(plays: pa.Table, counting: Counting, stream_ms: int) -> pa.Table:
    """Rows of raw/plays, of whole days, with their verdicts; in no order. Columns: those of the table, then those of the step."""
    step = counting_step(counting)
    with connect() as connection:
        connection.register("source", plays)
        parameters = {"stream_ms": stream_ms} if "$stream_ms" in step.sql else {}
        return connection.sql(f"SELECT * FROM ({step.sql})", params=parameters).to_arrow_table()


def _sql(counting: Counting) -> str:
    rules = _Rules(counting.rules)
    raw = [q(c.name) for c in PLAYS.columns]
    tables = _close(counting, rules)
    ctes = ", ".join(f"{name} AS MATERIALIZED ({sql})" for name, sql in tables.items())
    plain = [f"({row_verdict(p)}) AS {q(verdict_column(p))}" for p in counting.policies]
    # Not by NOT EXISTS, for which DuckDB first makes the distinct pairs of listener and time. Unknown listeners are among these.
    others = (
        f"SELECT {', '.join([*raw, *plain])}, CAST(NULL AS VARCHAR) AS {ARTIFICIAL} "
        f"FROM (SELECT *, {_DAY} AS _day FROM source) ANTI JOIN _close USING (listener_id, _day)"
    )
    # Without parentheses around a common table expression the union would be part of it.
    return f"WITH {ctes} ({others} UNION ALL {_judged(counting, rules, raw)})"


def row_verdict(policy: CountingPolicy) -> str:
    """SQL for the reason that one play alone gives, null where it gives none."""
    minimum = "$stream_ms" if policy.minimum_seconds is None else str(policy.minimum_ms(0))
    cases = []
    if policy.formats_left_out:
        cases.append((f"format IN ({', '.join(literal(f) for f in policy.formats_left_out)})", FORMAT_LEFT_OUT))
    if not policy.unknown_length_counts:
        cases.append(("ms_played IS NULL", UNKNOWN_LENGTH))
    cases.append((f"ms_played < {minimum}", TOO_SHORT))
    if policy.known_listener:
        cases.append(("listener_id IS NULL", UNKNOWN_LISTENER))
    return f"CASE {' '.join(f'WHEN {condition} THEN {literal(reason)}' for condition, reason in cases)} END"


def _close(counting: Counting, rules: _Rules) -> dict[str, str]:
    """The listeners and days that a cap or a rule is about, found in ever fewer plays.

    `_busy` are listeners with so many plays, or so much time, that something may be about them; `_plays` their plays, with the
    columns that rules read; `_days` what adds up to of each; `_tracks` what one played more often than the lowest cap or rule.
    """
    caps = [p.most_a_day for p in counting.policies if p.most_a_day is not None]
    repeats = [*caps, *rules.repeats]
    plays = min([*repeats, *(n - 1 for n in rules.least_plays)], default=None)
    busy = [f"count(*) > {plays}"] if plays is not None else []
    busy += [f"sum(ms_played) > {ms}" for ms in rules.longest]
    read = ("play_id", "ts", "track_id", "artist_id", "country", "device", "ms_played")
    sums = ", ".join(f"CAST({sql} AS HUGEINT) AS {name}" for name, sql in rules.sums().items())
    tables = {
        "_busy": (
            f"SELECT listener_id, {_DAY} AS _day FROM source WHERE listener_id IS NOT NULL GROUP BY 1, 2 "
            f"HAVING {' OR '.join(busy) or 'false'}"
        ),
        "_plays": (
            f"SELECT listener_id, _day, {', '.join(read)} FROM (SELECT *, {_DAY} AS _day FROM source) "
            "SEMI JOIN _busy USING (listener_id, _day)"
        ),
        "_days": f"SELECT listener_id, _day, {sums} FROM _plays GROUP BY listener_id, _day",
    }
    found = [f"SELECT listener_id, _day FROM _days WHERE {condition}" for condition in rules.of_days()]
    if repeats:
        tables["_tracks"] = (
            "SELECT listener_id, _day, track_id FROM _plays WHERE track_id IS NOT NULL "
            f"GROUP BY ALL HAVING count(*) > {min(repeats)}"
        )
        found.append("SELECT listener_id, _day FROM _tracks")
    return {**tables, **rules.overlaps(), **rules.members(), "_close": " UNION ".join([*found, *rules.found()]) or "FROM _busy"}


def _judged(counting: Counting, rules: _Rules, raw: list[str]) -> str:
    """The plays of `_close` with their verdicts: the windows first, then what follows from them."""
    row = [f"{row_verdict(p)} AS {_alone(p)}" for p in counting.policies]
    mine = f"SELECT *, {_DAY} AS _day, {', '.join(row)} FROM source"
    near = f"SELECT * FROM ({mine}) SEMI JOIN _close USING (listener_id, _day)"
    capped = [p for p in counting.policies if p.most_a_day is not None]
    ranks = [
        f"row_number() OVER (PARTITION BY listener_id, _day, track_id, {_alone(p)} IS NULL ORDER BY ts, play_id) AS _nth_{p.name}"
        for p in capped
    ]
    windows = ", ".join(["*", *ranks, *rules.windows()])
    verdicts = []
    for policy in counting.policies:
        above = ""
        if policy.most_a_day is not None:
            over = f"track_id IS NOT NULL AND _nth_{policy.name} > {policy.most_a_day}"
            above = f" WHEN {over} THEN {literal(ABOVE_CAP)}"
        verdicts.append(f"CASE WHEN {_alone(policy)} IS NOT NULL THEN {_alone(policy)}{above} END AS {q(verdict_column(policy))}")
    chosen = ", ".join([*(f"judged.{name}" for name in raw), *verdicts, f"{rules.verdict()} AS {ARTIFICIAL}"])
    return f"SELECT {chosen} FROM (SELECT {windows} FROM ({near})) AS judged{rules.joins()}"


def _alone(policy: CountingPolicy) -> str:
    return f"_alone_{policy.name}"


@dataclass(frozen=True)
class _Rules:
    """The SQL of each rule that is on."""

    rules: ArtificialRules

    @property
    def repeats(self) -> list[int]:
        return [self.rules.repeated.plays] if self.rules.repeated else []

    @property
    def least_plays(self) -> list[int]:
        """Plays of a day below which no rule that counts plays is about a listener."""
        many = [self.rules.too_many.streams] if self.rules.too_many else []
        return [*many, *(rule.plays for rule in (self.rules.just_over_threshold, self.rules.farm) if rule)]

    @property
    def longest(self) -> list[int]:
        """Milliseconds listened up to which no rule that adds up time is about a listener."""
        return [_ms(rule.hours * 3_600) for rule in (self.rules.more_than_a_day, self.rules.overlapping) if rule]

    def sums(self) -> dict[str, str]:
        """What is added up of a listener's day. `_near...` are number, sum and sum of squares of how far plays went beyond the
        threshold, of those that ended just after it.
        """
        every = {"_count": "count(*)", "_ms": "coalesce(sum(ms_played), 0)"}
        if self.rules.too_many:
            every["_streams"] = "count(*) FILTER (ms_played >= $stream_ms)"
        rule = self.rules.just_over_threshold
        if rule is None:
            return every
        beyond, among = "(CAST(ms_played AS HUGEINT) - $stream_ms)", f"FILTER ({_just_over(_ms(rule.within_seconds))})"
        return {
            **every,
            "_near": f"count(*) {among}",
            "_near_ms": f"coalesce(sum({beyond}) {among}, 0)",
            "_near_square": f"coalesce(sum({beyond} * {beyond}) {among}, 0)",
        }

    def of_days(self) -> list[str]:
        """Conditions on `_days`, of rules that are about all or many of a listener's plays."""
        return [sql for sql in (self._more_than_a_day(), self._too_many(), self._just_over()) if sql]

    def _more_than_a_day(self) -> str:
        rule = self.rules.more_than_a_day
        return f"_ms > {_ms(rule.hours * 3_600)}" if rule else ""

    def _too_many(self) -> str:
        return f"_streams > {self.rules.too_many.streams}" if self.rules.too_many else ""

    def _just_over(self) -> str:
        rule = self.rules.just_over_threshold
        if rule is None:
            return ""
        # The variance of n numbers is (n * sum of squares - square of the sum) / n^2.
        variation = f"_near * _near_square - _near_ms * _near_ms <= _near * _near * {_ms(rule.deviation_seconds) ** 2}"
        return f"(_near >= {rule.plays} AND _near * 100 >= _count * {rule.share_percent} AND {variation})"

    def overlaps(self) -> dict[str, str]:
        """`_parallel`: who was heard in several places at once for too long."""
        rule = self.rules.overlapping
        if rule is None:
            return {}
        limit, by = _ms(rule.hours * 3_600), "OVER (PARTITION BY listener_id, _day ORDER BY began, play_id"
        plays = (
            "SELECT listener_id, _day, play_id, CAST(epoch_us(ts) // 1000 AS HUGEINT) AS began, ms_played FROM _plays "
            "WHERE ms_played > 0"
        )
        before = f"max(began + ms_played) {by} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS heard_until"
        timed = f"SELECT *, {before} FROM ({plays}) SEMI JOIN (FROM _days WHERE _ms > {limit}) USING (listener_id, _day)"
        # least() passes over null, which the first play of a day has.
        at_once = "greatest(0, least(began + ms_played, coalesce(heard_until, began)) - began)"
        return {"_parallel": f"SELECT listener_id, _day FROM ({timed}) GROUP BY ALL HAVING sum({at_once}) > {limit}"}

    def members(self) -> dict[str, str]:
        """`_devoted`: listeners who gave most of their plays of a day to one artist, from one place; `_members`: those of them
        who are many and do the same.
        """
        rule = self.rules.farm
        if rule is None:
            return {}
        place = "artist_id, country, device"
        devoted = (
            f"SELECT listener_id, _day, {place}, count(*) AS n FROM _plays "
            f"JOIN (SELECT listener_id, _day, _count FROM _days WHERE _count >= {rule.plays}) USING (listener_id, _day) "
            "WHERE artist_id IS NOT NULL AND (country IS NOT NULL OR device IS NOT NULL) "
            f"GROUP BY listener_id, _day, {place} "
            f"HAVING n >= {rule.plays} AND n * 100 >= any_value(_count) * {rule.share_percent}"
        )
        # Coefficient of variation, squared: (m * sum of squares - square of the sum) / square of the sum, of m numbers.
        total, squares = "sum(n)", "sum(CAST(n AS HUGEINT) * n)"
        alike = f"(count(*) * {squares} - {total} * {total}) * 10000 <= {rule.variation_percent**2} * {total} * {total}"
        farms = f"SELECT _day, {place} FROM _devoted GROUP BY ALL HAVING count(*) >= {rule.listeners} AND {alike}"
        same = " AND ".join(f"_devoted.{c} IS NOT DISTINCT FROM f.{c}" for c in ("_day", "artist_id", "country", "device"))
        columns = ", ".join(f"_devoted.{c}" for c in (*_KEYS, "artist_id", "country", "device"))
        return {"_devoted": devoted, "_members": f"SELECT {columns} FROM _devoted JOIN ({farms}) AS f ON {same}"}

    def found(self) -> Iterator[str]:
        """Selects of further listeners and days."""
        if self.rules.overlapping:
            yield "SELECT listener_id, _day FROM _parallel"
        if self.rules.farm:
            yield "SELECT listener_id, _day FROM _members"

    def windows(self) -> list[str]:
        return ["count(*) OVER (PARTITION BY listener_id, _day, track_id) AS _of_track"] if self.rules.repeated else []

    def joins(self) -> str:
        """What is known of a play's listener and day, joined to `judged`."""
        tables = [("_days", "d")]
        tables += [("_parallel", "o")] if self.rules.overlapping else []
        sql = "".join(
            f" LEFT JOIN {table} AS {alias} ON " + " AND ".join(f"{alias}.{key} = judged.{key}" for key in _KEYS)
            for table, alias in tables
        )
        if self.rules.farm:
            same = " AND ".join(f"m.{c} IS NOT DISTINCT FROM judged.{c}" for c in (*_KEYS, "artist_id", "country", "device"))
            sql += f" LEFT JOIN _members AS m ON {same}"
        return sql

    def verdict(self) -> str:
        """SQL for the first rule that takes a row of `judged` for artificial, null where none does."""
        conditions = dict.fromkeys(RULES, "")
        conditions["more_than_a_day"] = self._more_than_a_day()
        if self.rules.overlapping:
            conditions["overlapping"] = "o.listener_id IS NOT NULL"
        conditions["too_many"] = self._too_many()
        if self.rules.repeated:
            conditions["repeated"] = f"track_id IS NOT NULL AND _of_track > {self.rules.repeated.plays}"
        if rule := self.rules.just_over_threshold:
            conditions["just_over_threshold"] = f"{_just_over(_ms(rule.within_seconds))} AND {self._just_over()}"
        if self.rules.farm:
            conditions["farm"] = "m.listener_id IS NOT NULL"
        cases = [f"WHEN {sql} THEN {literal(name)}" for name, sql in conditions.items() if sql]
        return f"CASE {' '.join(cases)} END" if cases else "CAST(NULL AS VARCHAR)"


def _just_over(within_ms: int) -> str:
    return f"ms_played >= $stream_ms AND ms_played < $stream_ms + {within_ms}"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
