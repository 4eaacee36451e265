"""Findings in words: a sentence a label manager and a data engineer read alike, and never "caused"."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date

from analytics_dagster.insights.drivers import Driver
from analytics_dagster.insights.findings import Finding, Kind
from analytics_dagster.insights.numbers import change, figure
from analytics_dagster.insights.series import Series

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>#|!~"})


def weekday(day: date) -> str:
    """English whatever the locale, so that a page is the same everywhere."""
    return _WEEKDAYS[day.weekday()]


def escaped(text: str) -> str:
    """Text of others (artists, devices) so that markdown shows it as it is."""
    return " ".join(text.translate(_SPECIAL).split())


def claim(finding: Finding, series: Mapping[str, Series], day: date) -> str:
    """One sentence without a full stop."""
    one = series[finding.metric]
    usual = figure(finding.expected, one.unit)
    if finding.kind is Kind.MISSING:
        return f"{escaped(one.name)}: no figure for this day; about {usual} was expected"
    about = escaped(one.name)
    if finding.element is not None:
        about += f" with {_words(finding.element[0])} {escaped(finding.element[1])}"
    now = figure(finding.value, one.unit)
    if math.isnan(finding.expected):
        return f"{about}: {now}, odd for this series"
    moved = change(finding.value, finding.expected, one.unit)
    if moved in ("new", "-", "no change"):
        how = "new" if moved == "new" else "close to"
        return (
            f"{about}: {now}, {how} against a usual {weekday(day)} ({usual})"
            if how == "new"
            else f"{about}: {now}, as usual in size"
        )
    side = "above" if finding.value > finding.expected else "below"
    return f"{about}: {now}, {moved.lstrip('+-')} {side} a usual {weekday(day)} ({usual})"


def where(finding: Finding, series: Mapping[str, Series]) -> str:
    """Where the difference lies, or an empty string."""
    unit = series[finding.metric].unit
    if finding.mix is not None:
        return "; ".join(part for part in (_named(finding, unit), _mix(finding, unit)) if part)
    if finding.drivers:
        return _named(finding, unit)
    if finding.evenly:
        return f"Spread evenly over {', '.join(_words(name) for name in finding.evenly)}"
    return ""


def _named(finding: Finding, unit: str) -> str:
    """The named elements, dimension by dimension."""
    told = []
    for dimension in dict.fromkeys(one.dimension for one in finding.drivers):
        parts = [_element(one, unit) for one in finding.drivers if one.dimension == dimension]
        told.append(f"By {_words(dimension)}: {', '.join(parts)}")
    return "; ".join(told)


def _element(one: Driver, unit: str) -> str:
    text = (
        f"{escaped(one.element)} ({one.power * 100:.0f} % of the difference: {figure(one.actual, unit)} "
        f"instead of {figure(one.expected, unit)}"
    )
    if one.shares:
        text += f", as {figure(one.shares[0], 'ratio')} of all instead of {figure(one.shares[1], 'ratio')}"
    return f"{text})"


def _mix(finding: Finding, unit: str) -> str:
    mix = finding.mix
    assert mix is not None
    points = [f"{_points(value, unit)} {what}" for value, what in ((mix.within, "within them"), (mix.mix, "from their mix"))]
    if abs(mix.cross) * (1 if unit == "percent" else 100) >= 0.05:
        points.append(f"{_points(mix.cross, unit)} from both at once")
    sentence = f"By {_words(mix.dimension)}: {', '.join(points)}"
    if mix.misleading:
        sentence += "; mostly another mix, so the total misleads about the single ones"
    return sentence


def _points(value: float, unit: str) -> str:
    if unit in ("ratio", "percent"):
        number = value * (1 if unit == "percent" else 100)
        return f"{number:+.2f} pp" if abs(number) >= 0.005 else "0 pp"
    return f"{'+' if value > 0 else ''}{figure(value, unit)}"


def _words(name: str) -> str:
    return escaped(name.replace("_", " "))
