"""Money in the simulated service: subscriptions with their renewals, and advertisements for those who do not pay.

Every event follows from the listener's career in the population, so tiers, payments and plays cannot contradict each
other.
"""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa

from analytics_dagster.lake.schemas import AD_IMPRESSIONS, SUBSCRIPTIONS
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
from analytics_dagster.sources.simulation.listening import Plays
from analytics_dagster.sources.simulation.population import DAY_MS, Population
from analytics_dagster.sources.simulation.randomness import Flags, Indices, Ints, pick, stream
from analytics_dagster.sources.simulation.vocabulary import AD_FORMATS, MARKETS, SALES_CHANNELS, TIERS

BILLING_DAYS = 30
PLAYS_PER_AD = 3.0
FILL_RATE = 0.92
EVENTS = ("signup", "upgrade", "renewal", "cancel", "reactivate")
SIGNUP, UPGRADE, RENEWAL, CANCEL, REACTIVATE = range(len(EVENTS))
FREE, PREMIUM = range(len(TIERS))
_FROM = np.array([-1, FREE, PREMIUM, PREMIUM, FREE], dtype=np.int8)
_TO = np.array([FREE, PREMIUM, PREMIUM, FREE, PREMIUM], dtype=np.int8)
_PAID = np.array([False, True, True, False, True])
# A price is for BILLING_DAYS: what a subscription adds to monthly recurring revenue, and takes from it.
_MRR = np.array([0, 1, 0, -1, 1], dtype=np.int64)


def subscriptions(population: Population, day: date) -> pa.Table:
    """Registrations, upgrades, monthly renewals, cancellations and returns of a day, with what was paid and what changes in each
    month's revenue.
    """
    number = population.parameters.day_number(day)
    member, event, ms = _events(population, number)
    people = population.listeners
    country = people.country[member].astype(np.int64)
    price = np.array([MARKETS[name].price_minor for name in population.countries])[country]
    paid: Flags = _PAID[event]
    rows = table(
        SUBSCRIPTIONS,
        {
            "event_id": identities("s", day, len(member)),
            "ts": moments(day, ms),
            "listener_id": chosen(population.texts.listener_ids, member),
            "event": text(EVENTS, event),
            "from_tier": text(TIERS, _FROM[event]),
            "to_tier": text(TIERS, _TO[event]),
            "amount_minor": numbers(price, missing=~paid),
            "mrr_change_minor": numbers(price * _MRR[event]),
            "currency": text([population.profile.reporting_currency], np.where(paid | (_MRR[event] != 0), 0, -1)),
            "country": text(population.countries, country),
            "channel": text([name for name, _ in SALES_CHANNELS], people.channel[member]),
            "format": constant(FORMAT, len(member)),
        },
    )
    return sorted_by_time(rows)


def _events(population: Population, number: int) -> tuple[Indices, Ints, Ints]:
    """Listener, kind and millisecond of each event of a day."""
    known = population.known_listeners(number)
    people = population.listeners
    midnight = number * DAY_MS
    members, kinds, moments_ = [], [], []

    def note(kind: int, at: Ints, where: Flags) -> None:
        who = np.flatnonzero(where).astype(np.int32)
        members.append(who)
        kinds.append(np.full(len(who), kind, dtype=np.int64))
        moments_.append(at[who] % DAY_MS)

    for kind, column in (
        (SIGNUP, people.registered),
        (UPGRADE, people.upgrade),
        (CANCEL, people.cancel),
        (REACTIVATE, people.reactivate),
    ):
        at = column[:known]
        note(kind, at, (at >= midnight) & (at < midnight + DAY_MS))
    # A listener who came back and then closes the account cancels by it.
    leaving, returned = people.quit[:known], people.reactivate[:known]
    note(CANCEL, leaving, (leaving >= midnight) & (leaving < midnight + DAY_MS) & (returned < leaving))
    for begun, ended in ((people.upgrade[:known], people.cancel[:known]), (returned, leaving)):
        elapsed = number - begun // DAY_MS
        today = midnight + begun % DAY_MS
        note(RENEWAL, begun, (elapsed > 0) & (elapsed % BILLING_DAYS == 0) & (today < ended))
    return np.concatenate(members), np.concatenate(kinds), np.concatenate(moments_)


def ad_impressions(population: Population, day: date, plays: Plays) -> pa.Table:
    """Requests for advertisements, about one in three plays of free listeners, just before the play."""
    parameters = population.parameters
    rng = stream(parameters.seed, parameters.tenant, "advertisements", parameters.day_number(day))
    which = np.flatnonzero(~plays.premium & (rng.random(len(plays), dtype=np.float32) < 1.0 / PLAYS_PER_AD))
    count = len(which)
    kind = pick(rng, [share for _, share, _ in AD_FORMATS], count)
    filled = rng.random(count, dtype=np.float32) < FILL_RATE
    country = population.listeners.country[plays.member[which]]
    ecpm = np.array([MARKETS[name].ecpm_micros for name in population.countries], dtype=np.float64)[country]
    relative = np.array([factor for _, _, factor in AD_FORMATS])[kind]
    sigma = 0.35
    revenue = ecpm / 1_000 * relative * rng.lognormal(-sigma * sigma / 2, sigma, count)
    return table(
        AD_IMPRESSIONS,
        {
            "event_id": identities("a", day, count),
            "ts": moments(day, plays.ts[which]),
            "listener_id": chosen(population.texts.listener_ids, plays.member[which]),
            "filled": pa.array(filled),
            "revenue_micros": numbers(np.where(filled, revenue, 0.0).astype(np.int64)),
            "currency": constant(population.profile.reporting_currency, count),
            "country": text(population.countries, country),
            "ad_format": text([name for name, _, _ in AD_FORMATS], kind),
            "format": constant(FORMAT, count),
        },
    )
