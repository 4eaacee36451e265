"""A page as a PDF for printing and for mail: A4, the same figures, charts and tables, with when and from what it was made.

Text is set in DejaVu Sans (Latin, Greek, Cyrillic and more; of scripts that it lacks, Japanese among them, boxes are seen).
"""

from __future__ import annotations

import datetime as dt
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analytics_dagster.dashboards.evidence import Trust
from analytics_dagster.dashboards.figures import Leaderboard, Place
from analytics_dagster.dashboards.page import Page, Panel, Trend
from analytics_dagster.dashboards.pages import chart_of
from analytics_dagster.dashboards.pictures import Size
from analytics_dagster.insights.numbers import exact, figure

if TYPE_CHECKING:
    from fpdf import FPDF

_MARGIN, _WIDTH = 14, 182
_INK, _SOFT, _LINE = (31, 41, 51), (82, 96, 109), (0, 114, 178)
_COLUMNS = 3
_CHART_SCALE = 2.0
_MOST_CHECKS, _MOST_ALERTS, _MOST_MARKS = 80, 80, 20
NOTHING_PUBLISHED = "Nothing is published for this tenant yet."


def as_pdf(page: Page, made_at: dt.datetime, link: str | None = None) -> bytes:
    """The document. Equal figures and an equal `made_at` (UTC) give equal bytes. `link`: where the view is to be seen live."""
    document = _new(page, made_at)
    _head(document, page)
    if link is not None:
        _font(document, 8.5, _LINE)
        document.cell(_WIDTH, 4.5, "Open this view live", link=link, new_x="LMARGIN", new_y="NEXT")
        document.ln(2)
    for panel in page.panels:
        _panel(document, page, panel)
    return bytes(document.output())


def _new(page: Page, made_at: dt.datetime) -> FPDF:
    from fpdf import FPDF

    class Document(FPDF):
        """Says on each sheet what it is and which one."""

        def footer(self) -> None:
            self.set_y(-12)
            _font(self, 7.5, _SOFT)
            self.cell(0, 6, f"{page.tenant}: {page.board.title}, {page.days.first} to {page.days.last} (UTC)")
            self.cell(0, 6, f"{self.page_no()} of {{nb}}", align="R")

    logging.getLogger("fontTools").setLevel(logging.ERROR)
    document = Document(format="A4", unit="mm")
    document.set_margins(_MARGIN, _MARGIN, _MARGIN)
    document.set_auto_page_break(True, 16)
    fonts = _fonts()
    document.add_font("text", "", fonts / "DejaVuSans.ttf")
    document.add_font("text", "B", fonts / "DejaVuSans-Bold.ttf")
    document.set_creation_date(made_at)
    document.set_title(f"{page.board.title}: {page.tenant}, {page.days.first} to {page.days.last}")
    document.set_lang("en")
    document.add_page()
    return document


def _fonts() -> Path:
    # Prophet brings matplotlib, which brings the fonts.
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def _font(document: FPDF, size: float, colour: tuple[int, int, int] = _INK, *, bold: bool = False) -> None:
    document.set_font("text", "B" if bold else "", size)
    document.set_text_color(*colour)


def _line(document: FPDF, text: str, size: float, colour: tuple[int, int, int] = _INK, *, bold: bool = False) -> None:
    _font(document, size, colour, bold=bold)
    document.multi_cell(_WIDTH, size * 0.5, text, new_x="LMARGIN", new_y="NEXT")


def _head(document: FPDF, page: Page) -> None:
    _line(document, f"{page.board.title}: {page.tenant}", 17, bold=True)
    document.ln(1)
    for told in what_it_covers(page):
        _line(document, told, 9, _SOFT)
    if page.trust is None:
        _line(document, NOTHING_PUBLISHED, 10)
        return
    _line(document, how_fresh(page.trust), 8.5, _SOFT)
    document.ln(2)


def what_it_covers(page: Page) -> list[str]:
    """The view's days and comparison, and its filters where it has any, in words."""
    compared = f", compared with {page.compared.first} to {page.compared.last}" if page.compared else ""
    days = f"{page.days.first} to {page.days.last}, {len(page.days)} days, UTC{compared}"
    return [days, *(["Only where " + ", and ".join(str(f) for f in page.view.filters)] if page.view.filters else [])]


def how_fresh(trust: Trust) -> str:
    """The trust strip in one line."""
    checks = f"checks {trust.passed} of {trust.passed + len(trust.failed)}"
    failed = f" (failed: {', '.join(trust.failed)})" if trust.failed else ""
    held = f", HELD BACK by a critical check: {', '.join(trust.gated)}" if trust.gated else ""
    return f"Data through {trust.through} 23:59 UTC; {trust.current} of {len(trust.sources)} sources; {checks}{failed}{held}"


def _panel(document: FPDF, page: Page, panel: Panel) -> None:
    if panel.form.title:
        _heading(document, panel.form.title)
    match panel.kind:
        case "figures":
            _figures(document, page, panel.trends)
        case "trend":
            for one in panel.trends:
                _charts(document, [one], 1, Size.PRINT)
                for mark in one.marks[:_MOST_MARKS]:
                    _line(document, f"{mark.first}{f' to {mark.last}' if mark.last > mark.first else ''}: {mark.words}", 8, _SOFT)
        case "trends" | "forecasts":
            _charts(document, panel.trends, 2, Size.SMALL)
        case "leaderboards":
            for board in panel.leaderboards:
                _leaderboard(document, page, board)
        case "findings" if panel.findings is not None:
            _findings(document, panel)
        case "checks":
            rows = [(c.asset, c.name, "passed" if c.passed else "FAILED", c.finding) for c in panel.checks[:_MOST_CHECKS]]
            _table(document, ("Table", "Check", "Newest", "Found"), rows, (36, 54, 18, 74))
        case "restatements":
            _restatements(document, panel)
        case "alerts":
            _alerts(document, panel)


