"""A day of listening: who opens the app when, what is played one after another, and how each play ends.

Whole columns at a time, as indices and codes; text comes last (`tables.py`). Moments within the day are milliseconds
since its UTC midnight. A play begins when the one before it ended; a listener's sessions never overlap; a session is cut
at midnight, so that every play lies within its day.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, time

import numpy as np

from analytics_dagster.sources.simulation.incidents import Incident, IncidentKind, viral_share
from analytics_dagster.sources.simulation.music import PLAYLIST_TRACKS, GenreSampler
from analytics_dagster.sources.simulation.population import DAY_MS, LIBRARY_TRACKS, Population
from analytics_dagster.sources.simulation.randomness import Codes, Flags, Floats, Indices, Ints, pick, stream
from analytics_dagster.sources.simulation.vocabulary import DEVICES, END_REASONS, HABITS, SOURCES

PLAYS_PER_SESSION = 8.0
LONGEST_SESSION = 90
SESSION_GAP_MS = 35 * 60_000
"""Longer than the 30 minutes by which sessions are usually told apart."""
WEEKDAY_FACTORS = (0.97, 0.96, 0.98, 1.0, 1.06, 1.07, 0.99)
SOURCE_SKIPS = {"playlist": 1.0, "library": 0.6, "radio": 1.35, "search": 0.8, "artist": 0.9, "album": 0.7}
FREE_SKIPS = 0.8
"""Free listeners have a limited number of skips."""
FADE_DAYS = 14
"""Listeners who are about to leave listen less and less for so long."""

_SOURCE_NAMES = [name for name, _ in SOURCES]
PLAYLIST, LIBRARY, ARTIST = (_SOURCE_NAMES.index(name) for name in ("playlist", "library", "artist"))
TRACKDONE, FWDBTN, BACKBTN, ENDPLAY, LOGOUT = range(len(END_REASONS))
_HABIT_SLOTS = 4096


@dataclass(frozen=True)
class Sessions:
    """Times at which listeners open the app, by listener and time."""

    member: Indices
    start: Indices
    plays: Indices
    source: Codes
    playlist: Indices
    """-1 where the source is no playlist."""
    device: Codes

    def take(self, which: Flags) -> Sessions:
        return Sessions(**{f.name: getattr(self, f.name)[which] for f in fields(self)})


@dataclass(frozen=True)
class Plays:
    """Columns of plays, as indices and codes; `session` counts from 0 within the day."""

    ts: Ints
    member: Indices
    track: Indices
    ms: Indices
    source: Codes
    playlist: Indices
    device: Codes
    end: Codes
    skipped: Flags
    offline: Flags
    premium: Flags
    session: Indices

    def __len__(self) -> int:
        return len(self.ts)

    def take(self, which: Ints | Flags) -> Plays:
        return Plays(**{f.name: getattr(self, f.name)[which] for f in fields(self)})

    def followed_by(self, other: Plays) -> Plays:
        return Plays(**{f.name: np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)})


@dataclass(frozen=True)
class Listening:
    """A day's plays in time order, those that an outage kept from starting, and the sessions behind both."""

    plays: Plays
    lost: Plays
    sessions: Sessions


def listen(population: Population, day: date) -> Listening:
    """Everything that was heard on a day, and what would have been."""
    parameters = population.parameters
    number = parameters.day_number(day)
    rng = stream(parameters.seed, parameters.tenant, "listening", number)
    sessions = _open_sessions(population, day, number, rng)
    plays = _play(population, day, number, sessions, rng)
    lost = plays.take(np.empty(0, dtype=np.int64))
    for incident in population.incidents:
        if incident.covers(day):
            if incident.kind is IncidentKind.OUTAGE:
                failing = _failing(plays, incident, day, rng)
                plays, lost = plays.take(~failing), plays.take(failing)
            elif incident.kind is IncidentKind.BOT_FARM:
                plays = plays.followed_by(_bot_plays(population, incident, number, len(sessions.member)))
    return Listening(plays.take(_by_time(plays.ts)), lost, sessions)


