"""The catalogue of a simulated tenant: artists, tracks that come out over time, playlists, and how popular each is.

Popularity is Zipf's law over tracks, with artists' fame behind the ranks; a new release is pushed for some weeks. What
existed on the first day is drawn at once, later releases week by week, so that looking further ahead changes nothing that
came before. Days are counted from the tenant's first day.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np

from analytics_dagster.sources.simulation.parameters import Parameters
from analytics_dagster.sources.simulation.randomness import Codes, Floats, Indices, pick, stream
from analytics_dagster.sources.simulation.vocabulary import (
    ADJECTIVES,
    FIRST_NAMES,
    GENRES,
    LAST_NAMES,
    NOUNS,
    PROFILES,
)

ZIPF_EXPONENT = 0.95
ZIPF_OFFSET = 3
"""Mandelbrot's offset: flattens the very top, as charts do."""
PLAYLIST_TRACKS = 60
TRACKS_PER_WEEK = 0.002
"""New tracks in an ordinary week, as a share of the catalogue of the first day."""
WAVE_WEEKS = 6
WAVE_FACTOR = 5
"""Each sixth week is a release wave with five times as many."""
RELEASE_PUSH = 12.0
RELEASE_DAYS = 9.0
"""How many times as popular a track is on its first day, and the time constant with which that passes."""