def _heading(document: FPDF, text: str) -> None:
    document.ln(3)
    if document.will_page_break(24):
        document.add_page()
    _line(document, text, 12, bold=True)
    document.ln(1)


def _figures(document: FPDF, page: Page, trends: Sequence[Trend]) -> None:
    width, height = _WIDTH / _COLUMNS, 17
    for start in range(0, len(trends), _COLUMNS):
        if document.will_page_break(height):
            document.add_page()
        top = document.get_y()
        for place, trend in enumerate(trends[start : start + _COLUMNS]):
            left, made = _MARGIN + place * width, trend.figure
            for offset, size, text, bold in (
                (0.0, 8.0, made.shown.title, False),
                (4.2, 14.0, figure(made.value.now, made.shown.unit), True),
                (11.0, 8.0, f"{made.value.words if page.compared else ''}  {made.basis}".strip(), False),
            ):
                document.set_xy(left, top + offset)
                _font(document, size, _INK if bold else _SOFT, bold=bold)
                document.cell(width - 2, size * 0.45, text)
        document.set_xy(_MARGIN, top + height)


def _charts(document: FPDF, trends: Sequence[Trend], columns: int, size: Size) -> None:
    import vl_convert

    gap = 4.0
    width = (_WIDTH - gap * (columns - 1)) / columns
    for start in range(0, len(trends), columns):
        drawn = [chart_of(trend, size) for trend in trends[start : start + columns]]
        pictures = [io.BytesIO(vl_convert.svg_to_png(chart.svg, scale=_CHART_SCALE)) for chart in drawn]
        height = width * (0.36 if size is Size.PRINT else 0.5)
        if document.will_page_break(height + 2):
            document.add_page()
        top = document.get_y()
        for place, (picture, chart) in enumerate(zip(pictures, drawn, strict=True)):
            left = _MARGIN + place * (width + gap)
            document.image(picture, left, top, width, height, keep_aspect_ratio=True, alt_text=chart.title)
        document.set_xy(_MARGIN, top + height + 2)


def _leaderboard(document: FPDF, page: Page, board: Leaderboard) -> None:
    def rows() -> Iterator[tuple[str, ...]]:
        others: list[tuple[str, Place]] = [(f"Other ({board.left_out})", board.other)] if board.other else []
        for name, place in [*((p.label, p) for p in board.places), *others]:
            share = figure(place.share, "ratio") if place.share is not None else ""
            yield name, place.told, share, place.value.words if page.compared else ""

    _heading(document, board.title)
    _table(document, (board.dimension, board.shown.title, "Share", "Change"), list(rows()), (82, 40, 30, 30))


def _findings(document: FPDF, panel: Panel) -> None:
    assert panel.findings is not None
    _heading(document, f"What changed on {panel.findings.day}")
    _line(document, f"{panel.findings.headline or 'No page of insights was written for this day'}.", 10, bold=True)
    for told in panel.findings.told[:5]:
        where = "; ".join(f"{d.dimension} {d.element}: {figure(d.share, 'ratio')} of the difference" for d in told.drivers[:4])
        _line(document, f"{told.rank}. {told.claim}.{f' {where}.' if where else ''}", 9)
        document.ln(0.5)


def _restatements(document: FPDF, panel: Panel) -> None:
    _heading(document, panel.form.title or "Restated figures")
    rows = []
    for r in panel.restated[:_MOST_ALERTS]:
        of = ", ".join(f"{name}={value}" for name, value in sorted(r.dimensions.items()))
        changed = f"{'-' if r.old is None else exact(r.old)} to {'-' if r.new is None else exact(r.new)}"
        rows.append((str(r.day), f"{r.metric} {of}", changed, r.cause.replace("_", " ")))
    _table(document, ("Day", "Figure", "Changed from, to", "Why"), rows or [("", "none", "", "")], (24, 78, 48, 32))


def _alerts(document: FPDF, panel: Panel) -> None:
    for title, alerts in (("Now", panel.firing), ("Before", panel.past)):
        _heading(document, title)
        rows = [
            (f"{a.at:%Y-%m-%d %H:%M}", a.rule, a.state, "-" if a.value is None else exact(a.value)) for a in alerts[:_MOST_ALERTS]
        ]
        _table(document, ("At (UTC)", "Rule", "State", "Value"), rows or [("", "none", "", "")], (34, 88, 28, 32))


def _table(document: FPDF, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]], widths: tuple[int, ...]) -> None:
    _font(document, 8)
    document.set_draw_color(221, 227, 234)
    with document.table(
        width=_WIDTH, col_widths=widths, line_height=4.4, borders_layout="HORIZONTAL_LINES", text_align="LEFT", padding=0.6
    ) as table:
        for cells in (heads, *rows):
            row = table.row()
            for cell in cells:
                row.cell(cell)