def daily_factor(population: Population, day: date) -> float:
    """How much more or less is listened to on a day than on average: weekday, season, holidays, and chance."""
    parameters = population.parameters
    season = 1.0 + 0.05 * math.cos(2 * math.pi * (day.timetuple().tm_yday - 340) / 365.25)
    holidays = 1.06 if (day.month, day.day) >= (12, 20) else 1.0
    chance = stream(parameters.seed, parameters.tenant, "day", parameters.day_number(day)).lognormal(0.0, 0.015)
    hits = [one for one in population.incidents if one.kind is IncidentKind.VIRAL_HIT and one.covers(day)]
    buzz = sum(0.5 * viral_share(one, day) for one in hits)
    return WEEKDAY_FACTORS[day.weekday()] * season * holidays * float(chance) * (1.0 + buzz)


def _open_sessions(population: Population, day: date, number: int, rng: np.random.Generator) -> Sessions:
    known = population.known_listeners(number)
    people = population.listeners
    registered, leaves = people.registered[:known], people.quit[:known]
    midnight = number * DAY_MS
    here = (registered < midnight + DAY_MS) & (leaves > midnight) & (people.bot[:known] < 0)
    fading = np.clip((leaves - midnight) / (FADE_DAYS * DAY_MS), 0.2, 1.0)
    keen = people.activity[:known] * daily_factor(population, day) * fading * _drawn_by_tier(population, day, known)
    chance = np.minimum(keen, 0.98)
    active = np.flatnonzero(here & (rng.random(known) < chance)).astype(np.int32)
    member = np.repeat(active, 1 + rng.poisson(people.intensity[active]))
    count = len(member)
    source = pick(rng, _source_shares(population, day), count)
    own = rng.random(count) < 0.85
    device = np.where(own, people.device[member], pick(rng, [share for _, share in DEVICES], count)).astype(np.int8)
    start = _start_times(population, member, day.weekday() >= 5, rng)
    # Nobody is heard before registering or after leaving.
    moment = start.astype(np.int64) + midnight
    heard = (moment >= people.registered[member]) & (moment < people.quit[member])
    by_listener = np.argsort(member.astype(np.int64) * DAY_MS + start, kind="stable")
    by_listener = by_listener[heard[by_listener]]
    member, source = member[by_listener], source[by_listener]
    plays = np.minimum(rng.geometric(1.0 / PLAYS_PER_SESSION, len(member)), LONGEST_SESSION).astype(np.int32)
    playlists = GenreSampler.of(population.music.playlist_genre, population.music.playlist_weight)
    liked = _theme(people.genre[member], people.second_genre[member], playlists.everything, rng)
    playlist = np.where(source == PLAYLIST, playlists.draw(liked, rng.random(len(member), dtype=np.float32)), -1)
    opened = Sessions(member, start[by_listener], plays, source, playlist.astype(np.int32), device[by_listener])
    gone = [removed_playlist(population, one) for one in _ongoing(population, day, IncidentKind.PLAYLIST_REMOVAL)]
    return opened.take(~np.isin(opened.playlist, gone)) if gone else opened


def _ongoing(population: Population, day: date, kind: IncidentKind) -> list[Incident]:
    return [one for one in population.incidents if one.kind is kind and one.covers(day)]


def _source_shares(population: Population, day: date) -> list[float]:
    """How often sessions begin from each source; a shift of the mix makes one of them more frequent."""
    factor = {
        str(one.parameters["element"]): one.number("factor")
        for one in _ongoing(population, day, IncidentKind.MIX_SHIFT)
        if one.parameters["dimension"] == "source"
    }
    return [share * factor.get(name, 1.0) for name, share in SOURCES]


