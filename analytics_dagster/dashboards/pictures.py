"""Pictures of a page: the charts of `insights/charts.py` put into the page's own colours, sparklines and bars.

An inline picture takes the page's colours (light or dark) through CSS variables; as a file of its own it keeps the white card.
One specification makes both, and the pictures in Dagster and in messages.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache

import pyarrow as pa

from analytics_dagster.dashboards.figures import Pairs
from analytics_dagster.insights import charts
from analytics_dagster.lake.schemas import TIMESTAMP
from analytics_dagster.words import drawable

_MOST_PICTURES = 2_000
_INK = {
    charts.INK: "currentColor",
    charts.FAINT: "var(--grid)",
    charts.PAST: "var(--past)",
    charts.BLUE: "var(--line)",
    charts.ORANGE: "var(--band)",
    charts.VERMILION: "var(--odd)",
    charts.PURPLE: "var(--mark)",
}
_COLOUR = re.compile("|".join(re.escape(colour) for colour in _INK))
_SIZE = re.compile(r'^<svg xmlns="http://www.w3.org/2000/svg" width="(\d+)" height="(\d+)" viewBox="([^"]*)" font-family="[^"]*"')
_CARD = re.compile(r'<rect width="\d+" height="\d+" fill="#FFFFFF"/>')
_SPARK = (120, 28)


class Size(Enum):
    """Width and height of a chart's plot, in pixels: one of many on a page, the page's main chart, the main chart on paper."""

    SMALL = (300, 110)
    WIDE = (1_080, 260)
    PRINT = (660, 190)


def pairs_table(pairs: Pairs) -> pa.Table:
    """Buckets as the columns ts and value, which charts read."""
    days = [dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC) for day, _ in pairs]
    return pa.table({"ts": pa.array(days, TIMESTAMP), "value": pa.array([value for _, value in pairs], pa.float64())})


def moved(pairs: Pairs, onto: Pairs) -> Pairs:
    """Buckets of a comparison under those that they are compared with, place by place."""
    return tuple((day, value) for (day, _), (_, value) in zip(onto, pairs, strict=False))


@lru_cache(maxsize=_MOST_PICTURES)
def trend(
    title: str,
    unit: str,
    days: Pairs,
    compared: Pairs,
    forecast: tuple[tuple[dt.date, float, float | None, float | None], ...] = (),
    odd: Pairs = (),
    partial: dt.date | None = None,
    size: Size = Size.WIDE,
    headed: bool = True,
    marks: tuple[charts.Marked, ...] = (),
) -> charts.Chart:
    """A metric's days over the dashed comparison, with its forecast (day, yhat, lo, hi), its odd days and what is said of days.

    Kept by content: the same figures give the same picture without drawing it again.
    """
    return charts.kpi_chart(
        title,
        pairs_table(days),
        _forecast(forecast) if forecast else None,
        _odd(odd) if odd else None,
        unit,
        compared=pairs_table(moved(compared, days)) if compared else None,
        partial=partial,
        width=size.value[0],
        height=size.value[1],
        days=len(days),
        headed=headed,
        marks=marks,
    )


def inline(svg: str) -> str:
    """The picture for a page: no card, no fixed size, colours from the page. Nothing in it needs a style of its own, so a strict
    Content-Security-Policy lets it be.
    """
    found = _SIZE.match(svg)
    if found is None:
        raise ValueError(f"not a picture of insights/charts.py: {svg[:80]}")
    opening = f'<svg class="picture" width="{found[1]}" height="{found[2]}" viewBox="{found[3]}"'
    return _COLOUR.sub(lambda colour: _INK[colour[0]], opening + _CARD.sub("", svg[found.end() :], count=1))


def sparkline(values: Sequence[float | None], words: str) -> str:
    """A line of the values without axes, and what it shows in words. Gaps stay gaps."""
    from html import escape

    known = [value for value in values if value is not None]
    if len(known) < 2:
        return ""
    width, height = _SPARK
    low, high = min(known), max(known)
    across, up = width / max(1, len(values) - 1), (height - 4) / ((high - low) or 1.0)
    path, drawing = [], False
    for place, value in enumerate(values):
        if value is not None:
            path.append(f"{'L' if drawing else 'M'}{place * across:.1f},{height - 2 - (value - low) * up:.1f}")
        drawing = value is not None
    return (
        f'<svg class="spark" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'preserveAspectRatio="none"><title>{escape(drawable(words))}</title>'
        f'<path d="{"".join(path)}" fill="none" stroke="var(--line)" stroke-width="1.5"/></svg>'
    )


def bar(share: float) -> str:
    """A bar as long as the share of its cell, 0 to 1. Decoration: the figure stands beside it."""
    return (
        '<svg class="bar" aria-hidden="true" width="100%" height="6" focusable="false">'
        f'<rect width="{max(0.0, min(1.0, share)) * 100:.1f}%" height="6" rx="2" fill="var(--line)"/></svg>'
    )


def _forecast(rows: Sequence[tuple[dt.date, float, float | None, float | None]]) -> pa.Table:
    days = [dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC) for day, *_ in rows]
    columns = {
        name: pa.array([row[n] for row in rows], pa.float64()) for n, name in enumerate(("yhat", "lo_95", "hi_95"), start=1)
    }
    return pa.table({"ts": pa.array(days, TIMESTAMP), **columns})


def _odd(pairs: Pairs) -> pa.Table:
    return pairs_table(pairs).append_column("anomaly", pa.array([True] * len(pairs)))
