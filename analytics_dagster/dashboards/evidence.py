"""What stands beside the figures of a page: how fresh they are, how their checks went, forecasts, odd days, findings, alerts.

Read from what the graph has published; nothing is computed here that Dagster computes.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from analytics_dagster.dashboards.feedback import Feedback, Verdict, finding_id, story_of
from analytics_dagster.dashboards.view import Days
from analytics_dagster.lake.compute import connect
from analytics_dagster.lake.publications import Status
from analytics_dagster.lake.schemas import QUARANTINE, RESTATEMENTS, Layer, TableSchema

if TYPE_CHECKING:
    from analytics_dagster.installation import Installation
    from analytics_dagster.lake.lake import TenantLake
    from analytics_dagster.metrics.declarations import Catalogue

MOST_ALERTS = 200
MOST_RESTATED = 200
"""Restated figures of a panel, the newest."""
AHEAD = dt.timedelta(days=28)
"""How far a picture looks ahead at most."""
_FORECAST_LIVES = dt.timedelta(days=14)
"""A forecast made longer ago than this is not shown: a newer one should be there."""
_ESCAPED = re.compile(r"\\([\\`*_{}\[\]<>#|!~])")


@dataclass(frozen=True)
class Source:
    """One aggregate asset: the first and the newest day that it holds rows of."""

    asset: str
    first: dt.date
    newest: dt.date


@dataclass(frozen=True)
class Trust:
    """How far the page can be trusted. `through`: newest day with figures; `current`: the sources that have it.

    passed, failed: data checks of that day; gated: assets whose newest figures are held back by a critical check; restated:
    changes of whole figures of the four weeks up to that day.
    """

    through: dt.date
    sources: tuple[Source, ...]
    passed: int
    failed: tuple[str, ...]
    gated: tuple[str, ...]
    quarantined: int
    run_id: str | None
    published_at: dt.datetime | None
    sequence: int
    restated: int = 0

    @property
    def current(self) -> int:
        return sum(source.newest >= self.through for source in self.sources)


@dataclass(frozen=True)
class Driver:
    """Where a finding's difference lies: its share of the difference, and the element's figures."""

    dimension: str
    element: str
    share: float
    actual: float
    expected: float


@dataclass(frozen=True)
class Told:
    """A finding of `insights/daily` as it was written, and what people said of it. also: metrics that tell the same story."""

    rank: int
    kind: str
    metric: str
    claim: str
    change: float | None
    score: float | None
    drivers: tuple[Driver, ...]
    mix: Mapping[str, Any] | None
    element: tuple[str, str] | None
    id: str = ""
    also: tuple[str, ...] = ()
    verdict: str | None = None

    @property
    def mixed(self) -> bool:
        """Whether the total says something else than its parts do (`insights.drivers.MixChange.misleading`)."""
        if not self.mix:
            return False
        within, mix, total = (float(self.mix[name]) for name in ("within", "mix", "total"))
        return within * total < 0 or abs(mix) > abs(within)


@dataclass(frozen=True)
class Findings:
    """What `insights/daily` says of a day; `headline` is None where no page was written; `dismissed` are left out."""

    day: dt.date
    headline: str | None
    told: tuple[Told, ...]
    dismissed: int = 0


@dataclass(frozen=True)
class Check:
    """The newest verdict of one data check, and how often it failed in the view's days."""

    asset: str
    name: str
    severity: str
    passed: bool
    finding: str
    failed_days: int
    judged_days: int


@dataclass(frozen=True)
class Restatement:
    """A published figure of a closed day that changed. `dimensions` empty: the whole figure; `at`: when it was noted (UTC)."""

    at: dt.datetime
    day: dt.date
    metric: str
    unit: str
    dimensions: Mapping[str, str | None]
    old: float | None
    new: float | None
    cause: str
    run: str


@dataclass(frozen=True)
class Alert:
    """An alert instance, or a change of one."""

    rule: str
    labels: Mapping[str, str]
    state: str
    severity: str
    value: float | None
    at: dt.datetime
    reason: str = ""


