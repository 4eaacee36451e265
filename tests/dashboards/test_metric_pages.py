"""The catalogue as pages: every metric has one that says what it is made from, and shows what is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_home import Home, opened

from analytics_dagster.dashboards.metric_pages import figure_sql, metric_page, metrics_page, read_metric
from analytics_dagster.errors import NotFoundError
from analytics_dagster.metrics.declarations import Catalogue


@pytest.fixture(scope="module")
def home(materialized_home: Path) -> Iterator[Home]:
    with opened(materialized_home) as found:
        yield found


def test_the_list_leads_to_every_metric(catalogue: Catalogue) -> None:
    page = metrics_page("aurora", catalogue)
    for metric in catalogue.metrics:
        assert f'href="/dashboards/aurora/metrics/{metric.name}"' in page


def test_a_metrics_page_has_its_formula_lineage_grains_sql_and_newest_weeks(home: Home, catalogue: Catalogue) -> None:
    read = read_metric(home.installation, catalogue, "aurora", "skip_rate")
    assert {origin.source for origin in read.origins} == {"raw/plays"}
    assert {column for origin in read.origins for column in origin.columns} >= {"ms_played"}
    assert [str(grain) for grain in read.grains] == ["hour", "day", "week", "month", "total"]
    [figure] = read.shown
    assert len(figure.days) == 28
    page = metric_page(read)
    assert 'role="img"' in page
    assert "listening_day" in page
    assert str(home.path) not in page
    assert " style=" not in page
    with pytest.raises(NotFoundError, match="did you mean 'skip_rate'"):
        read_metric(home.installation, catalogue, "aurora", "skip_rat")


def test_the_sql_of_every_metric_can_be_told_and_names_no_place_of_the_machine(home: Home, catalogue: Catalogue) -> None:
    lake = home.installation.lake.tenant("aurora")
    for metric in catalogue.metrics:
        sql = figure_sql(lake, catalogue, metric)
        assert f'"{metric.family}_day"' in sql, metric.name
        assert str(home.path) not in sql, metric.name
