"""What goes wrong in the simulated service, when, and the labels that say so: the ground truth for tests of detection.

Where incidents lie depends on the parameters alone. They lie within the days of the first simulation and end well before
its last day, so a fresh demo's newest days, and those that it goes on with, are ordinary. What they do to the data is
done where the data is made; here is only what, when and how strong.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from pathlib import Path

import numpy as np

from analytics_dagster.sources.simulation.parameters import Parameters, folder, replace_text
from analytics_dagster.sources.simulation.randomness import stream
from analytics_dagster.sources.simulation.vocabulary import PROFILES

FEWEST_DAYS = 5
"""A shorter simulation has no incidents: nothing would be left to compare them with."""
ROUND_DAYS = 90
"""A longer simulation has all kinds again in each such stretch."""
QUIET_START = 2
COLUMNS = ("tenant", "incident", "kind", "start", "end", "description", "parameters")


class IncidentKind(StrEnum):
    """What can go wrong. Those of PLANNED are in every longer simulation, the others where `build_population` is given them."""

    BROKEN_CLIENT = "broken_client"
    OUTAGE = "outage"
    BOT_FARM = "bot_farm"
    VIRAL_HIT = "viral_hit"
    LATE_BATCH = "late_batch"
    PLAYLIST_REMOVAL = "playlist_removal"
    MIX_SHIFT = "mix_shift"


PLANNED = (
    IncidentKind.BROKEN_CLIENT,
    IncidentKind.OUTAGE,
    IncidentKind.BOT_FARM,
    IncidentKind.VIRAL_HIT,
    IncidentKind.LATE_BATCH,
)
"""In the order in which the first tenant gets them when there is no room for all."""


@dataclass(frozen=True)
class Incident:
    """One labelled incident. `start` and `end` are UTC; the end is exclusive."""

    tenant: str
    incident: str
    kind: IncidentKind
    start: datetime
    end: datetime
    description: str
    parameters: dict[str, str | int | float] = field(default_factory=dict)

    def covers(self, day: date) -> bool:
        midnight = datetime.combine(day, time.min, UTC)
        return self.start < midnight + timedelta(days=1) and self.end > midnight

    def number(self, name: str) -> float:
        return float(self.parameters[name])

    @property
    def first(self) -> date:
        return self.start.date()


def plan_incidents(parameters: Parameters) -> tuple[Incident, ...]:
    """The incidents of a tenant, in time order, no two on one day.

    Fewer than FEWEST_DAYS days have none; from 20 days on there are all of PLANNED; in between as many as fit three days
    each. Which ones come first rotates by tenant, so that together the tenants show more kinds.
    """
    planned: list[Incident] = []
    for start in range(0, parameters.days, ROUND_DAYS):
        days = min(ROUND_DAYS, parameters.days - start)
        if parameters.days - start < ROUND_DAYS and start > 0:
            break  # what is left over after full rounds stays quiet
        quiet_end = max(3, days // 10)
        room = days - QUIET_START - quiet_end
        count = min(len(PLANNED), max(1, room // 3)) if days >= FEWEST_DAYS else 0
        planned += _round(parameters, start + QUIET_START, max(room, 1), count, start // ROUND_DAYS) if count else []
    return tuple(sorted(planned, key=lambda incident: incident.start))


def _round(parameters: Parameters, first: int, room: int, count: int, number: int) -> list[Incident]:
    rng = stream(parameters.seed, parameters.tenant, "incidents", number)
    planned = []
    for position, step in enumerate(rng.permutation(count)):
        kind = PLANNED[(parameters.ordinal + int(step)) % len(PLANNED)]
        low, high = first + position * room // count, first + (position + 1) * room // count
        planned.append(_incident(parameters, kind, low, high, f"{kind}-{number + 1}", rng))
    return planned


def _incident(parameters: Parameters, kind: IncidentKind, low: int, high: int, name: str, rng: np.random.Generator) -> Incident:
    """One incident within the days from `low` up to, not including, `high`."""
    length = {IncidentKind.BOT_FARM: 4, IncidentKind.VIRAL_HIT: 9}.get(kind, 1)
    length = max(1, min(length, high - low))
    begins = int(rng.integers(low, high - length + 1))
    start = datetime.combine(parameters.day(begins), time.min, UTC)
    end = start + timedelta(days=length)
    make = {
        IncidentKind.OUTAGE: _outage,
        IncidentKind.BOT_FARM: _bot_farm,
        IncidentKind.VIRAL_HIT: _viral_hit,
        IncidentKind.LATE_BATCH: _late_batch,
        IncidentKind.BROKEN_CLIENT: _broken_client,
    }[kind]
    return make(parameters, name, start, end, rng)


def _outage(parameters: Parameters, name: str, start: datetime, end: datetime, rng: np.random.Generator) -> Incident:
    begin = start + timedelta(hours=int(rng.integers(12, 19)), minutes=10 * int(rng.integers(0, 6)))
    finish = begin + timedelta(hours=int(rng.integers(2, 5)))
    errors, lost = round(float(rng.uniform(0.4, 0.6)), 3), round(float(rng.uniform(0.75, 0.9)), 3)
    return Incident(
        parameters.tenant,
        name,
        IncidentKind.OUTAGE,
        begin,
        finish,
        f"The database was overloaded: {errors:.0%} of API requests failed and {lost:.0%} of plays did not start.",
        {"error_ratio": errors, "lost_plays": lost, "latency_factor": 6.0, "host": "db-1"},
    )


def _bot_farm(parameters: Parameters, name: str, start: datetime, end: datetime, rng: np.random.Generator) -> Incident:
    countries = [country for country, _ in PROFILES[parameters.ordinal % len(PROFILES)].countries]
    country = countries[int(rng.integers(len(countries) // 2, len(countries)))]
    bots = max(3, parameters.users // 1_000)
    return Incident(
        parameters.tenant,
        name,
        IncidentKind.BOT_FARM,
        start,
        end,
        f"{bots} accounts in {country} played one artist's tracks round the clock, 31 to 35 s each.",
        {"bots": bots, "country": country, "artist_pick": round(float(rng.random()), 6)},
    )


def _viral_hit(parameters: Parameters, name: str, start: datetime, end: datetime, rng: np.random.Generator) -> Incident:
    peak = round(float(rng.uniform(0.10, 0.18)), 3)
    return Incident(
        parameters.tenant,
        name,
        IncidentKind.VIRAL_HIT,
        start,
        end,
        f"An unremarkable track went viral: at its peak {peak:.0%} of plays outside playlists and libraries, and many shares.",
        {"peak": peak, "track_pick": round(float(rng.random()), 6)},
    )


def _late_batch(parameters: Parameters, name: str, start: datetime, end: datetime, rng: np.random.Generator) -> Incident:
    share, delay = round(float(rng.uniform(0.15, 0.3)), 3), int(rng.integers(1, 3))
    return Incident(
        parameters.tenant,
        name,
        IncidentKind.LATE_BATCH,
        start,
        end,
        f"The plays of {share:.0%} of listeners arrived {delay} day{'s' if delay > 1 else ''} late.",
        {"listeners": share, "delay_days": delay},
    )


def _broken_client(parameters: Parameters, name: str, start: datetime, end: datetime, rng: np.random.Generator) -> Incident:
    # The first tenant's is on the commonest device, so that its share of empty listener_id (about a quarter of the day's
    # plays) closes the day's gate; the others' stays a warning (well under 5 %).
    severe = parameters.ordinal == 0
    device, share = ("android", 0.6) if severe else ("speaker", 0.35)
    return Incident(
        parameters.tenant,
        name,
        IncidentKind.BROKEN_CLIENT,
        start,
        end,
        f"A broken release for {device} left listener_id, track_id and ms_played empty in {share:.0%} of its plays.",
        {"device": device, "share": share},
    )


def viral_share(incident: Incident, day: date) -> float:
    """Share of open plays that a viral hit takes on a day: the bell of the Kermack-McKendrick epidemic, sech squared."""
    length = (incident.end - incident.start) / timedelta(days=1)
    middle = incident.start + (incident.end - incident.start) / 2
    noon = datetime.combine(day, time(12), UTC)
    return incident.number("peak") / math.cosh((noon - middle) / timedelta(days=1) / (length / 4)) ** 2


def write_incidents(home: Path, tenant: str, incidents: Sequence[Incident]) -> Path:
    """Write the ground truth beside the parameters: COLUMNS, times in ISO 8601 UTC, parameters as JSON."""
    target = folder(home, tenant) / "incidents.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in incidents:
        start, end = (moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in (one.start, one.end))
        writer.writerow(
            [one.tenant, one.incident, one.kind, start, end, one.description, json.dumps(one.parameters, sort_keys=True)]
        )
    replace_text(target, text.getvalue())
    return target
