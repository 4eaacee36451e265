"""The page of a tenant's day."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from analytics_dagster.insights.findings import Kind
from analytics_dagster.insights.outlook import last_week_off
from analytics_dagster.insights.page import INSIGHTS, Checks, DailyInsights, daily_insights
from analytics_dagster.insights.series import Series
from analytics_dagster.lake.schemas import TIMESTAMP

Service = Callable[..., list[Series]]
LAST = date(2026, 6, 16)  # the service's last day, a Tuesday


def page(series: list[Series], **changed: object) -> DailyInsights:
    return daily_insights("acme", LAST, series, **changed)  # type: ignore[arg-type]


def forecasts(made_on: date, yhat: float, days: int = 14) -> pa.Table:
    start = datetime(made_on.year, made_on.month, made_on.day, tzinfo=UTC)
    return pa.table(
        {
            "ts": pa.array([start + timedelta(days=i + 1) for i in range(days)], TIMESTAMP),
            "metric": ["plays"] * days,
            "made_on": pa.array([made_on] * days, pa.date32()),
            "yhat": [yhat] * days,
            "lo_95": [yhat * 0.9] * days,
            "hi_95": [yhat * 1.1] * days,
            "model": ["prophet+smoothing"] * days,
        }
    )


def without_last_day(series: Series) -> Series:
    keep = pa.array([ts.date() < LAST for ts in series.daily["ts"].to_pylist()])
    return replace(series, daily=series.daily.filter(keep), by={})


def test_on_a_quiet_day_it_says_that_nothing_is_unusual(service: Service) -> None:
    found = page(service())
    assert found.headline == "Nothing unusual; 11 series checked"
    assert found.findings == ()
    assert "| Plays |" in found.markdown
    assert "What changed" not in found.markdown


def test_quiet_days_give_hardly_any_false_findings(service: Service) -> None:
    told = [len(page(service(seed)).findings) for seed in range(40)]
    assert sum(told) <= 4


def test_a_fall_in_one_country_is_told_with_its_country(service: Service) -> None:
    found = page(service(factor={(0, "DE"): 0.4}))
    first = found.findings[0]
    assert (first.kind, first.metric, first.bad) == (Kind.CHANGE, "plays", True)
    assert [driver.element for driver in first.drivers] == ["DE"]
    assert first.change == pytest.approx(-0.2, abs=0.04)
    assert "below a usual Tuesday" in found.headline
    assert "By country: DE" in found.markdown
    assert "caus" not in found.markdown.lower()


def test_a_fall_everywhere_names_nobody(service: Service) -> None:
    first = page(service(factor={(0, "*"): 0.5})).findings[0]
    assert first.drivers == ()
    assert first.evenly == ("country", "tier")


def test_a_small_country_that_halves_is_found_although_the_total_is_quiet(service: Service) -> None:
    found = page(service(2, factor={(0, "SE"): 0.5}))
    [part] = found.findings
    assert (part.kind, part.element) == (Kind.PART, ("country", "SE"))
    assert part.score < 0.2
    assert "Plays with country SE: 233" in found.headline
    assert "below a usual Tuesday" in found.headline


def test_an_old_incident_is_no_news_today(service: Service) -> None:
    assert page(service(factor={(5, "*"): 0.3, (9, "DE"): 4.0})).findings == ()


def test_a_ratio_that_rises_is_split_into_movement_and_mix(service: Service) -> None:
    series = service()
    error = series[2]
    table = error.by["endpoint"]
    today = np.array([ts.date() == LAST for ts in table["ts"].to_pylist()])
    value = np.where(today, 0.04, table["value"].to_numpy())
    daily = error.daily["value"].to_numpy().copy()
    daily[-1] = 0.04
    broken = replace(
        error,
        daily=error.daily.set_column(1, "value", pa.array(daily)),
        by={"endpoint": table.set_column(2, "value", pa.array(value))},
    )
    first = page([*series[:2], broken]).findings[0]
    assert (first.metric, first.bad) == ("api_error_ratio", True)
    assert first.mix is not None
    assert first.mix.within == pytest.approx(first.mix.total)
    assert " pp above a usual Tuesday" in page([*series[:2], broken]).headline


def test_a_missing_figure_is_missing_and_not_zero(service: Service) -> None:
    series = service()
    found = page([without_last_day(series[0]), *series[1:]])
    first = found.findings[0]
    assert first.kind is Kind.MISSING
    assert "no figure for this day" in found.headline
    assert page([without_last_day(one) for one in series]).headline == "No data came in for this day"


def test_a_day_with_too_little_history_is_not_judged(service: Service) -> None:
    found = page(service(days=30))
    assert found.findings == ()
    assert "Too little history" in found.headline


def test_what_the_anomaly_model_calls_odd_is_told_even_when_it_does_not_stand_alone(service: Service) -> None:
    series = service(days=30)
    odd = pa.table(
        {
            "ts": pa.array([datetime(2026, 6, 16, tzinfo=UTC)], TIMESTAMP),
            "metric": ["streams"],
            "anomaly": [True],
            "reason": ["8 is far from 9"],
        }
    )
    found = page(series, anomalies=odd)
    assert [(finding.kind, finding.metric) for finding in found.findings] == [(Kind.ODD, "streams")]
    assert "the anomaly model agrees: 8 is far from 9" in found.markdown


def test_what_comes_next_is_told_with_its_interval_and_last_weeks_error(service: Service) -> None:
    series = service()
    past = np.mean(series[0].daily["value"].to_numpy()[-7:])
    both = pa.concat_tables([forecasts(LAST - timedelta(days=7), past * 1.1), forecasts(LAST, past)])
    found = page(series, forecasts=both)
    assert len(found.forecast_lines) == 1
    line = found.forecast_lines[0]
    assert line.startswith("**Plays**: Wednesday about ")
    assert "95 %:" in line
    assert "next 7 days" in line
    assert "last week's forecast was off by" in line
    assert line in found.markdown


def test_last_weeks_forecast_is_held_to_account_only_once_it_is_a_week_old(service: Service) -> None:
    plays = service()[0]
    said = forecasts(LAST - timedelta(days=6), 1.0)
    assert last_week_off(LAST, plays, said) is None
    perfect = forecasts(LAST - timedelta(days=7), 0.0)
    assert last_week_off(LAST, plays, perfect) == pytest.approx(1.0)


def test_the_checks_are_told_in_one_line(service: Service) -> None:
    found = page(service(), checks=Checks(39, ("raw/plays: not_null",), gated=True, quarantined_share=0.0002))
    assert found.quality_line.startswith(
        "Checks: 39 of 40 passed; failed: raw/plays: not\\_null; 0.02 % of the records quarantined."
    )
    assert "gated" in found.quality_line
    assert "none ran" in page(service()).quality_line


def test_rows_carry_the_page_once_and_every_finding(service: Service) -> None:
    found = page(service(factor={(0, "DE"): 0.4}))
    rows = found.rows()
    assert rows.schema.equals(INSIGHTS.arrow)
    listed = rows.to_pylist()
    assert [row["rank"] for row in listed] == list(range(len(found.findings) + 1))
    assert listed[0]["page"] == found.markdown
    assert all(row["page"] is None for row in listed[1:])
    told = next(row for row in listed if row["metric"] == "plays")
    assert json.loads(told["drivers"])["drivers"][0]["element"] == "DE"
    assert {row["ts"] for row in listed} == {datetime(2026, 6, 16, tzinfo=UTC)}


def test_names_of_others_cannot_break_the_page(service: Service) -> None:
    series = service(factor={(0, "DE"): 0.2})
    country = series[0].by["country"]
    renamed = pa.array(["<b>|[x](y)\n#" if name == "DE" else name for name in country["country"].to_pylist()])
    first = replace(series[0], by={"country": country.set_column(1, "country", renamed)})
    text = page([first]).markdown
    assert "<b>" not in text
    assert r"\<b\>\|\[x\](y) \#" in text


def test_equal_input_gives_an_equal_page(service: Service) -> None:
    assert page(service(factor={(0, "FR"): 2.0})).markdown == page(service(factor={(0, "FR"): 2.0})).markdown


@pytest.mark.alone
def test_a_page_of_ten_kpis_takes_less_than_a_third_of_a_second(service: Service) -> None:
    base = service(factor={(0, "DE"): 0.4})[0]
    many = [
        replace(base, metric=f"plays_{i}", by={**base.by, "again": base.by["country"].rename_columns(["ts", "again", "value"])})
        for i in range(10)
    ]
    page(many)  # imports
    begin = time.process_time()
    page(many)
    assert time.process_time() - begin < 0.3


def test_a_series_is_named_as_people_say_it() -> None:
    table = pa.table({"ts": pa.array([], TIMESTAMP), "value": pa.array([], pa.float64())})
    names = [Series(metric, "", "neutral", table).name for metric in ("api_error_ratio", "dau", 'revenue{currency="EUR"}')]
    assert names == ["API error ratio", "DAU", "Revenue (EUR)"]
