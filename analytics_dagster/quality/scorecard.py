"""The scorecard: every verdict of a tenant's days as a table of the lake, for charts, queries and alert rules."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import pyarrow as pa

from analytics_dagster.errors import IntegrityError
from analytics_dagster.lake.schemas import TIMESTAMP, Column, Layer, PartitionBy, TableSchema
from analytics_dagster.quality.results import CheckOutcome
from analytics_dagster.quality.score import day_scores

_S, _F, _B = pa.string(), pa.float64(), pa.bool_()

SCORECARD = TableSchema(
    Layer.QUALITY,
    "scorecard",
    "One verdict of one check on one day: what was expected, what was found, and the scores.",
    (
        Column("verdict_id", _S, "Identity: day, table and check.", required=True),
        Column("ts", TIMESTAMP, "Start of the judged day (UTC).", required=True),
        # Not `table` and `check`, which SQL reserves.
        Column("asset", _S, "The judged table's path, for example raw/plays.", required=True),
        Column("check_name", _S, "The check.", required=True),
        Column("dimension", _S, "completeness, validity, uniqueness, timeliness or volume.", required=True),
        Column("severity", _S, "critical (closes the day's gate) or warning.", required=True),
        Column("passed", _B, "The check passed.", required=True),
        Column("observed", _F, "The measured fact: a share is 0 to 1, a count a whole number."),
        Column("expected", _S, "What passes, in words.", required=True),
        Column("finding", _S, "What was found and what was expected, in words.", required=True),
        Column("check_score", _F, "Score of this check alone, 0 to 100.", required=True),
        Column("score", _F, "Score of the tenant's day over all its checks, 0 to 100.", required=True),
    ),
    key="verdict_id",
    partition_by=PartitionBy.MONTH,
)


def scorecard_rows(outcomes: Iterable[CheckOutcome]) -> pa.Table:
    """One tenant's outcomes (of all tables of these days) as rows of `SCORECARD`, by day, table and check.

    Raises IntegrityError when they are of several tenants: a scorecard lies in its tenant's own lake.
    """
    own = sorted(outcomes, key=lambda outcome: (outcome.day, outcome.asset, outcome.check))
    if len(tenants := sorted({outcome.tenant for outcome in own})) > 1:
        raise IntegrityError(f"a scorecard holds one tenant's verdicts, not those of {', '.join(tenants)}; write one each")
    scores = {score.day: score.score for score in day_scores(own)}
    rows = [
        {
            "verdict_id": f"{outcome.day}/{outcome.asset}/{outcome.check}",
            "ts": datetime(outcome.day.year, outcome.day.month, outcome.day.day, tzinfo=UTC),
            "asset": outcome.asset,
            "check_name": outcome.check,
            "dimension": str(outcome.dimension),
            "severity": str(outcome.severity),
            "passed": outcome.passed,
            "observed": outcome.observed,
            "expected": outcome.expected,
            "finding": outcome.finding,
            "check_score": outcome.score,
            "score": scores[outcome.day],
        }
        for outcome in own
    ]
    return pa.Table.from_pylist(rows, schema=SCORECARD.arrow)
