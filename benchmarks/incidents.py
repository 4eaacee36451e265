"""Simulated incidents as the insights of a day see them: a quiet service's KPIs, with the days of one labelled incident put in.

The service's rows come from the simulator and go through the house's own tables, aggregates and series; only Dagster, landing
and checks are left out, which change no figure of a day. A quiet past is made once for each seed. Each incident's days are made
from a population that has it, computed under dates of their own, and put in the place of the same days of the quiet service.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from analytics_dagster.insights.series import Series
from analytics_dagster.lake.lake import TenantLake
from analytics_dagster.metrics.declarations import Catalogue
from analytics_dagster.sources.simulation import (
    Incident,
    IncidentKind,
    Parameters,
    Population,
    build_population,
    simulate_day,
    tenant_name,
)
from analytics_dagster.sources.simulation.listening import farmed_artist, removed_playlist
from analytics_dagster.sources.simulation.vocabulary import PROFILES
from benchmarks.plays import STREAM_MS, tenant_of

FIRST = dt.date(2026, 1, 1)
PAST_DAYS, QUIET_DAYS = 126, 14
"""Days of history before anything is judged, and quiet days that are judged."""
USERS = 1_000
FAMILIES = ("listening", "api", "ads", "subscriptions", "system", "playlists", "performers")
DECLARED = Path(__file__).parent / "insights_metrics"
STRENGTHS = ("weak", "medium", "strong")
LASTS = {IncidentKind.BOT_FARM: 3, IncidentKind.PLAYLIST_REMOVAL: 3, IncidentKind.MIX_SHIFT: 3}
"""Days of an incident that are judged, where it is more than one."""
LISTENING = frozenset(
    [
        "plays",
        "streams",
        "listen_time",
        "skip_rate",
        "completion_rate",
        "engagement_rate",
        "daily_active_listeners",
        "streams_per_listener",
        "listed_plays",
        "listed_streams",
        "listed_skip_rate",
        "performed_plays",
        "performed_streams",
        "performed_skip_rate",
        "performed_ms",
    ]
)
MACHINES = frozenset(["api_requests", "api_error_ratio", "api_p95_latency", "cpu_usage_percent", "memory_usage_percent"])
ADS = frozenset(["ad_impressions", "ad_revenue", "fill_rate"])


@dataclass(frozen=True)
class Truth:
    """What the label says: metrics that the incident touches, and where it lies, as (dimension, element).

    everywhere: metrics on which it has no place, so that naming any element of theirs is wrong.
    """

    metrics: frozenset[str]
    elements: frozenset[tuple[str, str]]
    everywhere: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Case:
    """An incident: the series as they stood on each of its days that is judged. Quiet days are a case without an incident."""

    seed: int
    kind: str
    strength: str
    days: tuple[tuple[dt.date, list[Series]], ...]
    releases: Mapping[str, tuple[dt.date, ...]]
    truth: Truth | None = None
    ratios_moved: bool = True
    """Whether any ratio moved by itself; False for a shift of the mix. releases: by artist, the days of new tracks."""


@dataclass(frozen=True)
class World:
    """A seed's service: its quiet days, and under dates of their own the days of incidents, of which `labels` are the labels.

    places: for each label, number of a day in `odd` -> number of the quiet day whose place it takes.
    """

    seed: int
    quiet: Sequence[Series]
    odd: Mapping[str, Series]
    labels: tuple[tuple[IncidentKind, str, Truth], ...]
    places: tuple[Mapping[int, int], ...]
    releases: Mapping[str, tuple[dt.date, ...]]

    def cases(self) -> Iterator[Case]:
        """The quiet days, then each incident at each strength."""
        judged = [FIRST + dt.timedelta(days=day) for day in range(PAST_DAYS, PAST_DAYS + QUIET_DAYS)]
        yield Case(self.seed, "quiet", "", tuple((day, list(self.quiet)) for day in judged), self.releases)
        for (kind, strength, truth), places in zip(self.labels, self.places, strict=True):
            days = [FIRST + dt.timedelta(days=day) for day in places.values()]
            seen = tuple((day, _with_days(self.quiet, self.odd, places, day)) for day in days)
            yield Case(self.seed, str(kind), strength, seen, self.releases, truth, kind is not IncidentKind.MIX_SHIFT)


def simulated(seed: int, folder: Path) -> World:
    """Simulate a seed's service; its tables are made within `folder`."""
    from analytics_dagster.metrics.load import load_catalogue

    catalogue = load_catalogue(DECLARED)
    parameters = Parameters(tenant_name(seed % len(PROFILES)), seed % len(PROFILES), seed, USERS, FIRST, PAST_DAYS + QUIET_DAYS)
    begin = PAST_DAYS + seed % 7
    planned = [(kind, strength) for kind in _MADE for strength in range(len(STRENGTHS))]
    labels = [_MADE[kind](parameters, begin, strength) for kind, strength in planned]
    made = [build_population(parameters, parameters.day(begin + 7), [label]) for label in labels]
    at = [(n, day) for n, label in enumerate(labels) for day in range(begin, begin + LASTS.get(label.kind, 1))]
    rows = {FIRST + dt.timedelta(days=to): _moved(made[n], day, to) for to, (n, day) in enumerate(at)}
    return World(
        seed,
        _computed(_quiet_days(parameters), catalogue, tenant_of(folder, "quiet")),
        {one.metric: one for one in _computed(rows, catalogue, tenant_of(folder, "odd"))},
        tuple(
            (kind, STRENGTHS[strength], _truth(population, label))
            for (kind, strength), population, label in zip(planned, made, labels, strict=True)
        ),
        tuple({to: day for to, (which, day) in enumerate(at) if which == n} for n in range(len(planned))),
        _releases(made[0]),
    )


