"""Which buckets a metric has figures of, and why not of the others."""

from __future__ import annotations

from analytics_dagster.metrics.ahead import ahead_of, days_after
from analytics_dagster.metrics.composed import daily, parts_of
from analytics_dagster.metrics.declarations import Catalogue, Family, Grain, Metric
from analytics_dagster.metrics.formulas import MeasureFigure
from analytics_dagster.metrics.plan import longest_window

_PARTS_OF_A_DAY = (Grain.MINUTE, Grain.HOUR)


def grains_of(metric: Metric, catalogue: Catalogue) -> tuple[Grain, ...]:
    """The grains that may be asked for, the finest first: those that all families have which the metric reads."""
    families = [catalogue.family_of(metric), *map(catalogue.family, metric.others)]
    return tuple(grain for grain in Grain if all(why_not(grain, family, metric) is None for family in families))


def why_not(grain: Grain, family: Family, metric: Metric) -> str | None:
    """Why a metric has no figures of a grain, as far as one of its families says; None where it has."""
    name, finer = f"metric {metric.name!r}", grain in _PARTS_OF_A_DAY
    if finer and Grain.HOUR not in family.grains:
        return f"{name} is kept by the day; its grain is day, week or month, not {grain}"
    if grain is Grain.MINUTE and grain not in family.grains:
        return f"{name} is kept by the hour; its semantic model may set time_granularity: minute"
    parts = parts_of(metric.formula)
    if finer and any(map(daily, parts)):
        return f"{name} is told by the day; its grain is day, week, month or total, not {grain}"
    if window := longest_window(metric.formula):
        rolling = all(daily(part) or (isinstance(part, MeasureFigure) and part.window) for part in parts)
        if finer or (grain is not Grain.DAY and not rolling):
            allowed = "day, week, month and total" if rolling else "day"
            return f"{name} is told over {window} days; its grain is {allowed}, not {grain}"
    if finer and ahead_of(metric.formula):
        return f"{name} looks {days_after(metric.formula)} days ahead; its grain is day, week, month or total, not {grain}"
    return None
