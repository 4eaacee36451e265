"""The page of a tenant's day: what changed, what is odd, what comes next, with the figures behind it. Asset `insights/daily`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import pyarrow as pa

from analytics_dagster.insights.claims import claim, escaped, weekday, where
from analytics_dagster.insights.findings import Day, Finding, Found, Kind, find
from analytics_dagster.insights.numbers import NOTHING, change, figure
from analytics_dagster.insights.outlook import forecast_lines
from analytics_dagster.insights.series import Series
from analytics_dagster.insights.significance import FALSE_SHARE
from analytics_dagster.lake.schemas import TIMESTAMP, Column, Layer, PartitionBy, TableSchema

MOST_FINDINGS = 5
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)

INSIGHTS = TableSchema(
    Layer.INSIGHTS,
    "daily",
    "What changed on a day, ranked. Rank 0 is the headline and carries the page; the others are single findings.",
    (
        Column("ts", TIMESTAMP, "Start of the day (UTC).", required=True),
        Column("rank", pa.int64(), "0 for the headline, then 1, 2, ... by score.", required=True),
        Column("kind", pa.string(), "headline, change, part, odd or missing.", required=True),
        Column("metric", pa.string(), "Declared metric; empty for the headline."),
        Column("claim", pa.string(), "The finding in words.", required=True),
        Column("change", pa.float64(), "Against the expected value: a share of it, for ratios the difference (0.01 is 1 pp)."),
        Column("score", pa.float64(), "Impact times significance, 0 to 1."),
        Column("drivers", pa.string(), "Where the change lies, as JSON."),
        Column("page", pa.string(), "The whole page as markdown; only in the headline's row."),
    ),
    key="ts",
    partition_by=PartitionBy.MONTH,
)


@dataclass(frozen=True)
class Checks:
    """How the day's data checks went. gated: a critical one failed, so the day's figures are those of the last good run."""

    passed: int
    failed: tuple[str, ...] = ()
    gated: bool = False
    quarantined_share: float | None = None


@dataclass(frozen=True)
class DailyInsights:
    """One tenant's day in words. `judged` is the number of series that were looked at."""

    tenant: str
    day: date
    headline: str
    findings: tuple[Finding, ...]
    forecast_lines: tuple[str, ...]
    quality_line: str
    judged: int
    markdown: str
    claims: tuple[str, ...]

    def rows(self) -> pa.Table:
        """Rows of INSIGHTS."""
        ts = datetime(self.day.year, self.day.month, self.day.day, tzinfo=UTC)
        rows: list[dict[str, object]] = [
            {"ts": ts, "rank": 0, "kind": "headline", "claim": self.headline, "score": None, "page": self.markdown}
        ]
        for rank, (finding, words) in enumerate(zip(self.findings, self.claims, strict=True), start=1):
            rows.append(
                {
                    "ts": ts,
                    "rank": rank,
                    "kind": str(finding.kind),
                    "metric": finding.metric,
                    "claim": words,
                    "change": finding.change,
                    "score": finding.score,
                    "drivers": _drivers_json(finding),
                }
            )
        return pa.Table.from_pylist(rows, schema=INSIGHTS.arrow)


def daily_insights(
    tenant: str,
    day: date,
    series: Sequence[Series],
    *,
    anomalies: pa.Table | None = None,
    forecasts: pa.Table | None = None,
    checks: Checks | None = None,
) -> DailyInsights:
    """Write the page of one tenant's day.

    series: every KPI with at least HISTORY_DAYS of days up to `day` where they exist (later days are not looked at).
    anomalies: rows of models/anomaly of the day. forecasts: rows of forecasts/kpi, those made on `day` and older ones for
    its last week. Equal input gives an equal page.
    """
    found = find(day, series, anomalies)
    named = {one.metric: one for one in series}
    lines = forecast_lines(day, series, forecasts)
    quality = quality_line(checks)
    headline = _headline(day, found, named)
    claims = tuple(claim(finding, named, day) for finding in found.findings)
    markdown = "\n".join(
        [
            f"# {weekday(day)}, {day.day} {_MONTHS[day.month - 1]} {day.year}: {escaped(tenant)}",
            "",
            f"**{headline}.**",
            "",
            quality,
            "",
            *_told(found, claims, named),
            *_figures(day, found.days, named),
            *(["## What comes next", "", *(f"- {line}" for line in lines), ""] if lines else []),
            _footnote(found),
        ]
    )
    return DailyInsights(tenant, day, headline, found.findings, lines, quality, found.judged, markdown + "\n", claims)


def quality_line(checks: Checks | None) -> str:
    """How far the figures can be trusted, in one line."""
    if checks is None:
        return "Checks: none ran for this day."
    total = checks.passed + len(checks.failed)
    line = f"Checks: {checks.passed} of {total} passed"
    if checks.failed:
        line += f"; failed: {', '.join(escaped(name) for name in checks.failed)}"
    if checks.quarantined_share is not None:
        line += f"; {_share(checks.quarantined_share)} of the records quarantined"
    if checks.gated:
        line += ". **The day is gated: figures are those of the last run that passed**"
    return line + "."


def _share(share: float) -> str:
    return "none" if share == 0 else f"{share * 100:.2g} %"


