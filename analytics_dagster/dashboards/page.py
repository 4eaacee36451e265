"""A board for one tenant and view, read in one trip: every panel's data. What `pages.py` draws and `documents.py` writes out."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from analytics_dagster.dashboards.boards import Board, PanelForm
from analytics_dagster.dashboards.evidence import Alert, Check, Evidence, Findings, Restatement, Trust
from analytics_dagster.dashboards.figures import Figure, Figures, Leaderboard, Pairs, Shown
from analytics_dagster.dashboards.happenings import Happenings, Kind, Mark
from analytics_dagster.dashboards.names import names_of
from analytics_dagster.dashboards.view import Days, View
from analytics_dagster.errors import UserError
from analytics_dagster.metrics.declarations import Catalogue, Grain

if TYPE_CHECKING:
    import pyarrow as pa

    from analytics_dagster.installation import Installation
    from analytics_dagster.lake.interruption import Interruption
    from analytics_dagster.lake.lake import TenantLake

MOST_APART = 3
"""Series that one metric is shown as where it must be told apart (currencies)."""
MOST_DAYS = 3 * 366
"""Longest period of a page, comparison not counted."""

Foretold = tuple[tuple[dt.date, float, float | None, float | None], ...]
"""Days with forecast and the ends of the 95 % band."""


@dataclass(frozen=True)
class Trend:
    """A metric's chart. `band`: where the last day lies in the forecast that was made before it: within, above or below."""

    figure: Figure
    forecast: Foretold
    odd: tuple[tuple[dt.date, float, str], ...]
    band: str | None
    marks: tuple[Mark, ...] = ()

    def marks_of(self, *, small: bool) -> tuple[Mark, ...]:
        """What is marked: releases on large charts alone, of which a page has few."""
        return tuple(mark for mark in self.marks if not small or mark.kind is not Kind.RELEASE)

    @property
    def odd_pairs(self) -> Pairs:
        return tuple((day, value) for day, value, _ in self.odd)


@dataclass(frozen=True)
class Panel:
    """A panel of the board with its data; only what its kind has is filled."""

    form: PanelForm
    trends: tuple[Trend, ...] = ()
    leaderboards: tuple[Leaderboard, ...] = ()
    findings: Findings | None = None
    checks: tuple[Check, ...] = ()
    check_days: pa.Table | None = None
    restated: tuple[Restatement, ...] = ()
    firing: tuple[Alert, ...] = ()
    past: tuple[Alert, ...] = ()
    empty: tuple[str, ...] = ()
    """Metrics without a single figure in the view."""

    @property
    def kind(self) -> str:
        return self.form.show or self.form.kinds[0]


@dataclass(frozen=True)
class Page:
    """Everything that a page says. `trust` is None while nothing is published for the tenant; then there are no panels."""

    tenant: str
    board: Board
    view: View
    days: Days
    compared: Days | None
    trust: Trust | None
    panels: tuple[Panel, ...]
    milliseconds: int

    @property
    def grain(self) -> Grain:
        return self.view.grain(self.days)


def read_page(
    installation: Installation,
    catalogue: Catalogue,
    tenant: str,
    board: Board,
    view: View,
    interruption: Interruption | None = None,
    seen: Callable[[str, Trend], None] | None = None,
) -> Page:
    """Read a board. Raises UserError for a view that cannot be (too long), NotFoundError for a metric that there is not.

    `seen` is called with each trend that a panel of a kind shows, as soon as it is read.
    """
    from analytics_dagster.metrics.query import DayReader

    began = time.perf_counter()
    lake = installation.lake.tenant(tenant)
    evidence = Evidence(installation, lake)
    trust = evidence.trust()
    days = view.days(trust.through if trust else installation.clock.now().date() - dt.timedelta(days=1))
    if len(days) > MOST_DAYS:
        raise UserError(f"the period {days} has {len(days)} days, {MOST_DAYS} are shown at most")
    compared = view.compared(days)
    if compared is not None and len(compared) > MOST_DAYS:
        raise UserError(f"the comparison {compared} has {len(compared)} days, {MOST_DAYS} are shown at most")
    panels: tuple[Panel, ...] = ()
    if trust is not None:
        first = min(days.first, compared.first) if compared else days.first
        last = max(days.last, compared.last) if compared else days.last
        with DayReader(lake, catalogue, first, last, interruption) as reader:
            begins = {source.asset: source.first for source in trust.sources}
            happenings = Happenings(installation, lake, catalogue, days)
            asking = _Asking(lake, Figures(reader, catalogue, view, days, compared, begins), evidence, happenings, seen)
            panels = tuple(asking.panel(form) for form in board.panels)
    return Page(tenant, board, view, days, compared, trust, panels, round((time.perf_counter() - began) * 1_000))


