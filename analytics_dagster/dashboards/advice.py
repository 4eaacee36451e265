"""What to do about a finding, and what to know of the data before acting on any: sentences from facts, never from causes.

Each has its evidence and the address of the page that shows it.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from urllib.parse import quote

from analytics_dagster.dashboards.evidence import Told, Trust


@dataclass(frozen=True)
class Warned:
    """Why the day's figures are to be taken with care. evidence: names of what was found, worst first."""

    kind: str
    claim: str
    evidence: tuple[str, ...]
    recommendation: str
    link: str


def recommendation(told: Told) -> str:
    """What to look at next, by where the difference lies."""
    element = told.element or ((told.drivers[0].dimension, told.drivers[0].element) if told.drivers else None)
    if told.kind == "missing":
        return "Find out whether the source delivered; once it has, materialize the day again."
    if told.mixed:
        by = str((told.mix or {})["dimension"]).replace("_", " ")
        return f"Compare the values of {by} one by one before acting on the total: it moved with their mix."
    if element:
        return f"Look at {element[0].replace('_', ' ')} {element[1]} first: filtered by it, the page shows what else of it moved."
    if told.kind == "odd":
        return "Look at the series before acting: only the anomaly model calls it odd."
    return "It lies in no single part, so look for what all share: a release, an outage, data that came late."


def link(tenant: str, day: dt.date, told: Told) -> str:
    """The overview of the day with the metric, filtered by the element that is named first."""
    element = told.element or ((told.drivers[0].dimension, told.drivers[0].element) if told.drivers else None)
    address = f"/dashboards/{quote(tenant)}/overview?to={day}&metric={quote(told.metric.partition('{')[0])}"
    return address + (f"&f=is,{quote(element[0])},{quote(element[1], safe='')}" if element and element[0] in _FILTERS else "")


_FILTERS = frozenset({"country", "tier", "source", "device", "channel", "currency", "endpoint", "method", "host"})
"""Dimensions that a page of its own filters by; elements of others may be too many for one."""


def warnings(tenant: str, day: dt.date, trust: Trust | None) -> tuple[Warned, ...]:
    """What is wrong with the data of `day`, worst first; nothing where all is well."""
    page = f"/dashboards/{quote(tenant)}/quality?to={day}"
    if trust is None:
        return (Warned("empty", "Nothing is published yet", (), "Import something, then materialize its days.", page),)
    found = []
    if trust.gated:
        claim = f"The figures of {_many(len(trust.gated), 'table')} are held back by a critical check"
        found.append(Warned("gated", claim, trust.gated, "Mend the records or the check, then materialize the day again.", page))
    if trust.failed:
        claim = f"{_many(len(trust.failed), 'data check')} failed"
        found.append(Warned("checks", claim, trust.failed, "See what each check found before acting on a finding.", page))
    behind = tuple(f"{one.asset}: {one.newest}" for one in trust.sources if one.newest < trust.through)
    if behind:
        claim = f"{_many(len(behind), 'source')} lag{'s' if len(behind) == 1 else ''} behind {trust.through}"
        found.append(Warned("behind", claim, behind, "Find out whether they deliver; their findings are of older days.", page))
    if trust.quarantined:
        claim = f"{_many(trust.quarantined, 'record')} could not be taken"
        advice = "Read the reasons with `analytics quarantine`; what is mended is imported again."
        found.append(Warned("quarantine", claim, (), advice, page))
    return tuple(found)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
