"""What the platform tells of its own work: measured by a step, published, asked for and judged by rules like any other figure."""

from __future__ import annotations

import datetime as dt
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
from restating import FIRST, LAST, NOW, TENANT, World, play

from analytics_dagster.lake.schemas import MODEL_SCORES
from analytics_dagster.metrics.query import MetricQuery, run_query
from analytics_dagster.ml.forecast import FORECASTS
from analytics_dagster.orchestration.alerting import judge, rule_problems
from analytics_dagster.orchestration.own_figures import build_own_figures
from analytics_dagster.orchestration.tables import catalogue

RULES = """
alert_rules:
  - {name: Silent, query: 'table_age{table_name="plays"}', condition: gt, threshold: 86400, severity: high, for_duration: 0s}
  - {name: Late, query: ingest_lag_p95, condition: gt, threshold: 3600, severity: low, for_duration: 0s}
"""
LOG = logging.getLogger("test")


def _build(world: World, family: str, first: dt.date = FIRST, last: dt.date = LAST) -> None:
    declared = catalogue(world.installation.settings.analytics_metrics)
    built = build_own_figures(world.installation, declared.family(family), [TENANT], first, last, "run", LOG)
    assert built.failed == {}
    assert {p.content.day for p in built.publications} == {first + dt.timedelta(days=n) for n in range((last - first).days + 1)}


def _ask(world: World, metric: str, **question: Any) -> list[tuple[Any, ...]]:
    declared = catalogue(world.installation.settings.analytics_metrics)
    answer = run_query(world.lake, declared, MetricQuery(metric, **question))
    return [(row["ts"].date(), *list(row.values())[1:]) for row in answer.to_pylist()]


def _judged(world: World) -> set[tuple[str, str]]:
    """Rules that changed, and to what."""
    judged = judge(world.installation)
    assert judged.errors == []
    return {(rule, t.after.value) for _, rule, t in judged.transitions}


def test_a_table_that_falls_silent_grows_older_and_a_rule_says_so(home: Path) -> None:
    world = World(home)
    (home / "rules.yaml").write_text(RULES)
    assert list(rule_problems(world.installation)) == []
    world.arrive(play("a"), play("b", LAST))
    world.materialize()
    half_a_day, second = 43_200, FIRST + dt.timedelta(days=1)
    _build(world, "deliveries", FIRST, second)
    assert _judged(world) == {("Silent", "firing")}  # of the second day nothing came, late or not
    _build(world, "deliveries")
    ages = [(FIRST, "plays", half_a_day), (second, "plays", 3 * half_a_day), (LAST, "plays", half_a_day)]
    assert _ask(world, "freshness", by=("table_name",)) == ages
    lag = (NOW - dt.datetime.combine(FIRST, dt.time(12), dt.UTC)).total_seconds()
    [(day, value), _] = _ask(world, "ingest_lag_p95")
    assert (day, abs(value - lag) <= 0.011 * lag) == (FIRST, True)
    assert _judged(world) == {("Silent", "inactive"), ("Late", "firing")}
    # The second day alone: what was newest before it is found all the same.
    _build(world, "deliveries", second, second)
    assert _ask(world, "freshness", by=("table_name",)) == ages
    world.close()


def test_forecasts_are_held_against_what_came(home: Path) -> None:
    world = World(home, small=False)
    world.arrive(play("a"), play("b"), play("c", LAST), play("d", LAST))
    world.materialize()
    rows = [
        {"ts": dt.datetime.combine(LAST, dt.time(), dt.UTC), "metric": "plays", "made_on": FIRST, "yhat": 3.0, "model": "mean"},
    ]
    world.lake.table(FORECASTS).overwrite_days(pa.Table.from_pylist(rows, schema=FORECASTS.arrow), LAST, LAST)
    _build(world, "model_scores")
    assert _ask(world, "forecast_mape", by=("figure", "horizon")) == [(LAST, "plays", "2 to 7 days", 0.5)]
    first = world.lake.table(MODEL_SCORES).read().to_pylist()
    _build(world, "model_scores")
    assert world.lake.table(MODEL_SCORES).read().to_pylist() == first
    world.close()
