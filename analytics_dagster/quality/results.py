"""The vocabulary of the quality room: a declared check (`Expectation`), its suite, and one verdict (`CheckOutcome`).

Only data lives here. A verdict belongs to one tenant, one UTC day and one check.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from analytics_dagster.lake.schemas import TableSchema


class Severity(StrEnum):
    """A failed critical check closes the tenant-day's gate; a warning only tells."""

    CRITICAL = "critical"
    WARNING = "warning"


class Dimension(StrEnum):
    """What kind of goodness a check speaks of; the score is built per dimension."""

    COMPLETENESS = "completeness"
    VALIDITY = "validity"
    UNIQUENESS = "uniqueness"
    TIMELINESS = "timeliness"
    VOLUME = "volume"


class Measure(StrEnum):
    """How a tenant-day's fact is computed. The fact is one number, or nothing when the day cannot be judged."""

    SHARE = "share"
    """Rows for which `bad` holds / rows among which it is asked."""
    COUNT = "count"
    """Rows for which `bad` holds."""
    DUPLICATES = "duplicates"
    """Rows beyond the first of each combination of `group`."""
    LARGEST_SHARE = "largest_share"
    """Rows of the most frequent combination of `group` / rows."""
    GROUPS = "groups"
    """Combinations of `group` for which the aggregate condition `bad` holds."""
    VOLUME_RATIO = "volume_ratio"
    """Rows / median of the same weekday in the four weeks before."""
    SILENT_HOURS = "silent_hours"
    """Hours of the day, as far as it is over, without a row."""
    UNPROCESSED = "unprocessed"
    """Keys in landing that the raw table does not hold."""


class ExpectationType(StrEnum):
    """Great Expectations' names of the expectations that judge one value at a time, so that each tenant-day has a verdict."""

    BETWEEN = "expect_column_values_to_be_between"
    IN_SET = "expect_column_values_to_be_in_set"
    NOT_IN_SET = "expect_column_values_to_not_be_in_set"


ROW_MEASURES = frozenset({Measure.SHARE, Measure.COUNT})
GROUP_MEASURES = frozenset({Measure.DUPLICATES, Measure.LARGEST_SHARE, Measure.GROUPS})


@dataclass(frozen=True)
class Expectation:
    """One declared check. Its name is also the profile's column and the name of the asset check in the Dagster UI.

    `formats` always know what the check asks for; `formats_if_any` are judged on days on which at least one of their rows
    has it (a CSV without the column is no broken client). Both empty: every row is judged.
    """

    name: str
    description: str
    severity: Severity
    dimension: Dimension
    measure: Measure
    remedy: str
    expect: ExpectationType = ExpectationType.BETWEEN
    minimum: float | None = None
    maximum: float | None = None
    values: tuple[float, ...] = ()
    bad: str | None = None
    among: str | None = None
    formats: tuple[str, ...] = ()
    formats_if_any: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    at_least_rows: int = 1
    at_least_groups: int = 1
    where: str = ""

    @property
    def column(self) -> str:
        """Column of the profile that is judged."""
        return self.name

    @property
    def predicate_sql(self) -> str | None:
        """The SQL condition, over one row (over one group for `groups`), that marks what is wrong."""
        return self.bad

    @property
    def expected(self) -> str:
        """What passes, in words: `at most 5 %`, `at least 0.5 and at most 2`, `one of 1, 2`."""
        if self.expect is not ExpectationType.BETWEEN:
            words = "one of" if self.expect is ExpectationType.IN_SET else "none of"
            return f"{words} {', '.join(self.show(v) for v in self.values)}"
        if self.minimum is None and self.maximum == 0:
            return "none"
        bounds = [("at least", self.minimum), ("at most", self.maximum)]
        return " and ".join(f"{word} {self.show(bound)}" for word, bound in bounds if bound is not None)

    def show(self, value: float) -> str:
        """A measured value as people read it, in the measure's unit."""
        if self.measure in (Measure.SHARE, Measure.LARGEST_SHARE):
            return f"{value * 100:.4g} %"
        if self.measure is Measure.VOLUME_RATIO:
            return f"{value:.3g} times the usual"
        return f"{value:,.6g}" if value != int(value) else f"{int(value):,}"


@dataclass(frozen=True)
class Suite:
    """All checks of one raw event table."""

    table: TableSchema
    description: str
    checks: tuple[Expectation, ...]

    def check(self, name: str) -> Expectation | None:
        return next((c for c in self.checks if c.name == name), None)


@dataclass(frozen=True)
class CheckOutcome:
    """The verdict of one check on one tenant's day.

    `asset` is the judged table's path (`raw/plays`), `observed` the measured fact in the check's unit (a share is 0 to 1),
    `expected` and `finding` are for people, `score` is 0 to 100 for this check alone (see `score.py`).
    """

    tenant: str
    day: date
    asset: str
    check: str
    severity: Severity
    passed: bool
    observed: float | None
    expected: str
    description: str
    dimension: Dimension
    score: float
    finding: str
    remedy: str
