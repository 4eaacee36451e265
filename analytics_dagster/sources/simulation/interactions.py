"""What simulated listeners do to content beside playing it: they save, share, follow and invite, and take some of it back.

Saves, shares and additions happen while something plays and so follow from the day's plays; the shares are those that the
recorded counter `shares` counts. Whom a listener follows, from when and until when, is decided once for each listener, so that
nobody is followed twice or let go unfollowed. All chance here is of streams of its own: no other table depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa

from analytics_dagster.lake.schemas import INTERACTION_EVENTS, INTERACTIONS
from analytics_dagster.sources.simulation.columns import (
    FORMAT,
    chosen,
    constant,
    identities,
    moments,
    sorted_by_time,
    table,
    text,
)
from analytics_dagster.sources.simulation.listening import LIBRARY, PLAYLIST, Plays
from analytics_dagster.sources.simulation.population import DAY_MS, Population
from analytics_dagster.sources.simulation.randomness import Codes, Flags, Indices, Ints, pick, stream
from analytics_dagster.sources.simulation.service import shares
from analytics_dagster.sources.simulation.vocabulary import SHARE_CHANNELS, SOURCES, TIERS

_PLACES = np.arange(len(SOURCES))
WHILE_PLAYING = (
    ("save", 0.012, _PLACES != LIBRARY),
    ("playlist_add", 0.006, _PLACES >= 0),
    ("unsave", 0.004, _PLACES == LIBRARY),
    ("playlist_remove", 0.003, _PLACES == PLAYLIST),
)
"""What may be done to the track that plays: how often, and in plays from which sources. Saved tracks belong to the library."""
DISCOVERIES_PER_SHARE = 0.4
"""How often the next listener who looks for a shared track does so because of the share."""
MOST_FOLLOWED = 3
FOLLOWS = 0.7
"""Chance of each of a listener's first library artists to be followed at some time."""
MEAN_DAYS_TO_FOLLOW = 60.0
MEAN_DAYS_FOLLOWED = 500.0
INVITES_PER_SESSION = 0.004
JOINED_BY_INVITATION = 0.15
"""Share of those who register."""

_SOUGHT = np.array([name in ("search", "artist") for name, _ in SOURCES])

EVENT = {name: code for code, name in enumerate(INTERACTION_EVENTS)}


@dataclass(frozen=True)
class _Done:
    """Interactions of one kind, as indices and codes; -1 where there is no track, artist, playlist, source or channel."""

    event: int
    ts: Ints
    member: Indices
    track: Indices
    artist: Indices
    playlist: Indices
    source: Codes
    channel: Codes


def interactions(population: Population, day: date, plays: Plays) -> pa.Table:
    """What a day's listeners did to content, in order of time."""
    parameters = population.parameters
    number = parameters.day_number(day)
    rng = stream(parameters.seed, parameters.tenant, "interactions", number)
    parts = [
        *_while_playing(population, day, plays, rng),
        *_followed(population, number),
        _joined(population, number, rng),
        _invited(plays, rng),
    ]
    ts, member, track, artist, playlist, source, channel = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("ts", "member", "track", "artist", "playlist", "source", "channel")
    )
    event = np.concatenate([np.full(len(part.ts), part.event, dtype=np.int64) for part in parts])
    count, texts = len(ts), population.texts
    premium = population.premium(member, ts + np.int64(number) * DAY_MS)
    return sorted_by_time(
        table(
            INTERACTIONS,
            {
                "event_id": identities("i", day, count),
                "ts": moments(day, ts),
                "listener_id": chosen(texts.listener_ids, member),
                "event": text(INTERACTION_EVENTS, event),
                "track_id": chosen(texts.track_ids, track),
                "artist_id": chosen(texts.artist_ids, artist),
                "playlist_id": chosen(texts.playlist_ids, playlist),
                "source": text([name for name, _ in SOURCES], source),
                "channel": text([name for name, _ in SHARE_CHANNELS], channel),
                "country": text(population.countries, population.listeners.country[member]),
                "tier": text(TIERS, premium.astype(np.int8)),
                "format": constant(FORMAT, count),
            },
        )
    )


def _while_playing(population: Population, day: date, plays: Plays, rng: np.random.Generator) -> list[_Done]:
    """One look at each play decides what was done to its track: at most one thing, and nothing by a bot."""
    chance = rng.random(len(plays), dtype=np.float32)
    people = (population.listeners.bot < 0)[plays.member]
    parts, low = [], 0.0
    touched = np.flatnonzero((chance < sum(share for _, share, _ in WHILE_PLAYING)) & people)
    for event, share, places in WHILE_PLAYING:
        which = touched[(chance[touched] >= low) & (chance[touched] < low + share) & places[plays.source[touched]]]
        parts.append(_done(population, event, plays, which, _during(plays, which, rng)))
        low += share
    sent = shares(population, day, plays)
    parts.append(_done(population, "share", plays, sent.which, sent.when, sent.channel))
    found = _discovering(plays, sent.which, sent.when, people, rng)
    return [*parts, _done(population, "discover", plays, found, _during(plays, found, rng))]


def _during(plays: Plays, which: Ints, rng: np.random.Generator) -> Ints:
    """A moment within each of these plays."""
    within = rng.random(len(which)) * plays.ms[which]
    return np.minimum(plays.ts[which] + within.astype(np.int64), DAY_MS - 1)


