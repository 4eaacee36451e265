"""The quality score of a tenant's day, 0 to 100, and plain sentences about what to do.

The formula is a *policy* of this product (no standard fixes one) and is documented in docs/reference/quality.md; what
closes the gate is `gate.py`, never a score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from analytics_dagster.quality.results import CheckOutcome, Dimension, Expectation, ExpectationType, Severity

WEIGHTS: Mapping[Dimension, float] = {
    Dimension.COMPLETENESS: 0.30,
    Dimension.VALIDITY: 0.25,
    Dimension.UNIQUENESS: 0.20,
    Dimension.VOLUME: 0.15,
    Dimension.TIMELINESS: 0.10,
}
# A day that may not be published never looks good, however well its other checks went.
CLOSED_AT_MOST = 50.0
# A warning costs half of what the same excess costs a critical check.
_WARNING_SHARE = 0.5
# Runs of days that one sentence names before it only counts.
_NAMED_RUNS = 3


@dataclass(frozen=True)
class DayScore:
    """The score of one tenant's day over the outcomes given, with the score of each judged dimension."""

    tenant: str
    day: date
    score: float
    dimensions: Mapping[Dimension, float]
    closed: bool


def check_score(check: Expectation, observed: float, passed: bool) -> float:
    """100 when passed; else how much of the observed excess was allowed: 100 x limit / observed above a maximum,
    100 x observed / limit below a minimum, 0 outside a set. A warning loses half as much.
    """
    if passed:
        return 100.0
    share = 0.0
    if check.expect is ExpectationType.BETWEEN:
        if check.maximum is not None and observed > check.maximum > 0:
            share = check.maximum / observed
        elif check.minimum is not None and 0 <= observed < check.minimum:
            share = observed / check.minimum
    lost = 100.0 * (1 - share) * (_WARNING_SHARE if check.severity is Severity.WARNING else 1.0)
    return 100.0 - lost


def day_scores(outcomes: Iterable[CheckOutcome]) -> list[DayScore]:
    """One score per tenant and day, in that order.

    A dimension is as good as its weakest check; the score is the mean of the judged dimensions by `WEIGHTS`, and at most
    `CLOSED_AT_MOST` where a critical check failed.
    """
    days: dict[tuple[str, date], list[CheckOutcome]] = {}
    for outcome in outcomes:
        days.setdefault((outcome.tenant, outcome.day), []).append(outcome)
    return [_day_score(tenant, day, of_day) for (tenant, day), of_day in sorted(days.items(), key=lambda item: item[0])]


def recommendations(outcomes: Iterable[CheckOutcome]) -> list[str]:
    """What to do, one sentence or two for each failed check of a tenant: critical first, then by tenant, table and check."""
    failed: dict[tuple[bool, str, str, str], list[CheckOutcome]] = {}
    for outcome in outcomes:
        if not outcome.passed:
            warning = outcome.severity is Severity.WARNING
            failed.setdefault((warning, outcome.tenant, outcome.asset, outcome.check), []).append(outcome)
    return [_sentence(failed[key]) for key in sorted(failed)]


def _day_score(tenant: str, day: date, outcomes: Sequence[CheckOutcome]) -> DayScore:
    dimensions = {
        dimension: min(scores)
        for dimension in WEIGHTS
        if (scores := [outcome.score for outcome in outcomes if outcome.dimension is dimension])
    }
    total = sum(WEIGHTS[dimension] * score for dimension, score in dimensions.items())
    score = total / sum(WEIGHTS[dimension] for dimension in dimensions)
    closed = any(not outcome.passed and outcome.severity is Severity.CRITICAL for outcome in outcomes)
    return DayScore(tenant, day, round(min(score, CLOSED_AT_MOST) if closed else score, 2), dimensions, closed)


def _sentence(outcomes: Sequence[CheckOutcome]) -> str:
    worst = min(outcomes, key=lambda outcome: outcome.score)
    days = _days([outcome.day for outcome in outcomes])
    on = f" on {worst.day}" if len(outcomes) > 1 else ""
    return f"{worst.tenant}, {worst.asset}, {days}: {worst.check} ({worst.severity}) found {worst.finding}{on}. {worst.remedy}"


def _days(days: Sequence[date]) -> str:
    """`2026-03-01`, `2026-03-01 to 2026-03-04`, `2026-03-01, 2026-03-09 and 12 more days`."""
    runs: list[list[date]] = []
    for day in sorted(set(days)):
        if runs and day - runs[-1][-1] == timedelta(days=1):
            runs[-1].append(day)
        else:
            runs.append([day])
    named = [f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs[:_NAMED_RUNS]]
    more = sum(len(run) for run in runs[_NAMED_RUNS:])
    return ", ".join(named) + (f" and {more} more day{'s' if more > 1 else ''}" if more else "")
