"""Conversions: of those who did one thing on a day, how many did another within so many days that begin with it.

MetricFlow (https://docs.getdbt.com/docs/build/conversion) joins the events of one entity where the base event is not after the
conversion and less than the window before it, gives each conversion to the newest such base event, and counts conversions over
base events by the base event's time. Ours is made from sets of ids by day, and differs in three ways: ids are counted, not
conversions, so a rate is never above 1; the window is of whole days in UTC, of which the base day is the first, and within that
day the order is not known; and every base day stands alone, so who began twice before converting converted from both days. The
two agree where an id begins at most once, and converts at most once, within a window.
"""

from __future__ import annotations

from analytics_dagster.lake.compute import identifier as q
from analytics_dagster.metrics.ahead import EVERY, REACHING, Asked
from analytics_dagster.metrics.declarations import Measure
from analytics_dagster.metrics.formulas import Conversion


def conversion_figures(conversion: Conversion, base: Measure, converted: Measure, asked: Asked) -> str:
    """A SELECT of ts (bucket of the base day), the keys and `figure`: 0 where nobody converted, absent while a window is open."""
    keys = "".join(f", {key}" for key in asked.keys)
    began = f"SELECT DISTINCT ts{keys}, unnest({q(base.columns[0].name)}) AS id FROM {REACHING} WHERE {asked.range.condition()}"
    went = f"SELECT DISTINCT ts, unnest({q(converted.columns[0].name)}) AS id FROM {EVERY}"
    # To the first conversion that is not before: whether it is near enough is all that is asked.
    paired = (
        f"SELECT {asked.bucket} AS bucket, ts{keys}, id, next_ts < ts + INTERVAL {conversion.window} DAY AS converted FROM ("
        f"SELECT began.*, went.ts AS next_ts FROM began ASOF LEFT JOIN went ON began.id = went.id AND began.ts <= went.ts)"
    )
    # One who begins on several days of a bucket counts once.
    number = "CAST(count(DISTINCT id) FILTER (WHERE converted) AS DOUBLE)"
    figure = f"{number} / count(DISTINCT id)" if conversion.rate else number
    return (
        f"WITH began AS ({began}), went AS ({went}) SELECT bucket AS ts{keys}, {figure} AS figure FROM ({paired}) "
        f"WHERE {asked.ended('bucket', 'ts', str(conversion.window - 1))} GROUP BY bucket{keys}"
    )
