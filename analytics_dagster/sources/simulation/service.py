"""What the simulated service's machines see of a day: API requests, system samples, and points that clients record.

Load follows the day's listening. The request log of a large tenant is a sample, as request logs of large services are:
below SAMPLED_FROM listeners it holds every request, above it a steady share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa

from analytics_dagster.lake.schemas import API_REQUESTS, METRICS, SYSTEM_SAMPLES
from analytics_dagster.sources.simulation.columns import (
    FORMAT,
    chosen,
    constant,
    identities,
    moments,
    numbers,
    sorted_by_time,
    table,
    text,
)
from analytics_dagster.sources.simulation.incidents import Incident, IncidentKind
from analytics_dagster.sources.simulation.listening import Listening, Plays, hourly_load, viral_track, window
from analytics_dagster.sources.simulation.population import DAY_MS, Population
from analytics_dagster.sources.simulation.randomness import Flags, Floats, Indices, Ints, pick, stream
from analytics_dagster.sources.simulation.vocabulary import ENDPOINTS, HOSTS_PER_TENANT, SHARE_CHANNELS

SAMPLED_FROM = 2_000
"""Listeners above whose number the request log is sampled; its growth slows to a tenth."""
SERVER_ERRORS = 0.004
TRIES_PER_LOST_PLAY = 1.5
LATENCY_SIGMA = 0.55
SAMPLE_SECONDS = 300
ENGAGEMENT_SECONDS = 3_600
SHARES_PER_PLAY = 0.008
VIRAL_SHARES_PER_PLAY = 0.25
ERROR_STATUSES = ((500, 50.0), (503, 35.0), (504, 15.0))


def outages(population: Population, day: date) -> list[tuple[Incident, int, int]]:
    """The outages of a day with the window of each in milliseconds since midnight."""
    found = [one for one in population.incidents if one.kind is IncidentKind.OUTAGE and one.covers(day)]
    return [(one, *window(one, day)) for one in found]


@dataclass(frozen=True)
class _Requests:
    ts: Ints
    member: Indices
    endpoint: Ints


def api_requests(population: Population, day: date, heard: Listening) -> pa.Table:
    """Requests to the API by session and play; an outage makes many of them fail, and all of them slow."""
    parameters = population.parameters
    rng = stream(parameters.seed, parameters.tenant, "requests", parameters.day_number(day))
    requests = _requests(population, heard, rng)
    count = len(requests.ts)
    median = np.array([one.median_us for one in ENDPOINTS], dtype=np.float64)[requests.endpoint]
    load = hourly_load(heard.plays)
    busy = 1.0 + 0.15 * (load / max(1.0, load.max()))[requests.ts // 3_600_000]
    latency = median * busy * rng.lognormal(0.0, LATENCY_SIGMA, count)
    failing = np.full(count, SERVER_ERRORS)
    for incident, start, end in outages(population, day):
        hit = (requests.ts >= start) & (requests.ts < end)
        failing[hit] = incident.number("error_ratio")
        latency[hit] *= incident.number("latency_factor")
    status = _statuses(requests.endpoint, failing, rng)
    return table(
        API_REQUESTS,
        {
            "request_id": identities("r", day, count),
            "ts": moments(day, requests.ts),
            "listener_id": chosen(population.texts.listener_ids, requests.member),
            "endpoint": text([one.route for one in ENDPOINTS], requests.endpoint),
            "method": text([one.method for one in ENDPOINTS], requests.endpoint),
            "status": numbers(status),
            "latency_us": numbers(latency.astype(np.int64)),
            "format": constant(FORMAT, count),
        },
    )


def _requests(population: Population, heard: Listening, rng: np.random.Generator) -> _Requests:
    users, plays, sessions = population.parameters.users, heard.plays, heard.sessions
    kept = min(1.0, (SAMPLED_FROM + max(0, users - SAMPLED_FROM) * 0.1) / users)
    ts, member, endpoint = [], [], []
    for code, one in enumerate(ENDPOINTS):
        if one.per_play:
            which = np.flatnonzero(rng.random(len(plays), dtype=np.float32) < one.per_play * kept)
            # A play that does not start is tried again and again.
            tries = np.repeat(np.arange(len(heard.lost)), rng.poisson(TRIES_PER_LOST_PLAY * kept, len(heard.lost)))
            when = np.concatenate([plays.ts[which], heard.lost.ts[tries]])
            who = np.concatenate([plays.member[which], heard.lost.member[tries]])
        else:
            calls = rng.poisson(one.per_session * kept, len(sessions.member))
            which = np.repeat(np.arange(len(sessions.member)), calls)
            within = (rng.standard_exponential(len(which)) * 120_000).astype(np.int64)
            when, who = np.minimum(sessions.start[which] + within, DAY_MS - 1), sessions.member[which]
        ts.append(when)
        member.append(who)
        endpoint.append(np.full(len(when), code, dtype=np.int64))
    requests = _Requests(np.concatenate(ts), np.concatenate(member), np.concatenate(endpoint))
    order = np.argsort(requests.ts, kind="stable")
    return _Requests(requests.ts[order], requests.member[order], requests.endpoint[order])


def _statuses(endpoint: Ints, failing: Floats, rng: np.random.Generator) -> Ints:
    count = len(endpoint)
    chance = rng.random(count)
    refused = np.array([one.client_errors for one in ENDPOINTS])[endpoint]
    status = np.full(count, 200, dtype=np.int64)
    client = (chance >= failing) & (chance < failing + refused)
    status[client] = np.array([one.client_status for one in ENDPOINTS])[endpoint[client]]
    server = np.flatnonzero(chance < failing)
    kinds = np.array([code for code, _ in ERROR_STATUSES])
    status[server] = kinds[pick(rng, [share for _, share in ERROR_STATUSES], len(server))]
    return status


def hosts(users: int) -> list[str]:
    """A tenant's machines: more API hosts for more listeners."""
    extra = {"api": min(12, users // 20_000)}
    return [f"{kind}-{n + 1}" for kind, count in HOSTS_PER_TENANT for n in range(count + extra.get(kind, 0))]


def system_samples(population: Population, day: date, plays: Plays) -> pa.Table:
    """A sample of each machine every SAMPLE_SECONDS; processors follow the listening, disks fill up and are cleared weekly."""
    parameters = population.parameters
    number = parameters.day_number(day)
    rng = stream(parameters.seed, parameters.tenant, "machines", number)
    names = hosts(parameters.users)
    slots = 86_400 // SAMPLE_SECONDS
    ms = np.arange(slots, dtype=np.int64) * SAMPLE_SECONDS * 1_000
    hour = np.arange(24, dtype=np.float64)
    load = hourly_load(plays)
    relative = np.interp(ms / 3_600_000 - 0.5, hour, load / max(1.0, load.max()), period=24)
    # Neighbouring samples resemble each other: noise over half an hour.
    rough = rng.normal(0.0, 1.0, size=(len(names), slots + 5))
    noise = np.lib.stride_tricks.sliding_window_view(rough, 6, axis=1).mean(axis=2) * 2.4
    base = np.array([_base_load(name) for name in names])[:, None]
    cpu = base + 34.0 * relative + noise * 2.2
    memory = 42.0 + base / 2 + 9.0 * relative + noise
    for incident, start, end in outages(population, day):
        hit = (ms >= start) & (ms < end)
        row = names.index(str(incident.parameters["host"]))
        cpu[row, hit] = 97.0 + noise[row, hit] / 4
        memory[row, hit] += 22.0
    progress = (number % 7 + ms / DAY_MS) / 7.0
    disk = np.clip(38.0 + base / 4 + 14.0 * progress + noise / 5, 0.0, 100.0)
    network = (2e6 + 9e7 * relative * parameters.users / 1_000 / len(names)) * np.exp(noise / 12)
    count = len(names) * slots
    times, machines = np.repeat(ms, len(names)), np.tile(np.arange(len(names)), slots)
    return table(
        SYSTEM_SAMPLES,
        {
            "sample_id": identities("m", day, count),
            "ts": moments(day, times),
            "host": text(names, machines),
            "cpu_percent": pa.array(np.round(np.clip(cpu, 0.0, 100.0), 2).T.ravel()),
            "memory_percent": pa.array(np.round(np.clip(memory, 0.0, 100.0), 2).T.ravel()),
            "disk_percent": pa.array(np.round(disk, 2).T.ravel()),
            "network_bytes": numbers(network.T.ravel().astype(np.int64)),
            **_answered(names, cpu, relative * parameters.users, noise),
            "format": constant(FORMAT, count),
        },
    )


def _answered(names: Sequence[str], cpu: Floats, load: Floats, noise: Floats) -> dict[str, pa.Array]:
    """What databases and caches did between two samples, by machine (rows) and sample (columns): a database under load takes
    longer, and a machine that is down answers from no cache. Follows from what was drawn for the processors.
    """
    kind = np.array([name.split("-")[0] for name in names])[:, None]
    busy = np.clip(cpu, 0.0, 98.0) / 100
    queries = np.rint(20 + load * 1.5 * np.exp(noise / 20)) * (kind == "db")
    mean_us = 400 / (1 - busy) * np.exp(np.abs(noise) / 8)
    lookups = np.rint(40 + load * 3 * np.exp(noise / 20)) * (kind == "api")
    hits = np.rint(lookups * np.clip(0.94 - np.abs(noise) / 100 - 0.6 * (cpu > 90), 0.0, 1.0))
    columns = {
        "db_queries": (queries, "db"),
        "db_time_us": (np.rint(queries * mean_us), "db"),
        "db_slowest_us": (np.rint(mean_us * np.minimum(queries, 25)), "db"),
        "cache_hits": (hits, "api"),
        "cache_misses": (lookups - hits, "api"),
    }
    return {
        name: numbers(values.T.ravel().astype(np.int64), missing=np.broadcast_to(kind != of, values.shape).T.ravel())
        for name, (values, of) in columns.items()
    }


def _base_load(host: str) -> float:
    return {"api": 16.0, "db": 22.0, "worker": 12.0}[host.split("-")[0]]


@dataclass(frozen=True)
class Shares:
    """Tracks that were shared on a day: the play during which, how, and when in milliseconds since midnight."""

    which: Ints
    channel: Ints
    when: Ints


def shares(population: Population, day: date, plays: Plays) -> Shares:
    """What listeners shared, in order of the plays; a viral hit is shared far more than others."""
    return _shares(population, day, plays)[0]


def _shares(population: Population, day: date, plays: Plays) -> tuple[Shares, np.random.Generator]:
    """With the generator behind it, which the other points of the day go on with."""
    parameters = population.parameters
    rng = stream(parameters.seed, parameters.tenant, "points", parameters.day_number(day))
    shared = rng.random(len(plays), dtype=np.float32) < _share_chance(population, day, plays)
    which = np.flatnonzero(shared)
    channel = pick(rng, [share for _, share in SHARE_CHANNELS], len(which)).astype(np.int64)
    when = np.minimum(plays.ts[which] + rng.integers(2_000, 60_000, len(which)), DAY_MS - 1)
    return Shares(which, channel, when), rng


def recorded_points(population: Population, day: date, plays: Plays) -> pa.Table:
    """Points of `shares` (a counter that begins at 0 on each day: how many so far, at each share) and of `user_engagement_rate`
    (a gauge, every hour).
    """
    sent, rng = _shares(population, day, plays)
    combinations = [(channel, country) for country in population.countries for channel, _ in SHARE_CHANNELS]
    labels = [f'{{"channel":"{channel}","country":"{country}"}}' for channel, country in combinations]
    label = population.listeners.country[plays.member[sent.which]].astype(np.int64) * len(SHARE_CHANNELS) + sent.channel
    when = sent.when
    so_far = _so_far(label, when)
    every = np.arange(len(labels))
    label, when = np.concatenate([every, label]), np.concatenate([np.zeros(len(labels), np.int64), when])
    hours = np.arange(0, DAY_MS, ENGAGEMENT_SECONDS * 1_000, dtype=np.int64)
    count = len(when) + len(hours)
    engaged = _engagement(population, day, hours, rng)
    is_share = np.arange(count) < len(when)
    rows = table(
        METRICS,
        {
            "point_id": identities("x", day, count),
            "ts": moments(day, np.concatenate([when, hours])),
            "name": text(("user_engagement_rate", "shares"), is_share.astype(np.int32)),
            "type": text(("gauge", "counter"), is_share.astype(np.int32)),
            "value": pa.array(np.concatenate([np.zeros(len(labels)), so_far, engaged])),
            "labels": text([*labels, "{}"], np.concatenate([label, np.full(len(hours), len(labels))])),
        },
    )
    return sorted_by_time(rows)


def _so_far(series: Ints, when: Ints) -> Floats:
    """How many of the same series there are up to each moment, itself included."""
    order = np.lexsort((when, series))
    ordered = series[order]
    counted = np.empty(len(series))
    counted[order] = np.arange(len(series)) - np.searchsorted(ordered, ordered, "left") + 1
    return counted


def _share_chance(population: Population, day: date, plays: Plays) -> Floats:
    chance = np.full(len(plays), SHARES_PER_PLAY)
    for incident in population.incidents:
        if incident.kind is IncidentKind.VIRAL_HIT and incident.covers(day):
            chance[plays.track == viral_track(population, incident)] = VIRAL_SHARES_PER_PLAY
    bots: Flags = population.listeners.bot[plays.member] >= 0
    chance[bots] = 0.0
    return chance


def _engagement(population: Population, day: date, hours: Ints, rng: np.random.Generator) -> Floats:
    """Share of open sessions in which something was played to its end in the last hour, as the app reports it."""
    weekend = 0.015 if day.weekday() >= 5 else 0.0
    rate = 0.81 + weekend + 0.02 * np.sin(2 * np.pi * (hours / DAY_MS - 0.3)) + rng.normal(0.0, 0.008, len(hours))
    for incident, start, end in outages(population, day):
        # A point describes the hour before it.
        overlap = np.clip(np.minimum(hours, end) - np.maximum(hours - ENGAGEMENT_SECONDS * 1_000, start), 0, None)
        rate -= incident.number("lost_plays") * 0.5 * overlap / (ENGAGEMENT_SECONDS * 1_000)
    return np.round(np.clip(rate, 0.0, 1.0), 4)
