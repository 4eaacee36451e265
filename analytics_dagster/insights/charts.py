"""Pictures of KPIs as SVG: Altair specifications rendered by vl-convert in this process, without a network.

One look for the Dagster UI, messages and pages: a white card with dark text that reads on light and dark surroundings, the
colour-blind-safe palette of Okabe and Ito (2008), and never colour alone: odd days are ringed, forecasts are dashed
within a band. Gaps stay gaps and an unfinished day is dashed. Every picture says in words what it shows (`role=img`,
`<title>`).
"""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from analytics_dagster.errors import UserError
from analytics_dagster.insights.numbers import MINOR, digits, figure
from analytics_dagster.insights.series import Series
from analytics_dagster.words import drawable

if TYPE_CHECKING:
    import altair as alt

MOST_BYTES = 40_000
"""A picture larger than this as markdown bloats the event log; 20 kB on every partition made one of 423 MB."""
MOST_DAYS = 120
"""Days that a picture shows at most; more do not fit its pixels."""
MOST_PANELS = 12
"""KPIs that an overview shows, those with odd days first."""
_OVERVIEW_DAYS, _SMALL_DAYS, _SMALL_AHEAD = 560, 56, 14
"""Days that an overview shows in all, and in one of its panels; they make its bytes."""

BLUE, ORANGE, VERMILION, GREEN, PURPLE = "#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7"
INK, FAINT, PAPER, PAST = "#1F2933", "#D9DEE4", "#FFFFFF", "#7B8794"
_LABEL = {
    # Vega expression: 1.2k, 3.4M; ticks are round numbers, so nothing is lost by not flooring them.
    # Below 1 without the SI prefix: half a conversion is 0.5 and not 500m.
    "": "abs(datum.value) < 1 ? format(datum.value, '~g') : replace(format(datum.value, '~s'), 'G', 'B')",
    "ratio": "format(datum.value * 100, '~g') + ' %'",
    "percent": "format(datum.value, '~g') + ' %'",
    "ms": "format(datum.value, '~s') + ' ms'",
    "h": "format(datum.value, '~s') + ' h'",
    "min": "format(datum.value, '~s') + ' min'",
    "s": "format(datum.value, '~s') + ' s'",
    "bytes": "format(datum.value, '~s') + 'B'",
}
_FONT = "Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Chart:
    """A picture. `svg` is a whole document; `title` says in one sentence what it shows."""

    title: str
    svg: str

    @property
    def markdown(self) -> str:
        return as_markdown(self.svg, self.title)


def as_markdown(svg: str, alternative: str = "") -> str:
    """The picture as a markdown image with a data URI: Dagster's UI lets `data:` pass in images (and nothing in scripts).

    Raises UserError when it would be larger than MOST_BYTES.
    """
    encoded = base64.b64encode(svg.encode()).decode()
    words = " ".join(re.sub(r"[\[\]\n]", " ", alternative).split())
    text = f"![{words}](data:image/svg+xml;base64,{encoded})"
    if len(text) > MOST_BYTES:
        raise UserError(
            f"the picture {words!r} takes {len(text):,} bytes as markdown, {MOST_BYTES:,} are allowed; show fewer days"
        )
    return text


def kpi_chart(
    title: str,
    series: pa.Table,
    forecast: pa.Table | None = None,
    anomalies: pa.Table | None = None,
    unit: str = "",
    *,
    compared: pa.Table | None = None,
    partial: date | None = None,
    width: int = 640,
    height: int = 200,
    days: int = MOST_DAYS,
    headed: bool = True,
    marks: Sequence[Marked] = (),
) -> Chart:
    """One KPI: its newest `days`, its forecast with the 95 % band, its odd days. `headed`: the title stands in the picture.

    series: ts, value. forecast: ts, yhat, lo_95, hi_95. anomalies: ts, value, anomaly. compared: ts, value of other days,
    each under the day that it is compared with. partial: a day that is not over, drawn dashed. marks: days that something is
    said of, drawn as lines with a triangle, several days as a band; their words show under the pointer.
    """
    from altair.utils import schemapi

    past = _days(compared, days) if compared else ()
    kpi = _Kpi(title, _days(series, days), forecast, anomalies, unit, partial, past, marks)
    # Altair checks each part of a chart against its schema as it is made: a third of the time of a picture.
    with schemapi.debug_mode(False):
        return Chart(kpi.sentence, _svg(_panel(kpi, _Size(width, height), headed=headed), kpi.sentence))


