"""Gate, score, recommendations and scorecard."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.errors import IntegrityError
from analytics_dagster.lake.lake import Lake
from analytics_dagster.quality.gate import gate
from analytics_dagster.quality.results import CheckOutcome, Dimension, Expectation, ExpectationType, Measure, Severity
from analytics_dagster.quality.score import WEIGHTS, check_score, day_scores, recommendations
from analytics_dagster.quality.scorecard import SCORECARD, scorecard_rows

MONDAY = date(2026, 3, 2)


def outcome(**values: Any) -> CheckOutcome:
    standard: dict[str, Any] = {
        "tenant": "acme",
        "day": MONDAY,
        "asset": "raw/plays",
        "check": "listener_is_known",
        "severity": Severity.CRITICAL,
        "passed": True,
        "observed": 0.0,
        "expected": "at most 5 %",
        "description": "Plays name a listener.",
        "dimension": Dimension.COMPLETENESS,
        "score": 100.0,
        "finding": "0 %, expected at most 5 %",
        "remedy": "Mend the client.",
    }
    return CheckOutcome(**standard | values)


def expectation(severity: Severity = Severity.CRITICAL, **values: Any) -> Expectation:
    return Expectation("c", "d.", severity, Dimension.VALIDITY, Measure.SHARE, "r.", bad="true", **values)


def test_a_failed_critical_check_closes_only_its_own_tenant_and_day() -> None:
    bad = outcome(passed=False)
    others = [
        outcome(tenant="b"),
        outcome(day=MONDAY + timedelta(days=1)),
        outcome(check="x", passed=False, severity=Severity.WARNING),
    ]
    assert gate([*others, bad, outcome(check="keys_are_unique", passed=False)]) == {
        ("acme", MONDAY): ("listener_is_known", "keys_are_unique")
    }
    assert gate(others) == {}


@pytest.mark.parametrize(
    ("check", "observed", "passed", "score"),
    [
        (expectation(maximum=0.05), 0.04, True, 100),
        (expectation(maximum=0.05), 0.1, False, 50),
        (expectation(Severity.WARNING, maximum=0.05), 0.1, False, 75),
        (expectation(maximum=0), 3, False, 0),
        (expectation(minimum=0.5, maximum=2), 0.25, False, 50),
        (expectation(minimum=0.5, maximum=2), 8, False, 25),
        (expectation(minimum=0.5), -1, False, 0),
        (expectation(expect=ExpectationType.IN_SET, values=(1.0,)), 2, False, 0),
    ],
)
def test_a_checks_score_is_how_much_of_the_finding_was_allowed(
    check: Expectation, observed: float, passed: bool, score: float
) -> None:
    assert check_score(check, observed, passed) == pytest.approx(score)


@given(st.floats(0, 1e9), st.floats(1e-6, 1e9), st.sampled_from(list(Severity)))
def test_a_checks_score_is_0_to_100_and_never_better_for_more(observed: float, limit: float, severity: Severity) -> None:
    check = expectation(severity, maximum=limit)
    one, more = (check_score(check, value, value <= limit) for value in (observed, observed * 1.5))
    assert 0 <= more <= one <= 100


def test_a_days_score_weighs_each_dimension_by_its_weakest_check() -> None:
    outcomes = [
        outcome(),
        outcome(check="b", score=60.0, severity=Severity.WARNING, passed=False),
        outcome(check="c", dimension=Dimension.VALIDITY),
    ]
    [score] = day_scores(outcomes)
    assert score.dimensions == {Dimension.COMPLETENESS: 60.0, Dimension.VALIDITY: 100.0}
    assert score.score == pytest.approx((0.30 * 60 + 0.25 * 100) / 0.55, abs=0.01)
    assert not score.closed
    assert sum(WEIGHTS.values()) == pytest.approx(1)


def test_a_closed_day_scores_at_most_half() -> None:
    good = [outcome(check=f"c{n}", dimension=dimension) for n, dimension in enumerate(Dimension)]
    [score] = day_scores([*good, outcome(passed=False, score=95.0)])
    assert (score.score, score.closed) == (50.0, True)


def test_recommendations_name_tenant_table_days_finding_and_what_to_do_critical_first() -> None:
    days = [MONDAY + timedelta(days=n) for n in (0, 1, 5)]
    warnings = [outcome(check="w", severity=Severity.WARNING, passed=False, score=80.0, day=day) for day in days]
    worst = outcome(day=days[1], passed=False, score=10.0, finding="50 %, expected at most 5 %")
    assert recommendations([*warnings, outcome(passed=False, score=40.0), worst, outcome(tenant="b")]) == [
        "acme, raw/plays, 2026-03-02 to 2026-03-03: listener_is_known (critical) found 50 %, expected at most 5 % on 2026-03-03. "
        "Mend the client.",
        "acme, raw/plays, 2026-03-02 to 2026-03-03, 2026-03-07: w (warning) found 0 %, expected at most 5 % on 2026-03-02. "
        "Mend the client.",
    ]


def test_the_scorecard_lies_in_the_lake_and_is_replaced_by_days(tmp_path: Path) -> None:
    table = Lake(str(tmp_path / "lake"), tmp_path / "locks").tenant("acme").table(SCORECARD)
    next_day = MONDAY + timedelta(days=1)
    outcomes = [outcome(), outcome(check="b", passed=False, score=30.0, observed=0.2), outcome(day=next_day)]
    for _ in range(2):
        table.overwrite_days(scorecard_rows(outcomes), MONDAY, next_day)
    rows = sorted(table.read().to_pylist(), key=lambda row: row["verdict_id"])
    assert [row["verdict_id"] for row in rows] == [
        "2026-03-02/raw/plays/b",
        "2026-03-02/raw/plays/listener_is_known",
        "2026-03-03/raw/plays/listener_is_known",
    ]
    assert (rows[0]["ts"], rows[0]["observed"], rows[0]["check_score"]) == (datetime(2026, 3, 2, tzinfo=UTC), 0.2, 30.0)
    assert {row["score"] for row in rows[:2]} == {30.0}


def test_a_scorecard_of_several_tenants_is_refused_and_of_nothing_is_empty() -> None:
    with pytest.raises(IntegrityError, match="acme, b"):
        scorecard_rows([outcome(), outcome(tenant="b")])
    assert scorecard_rows([]).schema.equals(SCORECARD.arrow)
