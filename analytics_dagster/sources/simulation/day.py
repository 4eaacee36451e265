"""A simulated day as it is delivered: `simulate_day` makes its tables from the population alone.

What is delivered on a day is not quite what happened on it: a late batch withholds some plays of its day and brings them
with a later one.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pyarrow as pa

from analytics_dagster.lake.schemas import (
    AD_IMPRESSIONS,
    API_REQUESTS,
    INTERACTIONS,
    METRICS,
    PLAYS,
    SUBSCRIPTIONS,
    SYSTEM_SAMPLES,
)
from analytics_dagster.sources.simulation.columns import FORMAT, chosen, constant, identities, moments, numbers, table, text
from analytics_dagster.sources.simulation.commerce import ad_impressions, subscriptions
from analytics_dagster.sources.simulation.incidents import Incident, IncidentKind
from analytics_dagster.sources.simulation.interactions import interactions
from analytics_dagster.sources.simulation.listening import Plays, listen
from analytics_dagster.sources.simulation.population import Population
from analytics_dagster.sources.simulation.randomness import Flags, stream
from analytics_dagster.sources.simulation.service import api_requests, recorded_points, system_samples
from analytics_dagster.sources.simulation.vocabulary import DEVICES, END_REASONS, SOURCES, TIERS


def simulate_day(population: Population, day: date) -> dict[str, pa.Table]:
    """The event tables that a day delivers, by name, each with its schema's columns and in time order.

    Depends on the population's parameters and the day, nothing else. `plays` may end with plays of an earlier day (a late
    batch) and lack those of its own day that come later. Raises ValueError for a day after `population.through`.
    """
    if day > population.through:
        raise ValueError(f"the population reaches {population.through}, not {day}; build it through {day}")
    heard = listen(population, day)
    plays = heard.plays
    return {
        PLAYS.name: _delivered_plays(population, day, plays),
        METRICS.name: recorded_points(population, day, plays),
        SUBSCRIPTIONS.name: subscriptions(population, day),
        AD_IMPRESSIONS.name: ad_impressions(population, day, plays),
        API_REQUESTS.name: api_requests(population, day, heard),
        SYSTEM_SAMPLES.name: system_samples(population, day, plays),
        INTERACTIONS.name: interactions(population, day, plays),
    }


def delivery_days(population: Population) -> frozenset[date]:
    """Days that deliver a late batch: they must arrive apart from the days that the batch is about."""
    return frozenset(_delivered_on(incident) for incident in population.incidents if incident.kind is IncidentKind.LATE_BATCH)


def _delivered_on(incident: Incident) -> date:
    return incident.first + timedelta(days=int(incident.number("delay_days")))


def _delivered_plays(population: Population, day: date, plays: Plays) -> pa.Table:
    parts = [_plays_table(population, day, plays)]
    for incident in population.incidents:
        if incident.kind is not IncidentKind.LATE_BATCH:
            continue
        if incident.first == day:
            parts[0] = parts[0].filter(pa.array(~_late(population, incident, plays)))
        elif _delivered_on(incident) == day:
            then = listen(population, incident.first).plays
            late = _late(population, incident, then)
            parts.append(_plays_table(population, incident.first, then).filter(pa.array(late)))
    return parts[0] if len(parts) == 1 else pa.concat_tables(parts).combine_chunks()


def _late(population: Population, incident: Incident, plays: Plays) -> Flags:
    """Whose plays are late: a share of the listeners known on that day."""
    parameters = population.parameters
    rng = stream(parameters.seed, parameters.tenant, incident.incident)
    known = population.known_listeners(parameters.day_number(incident.first))
    slow: Flags = rng.random(known) < incident.number("listeners")
    return slow[plays.member]


def _plays_table(population: Population, day: date, plays: Plays) -> pa.Table:
    """A day's plays with schemas.PLAYS' columns, after the damage that a broken client does."""
    music = population.music
    count = len(plays)
    broken = _broken(population, day, plays)
    artist = music.track_artist[plays.track]
    country = population.listeners.country[plays.member]
    session = identities("v", day, int(plays.session.max()) + 1 if count else 0)
    arrays = population.texts
    return table(
        PLAYS,
        {
            "play_id": identities("p", day, count),
            "ts": moments(day, plays.ts),
            "listener_id": chosen(population.texts.listener_ids, plays.member, broken),
            "track_id": chosen(arrays.track_ids, plays.track, broken),
            "track": chosen(arrays.tracks, plays.track),
            "artist_id": chosen(arrays.artist_ids, artist),
            "artist": chosen(arrays.artists, artist),
            "album": chosen(arrays.albums, plays.track),
            "ms_played": numbers(plays.ms, broken),
            "track_ms": numbers(music.track_ms[plays.track]),
            "source": text([name for name, _ in SOURCES], plays.source),
            "playlist_id": chosen(arrays.playlist_ids, plays.playlist),
            "country": text(population.countries, country),
            "tier": text(TIERS, plays.premium.astype(np.int8)),
            "device": text([name for name, _ in DEVICES], plays.device),
            "end_reason": text(END_REASONS, plays.end),
            "skipped": pa.array(plays.skipped),
            "offline": pa.array(plays.offline),
            "session_id": chosen(session, plays.session),
            "format": constant(FORMAT, count),
        },
    )


def _broken(population: Population, day: date, plays: Plays) -> Flags | None:
    """The plays that a broken client reported without saying who heard what for how long; None on all other days."""
    names = [name for name, _ in DEVICES]
    for incident in population.incidents:
        if incident.kind is IncidentKind.BROKEN_CLIENT and incident.covers(day):
            rng = stream(population.parameters.seed, population.parameters.tenant, incident.incident)
            device = names.index(str(incident.parameters["device"]))
            broken: Flags = (plays.device == device) & (rng.random(len(plays)) < incident.number("share"))
            return broken
    return None
