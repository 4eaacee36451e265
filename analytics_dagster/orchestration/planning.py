"""Which days, tenants and assets a run should materialize. Pure functions: the command line and the sensors share them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analytics_dagster.ingest.raw import StaleDays
from analytics_dagster.lake.schemas import CATALOGUE_TABLES

# Days without arrivals between two stale days that are worth computing again to have one run and not two: a run costs 3 s,
# a day of one tenant about 20 ms.
GAP_DAYS = 31

# Models, forecasts and insights of older days are made when asked for (--from, a backfill in the UI). 15 years of them would
# be 16,000 events that nobody looks at.
MODEL_DAYS = 366

MODEL_ASSETS = ("models/anomaly", "forecasts/kpi", "insights/daily", "aggregates/model_scores")
SCORECARD = "quality/scorecard"
ABOUT_RAW = (SCORECARD, "aggregates/deliveries")
"""What is told of all raw tables of a day together."""
_CATALOGUE = frozenset(table.path for table in CATALOGUE_TABLES)


def is_catalogue(asset: str) -> bool:
    """Whether an asset is a catalogue table, which has no days."""
    return asset in _CATALOGUE


@dataclass(frozen=True)
class PlannedRun:
    """One run: the days `first` to `last` (both included) of `assets`, for `tenants`."""

    first: dt.date
    last: dt.date
    tenants: tuple[str, ...]
    assets: tuple[str, ...]
    newest: int = 0
    """Newest arrival note that the plan knows of; two plans with one number are about the same arrivals."""

    @property
    def when(self) -> str:
        """Its days in words. Catalogue tables have none."""
        return "the catalogue" if self.is_catalogue else f"{self.first} to {self.last}"

    @property
    def is_catalogue(self) -> bool:
        """Whether it has nothing but catalogue tables."""
        return all(is_catalogue(asset) for asset in self.assets)


def plan_runs(stale: Sequence[StaleDays], families: Iterable[tuple[str, str]], today: dt.date) -> list[PlannedRun]:
    """Runs that bring every stale day up to date, oldest first.

    `families` are pairs of a source table's name and the asset computed from it. Days that are not over (`today`, and what a
    client's clock puts behind it) are a run of their own with figures and no models, which would take half a day for a fall.
    """
    by_source: dict[str, list[str]] = {}
    for source, asset in families:
        by_source.setdefault(source, []).append(asset)
    runs: list[PlannedRun] = []
    days = sorted({day for s in stale for day in s.days})
    whole, unfinished = [day for day in days if day < today], [day for day in days if day >= today]
    for first, last in _segments(whole) + _segments(unfinished):
        touched = [s for s in stale if any(first <= day <= last for day in s.days)]
        tables = sorted({s.table for s in touched})
        tenants = tuple(sorted({s.tenant for s in touched}))
        figures = [f"raw/{t}" for t in tables] + [a for t in tables for a in by_source.get(t, ())] + [*ABOUT_RAW]
        run = PlannedRun(first, last, tenants, tuple(figures) + MODEL_ASSETS, max(s.newest for s in touched))
        runs += split_models(run) if last < today else [without_models(run)]
    return runs


def plan_catalogue(stale: Sequence[StaleDays], day: dt.date) -> list[PlannedRun]:
    """The run that brings catalogue tables up to date, none where they are. `day` is what its tags name; the tables have none."""
    if not stale:
        return []
    assets = tuple(sorted({f"raw/{s.table}" for s in stale}))
    return [PlannedRun(day, day, tuple(sorted({s.tenant for s in stale})), assets, max(s.newest for s in stale))]


def split_models(run: PlannedRun) -> list[PlannedRun]:
    """`run` itself, or, when it is longer than MODEL_DAYS, one of its figures and one of the newest days' models."""
    if (run.last - run.first).days < MODEL_DAYS:
        return [run]
    figures = tuple(a for a in run.assets if a not in MODEL_ASSETS)
    models = tuple(a for a in run.assets if a in MODEL_ASSETS)
    newest = run.last - dt.timedelta(days=MODEL_DAYS - 1)
    parts = [(run.first, figures), (newest, models)]
    return [PlannedRun(first, run.last, run.tenants, assets, run.newest) for first, assets in parts if assets]


def without_models(run: PlannedRun) -> PlannedRun:
    """Its figures alone."""
    return PlannedRun(run.first, run.last, run.tenants, tuple(a for a in run.assets if a not in MODEL_ASSETS), run.newest)


def missed_days(newest_published: dt.date | None, yesterday: dt.date, most: int = GAP_DAYS) -> tuple[dt.date, dt.date] | None:
    """The days that the daily schedule owes: from the day after the newest published one to yesterday, at most `most`.

    Yesterday is always owed, published or not: rows may have come since. None before anything was ever published, because
    there is nothing to go on from.
    """
    if newest_published is None:
        return None
    first = min(newest_published + dt.timedelta(days=1), yesterday)
    return max(first, yesterday - dt.timedelta(days=most - 1)), yesterday


def _segments(days: Sequence[dt.date]) -> list[tuple[dt.date, dt.date]]:
    segments: list[tuple[dt.date, dt.date]] = []
    for day in days:
        if segments and (day - segments[-1][1]).days <= GAP_DAYS:
            segments[-1] = (segments[-1][0], day)
        else:
            segments.append((day, day))
    return segments
