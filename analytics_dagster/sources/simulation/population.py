"""The listeners of a simulated tenant: who they are, what they like, and when they come, pay, stop paying and leave.

Everything about a listener is decided when the population is built, so what holds on a day is looked up and never carried
forward from the day before. The listeners of the first day are drawn at once, later registrations week by week; bot
accounts belong to their incident. Moments are milliseconds, and days whole days, since midnight of the first day.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date

import numpy as np
import pyarrow as pa

from analytics_dagster.sources.simulation.incidents import Incident, IncidentKind, plan_incidents
from analytics_dagster.sources.simulation.music import GenreSampler, Music, compose, weeks_until
from analytics_dagster.sources.simulation.parameters import Parameters
from analytics_dagster.sources.simulation.randomness import Codes, Flags, Floats, Indices, Ints, pick, stream
from analytics_dagster.sources.simulation.vocabulary import (
    DEVICES,
    GENRES,
    HABITS,
    MARKETS,
    PROFILES,
    SALES_CHANNELS,
    TenantProfile,
)

DAY_MS = 86_400_000
NEVER = np.int64(1 << 60)
LIBRARY_TRACKS = 24
MEAN_STAY_DAYS = 700.0
GROWTH = 1.25
"""Registrations for each listener who leaves."""
PREMIUM_AT_START = 0.38
MEAN_DAYS_TO_UPGRADE = 520.0
MEAN_PAYING_DAYS = 420.0
EARLY_LEAVERS = 0.2
RETURNS = 0.25
GENDERS = (("f", 43.0), ("m", 43.0), ("x", 2.0), (None, 12.0))


@dataclass(frozen=True)
class Listeners:
    """Columns by listener index; an index never changes."""

    registered: Ints
    upgrade: Ints
    cancel: Ints
    reactivate: Ints
    quit: Ints
    """When the account is closed. All five are moments in ms; NEVER where it does not happen."""
    country: Codes
    utc_offset: Codes
    habit: Codes
    shift_minutes: Indices
    activity: Floats
    intensity: Floats
    skips: Floats
    genre: Codes
    second_genre: Codes
    device: Codes
    channel: Codes
    gender: Codes
    age: Indices
    library: Indices
    bot: Codes
    """Position of the bot farm among the incidents; -1 for people."""

    def __len__(self) -> int:
        return len(self.registered)


@dataclass(frozen=True)
class Texts:
    """Ids and names as Arrow arrays, by the index of what they name."""

    listener_ids: pa.Array
    track_ids: pa.Array
    tracks: pa.Array
    albums: pa.Array
    artist_ids: pa.Array
    artists: pa.Array
    playlist_ids: pa.Array


@dataclass(frozen=True)
class Population:
    """A tenant's whole simulated world through a day. Pure data: `simulate_day` makes a day's rows from it."""

    parameters: Parameters
    profile: TenantProfile
    through: date
    incidents: tuple[Incident, ...]
    music: Music
    listeners: Listeners
    listeners_by_week: tuple[int, ...]
    texts: Texts
    countries: tuple[str, ...]

    def known_listeners(self, day: int) -> int:
        """How many listeners may be looked at on a day: registered, or registering within its week."""
        return self.listeners_by_week[max(0, day // 7 + 1)] if day >= 0 else self.listeners_by_week[0]

    def premium(self, members: Indices, at: Ints) -> Flags:
        """Whether each of these listeners was premium at each of these moments."""
        people = self.listeners
        first = (people.upgrade[members] <= at) & (at < people.cancel[members])
        again = (people.reactivate[members] <= at) & (at < people.quit[members])
        return first | again


def build_population(parameters: Parameters, through: date, incidents: Sequence[Incident] | None = None) -> Population:
    """The world of a tenant through `through`. One built through a later day is the same up to here.

    incidents: these in place of the planned ones, in time order.
    """
    weeks = weeks_until(parameters, through)
    profile = PROFILES[parameters.ordinal % len(PROFILES)]
    incidents = plan_incidents(parameters) if incidents is None else tuple(incidents)
    music = compose(parameters, weeks)
    rng = stream(parameters.seed, parameters.tenant, "listeners")
    favourites = GenreSampler.of(music.track_genre[: music.known(-1)], music.track_weight[: music.known(-1)])
    parts = [_people(rng, parameters.users, profile, favourites, None)]
    for position, incident in enumerate(incidents):
        if incident.kind is IncidentKind.BOT_FARM:
            parts.append(_bots(parameters, profile, incident, position, favourites))
    counts = [sum(len(part) for part in parts)]
    weekly = parameters.users / MEAN_STAY_DAYS * GROWTH * 7
    for week in range(weeks):
        newcomers = stream(parameters.seed, parameters.tenant, "registrations", week)
        parts.append(_people(newcomers, int(newcomers.poisson(weekly)), profile, favourites, week))
        counts.append(counts[-1] + len(parts[-1]))
    listeners = Listeners(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Listeners)})
    return Population(
        parameters=parameters,
        profile=profile,
        through=through,
        incidents=incidents,
        music=music,
        listeners=listeners,
        listeners_by_week=tuple(counts),
        texts=_texts(parameters, music, len(listeners)),
        countries=tuple(country for country, _ in profile.countries),
    )


def _texts(parameters: Parameters, music: Music, listeners: int) -> Texts:
    return Texts(
        listener_ids=_listener_ids(parameters.seed, listeners),
        track_ids=_numbered("trk", len(music.track_titles)),
        tracks=pa.array(music.track_titles, pa.string()),
        albums=pa.array(music.track_albums, pa.string()),
        artist_ids=_numbered("art", len(music.artist_names)),
        artists=pa.array(music.artist_names, pa.string()),
        playlist_ids=_numbered("lst", len(music.playlist_names)),
    )


def _numbered(kind: str, count: int) -> pa.Array:
    return pa.array([f"{kind}{number:06d}" for number in range(count)], pa.string())


def _listener_ids(seed: int, count: int) -> pa.Array:
    """`u` and eight hexadecimal digits. An odd multiplier permutes the 32-bit numbers, so ids are distinct and say nothing."""
    numbers = (np.arange(count, dtype=np.uint64) * np.uint64(2_654_435_761) + np.uint64(seed)) & np.uint64(0xFFFF_FFFF)
    return pa.array([f"u{number:08x}" for number in numbers.tolist()], pa.string())


def _people(
    rng: np.random.Generator, count: int, profile: TenantProfile, favourites: GenreSampler, week: int | None
) -> Listeners:
    """Listeners of the first day (`week` None), or those who register in a week."""
    country = pick(rng, [share for _, share in profile.countries], count)
    offsets = [MARKETS[name].utc_offsets for name, _ in profile.countries]
    turn = rng.integers(0, 60, count)  # divisible by every number of offsets
    utc_offset = np.array([offsets[c][t % len(offsets[c])] for c, t in zip(country.tolist(), turn.tolist(), strict=True)])
    leaning = [share * (2 if name in profile.genres else 1) for name, share in GENRES]
    genre, second_genre = pick(rng, leaning, count), pick(rng, leaning, count)
    activity = rng.beta(1.8, 1.4, count)
    moments = _careers(rng, count, week, activity)
    return Listeners(
        **moments,
        country=country,
        utc_offset=utc_offset.astype(np.int8),
        habit=pick(rng, [share for _, share, _, _ in HABITS], count),
        shift_minutes=np.clip(rng.normal(0.0, 50.0, count), -150, 150).astype(np.int32),
        activity=activity,
        intensity=rng.gamma(1.6, 0.6, count),
        skips=rng.beta(2.0, 6.5, count),
        genre=genre,
        second_genre=second_genre,
        device=pick(rng, [share for _, share in DEVICES], count),
        channel=pick(rng, [share for _, share in SALES_CHANNELS], count),
        gender=pick(rng, [share for _, share in GENDERS], count),
        # Ages are skewed to the twenties; -1 where the listener did not say.
        age=np.where(rng.random(count) < 0.08, -1, 15 + rng.gamma(2.6, 7.0, count).clip(0, 70)).astype(np.int32),
        library=_libraries(rng, count, genre, second_genre, favourites),
        bot=np.full(count, -1, dtype=np.int8),
    )


def _careers(rng: np.random.Generator, count: int, week: int | None, activity: Floats) -> dict[str, Ints]:
    """When each listener registers, upgrades, cancels, comes back and leaves, as moments in that order."""
    clock = rng.integers(6 * 3_600_000, 23 * 3_600_000, size=(5, count))
    stay: Floats = rng.exponential(MEAN_STAY_DAYS, count)
    registered: Floats
    present: Floats
    quit_day: Floats
    if week is None:
        registered = -1 - np.minimum(rng.exponential(480.0, count), 2_600.0)
        present = np.zeros(count)
        pays = rng.random(count) < PREMIUM_AT_START * (0.5 + activity / 1.1)
        quit_day = 1 + stay
    else:
        registered = 7.0 * week + rng.integers(0, 7, count)
        present = registered
        pays = np.zeros(count, dtype=np.bool_)
        early = rng.random(count) < EARLY_LEAVERS
        quit_day = registered + 1 + np.where(early, rng.exponential(14.0, count), stay)
    # Those who listen more upgrade sooner and pay for longer.
    until_upgrade = 1 + rng.exponential(MEAN_DAYS_TO_UPGRADE, count) * (1.6 - activity)
    upgrade = np.where(pays, registered * rng.random(count), present + until_upgrade)
    upgrade = np.maximum(upgrade, registered + 1)
    cancel = np.maximum(upgrade, present) + 30 + rng.exponential(MEAN_PAYING_DAYS, count) * (0.5 + activity)
    reactivate = cancel + 20 + rng.exponential(80.0, count)
    days = np.floor(np.stack([registered, upgrade, cancel, reactivate, quit_day])).astype(np.int64)
    moments = days * DAY_MS + clock
    leaves = moments[4]
    comes_back = rng.random(count) < RETURNS
    upgraded = np.where(moments[1] < leaves, moments[1], NEVER)
    cancelled = np.where(moments[2] < leaves, moments[2], np.where(upgraded < NEVER, leaves, NEVER))
    returned = np.where(comes_back & (moments[3] < leaves), moments[3], NEVER)
    return {"registered": moments[0], "upgrade": upgraded, "cancel": cancelled, "reactivate": returned, "quit": leaves}


def _libraries(rng: np.random.Generator, count: int, genre: Codes, second_genre: Codes, favourites: GenreSampler) -> Indices:
    """The tracks that each listener comes back to: half of the main genre, a quarter of the second, the rest of any."""
    theme = np.empty((count, LIBRARY_TRACKS), dtype=np.int8)
    half, three_quarters = LIBRARY_TRACKS // 2, 3 * LIBRARY_TRACKS // 4
    theme[:, :half] = genre[:, None]
    theme[:, half:three_quarters] = second_genre[:, None]
    theme[:, three_quarters:] = favourites.everything
    drawn = favourites.draw(theme.ravel(), rng.random(count * LIBRARY_TRACKS, dtype=np.float32)).reshape(theme.shape)
    # The order decides how often a track is played, so a favourite may be of any of the three.
    return rng.permuted(drawn, axis=1)


def _bots(
    parameters: Parameters, profile: TenantProfile, incident: Incident, position: int, favourites: GenreSampler
) -> Listeners:
    """The accounts of a bot farm: registered the day before it begins, closed when it ends, ordinary on paper."""
    rng = stream(parameters.seed, parameters.tenant, incident.incident)
    count = int(incident.number("bots"))
    people = _people(rng, count, profile, favourites, 0)
    country = [name for name, _ in profile.countries].index(str(incident.parameters["country"]))
    start = parameters.day_number(incident.first) * DAY_MS
    end = start + int((incident.end - incident.start).total_seconds() * 1000)
    never = np.full(count, NEVER, dtype=np.int64)
    columns = {f.name: getattr(people, f.name) for f in fields(Listeners)}
    columns.update(
        registered=start - DAY_MS + rng.integers(0, DAY_MS, count),
        upgrade=never,
        cancel=never,
        reactivate=never,
        quit=np.full(count, end, dtype=np.int64),
        country=np.full(count, country, dtype=np.int8),
        device=np.full(count, next(i for i, (name, _) in enumerate(DEVICES) if name == "web"), dtype=np.int8),
        activity=np.zeros(count),
        bot=np.full(count, position, dtype=np.int8),
    )
    return Listeners(**columns)
