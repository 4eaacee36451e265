"""Splits, conditions, ranges and grains of `run_query`, and recorded points."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest

from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.metrics.formulas import Standing
from analytics_dagster.metrics.query import DayReader, MetricQuery, run_query

if TYPE_CHECKING:
    from tests.metrics.conftest import Figures


def _plays(*cells: tuple[str, str | None, str | None]) -> list[dict[str, object]]:
    return [{"ts": ts, "country": c, "tier": t, "listener_id": f"{c}-{t}", "ms_played": 60_000} for ts, c, t in cells]


@pytest.fixture
def listening(figures: Figures) -> Figures:
    figures.write(
        "plays",
        _plays(
            ("2026-01-31 23:59", "DE", "free"),
            ("2026-02-01 00:00", "DE", "free"),
            ("2026-02-01 10:00", None, "premium"),
            ("2026-02-01 11:00", None, None),
            ("2026-02-03 12:00", "US", "premium"),
        ),
    )
    return figures


def test_a_day_without_rows_is_absent(listening: Figures) -> None:
    assert listening.ask("plays") == [("2026-01-31 00:00", 1.0), ("2026-02-01 00:00", 3.0), ("2026-02-03 00:00", 1.0)]


def test_hours_weeks_and_months_begin_where_they_should(listening: Figures) -> None:
    assert [row[0] for row in listening.ask("plays", grain="hour")] == [
        "2026-01-31 23:00", "2026-02-01 00:00", "2026-02-01 10:00", "2026-02-01 11:00", "2026-02-03 12:00",
    ]  # fmt: skip
    assert listening.ask("plays", grain="week") == [("2026-01-26 00:00", 4.0), ("2026-02-02 00:00", 1.0)]
    assert listening.ask("plays", grain="month") == [("2026-01-01 00:00", 1.0), ("2026-02-01 00:00", 4.0)]


def test_both_ends_of_a_range_are_included_and_either_may_be_open(listening: Figures) -> None:
    first, last = dt.date(2026, 2, 1), dt.date(2026, 2, 3)
    assert listening.ask("plays", first=first, last=last) == [("2026-02-01 00:00", 3.0), ("2026-02-03 00:00", 1.0)]
    assert listening.ask("plays", first=last) == [("2026-02-03 00:00", 1.0)]
    assert listening.ask("plays", last=first) == [("2026-01-31 00:00", 1.0), ("2026-02-01 00:00", 3.0)]


def test_a_dimension_without_a_value_is_a_group_of_its_own_and_stays_null(listening: Figures) -> None:
    day = dt.date(2026, 2, 1)
    assert listening.ask("plays", first=day, last=day, by=("country", "tier")) == [
        ("2026-02-01 00:00", None, None, 1.0),
        ("2026-02-01 00:00", None, "premium", 1.0),
        ("2026-02-01 00:00", "DE", "free", 1.0),
    ]
    assert listening.ask("dau", first=day, last=day, by=("tier",)) == [
        ("2026-02-01 00:00", None, 1.0), ("2026-02-01 00:00", "free", 1.0), ("2026-02-01 00:00", "premium", 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("condition", "plays"),
    [
        ('country="DE"', 2), ("country='DE'", 2), ("country = DE", 2), ('country!="DE"', 3), ('country=""', 2),
        ('country=~"D.|US"', 3), ('country=~"D"', 0), ('country!~"D."', 3), ('country=~""', 2), ('country="D\'E"', 0),
    ],
)  # fmt: skip
def test_conditions_mean_what_they_mean_in_prometheus(listening: Figures, condition: str, plays: int) -> None:
    assert sum(row[-1] for row in listening.ask("plays", where=(condition,))) == plays


def test_several_conditions_must_all_hold(listening: Figures) -> None:
    assert listening.ask("plays", where=('tier="premium"', 'country!=""')) == [("2026-02-03 00:00", 1.0)]


def test_a_tenant_without_rows_gets_an_empty_answer(figures: Figures) -> None:
    assert figures.ask("plays", by=("country",), where=('tier="free"',)) == []
    assert figures.ask("api_p95_latency") == []


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"metric": "skiprate"}, r"no metric 'skiprate'; did you mean 'skip_rate'"),
        ({"metric": "plays", "by": ("countri",)}, r"no dimension 'countri'; did you mean 'country'.*it has country, tier"),
        ({"metric": "plays", "where": ('cuntry="x"',)}, r"no dimension 'cuntry'; did you mean 'country'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(figures: Figures, question: dict[str, object], message: str) -> None:
    with pytest.raises(NotFoundError, match=message):
        figures.ask(**question)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"where": ("country",)}, "is not a condition; write for example"),
        ({"where": ('country=="x"',)}, "is not a condition"),
        ({"where": ('country=~"("',)}, r"is not a regular expression of RE2"),
        ({"where": ('country=~"(?=x)"',)}, r"is not a regular expression of RE2"),
        ({"grain": "year"}, "grain 'year' is not known; one of minute, hour, day, week, month"),
        ({"by": ("country", "country")}, "already has a column"),
        ({"aggregate": "max"}, "aggregate is for recorded points"),
    ],
)
def test_a_question_that_cannot_be_answered_says_why(figures: Figures, question: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        figures.ask("plays", **question)


def _payments(figures: Figures, *amounts: tuple[str | None, int | None]) -> None:
    ts = "2026-01-31 10:00"
    figures.write(
        "subscriptions",
        [{"ts": ts, "listener_id": "l", "event": "renewal", "amount_minor": a, "currency": c} for c, a in amounts],
    )


def test_revenue_of_one_currency_needs_no_split(figures: Figures) -> None:
    _payments(figures, ("EUR", 100), ("EUR", 50), (None, None))
    assert figures.value("revenue") == 150


def test_revenue_of_two_currencies_is_never_added_up(figures: Figures) -> None:
    _payments(figures, ("EUR", 100), ("USD", 50))
    with pytest.raises(UserError, match=r"'revenue' of different currency .*EUR, USD.*--by currency.*--where 'currency=\"EUR\"'"):
        figures.ask("revenue")
    assert figures.ask("revenue", by=("currency",)) == [("2026-01-31 00:00", "EUR", 100.0), ("2026-01-31 00:00", "USD", 50.0)]
    assert figures.value("revenue", where=('currency="USD"',)) == 50
    with pytest.raises(UserError, match="cannot be added up"):
        figures.ask("revenue_per_payment", where=('currency=~".*"',))
    assert figures.value("cancellations") == 0


def test_money_without_a_currency_is_not_added_to_money_with_one(figures: Figures) -> None:
    _payments(figures, ("EUR", 100), (None, 50))
    with pytest.raises(UserError, match="EUR, none given"):
        figures.ask("revenue")


def _points(figures: Figures, *points: tuple[str, str, str, float | None, str | None]) -> None:
    figures.write("metrics", [{"ts": t, "name": n, "type": k, "value": v, "labels": ls} for t, n, k, v, ls in points])


def test_a_recorded_gauge_gives_the_mean_and_any_aggregate_that_is_asked_for(figures: Figures) -> None:
    a, b = '{"host":"a"}', '{"host":"b","zone":"x"}'
    _points(
        figures,
        ("2026-01-31 10:00", "queue", "gauge", 1.0, a),
        ("2026-01-31 11:00", "queue", "gauge", 4.0, b),
        ("2026-01-31 10:30", "queue", "gauge", 10.0, None),
        ("2026-01-31 11:30", "queue", "gauge", float("inf"), b),
        ("2026-01-31 11:31", "queue", "gauge", None, b),
    )
    expected = {None: 5.0, "avg": 5.0, "sum": 15.0, "min": 1.0, "max": 10.0, "last": 4.0, "count": 3.0}
    assert {name: figures.value("queue", aggregate=name) for name in expected} == expected
    day = "2026-01-31 00:00"
    assert figures.ask("queue", by=("host",)) == [(day, None, 10.0), (day, "a", 1.0), (day, "b", 4.0)]
    assert figures.value("queue", where=('host=~"a|b"',)) == 2.5
    with pytest.raises(NotFoundError, match=r"no label 'hst'; did you mean 'host'.*its labels are host, zone"):
        figures.ask("queue", by=("hst",))
    with pytest.raises(UserError, match="recorded as a gauge; percentiles are kept for histogram and timer"):
        figures.ask("queue", aggregate="p95")
    with pytest.raises(UserError, match="aggregate 'mean' is not known; one of avg, sum"):
        figures.ask("queue", aggregate="mean")


def test_a_recorded_timer_keeps_its_distribution(figures: Figures) -> None:
    _points(figures, *((f"2026-01-31 {n % 24:02}:00", "load", "timer", float(n), None) for n in range(1, 101)))
    assert figures.value("load") == 50.5
    assert figures.value("load", aggregate="p95") == pytest.approx(95, rel=0.0101)


def test_a_recorded_name_wins_over_a_declared_one(figures: Figures) -> None:
    _points(figures, ("2026-01-31 10:00", "api_error_ratio", "gauge", 0.25, '{"endpoint":"/play"}'))
    assert figures.ask("api_error_ratio", by=("endpoint",)) == [("2026-01-31 00:00", "/play", 0.25)]
    assert figures.ask("high_error_rate") == []


def test_a_label_may_have_a_quote_in_its_value_but_never_reaches_the_query(figures: Figures) -> None:
    _points(figures, ("2026-01-31 10:00", "odd's", "gauge", 1.0, '{"host":"a\'b\\"c"}'))
    assert figures.ask("odd's", by=("host",), where=('host="a\'b\\"c"',)) == [("2026-01-31 00:00", "a'b\"c", 1.0)]


def test_labels_that_are_no_json_count_as_none(figures: Figures) -> None:
    _points(figures, *(("2026-01-31 10:00", "queue", "gauge", 1.0, labels) for labels in ("{broken", "", "[1]", '{"host":7}')))
    assert figures.ask("queue", by=("host",), aggregate="count") == [
        ("2026-01-31 00:00", None, 3.0),
        ("2026-01-31 00:00", "7", 1.0),
    ]


def test_a_day_reader_answers_from_memory_what_a_query_answers_from_files(listening: Figures) -> None:
    first, last = dt.date(2026, 2, 1), dt.date(2026, 2, 3)
    with DayReader(listening.tenant, listening.catalogue, first, last) as reader:
        for metric in listening.catalogue.metrics:
            by = (metric.formula.dimension,) if isinstance(metric.formula, Standing) else ()
            question = MetricQuery(metric.name, first, last, by=by)
            assert reader.query(metric, by).equals(run_query(listening.tenant, listening.catalogue, question))
        streams, narrow = listening.catalogue.metric("streams"), ('country!="US"',)
        asked = MetricQuery("streams", last, last, by=("tier",), where=narrow)
        assert reader.query(streams, ("tier",), narrow, since=last).equals(
            run_query(listening.tenant, listening.catalogue, asked)
        )
        assert reader.values(listening.catalogue.family("listening"), "tier") == ["premium", "free"]  # premium in two cells


def test_a_total_is_one_bucket_for_the_whole_range_and_merges_what_cannot_be_added(listening: Figures) -> None:
    first, last = dt.date(2026, 2, 1), dt.date(2026, 2, 28)
    assert listening.ask("plays", first=first, last=last, grain="total") == [("2026-02-01 00:00", 4.0)]
    # DE-free listened on two days, and is one listener.
    assert listening.ask("dau", grain="total", by=("tier",)) == [
        ("2026-01-31 00:00", None, 1.0), ("2026-01-31 00:00", "free", 1.0), ("2026-01-31 00:00", "premium", 2.0),
    ]  # fmt: skip
    assert listening.ask("mau", first=first, last=last, grain="total") == [("2026-02-01 00:00", 4.0)]
    with pytest.raises(UserError, match="its grain is day, not total"):
        listening.ask("stickiness", grain="total")


def test_a_rate_in_total_is_over_the_seconds_of_the_range(figures: Figures) -> None:
    samples = [("2026-02-01 00:00", 0), ("2026-02-01 10:00", 600), ("2026-02-02 10:00", 900)]
    figures.write(
        "metrics", [{"ts": ts, "name": "sent", "type": "counter", "value": float(v), "labels": "{}"} for ts, v in samples]
    )
    days = {"first": dt.date(2026, 2, 1), "last": dt.date(2026, 2, 4)}
    assert figures.value("sent", aggregate="rate", grain="total", **days) == pytest.approx(900 / (4 * 86_400))
    assert figures.value("sent", aggregate="rate", grain="total") == pytest.approx(900 / (2 * 86_400))