def overview_chart(
    tenant: str,
    series: Sequence[Series],
    forecasts: pa.Table | None = None,
    anomalies: pa.Table | None = None,
    *,
    columns: int = 3,
    partial: date | None = None,
) -> Chart:
    """Small multiples of a tenant's KPIs, each with its own scale. forecasts and anomalies: rows with a metric column."""
    import altair as alt

    odd = [one.metric for one in series if _odd(_of(anomalies, one.metric))]
    chosen = sorted(series, key=lambda one: one.metric not in odd)[:MOST_PANELS] if len(series) > MOST_PANELS else series
    shown = max(21, min(_SMALL_DAYS, _OVERVIEW_DAYS // max(1, len(chosen))))
    panels = [
        _panel(
            _Kpi(one.name, _days(one.daily, shown), _of(forecasts, one.metric), _of(anomalies, one.metric), one.unit, partial),
            _Size(250, 90, small=True),
        )
        for one in chosen
    ]
    some = f"{len(series)} KPIs of {tenant}" + (f" ({len(chosen)} shown)" if len(chosen) < len(series) else "")
    names = ", ".join(sorted({one.name for one in series if one.metric in odd}))
    sentence = f"{some}; {f'odd days in {names}' if names else 'no odd days'}"
    return Chart(sentence, _svg(alt.concat(*panels, columns=columns, spacing=14, align="all", bounds="full"), sentence))


def quality_chart(title: str, checks: pa.Table) -> Chart:
    """Share of checks that passed by day. checks: ts, passed, failed (numbers of checks)."""
    import altair as alt

    rows = []
    for row in checks.sort_by("ts").to_pylist()[-MOST_DAYS:]:
        total = row["passed"] + row["failed"]
        rows.append({"day": _iso(row["ts"]), "passed": row["passed"] / total if total else None, "failed": row["failed"]})
    base = alt.Chart(alt.Data(values=rows)).encode(x=_x())
    line = base.mark_line(color=BLUE, strokeWidth=2).encode(y=_y("passed:Q", "ratio", zero=False, small=False))
    broken = (
        base.transform_filter("datum.failed > 0")
        .mark_point(shape="triangle-down", size=70, color=VERMILION, filled=True)
        .encode(y="passed:Q")
    )
    bad = sum(1 for row in rows if row["failed"])
    sentence = f"{title}: checks failed on {bad} of {len(rows)} days"
    spec = alt.layer(line, broken).properties(title=title, width=640, height=120)
    return Chart(sentence, _svg(spec, sentence))


Marked = tuple[date, date, str]
"""A first and a last day, both included, and what is said of them."""


@dataclass(frozen=True)
class _Size:
    width: int
    height: int
    small: bool = False


@dataclass(frozen=True)
class _Kpi:
    """What one panel shows."""

    title: str
    days: Sequence[tuple[date, float | None]]
    forecast: pa.Table | None
    anomalies: pa.Table | None
    unit: str
    partial: date | None
    compared: Sequence[tuple[date, float | None]] = ()
    marks: Sequence[Marked] = ()

    @property
    def whole(self) -> list[tuple[date, float | None]]:
        """Days that are over."""
        return [(day, value) for day, value in self.days if day != self.partial]

    @property
    def last(self) -> tuple[date, float] | None:
        """The newest whole day with a value."""
        return next(((day, value) for day, value in reversed(self.whole) if value is not None), None)

    @property
    def odd(self) -> list[tuple[date, float]]:
        shown = {day for day, _ in self.days}
        return [(day, value) for day, value in _odd(self.anomalies) if day in shown]

    def ahead(self, most: int | None = None) -> list[dict[str, Any]]:
        """Forecast days after the newest value, led in by that value so that the dashed line is tied to the drawn one."""
        last = self.last
        if self.forecast is None or not len(self.forecast):
            return []
        rows = [
            {
                "day": row["ts"].date().isoformat(),
                "yhat": _finite(row["yhat"]),
                "lo": _finite(row["lo_95"]),
                "hi": _finite(row["hi_95"]),
            }
            for row in self.forecast.select(["ts", "yhat", "lo_95", "hi_95"]).sort_by("ts").to_pylist()
            if last is None or row["ts"].date() > last[0]
        ][:most]
        lead = [{"day": last[0].isoformat(), "yhat": last[1], "lo": last[1], "hi": last[1]}] if last and rows else []
        return lead + rows

    @property
    def sentence(self) -> str:
        if self.last is None:
            return f"{self.title}: no values"
        known = sum(value is not None for _, value in self.days)
        words = f"{self.title}: {figure(self.last[1], self.unit)} on {self.last[0]}, {known} days with values shown"
        if self.odd:
            words += f", odd: {', '.join(day.isoformat() for day, _ in self.odd[-5:])}"
        if self.marks:
            words += f", {len(self.marks)} annotations"
        ahead = self.ahead()
        return words + (f", forecast for {ahead[-1]['day']}: {figure(ahead[-1]['yhat'], self.unit)}" if ahead else "")


def _panel(kpi: _Kpi, size: _Size, *, headed: bool = True) -> alt.LayerChart:
    import altair as alt

    scale, unit = _axis_unit(kpi)
    zero = _from_zero([value for _, value in (*kpi.days, *kpi.compared) if value is not None])
    y, x = _y("value:Q", unit, zero, size.small), _x(kpi.days[-1][0] if size.small and kpi.days else None)

    def rows(pairs: Sequence[tuple[date, float | None]]) -> alt.Chart:
        values = [{"day": day.isoformat(), "value": None if value is None else value / scale} for day, value in pairs]
        return alt.Chart(alt.Data(values=values))

    layers: list[Any] = _mark_layers(kpi, x, size)
    ahead = [
        {key: value if key == "day" or value is None else value / scale for key, value in row.items()}
        for row in kpi.ahead(_SMALL_AHEAD if size.small else None)
    ]
    if ahead:
        later = alt.Chart(alt.Data(values=ahead)).encode(x=x)
        layers.append(later.mark_area(color=ORANGE, opacity=0.3).encode(y=_y("lo:Q", unit, zero, size.small), y2="hi:Q"))
        layers.append(later.mark_line(color=VERMILION, strokeDash=[5, 3], strokeWidth=1.5).encode(y="yhat:Q"))
    if kpi.compared:
        # The gaps of this line stay gaps too.
        past = rows(kpi.compared).mark_line(
            color=PAST, strokeDash=[4, 3], strokeWidth=1.2, invalid="break-paths-show-path-domains"
        )
        layers.append(past.encode(x=x, y=y))
    stroke = 1.5 if size.small else 2
    layers.append(
        rows(kpi.whole).mark_line(color=BLUE, strokeWidth=stroke, invalid="break-paths-show-path-domains").encode(x=x, y=y)
    )
    lonely = _lonely(kpi.whole)
    if lonely:
        layers.append(rows(lonely).mark_point(color=BLUE, size=12, filled=True, opacity=1).encode(x=x, y=y))
    if kpi.partial is not None and len(kpi.days) > 1 and kpi.days[-1][0] == kpi.partial:
        dashed = rows(kpi.days[-2:]).mark_line(color=BLUE, strokeDash=[2, 3], strokeWidth=stroke)
        layers.append(dashed.encode(x=x, y=y))
    if kpi.odd:
        ring = rows(kpi.odd).mark_point(color=VERMILION, size=60 if size.small else 110, strokeWidth=2, filled=False, opacity=1)
        layers.append(ring.encode(x=x, y=y))
    heading = f"{kpi.title}: {figure(kpi.last[1] if kpi.last else None, kpi.unit)}" if size.small else kpi.title
    drawn = alt.layer(*layers).properties(width=size.width, height=size.height)
    return drawn.properties(title=heading) if headed else drawn


def _mark_layers(kpi: _Kpi, x: alt.X, size: _Size) -> list[alt.Chart]:
    """Lines and bands behind everything else. What Vega writes as their description becomes their title (`_titled`)."""
    import altair as alt

    if not kpi.marks or not kpi.days:
        return []
    begin, end = kpi.days[0][0], kpi.days[-1][0]
    rows = [
        {"day": max(first, begin).isoformat(), "end": min(last, end).isoformat(), "said": f"{_SAID}{words}"}
        for first, last, words in kpi.marks
    ]
    layers = []
    bands = [row for row in rows if row["end"] > row["day"]]
    if bands:
        band = alt.Chart(alt.Data(values=bands)).mark_rect(color=PURPLE, opacity=0.2)
        layers.append(band.encode(x=x, x2="end:T", description="said:N"))
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, description="said:N")
    layers.append(base.mark_rule(color=PURPLE, strokeWidth=1, strokeDash=[2, 2]))
    layers.append(
        base.mark_point(color=PURPLE, shape="triangle-down", size=40 if size.small else 80, filled=True, opacity=1).encode(
            y=alt.value(4)
        )
    )
    return layers


def _axis_unit(kpi: _Kpi) -> tuple[float, str]:
    """What values are divided by so that ticks are round numbers of a unit that people say: hours, minutes."""
    if kpi.unit.startswith(MINOR):
        return 10.0 ** digits(kpi.unit.removeprefix(MINOR)), ""
    most = max((abs(value) for _, value in kpi.days if value is not None), default=0.0)
    if kpi.unit != "s" or most < 120:
        return 1.0, kpi.unit
    return (3_600.0, "h") if most >= 7_200 else (60.0, "min")


def _x(newest: date | None = None) -> alt.X:
    """Days. In a small panel two ticks: the newest day and four weeks before it."""
    import altair as alt

    ticks: Any = alt.Undefined
    if newest is not None:
        marked = [newest - timedelta(days=28), newest]
        ticks = [alt.DateTime(year=day.year, month=day.month, date=day.day, utc=True) for day in marked]
    axis = alt.Axis(
        format="%-d %b",
        values=ticks,
        tickCount=8,
        grid=False,
        title=None,
        labelOverlap=True,
        domainColor=FAINT,
        tickColor=FAINT,
    )
    # UTC throughout: the server's zone must not shift a day.
    return alt.X("day:T", scale=alt.Scale(type="utc"), axis=axis)


def _y(field: str, unit: str, zero: bool, small: bool) -> alt.Y:
    import altair as alt

    axis = alt.Axis(
        labelExpr=_LABEL.get(unit, _LABEL[""]),
        tickCount=2 if small else 5,
        title=None,
        gridColor=FAINT,
        domain=False,
        ticks=False,
    )
    return alt.Y(field, scale=alt.Scale(zero=zero, nice=True), axis=axis)


def _from_zero(values: Sequence[float]) -> bool:
    """Begin at zero unless that would flatten the line: when all values lie within a fifth of the largest."""
    return not values or min(values) < 0.8 * max(values) or min(values) <= 0


def _days(series: pa.Table, most: int) -> list[tuple[date, float | None]]:
    """Every day from the first to the last shown one; None where there is no value, so that the line breaks."""
    known = {ts.date(): value for ts, value in zip(series["ts"].to_pylist(), series["value"].to_pylist(), strict=True)}
    if not known:
        return []
    last = max(known)
    first = max(min(known), last - timedelta(days=most - 1))
    days = [first + timedelta(days=i) for i in range((last - first).days + 1)]
    return [(day, _finite(known.get(day))) for day in days]


def _lonely(days: Sequence[tuple[date, float | None]]) -> list[tuple[date, float | None]]:
    """Days with a value between days without: a line cannot show them."""
    values = [None, *(value for _, value in days), None]
    return [pair for i, pair in enumerate(days) if pair[1] is not None and values[i] is None and values[i + 2] is None]


def _odd(anomalies: pa.Table | None) -> list[tuple[date, float]]:
    if anomalies is None:
        return []
    rows = anomalies.select(["ts", "value", "anomaly"]).to_pylist()
    return [(row["ts"].date(), row["value"]) for row in rows if row["anomaly"] and _finite(row["value"]) is not None]


def _of(rows: pa.Table | None, metric: str) -> pa.Table | None:
    import pyarrow.compute as pc

    return None if rows is None else rows.filter(pc.equal(rows["metric"], metric))


def _svg(chart: Any, sentence: str) -> str:
    import vl_convert

    themed = chart.configure(background=PAPER, padding=8, font=_FONT).configure_view(stroke=None)
    themed = themed.configure_axis(labelColor=INK, labelFontSize=11, titleColor=INK)
    themed = themed.configure_title(color=INK, anchor="start", frame="group", fontSize=13, fontWeight="bold", offset=8)
    # A character that XML does not have would end the process (SIGABRT), so none of a tenant's words gets there unread.
    spec = _drawable(themed.to_dict(validate=False))
    return _described(str(vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])), drawable(sentence))