@dataclass(frozen=True)
class GenreSampler:
    """Draws items by popularity, within one genre or over all, by one search in one cumulative sum.

    The items stand genre by genre in `order`; `low[g]` and `high[g]` bound genre g in the cumulative sum, and the last
    entries bound all genres.
    """

    order: Indices
    cumulative: Floats
    low: Floats
    high: Floats

    @classmethod
    def of(cls, genre: Codes, weight: Floats) -> GenreSampler:
        order = np.argsort(genre, kind="stable").astype(np.int32)
        cumulative = np.cumsum(weight[order])
        cumulative /= cumulative[-1]
        ends = np.searchsorted(genre[order], np.arange(len(GENRES)), side="right")
        high = np.where(ends > 0, cumulative[ends - 1], 0.0)
        low = np.concatenate([[0.0], high[:-1]])
        return cls(order, cumulative, np.append(low, 0.0), np.append(high, 1.0))

    @property
    def everything(self) -> int:
        """The code that stands for all genres."""
        return len(self.low) - 1

    def draw(self, genre: Codes, uniform: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Indices:
        """One item for each genre code; a genre without items draws from all."""
        low, high = self.low[genre], self.high[genre]
        empty = high <= low
        at = np.where(empty, uniform, low + (high - low) * uniform)
        return self.order[np.minimum(np.searchsorted(self.cumulative, at, side="right"), len(self.order) - 1)]


@dataclass(frozen=True)
class Music:
    """Artists, tracks and playlists. Arrays are by index; a track's index never changes."""

    artist_names: tuple[str, ...]
    artist_genre: Codes
    artist_country: tuple[str, ...]
    artist_fame: Floats
    track_artist: Indices
    track_genre: Codes
    track_ms: Indices
    track_released: Indices
    track_weight: Floats
    track_titles: tuple[str, ...]
    track_albums: tuple[str, ...]
    tracks_by_week: tuple[int, ...]
    """Number of tracks known before each week; the first is the catalogue of the first day."""
    playlist_names: tuple[str, ...]
    playlist_owner: tuple[str, ...]
    playlist_genre: Codes
    playlist_weight: Floats
    playlist_created: Indices
    playlist_tracks: Indices

    def known(self, day: int) -> int:
        """How many tracks are out, or announced for the week, on a day; later ones must not be looked at."""
        return self.tracks_by_week[max(0, day // 7 + 1)] if day >= 0 else self.tracks_by_week[0]

    def weights(self, day: int) -> Floats:
        """Popularity on a day of all tracks known then; 0 for what is not out yet."""
        known = self.known(day)
        age = day - self.track_released[:known]
        push = 1.0 + RELEASE_PUSH * np.exp(-np.maximum(age, 0) / RELEASE_DAYS)
        return np.where(age >= 0, self.track_weight[:known] * push, 0.0)

    def isrc(self, track: int, year: int) -> str:
        """An ISRC by form (ISO 3901). ZZ is no country, so no real recording is named."""
        return f"ZZSIM{year % 100:02d}{track % 100_000:05d}"


def compose(parameters: Parameters, weeks: int) -> Music:
    """The catalogue with the releases of the first `weeks` weeks."""
    rng = stream(parameters.seed, parameters.tenant, "music")
    base = int(np.clip(parameters.users * 3, 1_500, 60_000))
    leaning = PROFILES[parameters.ordinal % len(PROFILES)].genres
    genre_weights = [share * (2 if name in leaning else 1) for name, share in GENRES]
    artists = _artists(parameters, rng, max(120, base // 10), genre_weights)
    tracks = [_base_tracks(parameters, rng, base, artists)]
    ladder = np.sort(tracks[0].score)[::-1]
    counts = [base]
    for week in range(weeks):
        tracks.append(_week_of_releases(parameters, week, base, artists, ladder))
        counts.append(counts[-1] + len(tracks[-1].titles))
    playlists = _playlists(parameters, rng, int(np.clip(parameters.users // 10, 60, 2_000)), tracks[0], genre_weights)
    return Music(
        artist_names=artists.names,
        artist_genre=artists.genre,
        artist_country=artists.country,
        artist_fame=artists.fame,
        track_artist=np.concatenate([part.artist for part in tracks]),
        track_genre=np.concatenate([part.genre for part in tracks]),
        track_ms=np.concatenate([part.ms for part in tracks]),
        track_released=np.concatenate([part.released for part in tracks]),
        track_weight=np.concatenate([part.weight for part in tracks]),
        track_titles=tuple(title for part in tracks for title in part.titles),
        track_albums=tuple(album for part in tracks for album in part.albums),
        tracks_by_week=tuple(counts),
        playlist_names=playlists.names,
        playlist_owner=playlists.owner,
        playlist_genre=playlists.genre,
        playlist_weight=playlists.weight,
        playlist_created=playlists.created,
        playlist_tracks=playlists.tracks,
    )


@dataclass(frozen=True)
class _Artists:
    names: tuple[str, ...]
    genre: Codes
    country: tuple[str, ...]
    fame: Floats


@dataclass(frozen=True)
class _Tracks:
    artist: Indices
    genre: Codes
    ms: Indices
    released: Indices
    score: Floats
    weight: Floats
    titles: tuple[str, ...]
    albums: tuple[str, ...]


@dataclass(frozen=True)
class _Playlists:
    names: tuple[str, ...]
    owner: tuple[str, ...]
    genre: Codes
    weight: Floats
    created: Indices
    tracks: Indices


def _artists(parameters: Parameters, rng: np.random.Generator, count: int, genre_weights: list[float]) -> _Artists:
    countries = PROFILES[parameters.ordinal % len(PROFILES)].countries
    places = pick(rng, [share for _, share in countries], count)
    words = rng.integers(0, 1 << 30, size=(count, 3))
    return _Artists(
        names=tuple(_artist_name(int(a), int(b), int(c)) for a, b, c in words),
        genre=pick(rng, genre_weights, count),
        country=tuple(countries[place][0] for place in places),
        fame=1.0 / (rng.permutation(count) + 2.0) ** 0.8,
    )


def _artist_name(a: int, b: int, c: int) -> str:
    adjective, noun = ADJECTIVES[a % len(ADJECTIVES)], NOUNS[b % len(NOUNS)]
    first, last = FIRST_NAMES[a % len(FIRST_NAMES)], LAST_NAMES[b % len(LAST_NAMES)]
    person = f"{first} {last}"
    return (person, person, f"The {adjective} {noun}", f"{adjective} {noun}", f"{first} & the {noun}")[c % 5]


def _base_tracks(parameters: Parameters, rng: np.random.Generator, count: int, artists: _Artists) -> _Tracks:
    released = -1 - np.minimum(rng.exponential(1_400.0, count), 15_000.0).astype(np.int32)
    draft = _draw_tracks(rng, count, artists, released.astype(np.int32))
    rank = np.empty(count, dtype=np.int64)
    rank[np.argsort(-draft.score, kind="stable")] = np.arange(count)
    return _weighted(draft, rank.astype(np.float64))


def _week_of_releases(parameters: Parameters, week: int, base: int, artists: _Artists, ladder: Floats) -> _Tracks:
    rng = stream(parameters.seed, parameters.tenant, "releases", week)
    factor = WAVE_FACTOR if week % WAVE_WEEKS == parameters.ordinal % WAVE_WEEKS else 1
    count = max(1, int(rng.poisson(base * TRACKS_PER_WEEK * factor)))
    friday = (4 - parameters.first_day.weekday()) % 7
    weekday = np.where(rng.random(count) < 0.85, friday, rng.integers(0, 7, count))
    draft = _draw_tracks(rng, count, artists, (7 * week + weekday).astype(np.int32))
    # Where the new track would stand among those of the first day decides its Zipf weight.
    return _weighted(draft, np.searchsorted(-ladder, -draft.score).astype(np.float64))


def _draw_tracks(rng: np.random.Generator, count: int, artists: _Artists, released: Indices) -> _Tracks:
    fame = np.cumsum(artists.fame)
    artist = np.searchsorted(fame / fame[-1], rng.random(count), side="right").astype(np.int32)
    words = rng.integers(0, 1 << 30, size=(count, 3))
    return _Tracks(
        artist=artist,
        genre=artists.genre[artist],
        ms=np.clip(rng.lognormal(np.log(205_000), 0.28, count), 80_000, 720_000).astype(np.int32),
        released=released,
        score=artists.fame[artist] ** 0.6 * rng.lognormal(0.0, 0.9, count),
        weight=np.empty(0),
        titles=tuple(_title(int(a), int(b), int(c)) for a, b, c in words),
        # An artist's tracks of one year share a release.
        albums=tuple(
            f"{ADJECTIVES[(performer * 7 + when // 365) % len(ADJECTIVES)]} {NOUNS[(performer * 3 + when // 365) % len(NOUNS)]}"
            for performer, when in zip(artist.tolist(), released.tolist(), strict=True)
        ),
    )


def _weighted(draft: _Tracks, rank: Floats) -> _Tracks:
    weight = 1.0 / (rank + 1 + ZIPF_OFFSET) ** ZIPF_EXPONENT
    return _Tracks(draft.artist, draft.genre, draft.ms, draft.released, draft.score, weight, draft.titles, draft.albums)


def _title(a: int, b: int, c: int) -> str:
    adjective, noun, other = ADJECTIVES[a % len(ADJECTIVES)], NOUNS[b % len(NOUNS)], NOUNS[c % len(NOUNS)]
    return (f"{adjective} {noun}", noun, f"{noun} and {other}", f"{adjective}", f"The {noun}", f"{other} in {adjective}")[c % 6]


def _playlists(
    parameters: Parameters, rng: np.random.Generator, count: int, tracks: _Tracks, genre_weights: list[float]
) -> _Playlists:
    genre = pick(rng, genre_weights, count)
    sampler = GenreSampler.of(tracks.genre, tracks.weight)
    # One in eight mixes genres.
    theme = np.where(rng.random(count) < 0.125, sampler.everything, genre).astype(np.int8)
    members = sampler.draw(np.repeat(theme, PLAYLIST_TRACKS), rng.random(count * PLAYLIST_TRACKS, dtype=np.float32))
    words = rng.integers(0, 1 << 30, size=(count, 2))
    kinds = pick(rng, (25, 15, 60), count)
    created = -1 - np.minimum(rng.exponential(700.0, count), 5_000.0).astype(np.int32)
    owners = ("editorial", "algorithmic", "listener")
    names = tuple(
        f"{ADJECTIVES[int(a) % len(ADJECTIVES)]} {GENRES[int(g)][0].title()} {NOUNS[int(b) % len(NOUNS)]}"
        for (a, b), g in zip(words, genre, strict=True)
    )
    return _Playlists(
        names=names,
        owner=tuple(owners[kind] for kind in kinds),
        genre=genre,
        weight=1.0 / (rng.permutation(count) + 2.0),
        created=created.astype(np.int32),
        tracks=members.reshape(count, PLAYLIST_TRACKS),
    )


def weeks_until(parameters: Parameters, through: date) -> int:
    """How many weeks of releases and registrations a simulation through that day needs."""
    return max(0, parameters.day_number(through) // 7 + 1)
