"""What the catalogue says of its figures: which may be added up, which buckets there are, and when a metric is another one."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analytics_dagster.errors import UserError
from analytics_dagster.metrics.additivity import Additivity, additivity
from analytics_dagster.metrics.declarations import Catalogue, Grain
from analytics_dagster.metrics.formulas import Standing
from analytics_dagster.metrics.grains import grains_of
from analytics_dagster.metrics.load import load_catalogue

CLASSES = {
    "plays": "sum",
    "ad_revenue": "sum",
    "net_new_mrr": "sum",
    "skip_rate": "ratio",
    "ecpm": "derived",
    "artist_growth": "derived",
    "daily_active_listeners": "distinct",
    "weekly_active_listeners": "cumulative",
    "api_p95_latency": "distribution",
    "cpu_usage_max_percent": "max",
    "free_to_premium_conversion": "conversion",
    "day_7_retention": "retention",
    "country_concentration": "concentration",
    "track_time_to_peak": "time_to_peak",
}
OWN = """
metrics:
  - name: long_plays
    description: Plays that were heard out.
    type: derived
    type_params: {expr: "EXPR"}
    unit: plays
    direction: neutral
    owner: me
"""


@pytest.mark.parametrize(("name", "expected"), CLASSES.items())
def test_a_formula_says_how_its_figures_are_put_together(catalogue: Catalogue, name: str, expected: str) -> None:
    assert additivity(catalogue.metric(name), catalogue) == expected


@pytest.mark.parametrize(
    ("expr", "expected"),
    {
        "(plays - streams) / 2": "sum",
        "-plays + 3 * streams": "sum",
        "plays / streams": "derived",
        "plays * streams": "derived",
        "plays + 1": "derived",
        "greatest(plays, streams)": "derived",
        "plays - daily_active_listeners": "derived",
    }.items(),
)
def test_only_sums_of_figures_times_constants_may_be_added(declare: Callable[[str], Path], expr: str, expected: str) -> None:
    own = load_catalogue(declare(OWN.replace("EXPR", expr)))
    assert additivity(own.metric("long_plays"), own) == expected


def test_what_is_said_to_add_up_does(figures: Any, catalogue: Catalogue) -> None:
    chance = random.Random(5)
    figures.write(
        "plays",
        [
            {
                "ts": f"2026-01-{chance.randint(5, 11):02} {chance.randint(0, 23):02}:00",
                "listener_id": f"l{chance.randint(1, 9)}",
                "country": chance.choice(["DE", "US", None]),
                "tier": chance.choice(["free", "premium"]),
                "device": chance.choice(["phone", "car"]),
                "playlist_id": chance.choice(["p", None]),
                "ms_played": chance.choice([4_000, 40_000, None]),
            }
            for _ in range(200)
        ],
        only="listening",
    )
    family = catalogue.family("listening")
    sums = [m for m in family.metrics if additivity(m, catalogue) is Additivity.SUM]
    assert len(sums) >= 4
    for metric in sums:
        whole = figures.value(metric.name, grain="total")
        assert sum(row[-1] for row in figures.ask(metric.name, grain="hour")) == whole
        for dimension in family.dimensions:
            assert sum(row[-1] for row in figures.ask(metric.name, grain="total", by=(dimension.name,))) == whole
    listeners = [row[-1] for row in figures.ask("daily_active_listeners", by=("country",), grain="week")]
    assert sum(listeners) > figures.value("daily_active_listeners", grain="week")


def test_a_metric_answers_in_the_grains_that_are_told_and_in_no_other(figures: Any, catalogue: Catalogue) -> None:
    kinds = {m.type: m for m in catalogue.metrics}
    for metric in kinds.values():
        told = grains_of(metric, catalogue)
        by = (metric.formula.dimension,) if isinstance(metric.formula, Standing) else ()
        assert Grain.DAY in told
        for grain in Grain:
            if grain in told:
                assert figures.ask(metric.name, grain=grain, by=by) == []
            else:
                with pytest.raises(UserError, match=metric.name):
                    figures.ask(metric.name, grain=grain, by=by)


def test_a_metric_has_another_version_when_its_figures_could_be_others(declare: Callable[..., Path]) -> None:
    def versions(text: str) -> tuple[str, str]:
        own = load_catalogue(declare(text))
        return own.version_of(own.metric("long_plays")), own.version_of(own.metric("plays"))

    first = versions(OWN.replace("EXPR", "plays - streams"))
    assert versions(OWN.replace("EXPR", "plays - streams").replace("heard out", "heard to their end")) == first
    changed = versions(OWN.replace("EXPR", "plays - 2 * streams"))
    assert changed[0] != first[0]
    assert changed[1] == first[1]
