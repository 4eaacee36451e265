"""A page's data as documents: one JSON object with everything, or one long table of every figure for CSV and Parquet."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from analytics_dagster.dashboards import advice
from analytics_dagster.dashboards.evidence import Findings, Trust
from analytics_dagster.dashboards.figures import Leaderboard, Value
from analytics_dagster.dashboards.happenings import Mark
from analytics_dagster.dashboards.page import Page, Panel, Trend
from analytics_dagster.lake.schemas import TIMESTAMP

MOST_ROWS = 100_000
"""Rows of a table document; what is beyond is named in a last line."""
TABLE = pa.schema(
    [
        pa.field("panel", pa.string()),
        pa.field("metric", pa.string()),
        pa.field("unit", pa.string()),
        pa.field("dimension", pa.string()),
        pa.field("element", pa.string()),
        pa.field("ts", TIMESTAMP),
        pa.field("value", pa.float64()),
        pa.field("compared", pa.float64()),
        pa.field("suppressed", pa.bool_()),
    ]
)
"""One row for each figure. `ts` is empty where the figure is of the whole period; `compared` is the comparison's figure.
`suppressed`: it is of people, and rests on too few of them to be told.
"""


def as_json(page: Page) -> bytes:
    """Everything that the page says. Times are ISO 8601; figures are whole doubles; what there is none of is null."""
    document = {
        "tenant": page.tenant,
        "dashboard": page.board.name,
        "title": page.board.title,
        "period": {"first": str(page.days.first), "last": str(page.days.last), "days": len(page.days), "grain": str(page.grain)},
        "compared": {"first": str(page.compared.first), "last": str(page.compared.last)} if page.compared else None,
        "filters": [{"dimension": f.dimension, "operator": str(f.operator), "values": list(f.values)} for f in page.view.filters],
        "freshness": _trust(page.trust),
        "panels": [_panel(panel) for panel in page.panels],
        "milliseconds": page.milliseconds,
    }
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


def as_table(page: Page) -> pa.Table:
    """Every figure of the page in TABLE's columns."""
    rows = [row for number, panel in enumerate(page.panels, start=1) for row in _rows(f"{number} {panel.kind}", panel)]
    return pa.Table.from_pylist(rows, schema=TABLE)


def as_csv(page: Page) -> bytes:
    """`as_table` as CSV with a header; a cut table says so in its last line."""
    table = as_table(page)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.column_names)
    for row in table.slice(0, MOST_ROWS).to_pylist():
        row["ts"] = row["ts"].strftime("%Y-%m-%dT%H:%M:%SZ") if row["ts"] else ""
        row["suppressed"] = "true" if row["suppressed"] else None
        writer.writerow(["" if value is None else value for value in row.values()])
    if table.num_rows > MOST_ROWS:
        writer.writerow([f"# cut after {MOST_ROWS} of {table.num_rows} rows; ask for a shorter period"])
    return out.getvalue().encode()


def as_parquet(page: Page) -> bytes:
    """`as_table` as Parquet, at most MOST_ROWS rows; the file's metadata says `truncated` where more were there."""
    import pyarrow.parquet as pq

    table = as_table(page)
    cut = table.slice(0, MOST_ROWS).replace_schema_metadata({"truncated": str(table.num_rows > MOST_ROWS).lower()})
    sink = io.BytesIO()
    pq.write_table(cut, sink, compression="zstd")
    return sink.getvalue()


def insights_json(tenant: str, found: Findings, trust: Trust | None) -> bytes:
    """A day's findings and what is wrong with its data. Each has its evidence, a recommendation, and the address of a page."""
    document = {
        "tenant": tenant,
        "day": str(found.day),
        "headline": found.headline,
        "findings": [
            {**one, "link": advice.link(tenant, found.day, told)} for one, told in zip(_findings(found), found.told, strict=True)
        ],
        "dismissed": found.dismissed,
        "warnings": [
            {"kind": w.kind, "claim": w.claim, "evidence": list(w.evidence), "recommendation": w.recommendation, "link": w.link}
            for w in advice.warnings(tenant, found.day, trust)
        ],
        "freshness": _trust(trust),
    }
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