def _drawable(part: Any) -> Any:
    """A specification, or a part of one, with every text as `drawable` leaves it."""
    if isinstance(part, str):
        return drawable(part)
    if isinstance(part, dict):
        return {_drawable(key): _drawable(value) for key, value in part.items()}
    return [_drawable(one) for one in part] if isinstance(part, list | tuple) else part


# What Vega writes for scripts and style sheets that a picture does not have, and what every text repeats.
_NEEDLESS = re.compile(
    r' (?:role|class|aria-[a-z]+|pointer-events)="[^"]*"|(?<=") (?:opacity|stroke-width|fill-opacity)="1"| font-family="[^"]*"'
)
_NOTHING_DRAWN = re.compile(r'<path d="(?:M0,0h0v0h0Z)?"(?: display="none")?/>')
_HIDDEN_LABEL = re.compile(r'<text [^>]*opacity="0"[^>]*>[^<]*</text>')
_EMPTY_GROUP = re.compile(r"<g></g>")
_TAG = re.compile(r"<[^>]*>")
_FRACTION = re.compile(r"(\.\d)\d+")


_SAID = "said: "
_SPOKEN = re.compile(
    rf'<(path|line)([^>]*) aria-label="{_SAID}([^"]*)"([^>]*)></\1>|<(path|line)([^>]*) aria-label="{_SAID}([^"]*)"([^>]*)/>'
)


def _titled(svg: str) -> str:
    """What marks are said to be as their titles, which browsers show under the pointer. Vega has escaped the words."""

    def title(found: re.Match[str]) -> str:
        name, before, words, after = [group for group in found.groups() if group is not None]
        return f"<{name}{before}{after}><title>{words}</title></{name}>"

    return _SPOKEN.sub(title, svg)


def _described(svg: str, sentence: str) -> str:
    """The picture without needless bytes (half of them), saying that it is one image and what it shows."""
    opening, rest = _titled(svg).split(">", 1)
    for needless in (_NEEDLESS, _NOTHING_DRAWN, _HIDDEN_LABEL, _EMPTY_GROUP):
        rest = needless.sub("", rest)
    # Coordinates only: a label that says 1.35k must not say 1.3k.
    rest = _TAG.sub(lambda tag: _FRACTION.sub(r"\1", tag[0]), rest)
    opening = re.sub(r' (?:class|version|xmlns:xlink)="[^"]*"', "", opening)
    return f'{opening} font-family="{_FONT}" role="img"><title>{html.escape(sentence)}</title>{rest}'


def _iso(ts: datetime) -> str:
    return ts.astimezone(UTC).date().isoformat()


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
