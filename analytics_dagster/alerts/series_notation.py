"""promtool's notation of test series: `1+1x4`, `-2+4x3`, `1x4`, `_`, `_x3`, `stale`, `NaN`, `-Inf`.

Source: prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules, section `<series>`.
`a+bxn` are the n+1 values a, a+b, ..., a+n*b; `axn` is a, n+1 times; `_xn` are n missing points.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum

from analytics_dagster.alerts.queries import MatchOperator, parse_query
from analytics_dagster.alerts.rules import Labels, sorted_labels

MOST_VALUES = 5_000_000
_NUMBER = r"(?:[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?|[iI][nN][fF]|[nN][aA][nN])"
_REPEATED = re.compile(rf"([+-]?{_NUMBER})(?:([+-]{_NUMBER}))?x([0-9]{{1,9}})")
_SINGLE = re.compile(rf"[+-]?{_NUMBER}")
_MISSING = re.compile(r"_(?:x([0-9]{1,9}))?")


class Mark(Enum):
    """A point that is no number: nothing was recorded, or the series ended here."""

    MISSING = "_"
    STALE = "stale"


def parse_values(text: str) -> list[float | Mark]:
    """Raises ValueError naming the item that is not in the notation."""
    values: list[float | Mark] = []
    for item in text.split():
        values.extend(_item(item))
        if len(values) > MOST_VALUES:
            raise ValueError(f'"{item}" makes more than {MOST_VALUES} values; use a longer interval')
    return values


def parse_series(text: str) -> tuple[str, Labels]:
    """`name{a="b"}` as name and labels; only `=` may be used. Raises ValueError."""
    stripped = text.strip()
    if stripped.startswith("{"):
        # Prometheus also writes {__name__="up", job="a"}.
        query = parse_query(f"unnamed{stripped}")
        labels = {matcher.label: matcher for matcher in query.matchers}
        named = labels.get("__name__")
        if named is None:
            raise ValueError(f'"{text}" does not name a metric; write name{{label="value"}}')
        name, matchers = named.value, tuple(matcher for matcher in query.matchers if matcher is not named)
    else:
        query = parse_query(stripped)
        name, matchers = query.metric, query.matchers
    found: dict[str, str] = {}
    for matcher in matchers:
        if matcher.operator is not MatchOperator.EQUAL or matcher.label in found:
            raise ValueError(f'"{text}" is a series, so each label is written once, as {matcher.label}="value"')
        if matcher.value:
            found[matcher.label] = matcher.value
    return name, sorted_labels(found)


def _item(item: str) -> Iterator[float | Mark]:
    if item == Mark.STALE.value:
        yield Mark.STALE
        return
    missing = _MISSING.fullmatch(item)
    if missing is not None:
        yield from [Mark.MISSING] * _count(missing.group(1) or "1", item)
        return
    repeated = _REPEATED.fullmatch(item)
    if repeated is not None:
        value, step = float(repeated.group(1)), float(repeated.group(2) or 0)
        for _ in range(_count(repeated.group(3), item) + 1):
            yield value
            value += step
        return
    if item.startswith("{{"):
        raise ValueError(f'"{item}" is a native histogram; only plain numbers can be tested here')
    if _SINGLE.fullmatch(item) is None:
        raise ValueError(f'"{item}" is not in the notation of series values; write numbers, 1+1x4, 1x4, _, _x3 or stale')
    yield float(item)


def _count(text: str, item: str) -> int:
    count = int(text)
    if count > MOST_VALUES:
        raise ValueError(f'"{item}" makes more than {MOST_VALUES} values; use a longer interval')
    return count
