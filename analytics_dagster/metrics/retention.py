"""Retention: of those who came for the first time on a day, how many were there again so many days or weeks later.

retention(c, k) = ids of cohort c active in period k / size of c. The *cohort* of a day are the ids that the measure counts on it
and on none of the `new_after` days before: who is new, and who is back after so long. So a figure needs only so much history,
and is the same whatever range is asked for; in the first `new_after` days of a tenant everybody seems new. Periods are counted
from each id's own first day and not from a Monday: period k of `length` days is the days k * length to (k + 1) * length - 1 after
it, so period 0 begins with that day. Each period stands alone: who is there in period 8 and not in 7 counts in 8 only. By week
and month a cohort is those whose first day lies in it, each with periods of its own. All from sets of ids by day, so exact but
for clashes of hashes.
"""

from __future__ import annotations

from analytics_dagster.lake.compute import identifier as q
from analytics_dagster.metrics.ahead import EVERY, REACHING, Asked
from analytics_dagster.metrics.declarations import Measure
from analytics_dagster.metrics.formulas import Retention

PERIOD = "period"
"""What a question about retention may be split by beside dimensions: the periods from 0 to the metric's own."""


def retention_figures(retention: Retention, measure: Measure, asked: Asked, *, every_period: bool = False) -> str:
    """A SELECT of ts (bucket of the first day), the keys, `period` and `figure`: 0 where nobody came back, absent until the
    period is over. `every_period` gives the periods from 0 on; else there is only the one that the metric tells.
    """
    keys, ids = "".join(f", {key}" for key in asked.keys), q(measure.columns[0].name)
    seen = f"SELECT DISTINCT ts, unnest({ids}) AS id FROM {EVERY}"
    marked = "SELECT ts, id, lag(ts) OVER (PARTITION BY id ORDER BY ts) AS seen_before FROM seen"
    new = f"seen_before IS NULL OR seen_before < ts - INTERVAL {retention.new_after} DAY"
    newcomers = f"SELECT ts, id FROM ({marked}) WHERE ({new}) AND {asked.range.condition()}"
    here = f"SELECT DISTINCT ts{keys}, unnest({ids}) AS id FROM {REACHING} WHERE {asked.range.condition()}"
    parts = {
        "seen": seen,
        "newcomers": newcomers,
        "cohort": f"SELECT {asked.bucket} AS bucket{keys}, ts, id FROM ({here}) JOIN newcomers USING (ts, id)",
        "sizes": f"SELECT bucket, ts{keys}, count(*) AS size FROM cohort GROUP BY bucket, ts{keys}",
    }
    with_ = f"WITH {', '.join(f'{name} AS ({sql})' for name, sql in parts.items())}"
    if retention.period is None:
        size = "CAST(sum(size) AS DOUBLE)"
        return f"{with_} SELECT bucket AS ts{keys}, NULL AS {PERIOD}, {size} AS figure FROM sizes GROUP BY bucket{keys}"
    first, length = 0 if every_period else retention.period, retention.length
    came = (
        f"SELECT DISTINCT newcomers.ts, id, date_diff('day', newcomers.ts, seen.ts) // {length} AS {PERIOD} "
        f"FROM newcomers JOIN seen USING (id) WHERE seen.ts >= newcomers.ts + INTERVAL {first * length} DAY "
        f"AND seen.ts < newcomers.ts + INTERVAL {(retention.period + 1) * length} DAY"
    )
    told = f"SELECT ts{keys}, {PERIOD}, count(*) AS n FROM cohort JOIN came USING (ts, id) GROUP BY ts{keys}, {PERIOD}"
    same = "".join(f" AND told.{key} IS NOT DISTINCT FROM sizes.{key}" for key in asked.keys)
    split = "".join(f", sizes.{key}" for key in asked.keys)
    number = "CAST(coalesce(sum(told.n), 0) AS DOUBLE)"
    over = f"(periods.{PERIOD} + 1) * {length} - 1"
    return (
        f"{with_}, came AS ({came}), told AS ({told}) SELECT sizes.bucket AS ts{split}, periods.{PERIOD}, "
        f"{f'{number} / sum(size)' if retention.rate else number} AS figure "
        f"FROM sizes CROSS JOIN (SELECT unnest(generate_series({first}, {retention.period})) AS {PERIOD}) AS periods "
        f"LEFT JOIN told ON told.ts = sizes.ts AND told.{PERIOD} = periods.{PERIOD}{same} "
        f"WHERE {asked.ended('sizes.bucket', 'sizes.ts', over)} GROUP BY sizes.bucket{split}, periods.{PERIOD}"
    )


def period_text(retention: Retention) -> str:
    """SQL for a period as text, with leading zeros where the last has more digits, so that they sort."""
    return f"lpad(CAST({PERIOD} AS VARCHAR), {len(str(retention.period))}, '0')"