def _headline(day: date, found: Found, series: dict[str, Series]) -> str:
    missing = [finding for finding in found.findings if finding.kind is Kind.MISSING]
    if missing and len(missing) == len([one for one in found.days if not math.isnan(one.expected)]):
        return "No data came in for this day"
    if not found.findings:
        if found.judged == 0:
            return "Too little history to judge this day: six weeks are needed"
        return f"Nothing unusual; {found.judged} series checked"
    first = found.findings[0]
    words = claim(first, series, day)
    usual = next((one for one in found.days if one.metric == first.metric), None)
    if usual is not None and first.kind is Kind.CHANGE:
        low, high = _range(usual, series[first.metric])
        words += f"; it usually lies between {low} and {high}"
    others = len(found.findings) - 1
    return words + (f". {others} further finding{'s' if others > 1 else ''}" if others else "")


def _range(day: Day, series: Series) -> tuple[str, str]:
    low, high = day.expected - 2 * day.deviation, day.expected + 2 * day.deviation
    most = {"ratio": 1.0, "percent": 100.0}.get(series.unit)
    high = high if most is None or day.value > most else min(high, most)
    return figure(max(low, 0.0) if day.value >= 0 and day.expected >= 0 else low, series.unit), figure(high, series.unit)


def _told(found: Found, claims: Sequence[str], series: dict[str, Series]) -> list[str]:
    if not found.findings:
        return []
    days = {one.metric: one for one in found.days}
    lines = ["## What changed", ""]
    for rank, (finding, words) in enumerate(zip(found.findings[:MOST_FINDINGS], claims, strict=False), start=1):
        mark = {True: " (bad)", False: " (good)", None: ""}[finding.bad]
        lines.append(f"{rank}. **{words}**{mark}")
        beside = f"With it: {', '.join(escaped(series[metric].name) for metric in finding.also)}" if finding.also else ""
        details = [
            where(finding, series),
            beside,
            _against(days[finding.metric], series[finding.metric], finding),
            _sure(finding),
        ]
        lines += [f"   - {detail}" for detail in details if detail]
    more = len(found.findings) - MOST_FINDINGS
    if more > 0:
        lines.append(f"\n{more} more: {'; '.join(claims[MOST_FINDINGS:])}.")
    return [*lines, ""]


def _against(day: Day, series: Series, finding: Finding) -> str:
    if finding.kind is Kind.MISSING or finding.element is not None:
        return ""
    return (
        f"A week before: {figure(day.week_ago, series.unit)} ({change(day.value, day.week_ago, series.unit)}); "
        f"mean of the 28 days before: {figure(day.mean_28, series.unit)} ({change(day.value, day.mean_28, series.unit)})"
    )


def _sure(finding: Finding) -> str:
    parts = []
    if math.isfinite(finding.z):
        chance = "less than 1 in 10,000" if finding.p < 1e-4 else f"about 1 in {max(1, round(1 / finding.p)):,}"
        parts.append(f"{abs(finding.z):.1f} usual deviations; chance alone: {chance}")
    if finding.reason:
        parts.append(f"the anomaly model agrees: {escaped(finding.reason)}")
    return "; ".join(parts)


def _figures(day: date, days: Sequence[Day], series: dict[str, Series]) -> list[str]:
    lines = [
        "## Figures",
        "",
        f"| | {weekday(day)} | usual range | a week before | 28-day mean |",
        "|---|---:|---:|---:|---:|",
    ]
    for one in days:
        about = series[one.metric]
        usual = " to ".join(_range(one, about)) if math.isfinite(one.expected) and math.isfinite(one.deviation) else NOTHING
        lines.append(
            f"| {escaped(about.name)} | {figure(one.value, about.unit)} | {usual} "
            f"| {change(one.value, one.week_ago, about.unit)} | {change(one.value, one.mean_28, about.unit)} |"
        )
    return [*lines, ""] if days else []


def _footnote(found: Found) -> str:
    return (
        f"{found.judged} series judged against the same weekday of their last eight weeks; of the findings at most "
        f"{FALSE_SHARE * 100:.0f} % are expected to be chance (Benjamini-Hochberg). "
        "Shares of a difference say where it lies, not why. Days are UTC."
    )


def _drivers_json(finding: Finding) -> str | None:
    parts: dict[str, object] = {}
    if finding.element is not None:
        parts["element"] = {"dimension": finding.element[0], "element": finding.element[1]}
    if finding.drivers:
        parts["drivers"] = [
            {
                "dimension": one.dimension,
                "element": one.element,
                "actual": one.actual,
                "expected": one.expected,
                "power": round(one.power, 6),
                "surprise": round(one.surprise, 6),
                **({"shares": list(one.shares)} if one.shares else {}),
            }
            for one in finding.drivers
        ]
    if finding.also:
        parts["also"] = list(finding.also)
    if finding.evenly:
        parts["evenly"] = list(finding.evenly)
    if finding.mix is not None:
        mix = finding.mix
        parts["mix"] = {"dimension": mix.dimension, "within": mix.within, "mix": mix.mix, "cross": mix.cross, "total": mix.total}
    return json.dumps(parts, sort_keys=True) if parts else None