def _trust(trust: Trust | None) -> dict[str, Any] | None:
    if trust is None:
        return None
    return {
        "through": str(trust.through),
        "sources": [{"asset": source.asset, "newest": str(source.newest)} for source in trust.sources],
        "checks": {"passed": trust.passed, "failed": list(trust.failed)},
        "gated": list(trust.gated),
        "quarantined": trust.quarantined,
        "restated": trust.restated,
        "run": trust.run_id,
        "published_at": trust.published_at.isoformat() if trust.published_at else None,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    made: dict[str, Any] = {"kind": panel.kind, "title": panel.form.title}
    match panel.kind:
        case "leaderboards":
            made["leaderboards"] = [_leaderboard(board) for board in panel.leaderboards]
        case "findings" if panel.findings is not None:
            made["day"] = str(panel.findings.day)
            made["headline"] = panel.findings.headline
            made["findings"] = _findings(panel.findings)
        case "checks":
            made["checks"] = [
                {"asset": c.asset, "check": c.name, "severity": c.severity, "passed": c.passed, "finding": c.finding,
                 "failed_days": c.failed_days, "judged_days": c.judged_days}
                for c in panel.checks
            ]  # fmt: skip
        case "restatements":
            made["restatements"] = [
                {"at": r.at.isoformat(), "day": str(r.day), "metric": r.metric, "dimensions": dict(r.dimensions), "old": r.old,
                 "new": r.new, "cause": r.cause, "run": r.run}
                for r in panel.restated
            ]  # fmt: skip
        case "alerts":
            for name, alerts in (("now", panel.firing), ("changes", panel.past)):
                made[name] = [
                    {"rule": a.rule, "labels": dict(a.labels), "state": a.state, "severity": a.severity or None,
                     "value": a.value, "at": a.at.isoformat(), "reason": a.reason or None}
                    for a in alerts
                ]  # fmt: skip
        case _:
            made["metrics"] = [_trend(trend) for trend in panel.trends]
            made["without_figures"] = list(panel.empty)
    return made


def _findings(found: Findings) -> list[dict[str, Any]]:
    return [
        {
            "id": told.id,
            "rank": told.rank,
            "kind": told.kind,
            "metric": told.metric,
            "claim": told.claim,
            "change": told.change,
            "score": told.score,
            "element": {"dimension": told.element[0], "element": told.element[1]} if told.element else None,
            "drivers": [
                {"dimension": d.dimension, "element": d.element, "share": d.share, "actual": d.actual, "expected": d.expected}
                for d in told.drivers
            ],
            "mix": dict(told.mix) if told.mix else None,
            "also": list(told.also),
            "recommendation": advice.recommendation(told),
            "feedback": told.verdict,
        }
        for told in found.told
    ]


def _trend(trend: Trend) -> dict[str, Any]:
    figure = trend.figure
    return {
        "metric": figure.shown.name,
        "title": figure.shown.title,
        "unit": figure.shown.unit,
        "direction": str(figure.shown.metric.direction),
        "basis": str(figure.basis),
        **_value(figure.value),
        "band": trend.band,
        "not_filtered_by": [f.dimension for f in figure.shown.not_filtered],
        "series": [{"ts": str(day), "value": value} for day, value in figure.days],
        "compared_series": [{"ts": str(day), "value": value} for day, value in figure.compared],
        "forecast": [{"ts": str(day), "yhat": yhat, "lo_95": low, "hi_95": high} for day, yhat, low, high in trend.forecast],
        "anomalies": [{"ts": str(day), "value": value, "reason": reason or None} for day, value, reason in trend.odd],
        "annotations": [_mark(mark) for mark in trend.marks],
    }


def _mark(mark: Mark) -> dict[str, Any]:
    return {
        "kind": str(mark.kind), "from": str(mark.first), "to": str(mark.last), "text": mark.text, "metric": mark.metric,
        "where": mark.condition, "id": mark.id, "author": mark.author or None,
    }  # fmt: skip


def _leaderboard(board: Leaderboard) -> dict[str, Any]:
    places = [
        {"element": p.element, "name": p.name, "share": p.share, **_value(p.value), "suppressed": p.suppressed}
        for p in board.places
    ]
    other = {"elements": board.left_out, "share": board.other.share, **_value(board.other.value)} if board.other else None
    return {"metric": board.shown.name, "by": board.dimension, "title": board.title, "rows": places, "other": other,
            "left_out": board.left_out}  # fmt: skip


def _value(value: Value) -> dict[str, Any]:
    return {"value": value.now, "compared": value.before, "change": value.change}


def _rows(name: str, panel: Panel) -> Iterator[dict[str, Any]]:
    for trend in panel.trends:
        shown = trend.figure.shown
        common = {"panel": name, "metric": shown.name, "unit": shown.unit}
        yield {**common, "value": trend.figure.value.now, "compared": trend.figure.value.before}
        compared = [value for _, value in trend.figure.compared]
        for place, (day, value) in enumerate(trend.figure.days):
            ts = dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)
            yield {**common, "ts": ts, "value": value, "compared": compared[place] if place < len(compared) else None}
    for board in panel.leaderboards:
        places = [*board.places, *([board.other] if board.other else [])]
        for one in places:
            element = one.element if one is not board.other else f"(other: {board.left_out})"
            yield {
                "panel": name, "metric": board.shown.name, "unit": board.shown.unit, "dimension": board.dimension,
                "element": element, "value": one.value.now, "compared": one.value.before, "suppressed": one.suppressed,
            }  # fmt: skip
