"""The catalogue tables of a simulated tenant: listeners, tracks, artists and playlists as they stand on a day.

The first delivery describes everything; later ones only what is new or has changed since the day before: new listeners
and tiers, new releases.
"""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa

from analytics_dagster.lake.schemas import ARTISTS, PLAYLISTS, TRACKS, USERS
from analytics_dagster.sources.simulation.columns import FORMAT, Column, chosen, constant, numbers, table, text
from analytics_dagster.sources.simulation.population import DAY_MS, GENDERS, Population
from analytics_dagster.sources.simulation.randomness import Ints
from analytics_dagster.sources.simulation.vocabulary import GENRES, TIERS

FOLLOWERS_PER_USER = 0.6


def catalogue(population: Population, day: date) -> dict[str, pa.Table]:
    """All four tables as they stand at the end of a day."""
    number = population.parameters.day_number(day)
    listeners = np.flatnonzero(_registered(population, number))
    tracks = np.flatnonzero(_released(population, number))
    return {
        USERS.name: _users(population, listeners, number),
        TRACKS.name: _tracks(population, tracks),
        ARTISTS.name: _artists(population),
        PLAYLISTS.name: _playlists(population),
    }


def catalogue_changes(population: Population, first: date, last: date) -> dict[str, pa.Table]:
    """What a range of days adds to the catalogue of the day before it, or changes in it, as it stands at its end."""
    parameters = population.parameters
    begin, end = parameters.day_number(first), parameters.day_number(last)
    people = population.listeners
    known = population.known_listeners(end)
    since, until = begin * DAY_MS, (end + 1) * DAY_MS
    changed = np.zeros(known, dtype=np.bool_)
    for moments in (people.registered, people.upgrade, people.cancel, people.reactivate):
        changed |= (moments[:known] >= since) & (moments[:known] < until)
    released = population.music.track_released[: population.music.known(end)]
    tables = {
        USERS.name: _users(population, np.flatnonzero(changed & _registered(population, end)), end),
        TRACKS.name: _tracks(population, np.flatnonzero((released >= begin) & (released <= end))),
    }
    return {name: rows for name, rows in tables.items() if rows.num_rows}


def _registered(population: Population, number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    known = population.known_listeners(number)
    return population.listeners.registered[:known] < (number + 1) * DAY_MS


def _released(population: Population, number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    known = population.music.known(number)
    return population.music.track_released[:known] <= number


def _days(population: Population, numbers_: Ints) -> Column:
    first = int(np.datetime64(population.parameters.first_day, "D").astype(np.int64))
    return pa.array((numbers_ + first).astype(np.int32), pa.int32()).cast(pa.date32())


def _users(population: Population, which: Ints, number: int) -> pa.Table:
    people = population.listeners
    at = np.full(len(which), (number + 1) * DAY_MS - 1, dtype=np.int64)
    premium = population.premium(which.astype(np.int32), at)
    age = people.age[which]
    return table(
        USERS,
        {
            "user_id": chosen(population.texts.listener_ids, which),
            "gender": text([name for name, _ in GENDERS], people.gender[which]),
            "age": numbers(age, missing=age < 0),
            "country": text(population.countries, people.country[which]),
            "tier": text(TIERS, premium.astype(np.int8)),
            "registered": _days(population, people.registered[which] // DAY_MS),
            "format": constant(FORMAT, len(which)),
        },
    )


def _tracks(population: Population, which: Ints) -> pa.Table:
    music, texts = population.music, population.texts
    artist = music.track_artist[which]
    released = _days(population, music.track_released[which].astype(np.int64))
    codes = [music.isrc(track, when.year) for track, when in zip(which.tolist(), released.to_pylist(), strict=True)]
    return table(
        TRACKS,
        {
            "track_id": chosen(texts.track_ids, which),
            "title": chosen(texts.tracks, which),
            "artist_id": chosen(texts.artist_ids, artist),
            "artist": chosen(texts.artists, artist),
            "album": chosen(texts.albums, which),
            "duration_ms": numbers(music.track_ms[which]),
            "released": released,
            "isrc": pa.array(codes, pa.string()),
            "genre": text([name for name, _ in GENRES], music.track_genre[which]),
            "format": constant(FORMAT, len(which)),
        },
    )


def _artists(population: Population) -> pa.Table:
    music, texts = population.music, population.texts
    return table(
        ARTISTS,
        {
            "artist_id": texts.artist_ids,
            "name": texts.artists,
            "country": pa.array(music.artist_country, pa.string()),
            "genre": text([name for name, _ in GENRES], music.artist_genre),
            "format": constant(FORMAT, len(music.artist_names)),
        },
    )


def _playlists(population: Population) -> pa.Table:
    music = population.music
    followers = 3 + (music.playlist_weight * population.parameters.users * FOLLOWERS_PER_USER).astype(np.int64)
    return table(
        PLAYLISTS,
        {
            "playlist_id": population.texts.playlist_ids,
            "name": pa.array(music.playlist_names, pa.string()),
            "owner": pa.array(music.playlist_owner, pa.string()),
            "followers": numbers(followers),
            "created": _days(population, music.playlist_created.astype(np.int64)),
            "format": constant(FORMAT, len(music.playlist_names)),
        },
    )