def _releases(population: Population) -> dict[str, tuple[dt.date, ...]]:
    """The days since the first on which each artist brought out something new."""
    music, texts, parameters = population.music, population.texts, population.parameters
    new = np.flatnonzero(music.track_released >= 0)
    days: dict[str, tuple[dt.date, ...]] = {}
    for artist, day in zip(music.track_artist[new].tolist(), music.track_released[new].tolist(), strict=True):
        name = texts.artist_ids[artist].as_py()
        days[name] = (*days.get(name, ()), parameters.day(day))
    return days


# --- incidents and what their labels say


def _outage(parameters: Parameters, begin: int, strength: int) -> Incident:
    start = _at(parameters, begin) + dt.timedelta(hours=13)
    given = {"error_ratio": (0.4, 0.5, 0.6)[strength], "lost_plays": (0.75, 0.82, 0.9)[strength], "latency_factor": 6.0}
    end = start + dt.timedelta(hours=2 + strength)
    return Incident(parameters.tenant, "outage", IncidentKind.OUTAGE, start, end, "", {**given, "host": "db-1"})


def _bot_farm(parameters: Parameters, begin: int, strength: int) -> Incident:
    chance = _chance(parameters, "bots")
    countries = [country for country, _ in PROFILES[parameters.ordinal].countries]
    country = countries[int(chance.integers(len(countries) // 2, len(countries)))]
    given = {"bots": 1 + strength, "country": country, "artist_pick": round(float(chance.random()), 6)}
    start = _at(parameters, begin)
    return Incident(parameters.tenant, "bots", IncidentKind.BOT_FARM, start, start + dt.timedelta(days=4), "", given)


def _playlist_removal(parameters: Parameters, begin: int, strength: int) -> Incident:
    start, rank = _at(parameters, begin), 3 - strength
    end = start + dt.timedelta(days=7)
    return Incident(parameters.tenant, "removal", IncidentKind.PLAYLIST_REMOVAL, start, end, "", {"rank": rank})


def _mix_shift(parameters: Parameters, begin: int, strength: int) -> Incident:
    shifted = [("source", "radio"), ("source", "library"), ("tier", "free"), ("tier", "premium")]
    dimension, element = shifted[int(_chance(parameters, "mix").integers(len(shifted)))]
    factor = (2.0, 3.0, 4.0)[strength] if dimension == "source" else (1.3, 1.5, 1.8)[strength]
    start = _at(parameters, begin)
    given = {"dimension": dimension, "element": element, "factor": factor}
    return Incident(parameters.tenant, "mix", IncidentKind.MIX_SHIFT, start, start + dt.timedelta(days=5), "", given)


def _late_batch(parameters: Parameters, begin: int, strength: int) -> Incident:
    start = _at(parameters, begin)
    # The ends and the middle of what the simulator itself draws from.
    given = {"listeners": (0.15, 0.22, 0.3)[strength], "delay_days": 2}
    return Incident(parameters.tenant, "late", IncidentKind.LATE_BATCH, start, start + dt.timedelta(days=1), "", given)


_MADE = {
    IncidentKind.OUTAGE: _outage,
    IncidentKind.BOT_FARM: _bot_farm,
    IncidentKind.PLAYLIST_REMOVAL: _playlist_removal,
    IncidentKind.MIX_SHIFT: _mix_shift,
    IncidentKind.LATE_BATCH: _late_batch,
}


def _truth(population: Population, label: Incident) -> Truth:
    """Where an incident lies, from its label and what the simulator's reference says that its kind does."""
    given = label.parameters
    match label.kind:
        case IncidentKind.OUTAGE:
            # Everything but one machine is hit wherever it is; advertisements follow the plays.
            touched = LISTENING | MACHINES | ADS
            # What did not start was tried again and again, which is more requests to play.
            again = {("endpoint", "/play"), ("method", "POST")}
            return Truth(touched, frozenset({("host", str(given["host"])), *again}), touched)
        case IncidentKind.BOT_FARM:
            artist = population.texts.artist_ids[farmed_artist(population, label)].as_py()
            places = {("country", str(given["country"])), ("device", "web"), ("source", "artist"), ("artist_id", artist)}
            return Truth(
                LISTENING | MACHINES | ADS, frozenset({*places, ("tier", "free"), ("endpoint", "/play"), ("method", "POST")})
            )
        case IncidentKind.PLAYLIST_REMOVAL:
            playlist = population.texts.playlist_ids[removed_playlist(population, label)].as_py()
            return Truth(LISTENING, frozenset({("playlist_id", playlist), ("source", "playlist")}))
        case IncidentKind.MIX_SHIFT:
            return Truth(LISTENING | MACHINES | ADS, frozenset({(str(given["dimension"]), str(given["element"]))}))
        case _:
            return Truth(LISTENING, frozenset(), LISTENING)


# --- from rows to series


def _quiet_days(parameters: Parameters) -> dict[dt.date, dict[str, pa.Table]]:
    population = build_population(parameters, parameters.day(parameters.days - 1), ())
    return {day: simulate_day(population, day) for day in map(parameters.day, range(parameters.days))}


def _moved(population: Population, day: int, to: int) -> dict[str, pa.Table]:
    """A day's rows with times moved by whole days, so that they fall on day number `to`."""
    parameters = population.parameters
    by = pa.scalar(dt.timedelta(days=to - day), pa.duration("us"))
    rows = simulate_day(population, parameters.day(day))
    return {name: table.set_column(table.column_names.index("ts"), "ts", pc.add(table["ts"], by)) for name, table in rows.items()}


def _computed(days: Mapping[dt.date, Mapping[str, pa.Table]], catalogue: Catalogue, tenant: TenantLake) -> list[Series]:
    """Write the rows as raw tables, compute the aggregates, and read every KPI with its splits."""
    from analytics_dagster.lake.schemas import BY_NAME
    from analytics_dagster.metrics.aggregate import aggregate_days
    from analytics_dagster.metrics.query import DayReader
    from analytics_dagster.orchestration.kpi_series import kpi_series

    first, last = min(days), max(days)
    families = [catalogue.family(name) for name in FAMILIES]
    for name in sorted({family.source for family in families}):
        rows = pa.concat_tables([tables[name] for _, tables in sorted(days.items())])
        tenant.table(BY_NAME[name]).overwrite_days(rows, first, last)
    for family in families:
        aggregate_days(tenant, family, first, last, stream_ms=STREAM_MS)
    with DayReader(tenant, catalogue, first, last) as reader:
        return [replace(one, by=dict(one.by)) for one in kpi_series(reader, catalogue, split_from=first)]


def _with_days(quiet: Sequence[Series], odd: Mapping[str, Series], places: Mapping[int, int], last: dt.date) -> list[Series]:
    """The quiet series up to `last`, with days of `odd`: number there -> number here."""
    return [
        replace(
            one,
            daily=_replaced(one.daily, odd[one.metric].daily, places, last),
            by={name: _replaced(table, odd[one.metric].by[name], places, last) for name, table in one.by.items()},
        )
        if one.metric in odd
        else one
        for one in quiet
    ]


def _replaced(table: pa.Table, odd: pa.Table, places: Mapping[int, int], last: dt.date) -> pa.Table:
    here = {there: FIRST + dt.timedelta(days=day) for there, day in places.items() if FIRST + dt.timedelta(days=day) <= last}
    days = pc.cast(table["ts"], pa.date32())
    kept = table.filter(pc.and_(pc.invert(pc.is_in(days, pa.array(list(here.values())))), pc.less_equal(days, pa.scalar(last))))
    put = [kept]
    for there, day in here.items():
        number = FIRST + dt.timedelta(days=there)
        rows = odd.filter(pc.equal(pc.cast(odd["ts"], pa.date32()), pa.scalar(number)))
        by = pa.scalar(day - number, pa.duration("us"))
        put.append(rows.set_column(0, "ts", pc.add(rows["ts"], by)).select(table.column_names))
    return pa.concat_tables(put)


def _chance(parameters: Parameters, what: str) -> np.random.Generator:
    return np.random.default_rng([parameters.seed, len(what), *what.encode()])


def _at(parameters: Parameters, day: int) -> dt.datetime:
    return dt.datetime.combine(parameters.day(day), dt.time(), dt.UTC)
