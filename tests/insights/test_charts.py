"""Pictures: what is in them, how large they are, and that the specification is a valid one."""

from __future__ import annotations

import base64
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from analytics_dagster.errors import UserError
from analytics_dagster.insights import charts
from analytics_dagster.insights.charts import MOST_BYTES, Chart, as_markdown, kpi_chart, overview_chart, quality_chart
from analytics_dagster.insights.series import Series
from analytics_dagster.lake.schemas import TIMESTAMP

Service = Callable[..., list[Series]]
LAST = date(2026, 6, 16)
SVG = "{http://www.w3.org/2000/svg}"


def stamp(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def ahead(metric: str = "plays", level: float = 10_000) -> pa.Table:
    return pa.table(
        {
            "ts": pa.array([stamp(LAST) + timedelta(days=i) for i in range(1, 25)], TIMESTAMP),
            "metric": [metric] * 24,
            "yhat": [level] * 24,
            "lo_95": [level * 0.9] * 24,
            "hi_95": [level * 1.1] * 24,
        }
    )


def odd(series: Series, back: int = 10) -> pa.Table:
    row = series.daily.slice(len(series.daily) - 1 - back, 1)
    return row.append_column("anomaly", pa.array([True])).append_column("metric", pa.array([series.metric]))


def paths(chart: Chart, **wanted: str) -> list[ET.Element]:
    root = ET.fromstring(chart.svg)
    return [
        path for path in root.iter(f"{SVG}path") if all(path.get(key.replace("_", "-")) == value for key, value in wanted.items())
    ]


def test_a_kpi_is_drawn_with_forecast_and_ringed_odd_days(service: Service) -> None:
    plays = service()[0]
    chart = kpi_chart("Plays", plays.daily, ahead(), odd(plays), "plays")
    assert len(paths(chart, stroke=charts.BLUE)) == 1
    assert len(paths(chart, stroke=charts.VERMILION, stroke_dasharray="5,3")) == 1
    assert len(paths(chart, fill=charts.ORANGE)) == 1
    assert len([path for path in paths(chart, stroke=charts.VERMILION) if path.get("stroke-dasharray") is None]) == 1
    assert "odd: 2026-06-06" in chart.title
    assert "forecast for 2026-07-10: 10k" in chart.title


def test_a_picture_says_in_words_what_it_shows(service: Service) -> None:
    root = ET.fromstring(kpi_chart("Plays <&>", service()[0].daily).svg)
    assert root.get("role") == "img"
    title = root[0]
    assert title.tag == f"{SVG}title"
    assert (title.text or "").startswith("Plays <&>: ")
    assert root[1].get("fill") == charts.PAPER  # readable on a dark page too


def test_a_gap_stays_a_gap_and_a_day_alone_stays_visible(service: Service) -> None:
    daily = service()[0].daily
    missing = {LAST - timedelta(days=back) for back in (20, 21, 22, 30, 32)}
    holed = daily.filter(pa.array([ts.date() not in missing for ts in daily["ts"].to_pylist()]))
    chart = kpi_chart("Plays", holed)
    [line] = paths(chart, stroke=charts.BLUE)
    # Four stretches: up to the first gap, the lonely day, between the gaps, after them.
    assert line.get("d", "").count("M") == 4
    assert len(paths(chart, fill=charts.BLUE)) == 1


def test_an_unfinished_day_is_dashed_and_the_forecast_begins_before_it(service: Service) -> None:
    chart = kpi_chart("Plays", service()[0].daily, partial=LAST)
    assert len(paths(chart, stroke=charts.BLUE, stroke_dasharray="2,3")) == 1
    assert str(LAST - timedelta(days=1)) in chart.title


def test_times_are_drawn_in_a_unit_that_people_say(service: Service) -> None:
    daily = service()[0].daily
    svg = kpi_chart("Listen time", daily.set_column(1, "value", pa.compute.multiply(daily["value"], 180.0)), unit="s").svg
    assert "600 h" in svg


def test_pictures_are_small_enough_for_the_event_log(service: Service) -> None:
    series = service()
    assert len(kpi_chart("Plays", series[0].daily, ahead(), odd(series[0])).markdown) < 15_000
    many = [replace(series[0], metric=f"kpi_{i}") for i in range(20)]
    ahead_of_all = pa.concat_tables([ahead(one.metric) for one in many])
    overview = overview_chart("acme", many, ahead_of_all, odd(many[17]))
    assert len(overview.markdown) < MOST_BYTES
    assert overview.title == "20 KPIs of acme (12 shown); odd days in Kpi 17"
    assert "Kpi 17: " in overview.svg


def test_a_picture_that_is_too_large_is_refused() -> None:
    with pytest.raises(UserError, match="show fewer days"):
        as_markdown("<svg>" + "x" * MOST_BYTES + "</svg>")


def test_markdown_holds_the_picture_itself(service: Service) -> None:
    chart = kpi_chart("Plays", service()[0].daily)
    text = chart.markdown
    assert text.startswith("![Plays: ")
    encoded = text.split("base64,", 1)[1].rstrip(")")
    assert base64.b64decode(encoded).decode() == chart.svg


def test_an_overview_shows_every_kpi_with_its_newest_figure(service: Service) -> None:
    chart = overview_chart("acme", service())
    texts = [text.text for text in ET.fromstring(chart.svg).iter(f"{SVG}text")]
    assert any((text or "").startswith("API error ratio: ") for text in texts)
    assert chart.title == "3 KPIs of acme; no odd days"


def test_checks_that_failed_are_marked() -> None:
    checks = pa.table(
        {
            "ts": pa.array([stamp(LAST) - timedelta(days=i) for i in range(30)], TIMESTAMP),
            "passed": [40] * 29 + [37],
            "failed": [0] * 29 + [3],
        }
    )
    chart = quality_chart("Checks of acme", checks)
    assert chart.title == "Checks of acme: checks failed on 1 of 30 days"
    assert len(paths(chart, fill=charts.VERMILION)) == 1


def test_an_empty_series_gives_an_empty_picture() -> None:
    empty = pa.table({"ts": pa.array([], TIMESTAMP), "value": pa.array([], pa.float64())})
    assert kpi_chart("Plays", empty).title == "Plays: no values"
    assert overview_chart("acme", [Series("plays", "plays", "neutral", empty)]).svg.startswith("<svg")


def test_the_same_kpi_gives_the_same_picture(service: Service) -> None:
    assert kpi_chart("Plays", service()[0].daily) == kpi_chart("Plays", service()[0].daily)


def test_what_is_said_of_days_is_the_title_of_its_line_its_triangle_and_its_band() -> None:
    day = date(2026, 2, 3)
    series = pa.table({"ts": [datetime(2026, 2, n, tzinfo=UTC) for n in range(1, 9)], "value": [float(n) for n in range(8)]})
    hostile = 'Launch <b>"A"</b> & "B" stroke="red"'
    marked = [(day, day, hostile), (day, date(2026, 3, 1), "Campaign")]
    svg = kpi_chart("Plays", series, marks=marked).svg
    root = ET.fromstring(svg)
    titles = [(of.tag.rpartition("}")[2], title.text) for of in root.iter() for title in of if title.tag.endswith("title")]
    assert titles[1:].count(("line", hostile)) == titles[1:].count(("path", hostile)) == 1
    assert titles.count(("path", "Campaign")) == 2  # its band, cut at the last day, and its triangle
    assert "2 annotations" in str(titles[0][1])
    assert "Launch" not in kpi_chart("Plays", series).svg


@pytest.mark.parametrize("broken", ["\x01", "\x1f", "\ufffe", "\ud800"])
def test_what_no_picture_can_hold_is_left_out_and_everything_else_is_drawn(broken: str) -> None:
    day = date(2026, 2, 3)
    series = pa.table({"ts": [datetime(2026, 2, n, tzinfo=UTC) for n in range(1, 9)], "value": [float(n) for n in range(8)]})
    marked = [(day, day, f"Cam{broken}paign")]
    assert kpi_chart(f"Pl{broken}ays", series, unit=f"x{broken}", marks=marked).svg == kpi_chart(
        "Plays", series, unit="x", marks=[(day, day, "Campaign")]
    ).svg  # fmt: skip
    shown = overview_chart("acme", [Series("plays", "x", "neutral", series, title=f"Pl{broken}ays")])
    assert "Plays" in "".join(ET.fromstring(shown.svg).itertext())