class _Asking:
    """Panels of one page; a metric that several panels show is asked for once."""

    def __init__(
        self,
        lake: TenantLake,
        figures: Figures,
        evidence: Evidence,
        happenings: Happenings,
        seen: Callable[[str, Trend], None] | None,
    ) -> None:
        self.lake, self.figures, self.evidence, self.happenings, self._seen = lake, figures, evidence, happenings, seen
        self._made: dict[Shown, Trend] = {}

    def panel(self, form: PanelForm) -> Panel:
        days = self.figures.days
        match form.show:
            case "findings":
                return Panel(form, findings=self.evidence.findings(days.last))
            case "checks":
                return Panel(form, checks=tuple(self.evidence.checks(days)), check_days=self.evidence.check_days(days))
            case "restatements":
                return Panel(form, restated=tuple(self.evidence.restatements(days, self.figures.catalogue)))
            case "alerts":
                firing, past = self.evidence.alerts()
                return Panel(form, firing=tuple(firing), past=tuple(past))
            case "forecasts":
                return self._trends(form, [metric.name for metric in self.figures.catalogue.metrics if metric.kpi])
        if form.leaderboards is not None:
            boards = [self._leaderboard(one.metric, one.by, one.top, one.title) for one in form.leaderboards]
            return Panel(form, leaderboards=tuple(board for board in boards if board.places))
        if form.trend is not None:
            chosen = self.figures.view.metric or form.trend
            return self._trends(form, [self.figures.catalogue.metric(chosen).name], most=1)
        return self._trends(form, list(form.figures or form.trends or ()))

    def _trends(self, form: PanelForm, metrics: list[str], most: int = MOST_APART) -> Panel:
        trends, empty = [], []
        for name in metrics:
            made = [self._trend(shown) for shown in self.figures.shown(name)[:most]]
            seen = [trend for trend in made if any(value is not None for _, value in trend.figure.days)]
            trends += seen
            if self._seen is not None:
                for trend in seen:
                    self._seen(form.show or form.kinds[0], trend)
            empty += [] if seen else [name]
        return Panel(form, tuple(trends), empty=tuple(empty))

    def _trend(self, shown: Shown) -> Trend:
        if shown not in self._made:
            self._made[shown] = self._read(shown)
        return self._made[shown]

    def _read(self, shown: Shown) -> Trend:
        figure, days = self.figures.figure(shown), self.figures.days
        # Forecasts and verdicts are of the whole metric by day; beside filtered figures or weeks they would mislead.
        marks = self.happenings.of(shown)
        if shown.filtered or self.figures.view.grain(days) is not Grain.DAY:
            return Trend(figure, (), (), None, marks)
        rows = self.evidence.forecast(shown.name, days.last)
        ahead = min(28, max(7, len(days) // 2))
        ahead_of = [] if rows is None else [row for row in rows.to_pylist() if row["ts"].date() > days.last][:ahead]
        forecast = tuple((row["ts"].date(), row["yhat"], row["lo_95"], row["hi_95"]) for row in ahead_of)
        odd = tuple(
            (row["ts"].date(), row["value"], row["reason"] or "")
            for row in self.evidence.anomalies(shown.name, days).to_pylist()
            if row["anomaly"] and row["value"] is not None
        )
        return Trend(figure, forecast, odd, self._band(shown.name, figure), marks)

    def _band(self, name: str, figure: Figure) -> str | None:
        last, value = figure.days[-1]
        foretold = self.evidence.foretold(name, last)
        if value is None or foretold is None:
            return None
        return "below" if value < foretold[0] else "above" if value > foretold[1] else "within"

    def _leaderboard(self, metric: str, by: str, top: int, title: str | None) -> Leaderboard:
        shown = self.figures.shown(metric)
        # A filter on the very dimension leaves one row; the board is then of what is chosen, which its chips say.
        board = self.figures.leaderboard(shown[0], by, top, title)
        names = names_of(self.lake, by, [place.element for place in board.places if place.element])
        return replace(board, places=tuple(replace(place, name=names.get(place.element or "")) for place in board.places))