class Evidence:
    """Reads it, for one tenant and as of the view's last day."""

    def __init__(self, installation: Installation, lake: TenantLake) -> None:
        self._installation, self._lake = installation, lake
        self._kept: dict[tuple[str, Days], pa.Table] = {}

    def trust(self) -> Trust | None:
        """None while nothing is published for the tenant."""
        publications = self._installation.publications
        sources = self._sources()
        if not sources:
            return None
        through = max(source.newest for source in sources)
        records = publications.of(tenant=self._lake.tenant, first=through, last=through)
        newest = max(records, key=lambda record: record.published_at, default=None)
        checks = self._verdicts(Days(through, through))
        return Trust(
            through,
            sources,
            sum(checks["passed"].to_pylist()),
            tuple(sorted({v["check_name"] for v in checks.to_pylist() if not v["passed"]})),
            tuple(sorted(record.asset for record in records if record.status is Status.GATED)),
            self._quarantined(),
            newest.run_id if newest else None,
            newest.published_at if newest else None,
            self._sequence(),
            self._restated(Days(through - AHEAD + dt.timedelta(days=1), through)),
        )

    def forecast(self, metric: str, last: dt.date) -> pa.Table | None:
        """ts, yhat, lo_95, hi_95: the newest forecast that was made on or before `last`, from the day after it was made."""
        rows = self._forecasts(last)
        mine = rows.filter(pc.and_(pc.equal(rows["metric"], metric), pc.less_equal(rows["made_on"], pa.scalar(last))))
        made_on = pc.max(mine["made_on"]).as_py()
        if made_on is None or made_on < last - _FORECAST_LIVES:
            return None
        return mine.filter(pc.equal(mine["made_on"], pa.scalar(made_on))).sort_by("ts")

    def foretold(self, metric: str, day: dt.date) -> tuple[float, float] | None:
        """The 95 % band that the last forecast made before `day` gave it."""
        rows = self._forecasts(day)
        mine = rows.filter(pc.and_(pc.equal(rows["metric"], metric), pc.less(rows["made_on"], pa.scalar(day))))
        of_day = [row for row in mine.to_pylist() if row["ts"].date() == day and row["lo_95"] is not None]
        newest = max(of_day, key=lambda row: row["made_on"], default=None)
        return (newest["lo_95"], newest["hi_95"]) if newest else None

    def anomalies(self, metric: str, days: Days) -> pa.Table:
        """ts, value, anomaly, expected, lo, hi, reason of the days that were judged."""
        rows = self._judged(days)
        return rows.filter(pc.equal(rows["metric"], metric)).sort_by("ts")

    def findings(self, day: dt.date) -> Findings:
        """The page of `day`, or the last one within a week before it."""
        from analytics_dagster.insights.page import INSIGHTS

        rows = self._lake.table(INSIGHTS).read(day - dt.timedelta(days=6), day).to_pylist()
        newest = max((row["ts"] for row in rows), default=None)
        mine = sorted((row for row in rows if row["ts"] == newest), key=lambda row: row["rank"])
        headline = next((plain(row["claim"]) for row in mine if row["rank"] == 0), None)
        day = newest.date() if newest else day
        said = Feedback(self._installation.database, self._installation.clock).verdicts(self._lake.tenant, day)
        every = [_told(row, said) for row in mine if row["rank"] > 0]
        kept = tuple(told for told in every if told.verdict != Verdict.DISMISS)
        # The headline is about the first finding.
        first = headline if len(kept) == len(every) or not kept or kept[0] == every[0] else kept[0].claim
        return Findings(day, first if kept or not every else "Nothing else unusual", kept, len(every) - len(kept))

    def checks(self, days: Days) -> list[Check]:
        """Every check of the days: failing ones first, critical before warnings."""
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in self._verdicts(days).sort_by("ts").to_pylist():
            found.setdefault((row["asset"], row["check_name"]), []).append(row)
        made = [
            Check(asset, name, rows[-1]["severity"], rows[-1]["passed"], rows[-1]["finding"],
                  sum(not row["passed"] for row in rows), len(rows))
            for (asset, name), rows in found.items()
        ]  # fmt: skip
        return sorted(made, key=lambda c: (c.passed, c.severity != "critical", -c.failed_days, c.asset, c.name))

    def check_days(self, days: Days) -> pa.Table:
        """ts, passed, failed: how many checks by day."""
        verdicts = self._verdicts(days)
        counted = verdicts.append_column("n", pc.cast(verdicts["passed"], pa.int64())).group_by("ts").aggregate(
            [("n", "sum"), ("n", "count")]
        )  # fmt: skip
        failed = pc.subtract(counted["n_count"], counted["n_sum"])
        return pa.table({"ts": counted["ts"], "passed": counted["n_sum"], "failed": failed}).sort_by("ts")

    def restatements(self, days: Days, catalogue: Catalogue) -> list[Restatement]:
        """What changed of the days' published figures, the newest change first; whole figures before their parts."""
        from analytics_dagster.metrics.ledger import restatements

        rows = restatements(self._lake, first=days.first, last=days.last).to_pylist()
        rows.sort(
            key=lambda row: (-row["ts"].timestamp(), row["split_by"] is not None, row["day"], row["metric"], row["dimensions"])
        )
        return [
            Restatement(
                row["ts"], row["day"], row["metric"], metric.unit if (metric := catalogue.find(row["metric"])) else "",
                json.loads(row["dimensions"]), row["old"], row["new"], row["cause"], row["run"],
            )
            for row in rows[:MOST_RESTATED]
        ]  # fmt: skip

    def alerts(self) -> tuple[list[Alert], list[Alert]]:
        """What is pending or firing now, worst first; and the last changes, newest first."""
        import sqlalchemy as sa

        from analytics_dagster.alerts.rules import Severity
        from analytics_dagster.lake.state_tables import alert_instances as instances
        from analytics_dagster.lake.state_tables import alert_transitions as transitions

        mine = sa.select(instances).where(instances.c.tenant == self._lake.tenant)
        past = sa.select(transitions).where(transitions.c.tenant == self._lake.tenant)
        with self._installation.database.read() as connection:
            now = [
                Alert(r.rule, json.loads(r.labels), r.state, r.severity, r.value, r.fired_at or r.active_since)
                for r in connection.execute(mine)
            ]
            before = [
                Alert(r.rule, json.loads(r.labels), r.to_state, "", r.value, r.at, r.reason)
                for r in connection.execute(past.order_by(transitions.c.id.desc()).limit(MOST_ALERTS))
            ]
        return sorted(now, key=lambda a: (a.state != "firing", -Severity(a.severity).rank, a.at)), before

    # --- tables, each read once

    def _forecasts(self, day: dt.date) -> pa.Table:
        from analytics_dagster.ml.forecast import FORECASTS

        return self._once("forecasts", FORECASTS, Days(day - _FORECAST_LIVES, day + AHEAD))

    def _judged(self, days: Days) -> pa.Table:
        from analytics_dagster.ml.anomaly import ANOMALIES

        return self._once("anomalies", ANOMALIES, days)

    def _verdicts(self, days: Days) -> pa.Table:
        from analytics_dagster.quality.scorecard import SCORECARD

        return self._once("verdicts", SCORECARD, days)

    def _once(self, name: str, schema: TableSchema, days: Days) -> pa.Table:
        if (name, days) not in self._kept:
            self._kept[name, days] = self._lake.table(schema).read(days.first, days.last)
        return self._kept[name, days]

    def _quarantined(self) -> int:
        table = self._lake.table(QUARANTINE)
        if not table.exists():
            return 0
        with connect() as connection:
            [counted] = connection.execute(f"SELECT count(*) FROM {table.sql()}").fetchall()
        return int(counted[0])

    def _restated(self, days: Days) -> int:
        table = self._lake.table(RESTATEMENTS)
        if not table.exists():
            return 0
        with connect() as connection:
            query = f"SELECT count(*) FROM {table.sql()} WHERE split_by IS NULL AND day BETWEEN ? AND ?"
            [counted] = connection.execute(query, [days.first, days.last]).fetchall()
        return int(counted[0])

    def _sources(self) -> tuple[Source, ...]:
        import sqlalchemy as sa

        from analytics_dagster.lake.schemas import FIRST_DAY
        from analytics_dagster.lake.state_tables import publications as table

        mine = (table.c.tenant == self._lake.tenant, table.c.asset.startswith(f"{Layer.AGGREGATES}/"), table.c.rows > 0)
        query = sa.select(table.c.asset, sa.func.min(table.c.day), sa.func.max(table.c.day)).where(
            *mine, table.c.day >= FIRST_DAY
        )
        with self._installation.database.read() as connection:
            return tuple(Source(*row) for row in connection.execute(query.group_by(table.c.asset).order_by(table.c.asset)))

    def _sequence(self) -> int:
        """Rises when anything of the tenant is published anew: what a page is made from has not changed while this has not."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import publications as table

        query = sa.select(sa.func.max(table.c.sequence)).where(table.c.tenant == self._lake.tenant)
        with self._installation.database.read() as connection:
            return int(connection.execute(query).scalar() or 0)


def plain(markdown: str) -> str:
    """A claim as it was before `insights.claims.escaped` made it safe for markdown: a page escapes in its own way."""
    return _ESCAPED.sub(r"\1", markdown)


def _told(row: Mapping[str, Any], said: Mapping[str, Verdict]) -> Told:
    more = json.loads(row["drivers"]) if row["drivers"] else {}
    element = more.get("element")
    named = (element["dimension"], element["element"]) if element else None
    story = story_of(row["metric"], named, row["change"])
    return Told(
        row["rank"],
        row["kind"],
        row["metric"],
        plain(row["claim"]),
        row["change"],
        row["score"],
        tuple(
            Driver(one["dimension"], one["element"], one["power"], one["actual"], one["expected"])
            for one in more.get("drivers", ())
        ),
        more.get("mix"),
        named,
        finding_id(row["ts"].date(), story),
        tuple(more.get("also", ())),
        said.get(story),
    )
