"""The gate: which tenant-days must not be published, and why. A warning never closes it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from analytics_dagster.quality.results import CheckOutcome, Severity


def gate(outcomes: Iterable[CheckOutcome]) -> dict[tuple[str, date], tuple[str, ...]]:
    """The tenant-days to close, with the names of their failed critical checks in the order of the outcomes.

    Give it the outcomes of one table to gate what is computed from that table alone.
    """
    closed: dict[tuple[str, date], list[str]] = {}
    for outcome in outcomes:
        if outcome.severity is Severity.CRITICAL and not outcome.passed:
            names = closed.setdefault((outcome.tenant, outcome.day), [])
            if outcome.check not in names:
                names.append(outcome.check)
    return {key: tuple(names) for key, names in closed.items()}