def _drawn_by_tier(population: Population, day: date, known: int) -> Floats:
    """How much more listeners come while a shift of the mix draws those of their tier."""
    drawn = np.ones(known)
    for one in _ongoing(population, day, IncidentKind.MIX_SHIFT):
        if one.parameters["dimension"] == "tier":
            noon = np.full(known, population.parameters.day_number(day) * DAY_MS + DAY_MS // 2, dtype=np.int64)
            premium = population.premium(np.arange(known, dtype=np.int32), noon)
            drawn[premium == (one.parameters["element"] == "premium")] *= one.number("factor")
    return drawn


def removed_playlist(population: Population, incident: Incident) -> int:
    """The playlist that is taken down: the one of that rank by popularity, 1 being the most popular."""
    ranked = np.argsort(-population.music.playlist_weight, kind="stable")
    return int(ranked[int(incident.number("rank")) - 1])


def _start_times(population: Population, member: Indices, weekend: bool, rng: np.random.Generator) -> Indices:
    """When each session starts, by its listener's habit, own shift and time zone."""
    people = population.listeners
    slots = _habit_slots(weekend)
    local = slots[people.habit[member], rng.integers(0, _HABIT_SLOTS, len(member))] * 3_600_000
    local += rng.integers(0, 3_600_000, len(member)) + people.shift_minutes[member].astype(np.int64) * 60_000
    return ((local - people.utc_offset[member].astype(np.int64) * 3_600_000) % DAY_MS).astype(np.int32)


def _habit_slots(weekend: bool) -> Ints:
    """Local hours in proportion to each habit's weights, so that a uniform index draws an hour."""
    rows = []
    for _, _, workday, freeday in HABITS:
        cumulative = np.cumsum(freeday if weekend else workday)
        rows.append(np.searchsorted(cumulative / cumulative[-1], (np.arange(_HABIT_SLOTS) + 0.5) / _HABIT_SLOTS))
    return np.stack(rows).astype(np.int64)


def _theme(genre: Codes, second_genre: Codes, everything: int, rng: np.random.Generator) -> Codes:
    """What each choice is made from: the main genre in half, the second in a fifth, else everything."""
    taste = rng.random(len(genre), dtype=np.float32)
    return np.where(taste < 0.5, genre, np.where(taste < 0.7, second_genre, np.int8(everything)))


def _play(population: Population, day: date, number: int, sessions: Sessions, rng: np.random.Generator) -> Plays:
    session = np.repeat(np.arange(len(sessions.member), dtype=np.int32), sessions.plays)
    member, source = sessions.member[session], sessions.source[session]
    track = _choose(population, day, number, sessions, session, rng)
    last = np.zeros(len(session), dtype=np.bool_)
    last[np.cumsum(sessions.plays) - 1] = True
    premium = population.premium(sessions.member, np.full(len(sessions.member), number * DAY_MS, dtype=np.int64))
    ms, end = _listen_through(population, source, member, track, last, premium[session], rng)
    pauses = 300 + (rng.standard_exponential(len(ms), dtype=np.float32) * 1_500).astype(np.int32)
    ts = _one_after_another(sessions, session, ms + pauses)
    today = ts < DAY_MS
    mobile = sessions.device[session] <= 1
    plays = Plays(
        ts=ts,
        member=member,
        track=track,
        ms=ms,
        source=source,
        playlist=sessions.playlist[session],
        device=sessions.device[session],
        end=end,
        skipped=(end == FWDBTN) | (end == BACKBTN),
        offline=premium[session] & mobile & (rng.random(len(ms), dtype=np.float32) < 0.06),
        premium=premium[session],
        session=session,
    ).take(today)
    return _with_tier_of_the_moment(population, plays, number)


def _choose(
    population: Population, day: date, number: int, sessions: Sessions, session: Indices, rng: np.random.Generator
) -> Indices:
    """The track of each play: from the playlist, from the listener's own library, or by popularity and taste."""
    music, people = population.music, population.listeners
    source = sessions.source[session]
    count = len(session)
    track = np.empty(count, dtype=np.int32)
    begins = np.cumsum(sessions.plays) - sessions.plays
    order = (np.arange(count) - np.repeat(begins, sessions.plays)).astype(np.int32)
    listed = source == PLAYLIST
    # A playlist is played in order from somewhere in its first third, where most people begin.
    begin = rng.integers(0, PLAYLIST_TRACKS // 3, len(sessions.member), dtype=np.int32)
    at = (begin[session[listed]] + order[listed]) % PLAYLIST_TRACKS
    track[listed] = music.playlist_tracks[sessions.playlist[session[listed]], at]
    owned = source == LIBRARY
    favourite = (rng.random(int(owned.sum()), dtype=np.float32) ** 2 * LIBRARY_TRACKS).astype(np.int32)
    track[owned] = people.library[sessions.member[session[owned]], favourite]
    free = ~(listed | owned)
    listener = sessions.member[session[free]]
    sampler = GenreSampler.of(music.track_genre[: music.known(number)], music.weights(number))
    theme = _theme(people.genre[listener], people.second_genre[listener], sampler.everything, rng)
    drawn = sampler.draw(theme, rng.random(len(listener), dtype=np.float32))
    for incident in population.incidents:
        if incident.kind is IncidentKind.VIRAL_HIT and incident.covers(day):
            caught = rng.random(len(drawn), dtype=np.float32) < viral_share(incident, day)
            drawn[caught] = viral_track(population, incident)
    track[free] = drawn
    return track


def viral_track(population: Population, incident: Incident) -> int:
    """The track that goes viral: of those out on the first day, one from the middle of the ranking."""
    base = population.music.known(-1)
    ranked = np.argsort(-population.music.track_weight[:base], kind="stable")
    return int(ranked[int(base * (0.2 + 0.3 * incident.number("track_pick")))])


def _listen_through(
    population: Population, source: Codes, member: Indices, track: Indices, last: Flags, premium: Flags, rng: np.random.Generator
) -> tuple[Indices, Codes]:
    """How long each play lasted and why it ended."""
    count = len(track)
    length = population.music.track_ms[track]
    by_source = np.array([SOURCE_SKIPS[name] for name, _ in SOURCES], dtype=np.float32)
    skip = population.listeners.skips.astype(np.float32)[member] * by_source[source]
    skip *= np.where(premium, np.float32(1.0), np.float32(FREE_SKIPS))
    chance = rng.random(count, dtype=np.float32)
    skipped = chance < skip
    left = ~skipped & last & (chance > 0.62)
    ms = length.copy()
    # Most skips come within seconds, the rest anywhere in the track; who leaves, leaves anywhere.
    cut = np.flatnonzero(skipped | left)
    part = rng.random(len(cut), dtype=np.float32)
    early = skipped[cut] & (rng.random(len(cut), dtype=np.float32) < 0.62)
    seconds = np.minimum(1_200 + rng.standard_exponential(len(cut), dtype=np.float32) * 8_500, 29_500)
    ms[cut] = np.where(early, seconds, 2_000 + (length[cut] * 0.97 - 2_000) * part).astype(np.int32)
    end = np.zeros(count, dtype=np.int8)
    end[cut] = np.where(skipped[cut], np.where(part < 0.07, BACKBTN, FWDBTN), np.where(part < 0.8, ENDPLAY, LOGOUT))
    return ms, end


def _one_after_another(sessions: Sessions, session: Indices, spans: Indices) -> Ints:
    """When each play starts. A session that would begin before the listener's last one ended is moved behind it.

    With d the time that a listener's earlier sessions take, session i begins at max over j <= i of (start_j - d_j) + d_i:
    a running maximum, kept within one listener by lifting each above all before.
    """
    ends = np.cumsum(sessions.plays)
    run = np.cumsum(spans, dtype=np.int64)
    before_play = run - spans
    before_session = before_play[ends - sessions.plays] if len(ends) else run[:0]
    # Before session i of a listener lie his earlier sessions and as many pauses.
    taken = before_session + np.arange(len(ends), dtype=np.int64) * SESSION_GAP_MS
    newcomer = np.empty(len(ends), dtype=np.bool_)
    newcomer[:1] = True
    newcomer[1:] = sessions.member[1:] != sessions.member[:-1]
    listener = np.cumsum(newcomer) - 1
    taken -= taken[np.flatnonzero(newcomer)][listener]
    lift = listener * np.int64(1 << 36)  # above any time that one listener's sessions of a day could take
    start: Ints = np.maximum.accumulate(sessions.start - taken + lift) - lift + taken
    ts: Ints = (start - before_session)[session] + before_play
    return ts


def _with_tier_of_the_moment(population: Population, plays: Plays, number: int) -> Plays:
    """Correct the tier of the few listeners whose tier changes within the day, and close what follows a closed account."""
    people = population.listeners
    midnight = number * DAY_MS
    known = population.known_listeners(number)
    changing = np.zeros(known, dtype=np.bool_)
    for moments in (people.upgrade, people.cancel, people.reactivate):
        changing |= (moments[:known] >= midnight) & (moments[:known] < midnight + DAY_MS)
    affected = np.flatnonzero(changing[plays.member])
    premium = plays.premium.copy()
    premium[affected] = population.premium(plays.member[affected], plays.ts[affected].astype(np.int64) + midnight)
    offline = plays.offline & premium
    open_account = plays.ts + np.int64(midnight) < people.quit[plays.member]
    columns = {f.name: getattr(plays, f.name) for f in fields(Plays)} | {"premium": premium, "offline": offline}
    return Plays(**columns).take(open_account)


def _failing(plays: Plays, incident: Incident, day: date, rng: np.random.Generator) -> Flags:
    start, end = window(incident, day)
    unlucky = rng.random(len(plays), dtype=np.float32) < incident.number("lost_plays")
    failing: Flags = (plays.ts >= start) & (plays.ts < end) & unlucky
    return failing


def window(incident: Incident, day: date) -> tuple[int, int]:
    """The part of a day that an incident covers, in milliseconds since midnight; the end is exclusive."""
    midnight = datetime.combine(day, time.min, UTC)
    bounds = (round((moment - midnight).total_seconds() * 1000) for moment in (incident.start, incident.end))
    start, end = bounds
    return max(0, start), min(DAY_MS, end)


def farmed_artist(population: Population, incident: Incident) -> int:
    """The artist whose tracks a bot farm plays: one of the little known half with tracks out on the first day."""
    music = population.music
    performing = np.unique(music.track_artist[: music.known(-1)])
    obscure = performing[np.argsort(music.artist_fame[performing], kind="stable")][: max(1, len(performing) // 2)]
    return int(obscure[int(incident.number("artist_pick") * len(obscure))])


def _bot_plays(population: Population, incident: Incident, number: int, first_session: int) -> Plays:
    """Each bot's plays of 31 to 35 s, one after another from midnight to midnight, one session a bot."""
    parameters, music = population.parameters, population.music
    rng = stream(parameters.seed, parameters.tenant, f"plays of {incident.incident}", number)
    bots = np.flatnonzero(population.listeners.bot == population.incidents.index(incident)).astype(np.int32)
    per_bot = DAY_MS // 31_000 + 1
    ms = rng.integers(31_000, 35_001, size=(len(bots), per_bot))
    ts = np.cumsum(ms + rng.integers(100, 900, size=ms.shape), axis=1) - ms
    today = ts < DAY_MS
    count = int(today.sum())
    theirs = np.flatnonzero(music.track_artist[: music.known(-1)] == farmed_artist(population, incident))
    session = np.broadcast_to(np.arange(len(bots))[:, None], ts.shape)[today].astype(np.int32)
    member = bots[session]
    no = np.zeros(count, dtype=np.bool_)
    return Plays(
        ts=ts[today],
        member=member,
        track=theirs[rng.integers(0, len(theirs), count)].astype(np.int32),
        ms=ms[today].astype(np.int32),
        source=np.full(count, ARTIST, dtype=np.int8),
        playlist=np.full(count, -1, dtype=np.int32),
        device=population.listeners.device[member],
        end=np.full(count, FWDBTN, dtype=np.int8),
        skipped=~no,
        offline=no,
        premium=no,
        session=session + np.int32(first_session),
    )


def _by_time(ts: Ints) -> Ints:
    """Indices in time order; sorting time and position as one number is several times as fast as an argsort."""
    keyed = (ts << 32) | np.arange(len(ts), dtype=np.int64)
    keyed.sort()
    keyed &= np.int64(0xFFFF_FFFF)
    return keyed


def hourly_load(plays: Plays) -> Floats:
    """Plays of each hour of the day."""
    return np.bincount(plays.ts // 3_600_000, minlength=24).astype(np.float64)