def _discovering(plays: Plays, shared: Ints, when: Ints, people: Flags, rng: np.random.Generator) -> Ints:
    """Plays that a share of the same day led to: another listener's next one of the track in a place where one looks for it."""
    led = np.flatnonzero(rng.random(len(shared)) < DISCOVERIES_PER_SHARE)
    of_track = np.zeros(int(plays.track.max(initial=0)) + 1, dtype=np.bool_)
    of_track[plays.track[shared[led]]] = True
    sought = np.flatnonzero(of_track[plays.track] & _SOUGHT[plays.source] & people)
    order = sought[np.argsort(_by_track(plays.track[sought], plays.ts[sought]), kind="stable")]
    later = np.searchsorted(
        _by_track(plays.track[order], plays.ts[order]), _by_track(plays.track[shared[led]], when[led]), side="right"
    )
    led, later = led[later < len(order)], later[later < len(order)]
    found, origin = order[later], shared[led]
    found = found[(plays.track[found] == plays.track[origin]) & (plays.member[found] != plays.member[origin])]
    # For the first time: of a listener's plays of one track only the first.
    _, first = np.unique(plays.member[found].astype(np.int64) << 32 | plays.track[found], return_index=True)
    return np.sort(found[first])


def _by_track(track: Indices, ts: Ints) -> Ints:
    """A number that orders by track, then by time."""
    return track.astype(np.int64) << 32 | ts


def _done(
    population: Population, event: str, plays: Plays, which: Ints, when: Ints, channel: Ints | Codes | None = None
) -> _Done:
    track = plays.track[which]
    listed = event == "playlist_remove"
    return _Done(
        event=EVENT[event],
        ts=when,
        member=plays.member[which],
        track=track,
        artist=population.music.track_artist[track],
        playlist=plays.playlist[which] if listed else np.full(len(which), -1, dtype=np.int32),
        source=plays.source[which],
        channel=np.full(len(which), -1, dtype=np.int8) if channel is None else channel.astype(np.int8),
    )


def _followed(population: Population, number: int) -> list[_Done]:
    """Artists that were followed, and let go, on a day. Following is new in the service: nobody did before its first day."""
    parameters, people = population.parameters, population.listeners
    known = population.known_listeners(number)
    # Rows are drawn listener by listener, so that later ones change nothing for those before.
    rng = stream(parameters.seed, parameters.tenant, "follows")
    begins, stays, whether = np.moveaxis(rng.random((known, MOST_FOLLOWED, 3)), 2, 0)
    start = np.maximum(people.registered[:known, None], 0) - np.log1p(-begins) * MEAN_DAYS_TO_FOLLOW * DAY_MS
    end = start - np.log1p(-stays) * MEAN_DAYS_FOLLOWED * DAY_MS
    artist = population.music.track_artist[people.library[:known, :MOST_FOLLOWED]]
    wanted = (whether < FOLLOWS) & (people.bot[:known, None] < 0) & _first_of_each(artist)
    midnight, leaves = number * DAY_MS, people.quit[:known, None]
    parts = []
    for event, at in (("follow", start), ("unfollow", end)):
        today = wanted & (at >= midnight) & (at < midnight + DAY_MS) & (at < leaves)
        member, slot = np.nonzero(today)
        when = at[member, slot].astype(np.int64) - midnight
        parts.append(_alone(event, member, when, artist[member, slot]))
    return parts


def _first_of_each(artist: Indices) -> Flags:
    """Where a row's artist does not stand in the row before."""
    fresh = np.ones(artist.shape, dtype=np.bool_)
    for later in range(1, artist.shape[1]):
        for before in range(later):
            fresh[:, later] &= artist[:, later] != artist[:, before]
    return fresh


def _joined(population: Population, number: int, rng: np.random.Generator) -> _Done:
    """Those who registered on a day by an invitation."""
    known = population.known_listeners(number)
    at = population.listeners.registered[:known]
    today = (at >= number * DAY_MS) & (at < (number + 1) * DAY_MS) & (population.listeners.bot[:known] < 0)
    member = np.flatnonzero(today)
    member = member[rng.random(len(member)) < JOINED_BY_INVITATION]
    return _alone("join", member, at[member] - number * DAY_MS)


def _invited(plays: Plays, rng: np.random.Generator) -> _Done:
    """Invitations, sent at the beginning of some sessions."""
    first = np.full(int(plays.session.max(initial=-1)) + 1, -1, dtype=np.int64)
    # Plays are in order of time: written from the end, what stays is a session's first.
    first[plays.session[::-1]] = np.arange(len(plays))[::-1]
    first = first[first >= 0]
    first = first[rng.random(len(first)) < INVITES_PER_SESSION]
    channel = pick(rng, [share for _, share in SHARE_CHANNELS], len(first))
    return _alone("invite", plays.member[first], plays.ts[first], channel=channel)


def _alone(event: str, member: Ints | Indices, when: Ints, artist: Indices | None = None, channel: Codes | None = None) -> _Done:
    """Interactions with no track."""
    none = np.full(len(member), -1, dtype=np.int32)
    no_code = none.astype(np.int8)
    given = none if artist is None else artist
    told = no_code if channel is None else channel
    return _Done(EVENT[event], when, member.astype(np.int32), none, given, none, no_code, told)
